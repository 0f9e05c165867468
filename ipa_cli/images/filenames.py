"""Names of picture files from `--output`, a file, a folder or a template; never one that exists."""

from __future__ import annotations

import os
import re
import shlex
import stat
import string
import unicodedata
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from itertools import islice
from pathlib import Path, PurePosixPath
from typing import Any

from ipa_cli.config.checks import on_disk
from ipa_cli.errors import UsageError
from ipa_cli.system.files import numbered

DEFAULT_NAME = "ipa-{seed}"
# Suffix -> Pillow's name of the format; the first of each is what a name without a suffix gets.
FORMATS = {".png": "PNG", ".jpg": "JPEG", ".webp": "WEBP", ".avif": "AVIF", ".jpeg": "JPEG"}
PLACEHOLDERS = ("seed", "scale", "index", "prompt", "image")
SLUG_BYTES = 80
NAME_BYTES = 240  # file systems allow 255; the rest is for the number that avoids an existing file


def plan_paths(
    output: str | None, fields: Sequence[Mapping[str, Any]], force: bool = False, format: str | None = None
) -> list[Path]:
    """Name the files for pictures with these `fields` (`seed`, `scale`, `index`, `prompt`, `image` of each), in order.

    `output` is a file (`cat.png`, several pictures become `cat-1.png`, `cat-2.png`), a folder (existing, or
    ending in a slash: `ipa-{seed}.png` in it), a template such as `out/{prompt}-{seed}.png` or `{index:03}.png`,
    or None for `ipa-{seed}.png` in the working directory. `format` is one of `FORMATS`, None for that of the suffix,
    without one PNG. No two paths are equal, and none exists already unless `force`: a number is added. Raises
    UsageError for an unknown placeholder, an unknown suffix, or one that is not of `format`.
    """
    template = _template(output, format)
    parts = _parts(template)
    plain = all(name is None for _, name, _ in parts)
    taken: set[str] = set()
    left: dict[Path, Iterator[Path]] = {}  # names that were not tried yet: what was refused once is again
    paths = []
    for values in fields:
        wanted = _named(parts, values)
        candidates = left.setdefault(wanted, islice(numbered(wanted), 1 if plain and len(fields) > 1 else 0, None))
        path = next(
            candidate
            for candidate in candidates
            if str(candidate).casefold() not in taken and (force or not os.path.lexists(candidate))
        )
        taken.add(str(path).casefold())
        paths.append(path)
    return paths


def stem(references: Sequence[str]) -> str:
    """What `{image}` stands for: the name of the first reference without its folder and suffix."""
    return PurePosixPath(references[0].replace("\\", "/")).stem if references else "none"


def slug(text: str) -> str:
    """Make text safe as a part of a file name: letters and digits of any script, hyphens, at most 80 bytes."""
    kept = (
        character if unicodedata.category(character)[0] in "LMN" else "-"
        for character in unicodedata.normalize("NFC", text)
    )
    hyphened = re.sub("-+", "-", "".join(kept)).strip("-")
    return hyphened.encode()[:SLUG_BYTES].decode(errors="ignore").rstrip("-") or "picture"


def _template(output: str | None, format: str | None) -> str:
    usual = next(suffix for suffix, name in FORMATS.items() if name == (format or "PNG"))
    if output is None:
        return DEFAULT_NAME + usual
    if not output or "\0" in output:
        raise UsageError(f"--output {output!r} is not a file name", "--output cat.png")
    if (wrong := on_disk(output)) is not None:
        raise UsageError(f"--output {output}: {wrong}", "--output cat.png")
    try:
        text = str(Path(output).expanduser()) if output.startswith("~") else output
    except RuntimeError as error:
        raise UsageError(f"--output {output}: {error}", "write the folder in full") from error
    if _is_folder(Path(text)):
        return str(Path(text.replace("{", "{{").replace("}", "}}"), DEFAULT_NAME + usual))
    if output.endswith(("/", os.sep)):
        return str(Path(text, DEFAULT_NAME + usual))
    if _is_special(Path(text)):
        raise UsageError(f"--output {output} is not a regular file", "-o - writes one picture to stdout")
    # A suffix is typed out and begins with a letter: neither `v1.5` nor `cat.{seed}` has one.
    suffix = Path("".join(literal + ("\0" if key is not None else "") for literal, key, _ in _parts(text))).suffix
    named = FORMATS.get(suffix.lower())
    if named is not None and format not in (None, named):
        raise UsageError(
            f"--output {output} does not have the suffix of --format {format.lower()}", "leave out one or the other"
        )
    if named is not None:
        return text
    if re.fullmatch(r"\.[A-Za-z]\w*", suffix):
        hint = f"--output {shlex.quote(text.removesuffix(suffix) + usual)}"
        known = ", ".join(FORMATS)
        raise UsageError(f"--output {output}: pictures are written as {known}, not {suffix}", hint)
    return text + usual


def _is_folder(path: Path) -> bool:
    with suppress(OSError):  # no access, or a name too long: an error when writing is checked
        return path.is_dir()
    return False


def _is_special(path: Path) -> bool:
    with suppress(OSError):
        mode = path.stat().st_mode
        return not (stat.S_ISREG(mode) or stat.S_ISDIR(mode))
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
        if conversion or (spec and (name in ("prompt", "image") or not _SPEC.fullmatch(spec))):
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
