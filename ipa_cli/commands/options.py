"""The flags shared by commands; a flag left out stays `None`, so that the layers below it can speak."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from enum import Enum
from pathlib import Path
from typing import Annotated, Any

import typer

from ipa_cli import config

# What the model says where nobody else does.
OF_THE_MODEL = ("prompt", "scale", "steps", "guidance_scale", "height", "width", "scheduler")


def flag(*declarations: str, help: str, panel: str, **more: Any) -> Any:
    """A flag of a command; its help becomes a sentence, as those that Typer adds are."""
    sentence = help[0].upper() + help[1:] + ("" if help.endswith(("…", "]")) else ".")
    return typer.Option(*declarations, help=sentence, rich_help_panel=panel, show_default=False, **more)


def _option(name: str, *declarations: str, panel: str, **more: Any) -> Any:
    values = _values(name)
    if values is not None:
        more["autocompletion"] = completion(values)
    return flag(*declarations, help=config.FIELDS[name].metadata["help"] + _default(name), panel=panel, **more)


def _default(name: str) -> str:
    value = config.FIELDS[name].default
    if name in OF_THE_MODEL:
        value = "the model's"
    elif isinstance(value, bool):
        value = name.replace("_", "-") if value else None
    if value in (None, "", ()):
        return ""
    return f" [default: {value:g}]" if isinstance(value, float) else f" [default: {value}]"


def completion(values: Callable[[], Iterable[str]]) -> Callable[[str], list[str]]:
    """What a shell completes a value from; of several with commas between them, the last."""

    def complete(incomplete: str) -> list[str]:
        before, comma, last = incomplete.rpartition(",")
        return [f"{before}{comma}{value}" for value in values() if value.startswith(last)]

    return complete


def _values(name: str) -> Callable[[], Iterable[str]] | None:
    """What gives the words that a shell completes a setting's value from; none where files are as good."""
    check = config.FIELDS[name].metadata["check"]
    if isinstance(check, config.Choice):
        return lambda: check
    known: dict[str, Callable[[], Iterable[str]]] = {
        "scheduler": _schedulers,
        "backend": lambda: ("auto", *backends()),
        "model": _models,
        "ip_adapter": lambda: ("none",),
        "device": lambda: ("auto", "cpu", "cuda", "mps"),
        "compile_options": lambda: ("fast", "max"),
    }
    return known.get(name)


def _schedulers() -> Iterable[str]:
    from ipa_cli.models import schedulers

    return schedulers.CLASSES


def backends() -> Iterable[str]:
    """The names of all backends."""
    from ipa_cli import backends

    return backends.MODULES


def _models() -> Iterable[str]:
    from ipa_cli.models import architectures

    return ("demo", *(family.preset for family in architectures.FAMILIES))


SIZES = completion(
    lambda: ("256x256", "512x512", "768x768", "768x1152", "832x1216", "1024x1024", "1216x832", "1344x768")
)
RANGES = completion(lambda: ("256..1536", "512..1536"))


def _text(name: str, *declarations: str, panel: str, **more: Any) -> Any:
    return Annotated[str | None, _option(name, *declarations, panel=panel, **more)]


PICTURE, OUTPUT = "Picture", "Output"
_REFERENCE, _MODEL, _MACHINE = "Reference", "Model", "Machine"

Prompts = Annotated[
    list[str] | None,
    flag("--prompt", "-p", help="what to draw; - is stdin, @file a file; repeatable", panel=PICTURE),
]
PromptsFrom = Annotated[
    str | None,
    flag("--prompts-from", help="a file or - with a prompt, or a JSON object, on each line", panel=PICTURE),
]
NegativePrompt = _text("negative_prompt", "--negative-prompt", panel=PICTURE)
Image = Annotated[list[str] | None, _option("image", "--image", "-i", panel=_REFERENCE)]
Scale = Annotated[float | None, _option("scale", "--scale", "-s", panel=_REFERENCE)]
Steps = Annotated[int | None, _option("steps", "--steps", panel=PICTURE)]
GuidanceScale = Annotated[float | None, _option("guidance_scale", "--guidance-scale", panel=PICTURE)]
Height = Annotated[int | None, _option("height", "--height", panel=PICTURE)]
Width = Annotated[int | None, _option("width", "--width", panel=PICTURE)]
Seed = Annotated[int | None, _option("seed", "--seed", panel=PICTURE)]
NumImages = Annotated[int | None, _option("num_images", "--num-images", "-n", panel=PICTURE)]
Scheduler = _text("scheduler", "--scheduler", panel=PICTURE)
Output = _text("output", "--output", "-o", panel=OUTPUT)
Preview = Annotated[bool | None, _option("preview", "--preview/--no-preview", panel=OUTPUT)]
From = Annotated[
    Path | None,
    flag("--from", help="draw a picture again by the settings it carries; flags override them", panel=PICTURE),
]

AllowFetch = Annotated[
    bool, flag("--allow-fetch", help="ask the addresses that the picture of --from names", panel=PICTURE)
]


class Format(str, Enum):
    png = "png"
    jpg = "jpg"
    jpeg = "jpeg"
    webp = "webp"
    avif = "avif"


PictureFormat = Annotated[
    Format | None, flag("--format", help="format of pictures whose name has no suffix (png)", panel=PICTURE)
]
Quality = Annotated[
    int | None, flag("--quality", help="of JPEG, WebP and AVIF, 1 to 100 (90)", panel=PICTURE, min=1, max=100)
]

ImageWeight = Annotated[list[float] | None, _option("image_weight", "--image-weight", panel=_REFERENCE)]
Fit = _text("fit", "--fit", panel=_REFERENCE)
Embeds = _text("embeds", "--embeds", panel=_REFERENCE)
Mask = Annotated[list[str] | None, _option("mask", "--mask", panel=_REFERENCE)]
Adapter = Annotated[list[str] | None, _option("adapter", "--adapter", panel=_REFERENCE)]
IpMode = _text("ip_mode", "--ip-mode", panel=_REFERENCE)
IpLayers = _text("ip_layers", "--ip-layers", panel=_REFERENCE)
IpStart = Annotated[float | None, _option("ip_start", "--ip-start", panel=_REFERENCE)]
IpEnd = Annotated[float | None, _option("ip_end", "--ip-end", panel=_REFERENCE)]

Model = _text("model", "--model", "-m", panel=_MODEL)
LoadFormat = _text("load_format", "--load-format", panel=_MODEL)
Variant = _text("variant", "--variant", panel=_MODEL)
Vae = _text("vae", "--vae", panel=_MODEL)
Revision = _text("revision", "--revision", panel=_MODEL)
IpAdapter = _text("ip_adapter", "--ip-adapter", panel=_MODEL)
IpAdapterSubfolder = _text("ip_adapter_subfolder", "--ip-adapter-subfolder", panel=_MODEL)
IpAdapterWeightName = _text("ip_adapter_weight_name", "--ip-adapter-weight-name", panel=_MODEL)
ImageEncoder = _text("image_encoder", "--image-encoder", panel=_MODEL)

Backend = _text("backend", "--backend", "-b", panel=_MACHINE)
Compile = Annotated[bool | None, _option("compile", "--compile/--no-compile", panel=_MACHINE)]
CompileOptions = _text("compile_options", "--compile-options", panel=_MACHINE)
Device = _text("device", "--device", panel=_MACHINE)
Dtype = _text("dtype", "--dtype", panel=_MACHINE)
Precision = _text("precision", "--precision", panel=_MACHINE)
Offload = _text("offload", "--offload", panel=_MACHINE)
VaeTiling = Annotated[bool | None, _option("vae_tiling", "--vae-tiling/--no-vae-tiling", panel=_MACHINE)]
VaeSlicing = Annotated[bool | None, _option("vae_slicing", "--vae-slicing/--no-vae-slicing", panel=_MACHINE)]
Warmup = Annotated[int | None, _option("warmup", "--warmup", panel=_MACHINE)]
BatchSize = Annotated[int | None, _option("batch_size", "--batch-size", panel=PICTURE)]
CacheDir = Annotated[Path | None, _option("cache_dir", "--cache-dir", panel=_MACHINE)]
CacheMaxSize = _text("cache_max_size", "--cache-max-size", panel=_MACHINE)


def _told(attribute: str) -> Callable[..., bool]:
    """Set an attribute of the terminal before other flags are looked at: what is wrong with those is told that way."""

    def tell(context: typer.Context, value: bool) -> bool:
        if not context.resilient_parsing:  # as for shell completion
            setattr(context.obj, attribute, value)
        return value

    return tell


Json = Annotated[
    bool, typer.Option("--json", help="Print one JSON object on stdout.", is_eager=True, callback=_told("json_mode"))
]
Quiet = Annotated[
    bool,
    typer.Option(
        "--quiet",
        "-q",
        help="No progress and no notes; of the result only the paths of what was made.",
        is_eager=True,
        callback=_told("quiet"),
    ),
]
Force = Annotated[bool, typer.Option("--force", "-f", help="Overwrite existing files.")]


def settings(context: typer.Context, picture: config.Layer | None = None) -> config.Resolved:
    """The settings a command works with: its flags over a picture's, environment, files and defaults."""
    flags = {
        name: tuple(value) if isinstance(value, list) else value
        for name, value in context.params.items()
        if name in config.FIELDS
    }
    resolved = config.resolve(flags, picture=picture)
    for name, source in resolved.sources.items():
        if source.kind != "default":
            context.obj.detail(f"{name} = {getattr(resolved.settings, name)} ({source})")
    for ignored in resolved.ignored:
        context.obj.warn(str(ignored))
    if resolved.ignored:
        context.obj.note(config.TRUST_HINT)
    of_project = [name for name, source in resolved.sources.items() if source.kind == "project"]
    if "model" in context.params:
        config.check_together(resolved)
        for repository in config.repositories(resolved.settings, of_project):
            context.obj.note(f"{repository} comes from the hub: {config.project_file()} names it")
    return resolved
