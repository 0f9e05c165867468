"""Flags of commands: those of settings, built from the settings' fields, and what others share.

A flag that is not given stays `None`, so that weaker sources of its setting count.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from enum import Enum
from functools import cache
from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperOption

from ipa_cli import config
from ipa_cli.commands.base import with_options
from ipa_cli.config import checks
from ipa_cli.config.setting import MACHINE, MODEL, PANELS
from ipa_cli.config.values import element_type, expected, flag_of
from ipa_cli.errors import UsageError

ALL = tuple(sorted(config.FIELDS, key=lambda name: PANELS.index(config.FIELDS[name].metadata["panel"])))
HERE = tuple(name for name in ALL if name not in ("server", "server_token_file"))  # of commands that draw here
ELSEWHERE = ("sweep-scale", "batch", "embed", "compile", "bench")  # commands that no server runs
# A setting, and the one without which it has no effect.
NEEDED = (("cache_push", "cache_remote"), ("cache_signing_key", "cache_push"), ("server_token_file", "server"))
OF_MODEL = tuple(name for name in ALL if config.FIELDS[name].metadata["panel"] == MODEL)


class Format(str, Enum):
    """Formats of pictures by their suffix."""

    png = "png"
    jpg = "jpg"
    jpeg = "jpeg"
    webp = "webp"
    avif = "avif"


def with_settings(*names: str, **helps: str) -> Callable[..., Any]:
    """Give a command the flags of these settings; their values are in `settings(context)`.

    `helps` has the help of those that mean something else in this command, by name.
    """
    return with_options([_setting(name, helps.get(name)) for name in names])


def flag(*declarations: str, help: str, panel: str | None = None, **more: Any) -> Any:
    """A flag of a command alone."""
    return typer.Option(*declarations, help=_sentence(help), rich_help_panel=panel, show_default=False, **more)


def _sentence(help: str) -> str:
    """Help as Typer's own flags have it."""
    return help[0].upper() + help[1:] + ("" if help.endswith(("…", "]")) else ".")


def completion(values: Callable[[], Iterable[str]]) -> Callable[[str], list[str]]:
    """What a shell completes a value from; of several with commas between them, the last."""

    def complete(incomplete: str) -> list[str]:
        before, comma, last = incomplete.rpartition(",")
        return [f"{before}{comma}{value}" for value in values() if value.startswith(last)]

    return complete


def backends() -> Iterable[str]:
    """The names of all backends."""
    from ipa_cli import backends

    return backends.MODULES


SIZES = completion(
    lambda: ("256x256", "512x512", "768x768", "768x1152", "832x1216", "1024x1024", "1216x832", "1344x768")
)
RANGES = completion(lambda: ("256..1536", "512..1536"))

Force = Annotated[bool, flag("--force", "-f", help="overwrite existing files")]
Ray = Annotated[
    str | None,
    flag(
        "--ray",
        help="draw on a Ray cluster: auto for the one there is, local, or its address",
        panel=MACHINE,
        metavar="ADDRESS",
    ),
]
Actors = Annotated[
    int | None,
    flag(
        "--actors",
        help="engines on the Ray cluster [default: one for each GPU]",
        panel=MACHINE,
        metavar="N",
        min=1,
    ),
]


def check_ray(ray: str | None, actors: int | None, gpus: int) -> None:
    """Raise UsageError for actors without a cluster, and for pictures that two GPUs share on one."""
    if ray is not None and gpus > 1:
        raise UsageError(f"--ray and --gpus {gpus} are both given", "leave --gpus out: each GPU draws its own pictures")
    if actors is not None and ray is None:
        raise UsageError("--actors is for --ray", "leave it out, or --ray auto")


def check_not_stdout(path: Path | None, what: str, example: str) -> None:
    """Raise UsageError for `-` in the place of a file or folder that is written."""
    if str(path) == "-":
        raise UsageError(f"{what} cannot be written to stdout", f"name a file or folder, such as {example}")


def check_on_disk(path: Path | None, what: str, example: str) -> None:
    """Raise UsageError for `-`, and for an address, in the place of a file or folder that is written."""
    check_not_stdout(path, what, example)
    if (wrong := checks.on_disk(str(path))) is not None:
        raise UsageError(f"{what} cannot be written to {path}: {wrong}", f"name a file or folder, such as {example}")


def resolved(context: typer.Context, picture: config.Layer | None = None) -> config.Resolved:
    """The settings of a command, without a word on any of them."""
    flags = {
        name: tuple(value) if isinstance(value, list) else value
        for name, value in context.params.items()
        if name in config.FIELDS
    }
    return config.resolve(flags, picture=picture)


def settings(context: typer.Context, picture: config.Layer | None = None) -> config.Resolved:
    """The settings a command works with: its flags over a picture's, environment, files and defaults."""
    found = resolved(context, picture)
    for name, source in found.sources.items():
        if source.kind != "default":
            context.obj.detail(f"{name} = {getattr(found.settings, name)} ({source})")
    for ignored in found.ignored:
        context.obj.warn(str(ignored))
    if found.ignored:
        context.obj.note(config.TRUST_HINT)
    if context.info_name in ELSEWHERE and found.settings.server not in (None, "none"):
        context.obj.note(f"this runs here: the server of {found.sources['server']} is for `ipa generate`")
    for alone, other in NEEDED:
        there = {alone, other} <= context.params.keys()
        if there and found.settings.given(alone) and not getattr(found.settings, other):
            context.obj.note(f"{flag_of(alone)} has no effect without {flag_of(other)}")
    if "model" in context.params:
        config.check_together(found)
        of_project = [name for name, source in found.sources.items() if source.kind == "project"]
        for repository in config.repositories(found.settings, of_project):
            context.obj.note(f"{repository} comes from the hub: {config.project_file()} names it")
    return found


# --- the flag of a setting --------------------------------------------------------------------------------------------


@cache
def _setting(name: str, help: str | None) -> TyperOption:
    field, kind = config.FIELDS[name], expected(name)[0]
    long, short, also = flag_of(name), field.metadata["short"], field.metadata["also"]
    if kind is bool:
        long += f"/--no-{long[2:]}"
    element = element_type(name)
    return TyperOption(
        param_decls=[name, *filter(None, (also, long, short))],
        type=element if element in (int, float, bool) else str,
        is_flag=kind is bool,
        multiple=kind is tuple,
        metavar=None if kind is bool else _metavar(name),
        help=_sentence((help or field.metadata["help"]) + (f" [default: {default(name)}]" if default(name) else "")),
        rich_help_panel=field.metadata["panel"],
        autocompletion=_completion(name),
    )


def _metavar(name: str) -> str:
    usual = {int: "N", float: "NUMBER", Path: "PATH"}
    return config.FIELDS[name].metadata["metavar"] or usual.get(element_type(name)) or name.split("_")[-1].upper()


def default(name: str) -> str:
    """The default of a setting as help shows it, empty where nothing is chosen."""
    field = config.FIELDS[name]
    value = field.default
    if field.metadata["of_model"]:
        return "the model's"
    if isinstance(value, bool):
        return name.replace("_", "-") if value else ""
    return f"{value:g}" if isinstance(value, float) else str(value or "")


def choices(name: str) -> Callable[[], Iterable[str]] | None:
    """The values of a setting that can be listed; None where there are none, or file names serve as well."""
    words = config.FIELDS[name].metadata["words"] or (("true", "false") if expected(name)[0] is bool else ())
    named: dict[str, Callable[[], Iterable[str]]] = {
        "scheduler": _schedulers,
        "schedule": _schedules,
        "backend": lambda: ("auto", *backends()),
        "compile_options": _presets,
    }
    return named.get(name, (lambda: words) if words else None)


def _completion(name: str) -> Callable[..., list[str]] | None:
    """What a shell completes a setting's value from."""
    values = choices(name)
    if values is None:
        return None
    complete = completion(values)
    return lambda context, words, incomplete: complete(incomplete)


def _presets() -> Iterable[str]:
    from ipa_cli import backends

    return {preset for name in backends.MODULES for preset in backends.get(name).PRESETS}


def _schedulers() -> Iterable[str]:
    from ipa_cli.models import schedulers

    return schedulers.SCHEDULERS


def _schedules() -> Iterable[str]:
    from ipa_cli.models import schedulers

    return schedulers.SCHEDULES
