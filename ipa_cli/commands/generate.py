"""`ipa generate`: pictures from a prompt and a reference picture."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ipa_cli.commands import options
from ipa_cli.config.requests import ONE_PICTURE
from ipa_cli.config.setting import OUTPUT, PICTURE
from ipa_cli.config.step_cache import FORECAST
from ipa_cli.config.units import parse_picture_size, plural, rate
from ipa_cli.errors import UsageError
from ipa_cli.result import Block, KeyValues, Picture, Result

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from ipa_cli.client.find import Server
    from ipa_cli.config import Resolved
    from ipa_cli.engine.generated import Form, Generated
    from ipa_cli.engine.recorded import Recorded
    from ipa_cli.output import Terminal


SETTINGS = tuple(name for name in options.ALL if name != "prompt")


def _picture(*declarations: str, help: str, **more: Any) -> Any:
    return options.flag(*declarations, help=help, panel=PICTURE, **more)


def _output(*declarations: str, help: str, **more: Any) -> Any:
    return options.flag(*declarations, help=help, panel=OUTPUT, **more)


@options.with_settings(*SETTINGS)
def generate(
    context: typer.Context,
    words: Annotated[
        list[str] | None,
        _picture("--prompt", "-p", help="what to draw; - is stdin, @file a file; repeatable", metavar="PROMPT"),
    ] = None,
    prompts_from: Annotated[
        str | None,
        _picture("--prompts-from", help="file with a prompt or JSON object on each line; - is stdin", metavar="FILE"),
    ] = None,
    source: Annotated[
        Path | None,
        _picture(
            "--from",
            help="draw a picture again with the settings it carries; flags override them, such as --lora none",
            metavar="PICTURE",
        ),
    ] = None,
    allow_fetch: Annotated[
        bool, _picture("--allow-fetch", help="download references from addresses that the picture of --from names")
    ] = False,
    size: Annotated[
        str | None,
        _picture("--size", help="width x height, such as 1024x768", metavar="WxH", autocompletion=options.SIZES),
    ] = None,
    format: Annotated[
        options.Format | None, _output("--format", help="format of pictures whose name has no suffix [default: png]")
    ] = None,
    quality: Annotated[
        int | None,
        _output("--quality", help="quality of JPEG, WebP and AVIF [default: 90]", metavar="N", min=1, max=100),
    ] = None,
    force: options.Force = False,
) -> Result:
    """Draw pictures from a prompt and a reference picture."""
    from ipa_cli.engine.generated import STDOUT, Form
    from ipa_cli.images.filenames import FORMATS
    from ipa_cli.system import inputs

    given = context.params
    if size is not None:
        if (given["width"], given["height"]) != (None, None):
            raise UsageError("--size and --width or --height are both given", "leave out one or the other")
        given["width"], given["height"] = parse_picture_size(size)
    pictures = (*(given["image"] or ()), *(given["mask"] or ()), *map(given.get, ONE_PICTURE))
    inputs.check_stdin((*(words or ()), prompts_from, *pictures, given["embeds"]))
    several = _prompts(words or (), prompts_from)
    if len(several) == 1:
        given.update(several.pop())
    if allow_fetch and source is None:
        context.obj.note("--allow-fetch has no effect without --from")
    server, recorded, picture = _server(options.resolved(context)), None, None
    if source is not None:  # imported only then: it takes a third of the time of a command that a server draws for
        from ipa_cli.engine import replay
        from ipa_cli.engine.recorded import read

        recorded = read(source)
        picture = replay.layer(recorded, given, context.obj, None if server is None else server.machine)
    resolved = options.settings(context, picture)
    if server is None:
        from ipa_cli.hardware import preload

        preload.start(cuda=resolved.settings.device in ("auto", "cuda"))
    if recorded is not None:
        replay.check_places(recorded, resolved, allow_fetch, context.obj)
    if resolved.settings.preview:
        context.obj.check_preview()
    if resolved.settings.output == STDOUT:
        context.obj.check_stdout_takes_bytes()
    form = Form(FORMATS[f".{format.value}"] if format else None, quality)
    if server is None:
        done = _here(resolved, context.obj, force, recorded, several, form)
    else:
        from ipa_cli.client.generate import generate as at_server

        done = at_server(server, resolved, context.obj, force, recorded, several, form)
    paths = tuple(image.path for image in done.images if image.path)
    return Result("generate", _data(done), _blocks(done, resolved.settings.preview), paths=paths, stdout=done.stdout)


def _prompts(words: Sequence[str], source: str | None) -> list[dict[str, Any]]:
    """The prompts of the command line and of a list, each with its settings."""
    if not words and source is None:
        return []
    from ipa_cli.pipeline import prompts

    return [
        *({"prompt": prompt} for prompt in prompts.typed(words)),
        *(prompts.listed(source) if source is not None else ()),
    ]


def _server(resolved: Resolved) -> Server | None:
    """The server that the settings name, which is ready; None to draw here."""
    if resolved.settings.server in (None, "none"):
        return None
    from ipa_cli.client.find import connected

    return connected(resolved)


def _here(
    resolved: Resolved,
    reporter: Terminal,
    force: bool,
    recorded: Recorded | None,
    several: Sequence[Mapping[str, Any]],
    form: Form,
) -> Generated:
    from ipa_cli.engine.generate import generate
    from ipa_cli.engine.store import temporary_files

    with temporary_files(resolved.settings):
        return generate(resolved.settings, reporter, force, reporter.live, recorded, several, form)


def _data(done: Generated) -> dict[str, Any]:
    return {
        "images": [{**asdict(image), "path": image.path and str(image.path.absolute())} for image in done.images],
        "timings": dict(done.timings),
        "memory": dict(done.memory),
        "backend": done.backend,
        "graph": dict(done.graph),
        "device": done.device,
        "gpus": done.gpus,
        "dtype": done.dtype,
        "model": done.model,
        "adapter": done.adapter,
        "prompt": done.prompt,
        "references": list(done.references),
        "steps": done.steps,
        "step_cache": done.step_cache,
        "steps_saved": done.steps_saved,
        "server": done.server,
    }


def _where(done: Generated) -> str:
    return done.device if done.gpus == 1 else f"{done.gpus} GPUs from {done.device} on"


def _saved(done: Generated) -> str:
    """How many of the steps that the speed counts cost less."""
    if not done.steps_saved:
        return ""
    how = "forecast" if done.step_cache.startswith(FORECAST) else "with the deep part of the UNet kept"
    return f" ({done.steps_saved} of them {how})"


def _blocks(done: Generated, preview: bool) -> tuple[Block, ...]:
    times, count = done.timings, len(done.images)
    blocks: list[Block] = []
    for image in done.images:
        name, prompt = image.path or "stdout", f", {image.prompt}" if done.prompt is None else ""
        blocks.append(f"{name}  {image.width}x{image.height}, seed {image.seed}, scale {image.scale:g}{prompt}")
        if preview and image.path:
            blocks.append(Picture(image.path))
    steps = f"{plural(done.steps, 'step')}{_saved(done)}"
    drawn = steps if count == 1 else f"{count} pictures of {steps}"
    compiled = f", compile {times['graph_compile_s']:.1f}" if times["graph_compile_s"] else ""
    loading = f"load {times['load_s']:.1f}{compiled}, warm-up {times['warmup_s']:.1f}, " if done.server is None else ""
    facts = (
        ("prompt", "one for each picture" if done.prompt is None else done.prompt or "-"),
        ("reference", ", ".join(done.references) or "none"),
        ("model", f"{done.model} on {_where(done)}, {done.dtype}" + (f", at {done.server}" if done.server else "")),
        ("backend", f"{done.backend}: {done.graph['why']}"),
        ("speed", ", ".join(filter(None, (rate(times["it_per_s"]), f"{drawn} in {times['steps_s']:.2f} s")))),
        ("time", f"{times['e2e_s']:.1f} s total; {loading}draw and save {times['inference_s']:.1f}"),
        ("memory", f"{done.memory['peak_gib']:.2f} GiB peak"),
    )
    return (*blocks, KeyValues(facts))
