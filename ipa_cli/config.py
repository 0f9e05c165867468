"""One frozen `Settings` for all commands, merged from layers; every value knows where it came from.

Layers, strongest first: flag, the settings a picture carries (`--from`), environment `IPA_*`, `ipa.toml` found upwards
from the working directory, the user's file, the default.
"""

from __future__ import annotations

import dataclasses
import os
import sys
import types
import typing
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from .errors import IpaError, UsageError

FILE_NAME = "ipa.toml"
MAX_SIDE = 8192
FITS = ("pad", "crop", "stretch")
MODES = ("full", "style", "layout", "style-layout")


class ConfigError(IpaError):
    """A configuration file, or a picture's settings, cannot be used as they are."""


Check = Callable[[Any], "str | None"]


class Choice(tuple[str, ...]):
    """A check that the value is one of these."""

    def __call__(self, value: str) -> str | None:
        return None if value in self else f"expected one of {', '.join(self)}{suggest(value, self)}"


def _between(low: float, high: float) -> Check:
    def check(value: float) -> str | None:
        return None if low <= value <= high else f"expected a number from {low:g} to {high:g}"  # NaN is not

    return check


def _side(value: int) -> str | None:
    if not 64 <= value <= MAX_SIDE:
        return f"expected pixels from 64 to {MAX_SIDE}"
    if value % 8:
        lower = max(64, value // 8 * 8)
        return f"expected a multiple of 8, for example {lower} or {lower + 8}"
    return None


def _each(check: Check) -> Check:
    def check_all(values: tuple[Any, ...]) -> str | None:
        return next((problem for value in values if (problem := check(value))), None)

    return check_all


def _setting(default: Any, help_text: str, check: Check | None = None) -> Any:
    return field(default=default, metadata={"help": help_text, "check": check})


@dataclass(frozen=True)
class Settings:
    """Everything that can be set by flag, environment or file; `None` leaves the choice to the model or machine."""

    prompt: str | None = _setting(None, "what to draw")
    negative_prompt: str = _setting("", "what to keep out of the picture")
    image: tuple[str, ...] = _setting((), "reference picture: a file, a folder or a URL; repeatable")
    image_weight: tuple[float, ...] = _setting(
        (), "how much of each reference picture counts (1 unless given)", _each(_between(0, 10))
    )
    embeds: str | None = _setting(None, "references encoded by `ipa embed`, in place of --image")
    fit: str = _setting("pad", "how references become square: pad (whole), crop (the middle), stretch", Choice(FITS))
    mask: tuple[str, ...] = _setting((), "where the reference counts: a picture, white there; one for all or for each")
    adapter: tuple[str, ...] = _setting((), "an adapter with its own pictures: own,image=a.png,scale=0.6; repeatable")
    scale: float | None = _setting(None, "how strongly the reference picture counts (0: not at all)", _between(0, 10))
    ip_mode: str = _setting("full", f"layers the reference acts on: {', '.join(MODES)}", Choice(MODES))
    ip_layers: str | None = _setting(None, "or a table of layers in diffusers' form, as JSON; --scale multiplies it")
    ip_start: float = _setting(0.0, "share of the steps after which the reference begins to count", _between(0, 1))
    ip_end: float = _setting(1.0, "share of the steps after which it no longer counts", _between(0, 1))
    steps: int | None = _setting(None, "steps from noise to picture", _between(1, 1000))
    guidance_scale: float | None = _setting(
        None, "how closely the prompt is followed; above 1 a step takes twice the work", _between(0, 100)
    )
    height: int | None = _setting(None, "height in pixels, a multiple of 8", _side)
    width: int | None = _setting(None, "width in pixels, a multiple of 8", _side)
    seed: int | None = _setting(None, "seed of the first picture; random when unset", _between(0, 2**63 - 1))
    num_images: int = _setting(1, "how many pictures, each with the next seed", _between(1, 10_000))
    scheduler: str | None = _setting(None, "sampler: euler, euler-a, ddim, dpm++, unipc, …")
    warmup: int = _setting(1, "calls of the UNet before the clock runs", _between(0, 100))
    model: str = _setting("demo", "preset (demo, sdxl, sd15), hub id, diffusers folder or .safetensors file")
    load_format: str = _setting(
        "auto", "which weights: auto, or dummy for seeded random ones", Choice(("auto", "dummy"))
    )
    variant: str | None = _setting(None, "variant of the weights on the hub, such as fp16")
    revision: str | None = _setting(None, "branch, tag or commit on the hub")
    ip_adapter: str | None = _setting(None, "IP-Adapter: hub id, folder or file; none for no adapter")
    ip_adapter_subfolder: str | None = _setting(None, "folder of the adapter inside its repository")
    ip_adapter_weight_name: str | None = _setting(None, "file name of the adapter's weights")
    backend: str = _setting(
        "auto", "how the UNet runs: auto, eager, inductor, nexfort, or oneflow (never run on a real OneFlow build)"
    )
    compile: bool = _setting(True, "compile when no graph is in the cache")
    compile_options: str | None = _setting(None, "options of the backend: a preset (fast, max) or JSON")
    device: str = _setting("auto", "where to draw: auto, cpu, cuda, cuda:N or mps")
    dtype: str = _setting(
        "auto", "number format: auto, float16, bfloat16 or float32", Choice(("auto", "float16", "bfloat16", "float32"))
    )
    precision: str = _setting(
        "half", "how exactly to multiply: half, or fp8, which is faster (inductor on a GPU)", Choice(("half", "fp8"))
    )
    offload: str = _setting(
        "none",
        "keep weights in main memory: none, model or sequential",
        Choice(("none", "model", "sequential")),
    )
    vae_tiling: bool = _setting(False, "decode in tiles to save memory")
    vae_slicing: bool = _setting(False, "decode pictures one at a time to save memory")
    batch_size: int = _setting(1, "how many pictures one call of the UNet serves", _between(1, 64))
    cache_dir: Path | None = _setting(None, "folder of compiled graphs")
    cache_max_size: str = _setting("20GB", "graphs beyond this size are removed, least recently used first")
    output: str | None = _setting(None, "file, folder or template with {seed} {scale} {index} {prompt}")
    preview: bool = _setting(False, "show the pictures in the terminal")


@dataclass(frozen=True)
class Source:
    """Where a value came from: `kind` is flag, picture, env, project, user or default; `where` names it."""

    kind: str
    where: str

    def __str__(self) -> str:
        return self.where


@dataclass(frozen=True)
class Layer:
    """Settings read from one place, as JSON has them; None leaves the choice to the model, whatever is below says."""

    source: Source
    values: Mapping[str, Any]


@dataclass(frozen=True)
class Resolved:
    """Settings together with the source of each value."""

    settings: Settings
    sources: Mapping[str, Source]


FIELDS = {f.name: f for f in dataclasses.fields(Settings)}
_TYPES = typing.get_type_hints(Settings)


def suggest(word: str, known: typing.Iterable[str]) -> str:
    """`"; did you mean 'x'?"` for a near miss, else nothing."""
    close = get_close_matches(word, list(known), n=1)
    return f"; did you mean '{close[0]}'?" if close else ""


def resolve(
    flags: Mapping[str, Any],
    environ: Mapping[str, str] | None = None,
    cwd: Path | None = None,
    picture: Layer | None = None,
) -> Resolved:
    """Merge all layers. Raises ConfigError for a bad file or picture, UsageError for a bad flag or variable."""
    environ = os.environ if environ is None else environ
    values: dict[str, Any] = {}
    sources: dict[str, Source] = {}

    def put(name: str, value: Any, source: Source, error: type[IpaError]) -> None:
        values[name] = checked(name, value, source.where, error)
        sources[name] = source

    user = user_file(environ)
    if environ.get("IPA_CONFIG") and not user.is_file():
        raise ConfigError(f"there is no file {user}, which IPA_CONFIG names", "create it, or unset IPA_CONFIG")
    for kind, path in (("user", user), ("project", project_file(cwd))):
        if path is not None and path.is_file():
            for name, value in _read_file(path).items():
                put(name, value, Source(kind, str(path)), ConfigError)
    for name, text in _environment(environ).items():
        source = Source("env", _variable(name))
        put(name, _from_text(name, text, source.where), source, UsageError)
    given = {name: value for name, value in flags.items() if name in FIELDS and value is not None and value != ()}
    if picture is not None:
        for name, value in picture.values.items():
            if name not in given:
                put(name, _from_json(name, value, picture.source.where), picture.source, ConfigError)
    for name, value in given.items():
        if _expected(name)[0] is Path:
            value = Path(value)  # Typer before 0.28 keeps the text
        put(name, value, Source("flag", _flag(name)), UsageError)
    for name in FIELDS:
        sources.setdefault(name, Source("default", "default"))
    return Resolved(Settings(**values), sources)


def project_file(cwd: Path | None = None) -> Path | None:
    """The nearest `ipa.toml` from the working directory upwards."""
    here = (cwd or Path.cwd()).resolve()
    return next((d / FILE_NAME for d in (here, *here.parents) if (d / FILE_NAME).is_file()), None)


def user_file(environ: Mapping[str, str] | None = None) -> Path:
    """The user's own file; `IPA_CONFIG` names another one."""
    environ = os.environ if environ is None else environ
    if environ.get("IPA_CONFIG"):
        return _expanded(Path(environ["IPA_CONFIG"]))
    import platformdirs

    return platformdirs.user_config_path("ipa") / FILE_NAME


def cache_dir(settings: Settings) -> Path:
    """The folder of compiled graphs."""
    if settings.cache_dir is not None:
        return _expanded(settings.cache_dir).absolute()
    import platformdirs

    return platformdirs.user_cache_path("ipa")


def cache_limit(settings: Settings) -> int:
    """How many bytes of compiled graphs are kept. Raises UsageError for a size that is none."""
    from .units import parse_size

    try:
        return parse_size(settings.cache_max_size)
    except ValueError as error:
        raise UsageError(f"cache_max_size: {error}", "`ipa config show` tells where it is set") from None


def _expanded(path: Path) -> Path:
    try:
        return path.expanduser()
    except RuntimeError as error:
        raise ConfigError(f"{path}: {error}", "write the folder in full") from error


def _flag(name: str) -> str:
    return "--" + name.replace("_", "-")


def _variable(name: str) -> str:
    return "IPA_" + name.upper()


def _environment(environ: Mapping[str, str]) -> dict[str, str]:
    found = {}
    for variable, text in environ.items():
        if not variable.startswith("IPA_") or variable == "IPA_CONFIG":
            continue
        name = variable[4:].lower()
        if name not in FIELDS:
            known = [_variable(n) for n in FIELDS]
            raise UsageError(
                f"unknown environment variable {variable}{suggest(variable, known)}",
                "`ipa config show` lists every setting",
            )
        if text:
            found[name] = text
    return found


def _read_file(path: Path) -> dict[str, Any]:
    if sys.version_info >= (3, 11):
        import tomllib
    else:
        import tomli as tomllib
    try:
        with path.open("rb") as file:
            table = tomllib.load(file)
    except (ValueError, RecursionError) as error:  # bad syntax or encoding, numbers of a thousand digits, deep nesting
        raise ConfigError(f"{path} is not valid TOML: {error}", f"edit {path}") from error
    except OSError as error:
        raise ConfigError(f"cannot read {path}: {error.strerror}", f"check the permissions of {path}") from error
    values = {}
    for key, value in table.items():
        name = key.replace("-", "_")
        if name not in FIELDS:
            raise ConfigError(
                f"{path}: unknown key '{key}'{suggest(name, FIELDS)}", "`ipa config show` lists every key"
            )
        if name in values:
            raise ConfigError(f"{path}: {name} is set twice, with a hyphen and without", f"edit {path}")
        values[name] = _from_toml(name, key, value, path)
    return values


def _expected(name: str) -> tuple[type, str]:
    """The Python type of a setting without its `None`, and its name for people."""
    kind = _TYPES[name]
    if isinstance(kind, types.UnionType):
        kind = next(k for k in typing.get_args(kind) if k is not type(None))
    if typing.get_origin(kind) is tuple:
        return tuple, "a list of strings" if _element(name) is str else "a list of numbers"
    names = {str: "a string", int: "a whole number", float: "a number", bool: "true or false", Path: "a path"}
    return kind, names[kind]


def _element(name: str) -> type:
    """The type of the elements of a setting that has several, else of the setting itself."""
    kind = _TYPES[name]
    return typing.get_args(kind)[0] if typing.get_origin(kind) is tuple else _expected(name)[0]


def element(name: str, text: str, where: str) -> Any:
    """One value of a setting, or of its list, read from text. Raises UsageError, which names `where`."""
    kind = _element(name)
    try:
        return kind(text)
    except ValueError:
        wanted = "a number" if kind is float else "a string"
        raise UsageError(f"{where}={_short(text)}: expected {wanted}", "write it with digits, such as 0.5") from None


def _from_toml(name: str, key: str, value: Any, path: Path) -> Any:
    kind, wanted = _expected(name)
    if kind is tuple and not isinstance(value, list):
        value = [value]
    if kind is Path and isinstance(value, str):
        return path.parent / _expanded(Path(value))
    value = _as_kind(name, value)
    if type(value) is not kind:
        raise ConfigError(f"{path}: {key} = {_short(repr(value))}: expected {wanted}", f"edit {path}")
    return value


def _from_json(name: str, value: Any, where: str) -> Any:
    if value is None and FIELDS[name].default is None:
        return None
    kind, wanted = _expected(name)
    value = _as_kind(name, value)
    if type(value) is not kind:
        raise ConfigError(f"{where}: {name} = {_short(repr(value))}: expected {wanted}", f"say it with {_flag(name)}")
    return value


def _as_kind(name: str, value: Any) -> Any:
    """`value` of TOML or JSON as the type a setting has, where that loses nothing; else as it is."""
    kind, each = _expected(name)[0], _element(name)
    if kind is tuple:
        if not isinstance(value, list):
            return value
        values = [float(v) if each is float and type(v) is int and abs(v) < 2**53 else v for v in value]
        return tuple(values) if all(type(v) is each for v in values) else value
    if kind is float and type(value) is int and abs(value) < 2**53:
        return float(value)
    return value


def _from_text(name: str, text: str, where: str) -> Any:
    kind, wanted = _expected(name)
    switches = {
        "1": True,
        "true": True,
        "yes": True,
        "on": True,
        "0": False,
        "false": False,
        "no": False,
        "off": False,
    }
    try:
        if kind is bool:
            return switches[text.lower()]
        if kind is tuple:
            if _element(name) is float:
                return tuple(float(part) for part in text.split(","))
            return tuple(text.split(os.pathsep)) if "://" not in text and name != "adapter" else (text,)
        return kind(text)
    except (ValueError, KeyError):
        raise UsageError(f"{where}={_short(text)}: expected {wanted}", f"unset {where} or correct it") from None


def _short(text: str) -> str:
    return text if len(text) <= 80 else text[:80] + "…"


def checked(name: str, value: Any, where: str, error: type[IpaError] = UsageError) -> Any:
    """`value` if the setting `name` may have it. Raises `error`, which names `where` the value came from."""
    check = FIELDS[name].metadata["check"]
    problem = check(value) if check and value is not None else None
    if problem:
        shown = f"{where} {_short(str(value))}" if error is UsageError else f"{where}: {name} = {_short(str(value))}"
        raise error(f"{shown}: {problem}", "`ipa generate --help` explains every setting")
    return value
