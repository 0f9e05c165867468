"""What a weight file is that cannot be read: a download that went wrong, or a file of another kind by its name."""

from __future__ import annotations

import codecs
import io
import json
import re
from pathlib import Path
from typing import BinaryIO

from ipa_cli.config import units

AGAIN = "download it again"
SAFETENSORS_VERSION = "use its .safetensors version"
MOST_HEADER = 16 << 20  # bytes; SDXL's has 300 KB
_SITE = f"{AGAIN}: a site may want a login or a key first"
# How files of other kinds begin, what they are and what to do.
_STARTS = (
    (b"version https://git-lfs", "it is a Git LFS pointer, which stands for the file", "fetch the file: git lfs pull"),
    (b"<", "it is a web page", _SITE),
    (b"{", "it is an answer in JSON", _SITE),
    (b"GGUF", "it is a GGUF file, in which weights are quantised", SAFETENSORS_VERSION),
    (b"PK\x03\x04", "it is a zip archive, or a pickle of torch", f"unpack it, or {SAFETENSORS_VERSION}"),
    (b"\x80\x02", "it is a pickle of torch", SAFETENSORS_VERSION),
    *((mark, "it is an archive", "unpack it") for mark in (b"7z\xbc\xaf", b"Rar!", b"\x1f\x8b")),
)


def safetensors(source: Path | bytes, error: Exception) -> tuple[str, str]:
    """Why a `.safetensors` file, or its content, is none, and what to do; `error` is what the library says of it."""
    with _opened(source) as file:
        found = _of_another_kind(file) or _cut_off(file)
    return found or (str(error), AGAIN)


def of_another_kind(path: Path) -> tuple[str, str] | None:
    """What a file is by how it begins, and what to do; None for weights, and where that is not known."""
    try:
        with path.open("rb") as file:
            return _of_another_kind(file)
    except OSError:
        return None


def pickle(source: Path | bytes, error: Exception) -> tuple[str, str]:
    """Why a pickle is no one of bare tensors, and what to do; `error` is what torch says of it, at length."""
    if foreign := re.search(r"Unsupported (?:global|class): (?:GLOBAL )?([\w.]+)", str(error)):
        return f"it holds {foreign[1]}", SAFETENSORS_VERSION
    with _opened(source) as file:
        if _size(file) and _end(file) is not None:
            return "it is a .safetensors file", "give it that suffix"
        start = file.read(2)
        file.seek(0)
        found = None if start in (b"PK", b"\x80\x02") else _of_another_kind(file)
    return found or ("it is damaged, or cut off", f"{AGAIN}, or {SAFETENSORS_VERSION}")


def _opened(source: Path | bytes) -> BinaryIO:
    return io.BytesIO(source) if isinstance(source, bytes) else source.open("rb")


def _size(file: BinaryIO) -> int:
    size = file.seek(0, io.SEEK_END)
    file.seek(0)
    return size


def _of_another_kind(file: BinaryIO) -> tuple[str, str] | None:
    if not _size(file):
        return "it is empty", AGAIN
    start = file.read(64)
    if start[4:8] == bytes(4):  # the length of a header
        return None
    found = next(((what, hint) for mark, what, hint in _STARTS if start.lstrip().startswith(mark)), None)
    return found or (("it is a text file", f"name the weight file, or {AGAIN}") if _is_text(start) else None)


def _is_text(start: bytes) -> bool:
    """Whether a file that begins so is text; its last character may be cut off."""
    try:
        text = codecs.getincrementaldecoder("utf-8")().decode(start)
    except UnicodeDecodeError:
        return False
    return all(character.isprintable() or character.isspace() for character in text)


def _cut_off(file: BinaryIO) -> tuple[str, str] | None:
    size, end = _size(file), _end(file)
    if end is None:
        start = file.read(9)
        file.seek(0)
        length = 8 + int.from_bytes(start[:8], "little")
        is_header = start[8:] == b"{" and size < length <= MOST_HEADER
        return (f"it is cut off: {size} of its first {length} bytes are there", AGAIN) if is_header else None
    if end == size:
        return None
    if end < size:
        return f"it goes on after its end, for {units.size(size - end)}", AGAIN
    return f"it is cut off: {size} of its {end} bytes are there", AGAIN


def _end(file: BinaryIO) -> int | None:
    """Where a file ends by its header, the byte after its last; None without a header that says it."""
    file.seek(0)
    length = int.from_bytes(file.read(8), "little")
    text = file.read(length) if length <= MOST_HEADER else b""
    file.seek(0)
    try:
        ends = [entry["data_offsets"][1] for name, entry in json.loads(text).items() if name != "__metadata__"]
    except (ValueError, TypeError, LookupError, AttributeError, RecursionError):
        return None
    return 8 + length + max(ends, default=0) if all(isinstance(end, int) for end in ends) else None
