"""Every setting there is, with its default, its words and its check."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ipa_cli.errors import IpaError, UsageError, suggest

MAX_SIDE = 8192
MAX_WORDS = 100_000  # of characters in a prompt
FITS = ("pad", "crop", "stretch")
EXPLAINED = "`ipa generate --help` explains every setting"
MODES = ("full", "style", "layout", "style-layout")


class ConfigError(UsageError):
    """What a file of settings says cannot be."""


@contextmanager
def left_out(problems: list[IpaError] | None) -> Iterator[None]:
    """What cannot be used within is added to `problems`; without such a list it ends everything."""
    try:
        yield
    except IpaError as error:
        if problems is None:
            raise
        problems.append(error)


Check = Callable[[Any], "str | None"]


class Choice(tuple[str, ...]):
    """A check that the value is one of these."""

    def __call__(self, value: str) -> str | None:
        return None if value in self else f"expected one of {', '.join(self)}{suggest(value, self)}"


def _between(low: float, high: float) -> Check:
    def check(value: float) -> str | None:
        return None if low <= value <= high else f"expected a number from {low} to {high}"  # NaN is not

    return check


def _side(value: int) -> str | None:
    if not 64 <= value <= MAX_SIDE:
        return f"expected pixels from 64 to {MAX_SIDE}"
    if value % 8:
        lower = max(64, value // 8 * 8)
        return f"expected a multiple of 8, for example {lower} or {lower + 8}"
    return None


def _unicode(value: str) -> str | None:
    """Arguments and variables may hold any bytes; only names of files can."""
    return None if value.isascii() or value.encode(errors="ignore").decode() == value else "expected text in UTF-8"


def _words(value: str) -> str | None:
    """A picture carries its prompt, and readers of pictures take no endless text."""
    too_long = len(value) > MAX_WORDS
    return f"expected at most {MAX_WORDS} characters, not {len(value)}" if too_long else _unicode(value)


def _inside(value: str) -> str | None:
    outside = value.startswith("/") or ".." in value.split("/")
    return "expected a name inside the repository" if outside else _unicode(value)


def _each(check: Check) -> Check:
    def check_all(values: tuple[Any, ...]) -> str | None:
        return next((problem for value in values if (problem := check(value))), None)

    return check_all


# Who may say a setting, and how its value is written into files for others: every setting is one of these.
PLAIN = "plain"  # any file; it tells of the picture or the machine, and is written as it is
PLACE = "place"  # names a file, a folder, a hub repository or an address: a project's file only what lies beside it
OWN = "own"  # chooses code or compiled graphs, those to keep too: never the file of a project unless it is trusted


def _plain(default: Any, help_text: str, check: Check | None = None, kind: str = PLAIN) -> Any:
    return field(default=default, metadata={"help": help_text, "check": check, "kind": kind})


def _place(default: Any, help_text: str) -> Any:
    return _plain(default, help_text, kind=PLACE)


def _own(default: Any, help_text: str) -> Any:
    return _plain(default, help_text, kind=OWN)


@dataclass(frozen=True)
class Settings:
    """Everything that can be set by flag, environment or file; `None` leaves the choice to the model or machine."""

    prompt: str | None = _plain(None, "what to draw", _words)
    negative_prompt: str = _plain("", "what to keep out of the picture", _words)
    image: tuple[str, ...] = _place(
        (), "reference picture: a file, a folder, a pattern, a URL or - for stdin; repeatable"
    )
    image_weight: tuple[float, ...] = _plain(
        (), "how much of each reference picture counts (1 unless given)", _each(_between(0, 10))
    )
    embeds: str | None = _place(None, "references encoded by `ipa embed`, in place of --image")
    fit: str = _plain("pad", "how references become square: pad (whole), crop (the middle), stretch", Choice(FITS))
    mask: tuple[str, ...] = _place((), "where the reference counts: a picture, white there; one for all or for each")
    adapter: tuple[str, ...] = _place((), "an adapter with its own pictures: own,image=a.png,scale=0.6; repeatable")
    scale: float | None = _plain(None, "how strongly the reference picture counts (0: not at all)", _between(0, 10))
    ip_mode: str = _plain("full", f"layers the reference acts on: {', '.join(MODES)}", Choice(MODES))
    ip_layers: str | None = _plain(None, "or a table of layers in diffusers' form, as JSON; --scale multiplies it")
    ip_start: float = _plain(0.0, "share of the steps after which the reference begins to count", _between(0, 1))
    ip_end: float = _plain(1.0, "share of the steps after which it no longer counts", _between(0, 1))
    steps: int | None = _plain(None, "steps from noise to picture", _between(1, 1000))
    guidance_scale: float | None = _plain(
        None, "how closely the prompt is followed; above 1 a step takes twice the work", _between(0, 100)
    )
    height: int | None = _plain(None, "height in pixels, a multiple of 8", _side)
    width: int | None = _plain(None, "width in pixels, a multiple of 8", _side)
    seed: int | None = _plain(None, "seed of the first picture; random when unset", _between(0, 2**63 - 1))
    num_images: int = _plain(1, "how many pictures, each with the next seed", _between(1, 10_000))
    scheduler: str | None = _plain(None, "sampler: euler, euler-a, ddim, dpm++, unipc, …")
    warmup: int = _plain(1, "calls of the UNet before the clock runs", _between(0, 100))
    model: str = _place("demo", "preset (demo, sdxl, sd15), hub id, diffusers folder or .safetensors file")
    load_format: str = _plain("auto", "which weights: auto, or dummy for seeded random ones", Choice(("auto", "dummy")))
    variant: str | None = _plain(None, "variant of the weights on the hub, such as fp16", _inside)
    revision: str | None = _plain(None, "branch, tag or commit on the hub", _inside)
    vae: str | None = _place(None, "another VAE than the model's own: hub id, folder or .safetensors file")
    ip_adapter: str | None = _place(None, "IP-Adapter: hub id, folder or file; none for no adapter")
    ip_adapter_subfolder: str | None = _plain(None, "folder of the adapter inside its repository", _inside)
    ip_adapter_weight_name: str | None = _plain(None, "file name of the adapter's weights", _inside)
    image_encoder: str | None = _place(
        None, "the adapter's image encoder: a file, folder or hub id (owner/name:folder)"
    )
    backend: str = _plain("auto", "how the UNet runs: auto, eager, inductor, …; `ipa doctor` lists them all")
    compile: bool = _plain(True, "compile when no graph is in the cache")
    compile_options: str | None = _own(None, "options of the backend: a preset such as fast, or JSON")
    device: str = _plain("auto", "where to draw: auto, cpu, cuda, cuda:N or mps")
    dtype: str = _plain(
        "auto", "number format: auto, float16, bfloat16 or float32", Choice(("auto", "float16", "bfloat16", "float32"))
    )
    precision: str = _plain(
        "half", "how exactly to multiply: half, or on a GPU fp8, which is faster", Choice(("half", "fp8"))
    )
    offload: str = _plain(
        "none",
        "keep weights in main memory: none, model or sequential",
        Choice(("none", "model", "sequential")),
    )
    vae_tiling: bool = _plain(False, "decode in tiles to save memory")
    vae_slicing: bool = _plain(False, "decode pictures one at a time to save memory")
    batch_size: int = _plain(1, "how many pictures one call of the UNet serves", _between(1, 64))
    cache_dir: Path | None = _own(None, "folder of compiled graphs")
    cache_max_size: str = _own("20GB", "graphs beyond this size are removed, least recently used first")
    output: str | None = _place(None, "file, folder or template with {seed} {scale} {index} {prompt}")
    preview: bool = _plain(False, "show the pictures in the terminal")


FIELDS = {f.name: f for f in dataclasses.fields(Settings)}


def checked(name: str, value: Any, where: str, error: type[IpaError] = UsageError, hint: str = EXPLAINED) -> Any:
    """`value` if the setting `name` may have it. Raises `error`, which names `where` the value came from."""
    check = FIELDS[name].metadata["check"]
    problem = check(value) if check and value is not None else None
    if problem:
        shown = f"{where} {short(value)}" if error is UsageError else f"{where}: {name} = {short(value)}"
        raise error(f"{shown}: {problem}", hint)
    return value


def cache_dir(settings: Settings) -> Path:
    """The folder of compiled graphs. Raises IpaError where none is named and the user has no home."""
    import platformdirs

    named = settings.cache_dir
    folder = at_home(platformdirs.user_cache_path) if named is None else expanded(named).absolute()
    if folder is None:
        raise IpaError(
            "compiled graphs have no place: HOME is not set, and the system knows no home of this user",
            "set HOME, or name a folder with --cache-dir (or IPA_CACHE_DIR)",
        )
    return folder


def cache_limit(settings: Settings) -> int:
    """How many bytes of compiled graphs are kept. Raises UsageError for a size that is none."""
    from ipa_cli.config.units import parse_size

    try:
        return parse_size(settings.cache_max_size)
    except ValueError as error:
        raise UsageError(f"cache_max_size: {error}", "`ipa config show` tells where it is set") from None


def at_home(place: Callable[[str], Path]) -> Path | None:
    """A folder of this user by the system's customs, or none where HOME is unset and the user unknown."""
    try:
        folder = place("ipa")
    except RuntimeError:  # of platformdirs; older ones leave the "~" as it is
        return None
    return folder if folder.is_absolute() else None


def is_file(path: Path | None) -> bool:
    """Whether it is a file, as far as this user may look."""
    try:
        return path is not None and path.is_file()
    except OSError:
        return False


def exists(text: str) -> bool:
    """Whether there is a file or folder of this name, `~` being home, as far as this user may look."""
    try:
        return Path(text).expanduser().exists()
    except (OSError, RuntimeError):  # too long as well, and the home of a user whom nobody knows
        return False


def expanded(path: Path) -> Path:
    """A path as it was typed, `~` as the home folder. Raises IpaError where there is no such home."""
    try:
        return path.expanduser()
    except RuntimeError as error:
        raise IpaError(f"{path}: {error}", "write the folder in full") from error


def short(value: Any) -> str:
    """A value for a message, in one line of at most 80 characters."""
    try:
        text = str(value)
    except (ValueError, RecursionError):  # numbers of thousands of digits, tables within tables
        return "(too long to write)"
    text = " ".join(text.split())
    return text if len(text) <= 80 else text[:80] + "…"


def quoted(value: Any) -> str:
    """The same of a value from a file: texts in quotes."""
    return f"'{short(value)}'" if isinstance(value, str) else short(value)
