"""Pictures on disk: their names, their settings as PNG text, and reading those settings back.

Every picture carries two text chunks. `parameters` is the convention of AUTOMATIC1111's web UI, read by most
galleries; it is lossy (see `parameters_text`). `ipa` is JSON and repeats the run exactly.
"""

from __future__ import annotations

import errno
import hashlib
import io
import json
import math
import os
import re
import secrets
import shlex
import string
import unicodedata
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from itertools import count, islice
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, NamedTuple

from ipa_cli import __version__
from ipa_cli.errors import IpaError, UsageError
from ipa_cli.schedulers import CLASSES

if TYPE_CHECKING:
    from PIL.Image import Image

SCHEMA_VERSION = 1
TEXT_LIMIT = 1 << 20  # characters in one text chunk, both ways; real ones have a few thousand
DEFAULT_NAME = "ipa-{seed}.png"
PLACEHOLDERS = ("seed", "scale", "index", "prompt")
SLUG_BYTES = 80
NAME_BYTES = 240  # file systems allow 255; the rest is for the number that avoids an existing file

# Our scheduler's name -> A1111's name of the same sampler.
SAMPLERS = {
    "euler": "Euler",
    "euler-a": "Euler a",
    "dpm++": "DPM++ 2M",
    "dpm++-sde": "DPM++ SDE",
    "ddim": "DDIM",
    "unipc": "UniPC",
    "heun": "Heun",
    "lms": "LMS",
    "lcm": "LCM",
    "pndm": "PLMS",
    "dpm2": "DPM2",
    "dpm2-a": "DPM2 a",
}


# --- settings as A1111's text ---------------------------------------------------------------------------------


def parameters_text(settings: Mapping[str, Any]) -> str:
    """Write settings as the text A1111's web UI puts into chunk `parameters`.

    Needs `steps`, `guidance_scale`, `seed`, `width`, `height`; takes `prompt`, `negative_prompt`, `scheduler` (ours
    or diffusers' class), `model`, `backend`, `graph` and `adapters`, a list of {`model`, `scale`, `start`, `end`},
    where they are set.
    What the convention cannot carry (the `ipa` chunk can): blanks around a line of a prompt, blank lines before
    its first, a prompt's line that begins with `Negative prompt:`, NUL and lone surrogates, a scale that is not
    one number.
    """
    pairs: list[tuple[str, Any]] = [("Steps", settings["steps"])]
    if settings.get("scheduler"):
        pairs.append(("Sampler", _sampler(settings["scheduler"])))
    pairs += [
        ("CFG scale", settings["guidance_scale"]),
        ("Seed", settings["seed"]),
        ("Size", f"{settings['width']}x{settings['height']}"),
    ]
    if settings.get("model"):
        pairs.append(("Model", settings["model"]))
    pairs += [
        (f"ControlNet {number}", _control_unit(adapter))
        for number, adapter in enumerate(settings.get("adapters") or ())
    ]
    pairs += [(label, settings[key]) for label, key in _EXTRAS if settings.get(key)]
    pairs.append(("Version", f"ipa {__version__}"))

    lines = [_plain(settings.get("prompt") or "")]
    if settings.get("negative_prompt"):
        lines.append(f"Negative prompt: {_plain(settings['negative_prompt'])}")
    lines.append(", ".join(f"{key}: {_quoted(_plain(value))}" for key, value in pairs))
    return "\n".join(lines)


def parse_parameters(text: str) -> dict[str, str]:
    """Read A1111's text as its own parser does: its names, every value a string, `Size` as `Size-1`, `Size-2`.

    Never raises. `Prompt` and `Negative prompt` are always there; the defaults A1111 adds for missing entries
    are not. Source: AUTOMATIC1111/stable-diffusion-webui, modules/infotext_utils.py.
    """
    *lines, last = text.strip().split("\n")
    pairs = list(_pairs(last))
    if len(pairs) < 3:
        lines.append(last)
        pairs = []

    prompts: dict[str, list[str]] = {"Prompt": [], "Negative prompt": []}
    part = "Prompt"
    for line in map(str.strip, lines):
        if line.startswith("Negative prompt:"):
            part = "Negative prompt"
            line = line.removeprefix("Negative prompt:").strip()
        if line or prompts[part]:
            prompts[part].append(line)
    parsed = {key: "\n".join(found) for key, found in prompts.items()}

    for key, value in pairs:
        if not value:
            continue
        value = _unquoted(value)
        if size := re.match(r"^(\d+)x(\d+)$", value):
            parsed[f"{key}-1"], parsed[f"{key}-2"] = size[1], size[2]
        else:
            parsed[key] = value
    return parsed


_EXTRAS = (("Backend", "backend"), ("Graph", "graph"))
_UNWRITABLE = re.compile("[\0\ud800-\udfff]")  # not storable as UTF-8 text of a PNG
_RUN = re.compile(r"[\w \-/]+")
_VALUE = re.compile(r':\s*("(?:\\.|[^\\"])+"|[^,]*)(?:,|$)')


def _pairs(line: str) -> Iterator[tuple[str, str]]:
    # A1111 searches for key, colon and value in one expression, which takes quadratic time on a long line without
    # a colon. Taking whole runs of key characters finds the same pairs in linear time.
    position = 0
    while run := _RUN.search(line, position):
        position = run.end()
        key = run[0].lstrip(" -/")
        if len(key) > 1 and (value := _VALUE.match(line, position)):
            position = value.end()
            yield key, value[1]


def _sampler(scheduler: str) -> str:
    short = {class_name: name for name, class_name in CLASSES.items()}.get(scheduler, scheduler)
    return SAMPLERS.get(short, short)


def _plain(value: Any) -> str:
    text = f"{value:.0f}" if isinstance(value, float) and value.is_integer() else str(value)
    return _UNWRITABLE.sub("\N{REPLACEMENT CHARACTER}", text)


def _quoted(text: str) -> str:
    if not text or text != text.strip() or text[0] == '"' or any(mark in text for mark in ",:\n"):
        return json.dumps(text, ensure_ascii=False)
    return text


def _unquoted(text: str) -> str:
    if text[0] == text[-1] == '"':
        try:
            return json.loads(text)
        except ValueError:
            return text
    return text


def _control_unit(adapter: Mapping[str, Any]) -> str:
    # As sd-webui-controlnet writes an IP-Adapter (scripts/infotext.py); it reads no value with a comma or colon.
    unit = {
        "Module": "ip-adapter-auto",
        "Model": re.sub(r"[,:\s]+", "_", str(adapter.get("model", "ip-adapter"))),
        "Weight": adapter.get("scale"),
        "Guidance Start": adapter.get("start", 0.0),
        "Guidance End": adapter.get("end", 1.0),
    }
    if not isinstance(unit["Weight"], int | float):
        del unit["Weight"]
    return ", ".join(f"{key}: {_plain(value)}" for key, value in unit.items())


# --- writing --------------------------------------------------------------------------------------------------


class Saved(NamedTuple):
    """Where a picture went, and the SHA-256 of the file in hex."""

    path: Path
    sha256: str


def write_png(path: Path, image: Image, settings: Mapping[str, Any], force: bool = False) -> Saved:
    """Write a picture with its settings, whole or not at all; equal picture and settings give equal bytes.

    An existing file is kept and a number added to the new one's name, also when another process creates it
    meanwhile, unless `force`. `settings` must be JSON and as `parameters_text` takes them. Raises IpaError when
    the folder is missing or read-only or the disk is full.
    """
    data = _encoded(image, settings)
    return Saved(write_bytes(path, data, force), hashlib.sha256(data).hexdigest())


def write_bytes(path: Path, data: bytes, force: bool = False) -> Path:
    """Write a file as `write_png` does; returns its name."""
    with _writing_to(path), _temporary_beside(path) as (file, temporary):
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
        file.close()
        if force:
            temporary.replace(path)
        else:
            path = _publish(temporary, path)
    return path


def check_writable(path: Path) -> None:
    """Create and remove a file beside `path`, so that a read-only folder is told before the long work.

    Raises IpaError as `write_png` would.
    """
    with _writing_to(path), _temporary_beside(path):
        pass


def _encoded(image: Image, settings: Mapping[str, Any]) -> bytes:
    from PIL.PngImagePlugin import PngInfo

    chunk = json.dumps({**settings, "schema_version": SCHEMA_VERSION}, sort_keys=True, allow_nan=False)
    if len(chunk) > TEXT_LIMIT:
        raise IpaError(f"the settings of this picture take {len(chunk)} characters", "shorten the prompt")
    text = PngInfo()
    text.add_text("parameters", parameters_text(settings))
    text.add_text("ipa", chunk)
    buffer = io.BytesIO()
    image.save(buffer, "PNG", pnginfo=text, compress_level=6)
    return buffer.getvalue()


@contextmanager
def _temporary_beside(path: Path) -> Iterator[tuple[IO[bytes], Path]]:
    temporary = path.parent / f".ipa-{secrets.token_hex(8)}.tmp"
    try:
        with temporary.open("xb") as file:
            yield file, temporary
    finally:
        temporary.unlink(missing_ok=True)


def _publish(temporary: Path, path: Path) -> Path:
    candidates = _numbered(path)
    while True:
        candidate = next(candidates)
        with suppress(FileExistsError):
            _name_without_overwriting(temporary, candidate)
            return candidate


def _name_without_overwriting(temporary: Path, path: Path) -> None:
    try:
        os.link(temporary, path)
    except FileExistsError:
        raise
    except OSError:
        # exFAT and some network folders have no hard links: claim the name, then move onto the claim.
        os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY))
        try:
            temporary.replace(path)
        except BaseException:
            path.unlink()
            raise


def _numbered(path: Path) -> Iterator[Path]:
    yield path
    for number in count(1):
        yield path.with_name(f"{path.stem}-{number}{path.suffix}")


@contextmanager
def _writing_to(path: Path) -> Iterator[None]:
    elsewhere = "choose another place with --output"
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise IpaError(f"no space left on the disk of {path}", f"free some space, or {elsewhere}") from error
        if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
            raise IpaError(f"the folder {path.parent} cannot be written to", elsewhere) from error
        if error.errno == errno.ENOENT:
            hint = f"create it: mkdir -p {shlex.quote(str(path.parent))}"
            raise IpaError(f"the folder {path.parent} does not exist", hint) from error
        raise IpaError(f"{path} cannot be written: {error.strerror}", elsewhere) from error


# --- reading back ---------------------------------------------------------------------------------------------


def read_settings(path: Path) -> dict[str, Any]:
    """Read the settings a PNG carries: its `ipa` chunk, else A1111's `parameters` under our names.

    Only the `ipa` chunk has `schema_version`; from `parameters` come `prompt`, `negative_prompt`, `steps`,
    `scheduler`, `guidance_scale`, `seed`, `width`, `height` and `model` as far as they are there and make sense.
    The types of these are checked, values are not. Raises IpaError when the file cannot be read, is no PNG,
    carries neither chunk, or its `ipa` chunk is damaged or from a newer version.
    """
    texts = _texts(path)
    if "ipa" in texts:
        return _checked_chunk(path, texts["ipa"])
    settings = _from_parameters(parse_parameters(texts.get("parameters", "")))
    if not settings:
        raise IpaError(f"{path} carries no settings", "only pictures that ipa or A1111's web UI wrote do")
    return settings


def unread_parameters(path: Path) -> dict[str, str]:
    """What A1111's text of a PNG says beyond `read_settings`: its names and values. Raises as `read_settings`."""
    parsed = parse_parameters(_texts(path).get("parameters", ""))
    taken = _from_parameters(parsed)
    labels = {label for key, label, _ in _READERS if key in taken or not parsed.get(label)}
    return {label: value for label, value in parsed.items() if label not in labels}


def _texts(path: Path) -> dict[str, str]:
    from PIL import Image, UnidentifiedImageError

    try:
        with Image.open(path, formats=["PNG"]) as image:
            texts = {str(key): value for key, value in image.info.items() if isinstance(value, str)}
    except UnidentifiedImageError as error:
        raise IpaError(f"{path} is not a readable PNG picture", "settings are read from PNG files only") from error
    except FileNotFoundError as error:
        raise IpaError(f"{path} does not exist", "check the path") from error
    except OSError as error:
        raise IpaError(f"{path} cannot be read: {error.strerror or error}", "check the path") from error
    except (ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise IpaError(f"{path} is damaged: {error}", "use another copy of the picture") from error
    for key in ("ipa", "parameters"):
        if len(texts.get(key, "")) > TEXT_LIMIT:
            raise IpaError(f"{path}: its text chunk `{key}` is too large to be settings", "use another picture")
    return texts


# In the `ipa` chunk: setting -> its JSON types; null stands for "not set".
_TYPES: dict[str, tuple[type, ...]] = {
    "prompt": (str,),
    "negative_prompt": (str,),
    "steps": (int,),
    "scheduler": (str,),
    "guidance_scale": (int, float),
    "seed": (int,),
    "width": (int,),
    "height": (int,),
    "model": (str,),
    "backend": (str,),
    "graph": (str,),
    "adapters": (list,),
}


def _checked_chunk(path: Path, text: str) -> dict[str, Any]:
    def damaged(what: str) -> IpaError:
        return IpaError(f"{path}: its `ipa` chunk is damaged: {what}", "use another copy of the picture")

    def short_integer(digits: str) -> int:
        if len(digits) > 40:
            raise ValueError("a number is too long")
        return int(digits)

    def no_constant(name: str) -> float:
        raise ValueError(f"{name} is not a number")

    try:
        chunk = json.loads(text, parse_int=short_integer, parse_constant=no_constant)
    except (ValueError, RecursionError) as error:
        raise damaged(str(error)) from error
    if not isinstance(chunk, dict) or type(chunk.get("schema_version")) is not int:
        raise damaged("no settings in it")
    if chunk["schema_version"] > SCHEMA_VERSION:
        raise IpaError(f"{path} was written by a newer ipa", "pip install --upgrade ipa-cli")
    for key, types in _TYPES.items():
        value = chunk.get(key)
        if value is not None and type(value) not in types:
            raise damaged(f"{key} is {json.dumps(value)[:40]}")
    if not all(isinstance(adapter, dict) for adapter in chunk.get("adapters") or ()):
        raise damaged("adapters is not a list of objects")
    return chunk


def _from_parameters(parsed: Mapping[str, str]) -> dict[str, Any]:
    settings = {}
    for key, label, reader in _READERS:
        if parsed.get(label):
            try:
                settings[key] = reader(parsed[label])
            except ValueError:
                continue  # not what A1111 writes there
    return settings


def _finite(text: str) -> float:
    number = float(text)
    if not math.isfinite(number):
        raise ValueError(text)
    return number


def _scheduler(sampler: str) -> str:
    return next((name for name, label in SAMPLERS.items() if label == sampler), sampler)


# Setting, A1111's name of it, and how its text is read.
_READERS: tuple[tuple[str, str, Callable[[str], Any]], ...] = (
    ("prompt", "Prompt", str),
    ("negative_prompt", "Negative prompt", str),
    ("steps", "Steps", int),
    ("scheduler", "Sampler", _scheduler),
    ("guidance_scale", "CFG scale", _finite),
    ("seed", "Seed", int),
    ("width", "Size-1", int),
    ("height", "Size-2", int),
    ("model", "Model", str),
)


# --- names ----------------------------------------------------------------------------------------------------


def plan_paths(output: str | None, fields: Sequence[Mapping[str, Any]], force: bool = False) -> list[Path]:
    """Name the files for pictures with these `fields` (`seed`, `scale`, `index`, `prompt` of each), in order.

    `output` is a file (`cat.png`, several pictures become `cat-1.png`, `cat-2.png`), a folder (existing, or
    ending in a slash: `ipa-{seed}.png` in it), a template such as `out/{prompt}-{seed}.png` or `{index:03}.png`,
    or None for `ipa-{seed}.png` in the working directory. No two paths are equal, and none exists already
    unless `force`: a number is added. Raises UsageError for an unknown placeholder or another suffix than .png.
    """
    template = _template(output)
    parts = _parts(template)
    plain = all(name is None for _, name, _ in parts)
    taken: set[str] = set()
    paths = []
    for values in fields:
        wanted = _named(parts, values)
        candidates = islice(_numbered(wanted), 1 if plain and len(fields) > 1 else 0, None)
        path = next(
            candidate
            for candidate in candidates
            if str(candidate).casefold() not in taken and (force or not os.path.lexists(candidate))
        )
        taken.add(str(path).casefold())
        paths.append(path)
    return paths


def slug(text: str) -> str:
    """Make text safe as a part of a file name: letters and digits of any script, hyphens, at most 80 bytes."""
    kept = (
        character if unicodedata.category(character)[0] in "LMN" else "-"
        for character in unicodedata.normalize("NFC", text)
    )
    hyphened = re.sub("-+", "-", "".join(kept)).strip("-")
    return hyphened.encode()[:SLUG_BYTES].decode(errors="ignore").rstrip("-") or "picture"


def _template(output: str | None) -> str:
    if output is None:
        return DEFAULT_NAME
    if not output or "\0" in output:
        raise UsageError(f"--output {output!r} names no file", "--output cat.png")
    try:
        text = str(Path(output).expanduser()) if output.startswith("~") else output
    except RuntimeError as error:
        raise UsageError(f"--output {output}: {error}", "write the folder in full") from error
    if _is_folder(Path(text)):
        return str(Path(text.replace("{", "{{").replace("}", "}}"), DEFAULT_NAME))
    if output.endswith(("/", os.sep)):
        return str(Path(text, DEFAULT_NAME))
    # A suffix is typed out and begins with a letter: neither `v1.5` nor `cat.{seed}` has one.
    suffix = Path("".join(literal + ("\0" if key is not None else "") for literal, key, _ in _parts(text))).suffix
    if suffix.lower() == ".png":
        return text
    if re.fullmatch(r"\.[A-Za-z]\w*", suffix):
        hint = f"--output {shlex.quote(text.removesuffix(suffix) + '.png')}"
        raise UsageError(f"--output {output}: pictures are written as .png, not {suffix}", hint)
    return text + ".png"


def _is_folder(path: Path) -> bool:
    with suppress(OSError):  # no access, or a name too long: told when writing is checked
        return path.is_dir()
    return False


_SPEC = re.compile(r"0?\d{0,2}(\.\d{1,2})?[dfg]?")


def _parts(template: str) -> list[tuple[str, str | None, str]]:
    known = ", ".join(f"{{{name}}}" for name in PLACEHOLDERS)
    try:
        parts = list(string.Formatter().parse(template))
    except ValueError as error:
        hint = f"it may contain {known}; write {{{{ for a brace"
        raise UsageError(f"--output {template}: {error}", hint) from error
    for _, name, spec, conversion in parts:
        if name is not None and name not in PLACEHOLDERS:
            raise UsageError(f"--output {template}: unknown placeholder {{{name}}}", f"known are {known}")
        if conversion or (spec and (name == "prompt" or not _SPEC.fullmatch(spec))):
            hint = "formats are for numbers, such as {index:03} or {scale:.2f}"
            raise UsageError(f"--output {template}: the format of {{{name}}} is not understood", hint)
    return [(literal, name, spec or "") for literal, name, spec, _ in parts]


def _named(parts: list[tuple[str, str | None, str]], values: Mapping[str, Any]) -> Path:
    path = Path("".join(literal + (_field(values[name], spec) if name else "") for literal, name, spec in parts))
    if len(os.fsencode(path.name)) > NAME_BYTES:
        raise UsageError(f"the file name {path.name[:40]}… is too long", "use {seed} or {index} instead of text")
    return path


def _field(value: Any, spec: str) -> str:
    if isinstance(value, list | tuple):
        return "-".join(_field(item, spec) for item in value)
    if isinstance(value, int | float):
        try:
            return format(value, spec or ("g" if isinstance(value, float) else "d"))
        except ValueError as error:
            raise UsageError(f"--output: {value} cannot be written as {spec}", "use f or g for scales") from error
    return slug(str(value))
