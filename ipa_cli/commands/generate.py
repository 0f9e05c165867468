"""`ipa generate`: a prompt and a reference picture go in, a picture comes out."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ipa_cli.commands import options
from ipa_cli.config.units import parse_picture_size, plural
from ipa_cli.errors import UsageError
from ipa_cli.result import Block, Facts, Picture, Result

if TYPE_CHECKING:
    from ipa_cli.engine.generation import Generated


def generate(
    context: typer.Context,
    words: options.Prompts = None,
    prompts_from: options.PromptsFrom = None,
    negative_prompt: options.NegativePrompt = None,
    image: options.Image = None,
    scale: options.Scale = None,
    image_weight: options.ImageWeight = None,
    fit: options.Fit = None,
    embeds: options.Embeds = None,
    mask: options.Mask = None,
    adapter: options.Adapter = None,
    ip_mode: options.IpMode = None,
    ip_layers: options.IpLayers = None,
    ip_start: options.IpStart = None,
    ip_end: options.IpEnd = None,
    steps: options.Steps = None,
    guidance_scale: options.GuidanceScale = None,
    size: Annotated[
        str | None,
        options.flag(
            "--size", help="width x height, such as 1024x768", panel=options.PICTURE, autocompletion=options.SIZES
        ),
    ] = None,
    height: options.Height = None,
    width: options.Width = None,
    seed: options.Seed = None,
    num_images: options.NumImages = None,
    batch_size: options.BatchSize = None,
    scheduler: options.Scheduler = None,
    source: options.From = None,
    allow_fetch: options.AllowFetch = False,
    output: options.Output = None,
    format: options.PictureFormat = None,
    quality: options.Quality = None,
    force: options.Force = False,
    preview: options.Preview = None,
    model: options.Model = None,
    load_format: options.LoadFormat = None,
    variant: options.Variant = None,
    vae: options.Vae = None,
    revision: options.Revision = None,
    ip_adapter: options.IpAdapter = None,
    ip_adapter_subfolder: options.IpAdapterSubfolder = None,
    ip_adapter_weight_name: options.IpAdapterWeightName = None,
    image_encoder: options.ImageEncoder = None,
    backend: options.Backend = None,
    compile: options.Compile = None,
    compile_options: options.CompileOptions = None,
    device: options.Device = None,
    dtype: options.Dtype = None,
    precision: options.Precision = None,
    offload: options.Offload = None,
    vae_tiling: options.VaeTiling = None,
    vae_slicing: options.VaeSlicing = None,
    warmup: options.Warmup = None,
    cache_dir: options.CacheDir = None,
    cache_max_size: options.CacheMaxSize = None,
    json: options.Json = False,
    quiet: options.Quiet = False,
) -> Result:
    """Draw pictures from a prompt and a reference picture."""
    from ipa_cli.engine import generation, replay, session
    from ipa_cli.images.filenames import FORMATS
    from ipa_cli.pipeline import prompts
    from ipa_cli.system import inputs

    if size is not None:
        if (width, height) != (None, None):
            raise UsageError("--size says both --width and --height", "leave out one or the other")
        context.params["width"], context.params["height"] = parse_picture_size(size)
    inputs.check_stdin((*(words or ()), prompts_from, *(image or ()), *(mask or ()), embeds))
    several: list[dict[str, Any]] = [{"prompt": prompt} for prompt in prompts.typed(words or ())]
    several += prompts.listed(prompts_from) if prompts_from is not None else ()
    if len(several) == 1:
        context.params.update(several.pop())
    recorded = replay.read(source) if source is not None else None
    picture = None if recorded is None else replay.layer(recorded, context.params, context.obj)
    resolved = options.settings(context, picture)
    if recorded is not None:
        replay.check_places(recorded, resolved, allow_fetch, context.obj)
    if resolved.settings.preview:
        context.obj.check_preview()
    if resolved.settings.output == generation.STDOUT:
        context.obj.check_stdout_takes_bytes()
    form = generation.Form(FORMATS[f".{format.value}"] if format else None, quality)
    with session.temporary_files(resolved.settings):
        done = generation.generate(resolved.settings, context.obj, force, context.obj.live, recorded, several, form)
    paths = tuple(image.path for image in done.images if image.path)
    return Result("generate", _data(done), _blocks(done, resolved.settings.preview), paths=paths, stdout=done.stdout)


def _data(done: Generated) -> dict[str, Any]:
    return {
        "images": [{**asdict(image), "path": image.path and str(image.path.absolute())} for image in done.images],
        "timings": dict(done.timings),
        "memory": dict(done.memory),
        "backend": done.backend,
        "graph": dict(done.graph),
        "device": done.device,
        "dtype": done.dtype,
        "model": done.model,
        "adapter": done.adapter,
        "prompt": done.prompt,
        "references": list(done.references),
        "steps": done.steps,
    }


def _blocks(done: Generated, preview: bool) -> tuple[Block, ...]:
    times, count = done.timings, len(done.images)
    blocks: list[Block] = []
    for image in done.images:
        name, prompt = image.path or "stdout", f", {image.prompt}" if done.prompt is None else ""
        blocks.append(f"{name}  {image.width}x{image.height}, seed {image.seed}, scale {image.scale:g}{prompt}")
        if preview and image.path:
            blocks.append(Picture(image.path))
    steps = plural(done.steps, "step")
    drawn = steps if count == 1 else f"{count} pictures of {steps}"
    compiled = f", compile {times['graph_compile_s']:.1f}" if times["graph_compile_s"] else ""
    facts = (
        ("prompt", "each its own" if done.prompt is None else done.prompt or "-"),
        ("reference", ", ".join(done.references) or "none"),
        ("model", f"{done.model} on {done.device}, {done.dtype}"),
        ("backend", f"{done.backend}: {done.graph['why']}"),
        ("speed", f"{times['it_per_s']:.1f} it/s, {drawn} in {times['steps_s']:.2f} s"),
        (
            "time",
            f"{times['e2e_s']:.1f} s in all; load {times['load_s']:.1f}{compiled}, warm-up {times['warmup_s']:.1f}, "
            f"draw and save {times['inference_s']:.1f}",
        ),
        ("memory", f"{done.memory['peak_gib']:.2f} GiB at most"),
    )
    return (*blocks, Facts(facts))
