"""Reference pictures from a file, a folder or the web: untrusted until checked, then RGB."""

from __future__ import annotations

import difflib
import glob
import hashlib
import os
import re
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING

from ipa_cli.config.places import matches
from ipa_cli.errors import IpaError, UsageError
from ipa_cli.images import colour, mask
from ipa_cli.images.decode import OTHER_SUFFIXES, SUFFIXES, decode, decoded, missing
from ipa_cli.images.download import fetch, web_address
from ipa_cli.system import inputs
from ipa_cli.system.inputs import STDIN

if TYPE_CHECKING:
    from PIL.Image import Image

FILE_BYTES = 256_000_000
COMPARED = 500  # names of a folder at most with a misspelt one; 5,000 take a second, for each picture of a batch
MISSPELT = 50  # names in a folder that are compared: where more are missing, as in a batch, they are not misspelt

_missing_in: Counter[str] = Counter()
_SCHEME = re.compile(r"([a-z][a-z0-9+.-]+)://|(data|file|ftp):", re.IGNORECASE)


@dataclass(frozen=True)
class Reference:
    """A reference picture, decoded: upright, RGB, 8 bits, nothing transparent; or a mask, in grey.

    `source` is the path or URL it was read from, `sha256` the hex digest of the bytes found there, `width` and
    `height` are pixels, `notes` say what was changed or left out on the way.
    """

    image: Image
    source: str
    sha256: str
    width: int
    height: int
    notes: tuple[str, ...] = ()


def expand(reference: str, note: Callable[[str], None] | None = None) -> list[str]:
    """The pictures that `reference` means, each as `load` takes it.

    A URL or file means itself, a folder every picture in it (natural order, not its subfolders), as does a
    pattern such as `pics/*.jpg` or `pics/**/*.jpg`, `folder/name` without a suffix for the one picture of that name.
    `~` is the home folder, `-` is stdin. `note` is called about pictures that cannot be read and are left out. Raises
    IpaError when there is none, more than one of that name, or the URL is not http or https.
    """
    if reference == STDIN:
        return [STDIN]
    if _SCHEME.match(reference):
        return [web_address(reference)]
    path = _path(reference)
    try:
        if path.is_dir():
            return _readable(reference, path.iterdir(), note)
        if path.exists():
            return [str(path)]
        if is_pattern(str(path)):
            return _readable(reference, matches(str(path)), note)
        named = _named(path.parent, path.name)
    except OSError as error:
        raise _unreadable(reference, error) from error
    except ValueError as error:
        raise UsageError(f"{reference}: {error}", "such as 'pics/**/*.jpg'") from error
    if len(named) > 1:
        names = ", ".join(member.name for member in named)
        raise IpaError(f"{reference} could be any of {names}", f"name one: {named[0]}")
    if not named:
        raise _missing(path)
    return [str(named[0])]


def is_pattern(name: str) -> bool:
    """Whether `expand` takes this for a pattern: no file has that very name."""
    return glob.has_magic(name) and not _SCHEME.match(name) and not os.path.lexists(_path(name))


def load(name: str) -> Reference:
    """Read and check one picture: a path or URL as `expand` gives it.

    Turned by its EXIF orientation; brought to sRGB by its colour profile; transparent parts on white; of several
    frames the first; 16 bits a channel scaled to 8, other wide numbers stretched from darkest to brightest. Raises
    IpaError naming the source when it cannot be read, is too large (32 MiB from the web, 256 MB from disk,
    64 megapixels), or is not a whole picture of a known format.
    """
    return _load(name, colour.on_white)


def load_mask(name: str) -> Reference:
    """Read and check one mask as `load` does a picture; its image is grey, 8 bits, white where the reference counts."""
    return _load(name, mask.levels)


def of_image(image: Image, as_mask: bool = False) -> Reference:
    """A picture, or a mask, that is in memory: as `load` and `load_mask` see one in a file; named by its content.

    Raises IpaError for a picture of no pixels, or too many.
    """
    upright, notes = decoded(image, "the picture")
    flat = (mask.levels if as_mask else colour.on_white)(upright, notes)
    digest = hashlib.sha256(f"{flat.mode} {flat.size}".encode() + flat.tobytes()).hexdigest()
    source = f"{'mask' if as_mask else 'picture'} in memory {digest[:12]}"
    return Reference(flat, source, digest, flat.width, flat.height, tuple(notes))


def of_bytes(data: bytes, name: str, as_mask: bool = False) -> Reference:
    """A picture, or a mask, from the bytes of a file that came without one: as `load` and `load_mask` see it.

    Raises IpaError naming it when it is not a whole picture of a known format, or too large.
    """
    return _seen(data, name, _shown(name), mask.levels if as_mask else colour.on_white)


def read(name: str) -> tuple[str, bytes]:
    """A picture's source and the bytes found there, unchecked; raises as `load` for what cannot be read."""
    if name == STDIN:
        return name, inputs.read_stdin(FILE_BYTES, "a picture")
    if _SCHEME.match(name):
        source = web_address(name)
        return source, fetch(source)
    return name, _read(_path(name))


def _load(name: str, seen: Callable[[Image, list[str]], Image]) -> Reference:
    source, data = read(name)
    return _seen(data, source, _shown(source), seen)


def _shown(source: str) -> str:
    return "stdin" if source == STDIN else source


def _seen(data: bytes, source: str, shown: str, seen: Callable[[Image, list[str]], Image]) -> Reference:
    image, notes = decode(data, shown)
    image = seen(image, notes)
    return Reference(image, source, hashlib.sha256(data).hexdigest(), image.width, image.height, tuple(notes))


# --- files ----------------------------------------------------------------------------------------------------


def _path(reference: str) -> Path:
    if not reference or "\0" in reference:
        raise UsageError(f"{reference!r} is not a picture's name", "--image cat.png")
    try:
        return Path(reference).expanduser()
    except RuntimeError as error:
        raise IpaError(f"{reference}: {error}", "write the folder in full") from error


def _read(path: Path) -> bytes:
    try:
        return inputs.read_bytes(path, FILE_BYTES, "a picture")
    except inputs.MissingFile as error:
        raise _missing(path) from error


def _named(folder: Path, stem: str) -> list[Path]:
    if not folder.is_dir():
        return []
    near = (folder / name for name in os.listdir(folder) if name.startswith(stem))  # noqa: PTH208 (slower, for a batch)
    return _sorted((member for member in near if member.stem == stem), SUFFIXES)


def _sorted(paths: Iterable[Path], suffixes: Collection[str]) -> list[Path]:
    found = (
        path for path in paths if path.suffix.lower() in suffixes and not path.name.startswith(".") and path.is_file()
    )
    return sorted(found, key=_natural)


def _natural(path: Path) -> list[list[tuple[int, str]]]:
    # Digits compare as numbers: cat2 before cat10. The name itself decides between cat1 and cat01.
    runs = [re.findall(r"([0-9]+)|([^0-9]+)", part.casefold()) for part in path.parts]
    return [*([(int(digits or 0), text) for digits, text in part] for part in runs), [(0, path.name)]]


def _readable(reference: str, paths: Iterable[Path], note: Callable[[str], None] | None) -> list[str]:
    """Those of `paths` that can be read, in natural order. Raises IpaError when there is none."""
    paths, here, hint = list(paths), set(SUFFIXES), f"pictures end in {', '.join(SUFFIXES)}"
    left_out = [(kind.suffixes, kind.needs, kind.hint) for kind in missing()]
    for suffixes, why, cure in (*left_out, (OTHER_SUFFIXES, "not a supported format", hint)):
        here.difference_update(suffixes)
        if names := [path.name for path in _sorted(paths, suffixes)]:
            hint = cure
            if note is not None:
                note(f"{reference}: left out {_listed(names)}: {why}")
    if lost := [path.name for path in sorted(paths) if path.suffix.lower() in here and inputs.leads_nowhere(path)]:
        hint = "fetch what the links in it lead to"  # as of git-annex
        if note is not None:
            note(f"{reference}: left out {_listed(lost)}: links that lead nowhere")
    found = _sorted(paths, here)
    if not found:
        raise IpaError(f"there is no picture in {reference}", hint)
    return [str(path) for path in found]


def _listed(names: Sequence[str]) -> str:
    return ", ".join(names[:5]) + (f" and {len(names) - 5} more" if len(names) > 5 else "")


def _missing(path: Path) -> IpaError:
    try:
        if inputs.leads_nowhere(path):
            return inputs.missing(path)
        if "\\" in path.name and (slashed := Path(str(path).replace("\\", "/"))).exists():
            return IpaError(f"{path} does not exist", f"did you mean {slashed}?")
        if not path.parent.is_dir():
            return IpaError(f"{path} does not exist: there is no folder {path.parent}", "check the path")
        if _misspelt(str(path.parent)) > MISSPELT:
            return IpaError(f"{path} does not exist", "check the path")
        some = islice(path.parent.iterdir(), COMPARED + 1)
        names = {member.name.casefold(): member.name for member in some}
    except OSError as error:
        return _unreadable(str(path.parent), error)
    if len(names) > COMPARED:
        return IpaError(f"{path} does not exist", "check the path")
    stems = {Path(name).stem.casefold(): name for name in names.values() if Path(name).suffix.lower() in SUFFIXES}
    # By the stem first: `.png` alone makes any two short names alike.
    near = [stems[stem] for stem in difflib.get_close_matches(path.stem.casefold(), stems, n=1)]
    near += [names[name] for name in difflib.get_close_matches(path.name.casefold(), names, n=1, cutoff=0.8)]
    hint = f"did you mean {path.parent / near[0]}?" if near else "check the path"
    return IpaError(f"{path} does not exist", hint)


def _misspelt(folder: str) -> int:
    """How many names were looked for in vain in this folder."""
    if len(_missing_in) >= COMPARED:
        _missing_in.clear()
    _missing_in[folder] += 1
    return _missing_in[folder]


def _unreadable(name: str, error: OSError) -> IpaError:
    return IpaError(f"{name} cannot be read: {error.strerror or error}", "check the path and its permissions")
