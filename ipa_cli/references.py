"""Reference pictures from a file, a folder or the web: hostile until checked, then plain RGB."""

from __future__ import annotations

import difflib
import hashlib
import http.client
import io
import re
import socket
import ssl
import string
import struct
import threading
import time
import urllib.error
import urllib.parse
import urllib.request
import warnings
import zlib
from concurrent.futures import Future
from concurrent.futures import TimeoutError as FutureTimeoutError
from contextlib import suppress
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ipa_cli import __version__
from ipa_cli.errors import IpaError, UsageError

if TYPE_CHECKING:
    from PIL.Image import Image

FILE_BYTES = 256 << 20
URL_BYTES = 32 << 20
URL_SECONDS = 30.0  # in total: names, redirects, headers and content
REDIRECTS = 5
PIXELS = 64_000_000
SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".gif", ".bmp", ".tif", ".tiff", ".avif")

# Format -> the plugin that registers it. No other decoder is ever tried.
_FORMATS = {
    "PNG": "PngImagePlugin",
    "JPEG": "JpegImagePlugin",
    "WEBP": "WebPImagePlugin",
    "GIF": "GifImagePlugin",
    "BMP": "BmpImagePlugin",
    "TIFF": "TiffImagePlugin",
    "AVIF": "AvifImagePlugin",  # since Pillow 11.3
}
_KINDS = "PNG, JPEG, WebP, GIF, BMP, TIFF or AVIF"
_SCHEME = re.compile(r"([a-z][a-z0-9+.-]+)://|(data|file|ftp):", re.IGNORECASE)


@dataclass(frozen=True)
class Reference:
    """A reference picture, decoded: upright, RGB, 8 bits, nothing transparent.

    `source` is the path or URL it was read from, `sha256` the hex digest of the bytes found there, `width` and
    `height` are pixels, `notes` say what was changed or left out on the way.
    """

    image: Image
    source: str
    sha256: str
    width: int
    height: int
    notes: tuple[str, ...] = ()


def expand(reference: str) -> list[str]:
    """Name the pictures that `reference` stands for, each as `load` takes it.

    A URL or file stands for itself, a folder for every picture in it (natural order, not its subfolders),
    `folder/name` without a suffix for the one picture of that name. `~` is the home folder. Raises IpaError when
    there is none, more than one of that name, or the URL is not http or https.
    """
    if _SCHEME.match(reference):
        return [_web_address(reference)]
    path = _path(reference)
    try:
        if path.is_dir():
            return [str(member) for member in _members(path)]
        if path.exists():
            return [str(path)]
        named = [member for member in _pictures(path.parent) if member.stem == path.name]
    except OSError as error:
        raise _unreadable(reference, error) from error
    if len(named) > 1:
        names = ", ".join(member.name for member in named)
        raise IpaError(f"{reference} could be any of {names}", f"name one: {named[0]}")
    if not named:
        raise _missing(path)
    return [str(named[0])]


def load(reference: str) -> Reference:
    """Read and check one picture: a path or URL as `expand` gives it.

    Turned by its EXIF orientation; transparent parts on white; of several frames the first; 16 bits a channel
    scaled to 8, other wide numbers stretched from darkest to brightest; CMYK by its colour profile. Raises
    IpaError naming the source when it cannot be read, is too large (32 MiB from the web, 256 MiB from disk,
    64 megapixels), or is not a whole picture of a known format.
    """
    if _SCHEME.match(reference):
        source = _web_address(reference)
        data = _fetch(source)
    else:
        source = reference
        data = _read(_path(reference))
    image, notes = _decode(data, source)
    return Reference(image, source, hashlib.sha256(data).hexdigest(), image.width, image.height, notes)


# --- files ----------------------------------------------------------------------------------------------------


def _path(reference: str) -> Path:
    if not reference or "\0" in reference:
        raise UsageError(f"{reference!r} names no picture", "--image cat.png")
    try:
        return Path(reference).expanduser()
    except RuntimeError as error:
        raise IpaError(f"{reference}: {error}", "write the folder in full") from error


def _read(path: Path) -> bytes:
    try:
        if path.is_dir():
            raise IpaError(f"{path} is a folder, not a picture", f"name a picture in it: {path / 'cat.png'}")
        with path.open("rb") as file:
            data = file.read(FILE_BYTES + 1)
    except FileNotFoundError as error:
        raise _missing(path) from error
    except OSError as error:
        raise _unreadable(str(path), error) from error
    if len(data) > FILE_BYTES:
        raise IpaError(f"{path} is larger than {FILE_BYTES >> 20} MiB", "make the picture smaller")
    return data


def _pictures(folder: Path) -> list[Path]:
    if not folder.is_dir():
        return []
    found = (
        member
        for member in folder.iterdir()
        if member.suffix.lower() in SUFFIXES and not member.name.startswith(".") and member.is_file()
    )
    return sorted(found, key=_natural)


def _natural(path: Path) -> list[tuple[int, str]]:
    # Digits compare as numbers: cat2 before cat10. The name itself decides between cat1 and cat01.
    runs = re.findall(r"([0-9]+)|([^0-9]+)", path.name.casefold())
    return [(int(digits or 0), text) for digits, text in runs] + [(0, path.name)]


def _members(folder: Path) -> list[Path]:
    found = _pictures(folder)
    if not found:
        raise IpaError(f"no picture in {folder}", f"pictures end in {', '.join(SUFFIXES)}")
    return found


def _missing(path: Path) -> IpaError:
    try:
        if not path.parent.is_dir():
            return IpaError(f"{path} does not exist: there is no folder {path.parent}", "check the path")
        names = {member.name.casefold(): member.name for member in path.parent.iterdir()}
    except OSError as error:
        return _unreadable(str(path.parent), error)
    stems = {Path(name).stem.casefold(): name for name in names.values() if Path(name).suffix.lower() in SUFFIXES}
    known = {**stems, **names}
    near = difflib.get_close_matches(path.name.casefold(), known, n=1)
    hint = f"did you mean {path.parent / known[near[0]]}?" if near else "check the path"
    return IpaError(f"{path} does not exist", hint)


def _unreadable(name: str, error: OSError) -> IpaError:
    return IpaError(f"{name} cannot be read: {error.strerror or error}", "check the path and its permissions")


# --- the web --------------------------------------------------------------------------------------------------


def _web_address(url: str) -> str:
    try:
        parts = urllib.parse.urlsplit(url.strip())
        host, port = parts.hostname, parts.port
    except ValueError as error:
        raise UsageError(f"{url} is not a web address: {error}", "--image https://host/cat.png") from error
    if parts.scheme not in ("http", "https"):
        raise UsageError(f"{url}: only http and https addresses are read", "name a file, or an https address")
    if parts.username is not None:
        raise UsageError("a web address must not carry a user name", "download the picture and name the file")
    if not host:
        raise UsageError(f"{url} names no host", "--image https://host/cat.png")
    try:
        name = host if host.isascii() else host.encode("idna").decode()
    except UnicodeError as error:
        raise UsageError(f"{url} is not a web address: {error}", "--image https://host/cat.png") from error
    netloc = (f"[{name}]" if ":" in name else name) + (f":{port}" if port is not None else "")
    address = parts._replace(netloc=netloc, fragment="").geturl()
    return urllib.parse.quote(address, safe=string.punctuation, errors="replace")


class _Redirects(urllib.request.HTTPRedirectHandler):
    max_redirections = REDIRECTS
    max_repeats = REDIRECTS

    def redirect_request(self, req: Any, fp: Any, code: int, msg: str, headers: Any, newurl: str) -> Any:
        fp.close()  # or the caller reads a body of any length before it follows
        try:
            return urllib.request.Request(_web_address(newurl), headers=req.headers)
        except UsageError as error:
            message = f"{req.full_url} redirects to an address that is not followed: {error.message}"
            raise IpaError(message, error.hint) from error

    http_error_308 = urllib.request.HTTPRedirectHandler.http_error_302  # known to urllib since Python 3.11


def _opener() -> urllib.request.OpenerDirector:
    # Built by hand: `build_opener` would add handlers for ftp, file and data.
    opener = urllib.request.OpenerDirector()
    opener.addheaders = [("User-Agent", f"ipa/{__version__}"), ("Accept", "image/*")]
    for handler in (
        urllib.request.ProxyHandler(),
        urllib.request.HTTPHandler(),
        urllib.request.HTTPSHandler(),
        urllib.request.HTTPDefaultErrorHandler(),
        urllib.request.HTTPErrorProcessor(),
        _Redirects(),
    ):
        opener.add_handler(handler)
    return opener


def _fetch(url: str) -> bytes:
    # In a thread that nothing waits for: sockets limit one read, not the whole, and looking up a name not at all.
    outcome: Future[bytes] = Future()

    def work() -> None:
        try:
            outcome.set_result(_download(url, time.monotonic() + URL_SECONDS))
        except BaseException as error:
            outcome.set_exception(error)

    threading.Thread(target=work, name="ipa-download", daemon=True).start()
    local = "download it and name the file"
    try:
        return outcome.result(URL_SECONDS)
    except urllib.error.HTTPError as error:
        error.close()
        if 300 <= error.code < 400:
            raise IpaError(f"{url} redirects too often, or to no web address", local) from error
        raise IpaError(f"{url}: the server answered {error.code} {error.reason}", "check the address") from error
    except (FutureTimeoutError, TimeoutError) as error:
        raise IpaError(f"{url} did not arrive within {URL_SECONDS:g} s", local) from error
    except urllib.error.URLError as error:
        if isinstance(error.reason, TimeoutError):
            raise IpaError(f"{url} did not arrive within {URL_SECONDS:g} s", local) from error
        if isinstance(error.reason, socket.gaierror):
            raise IpaError(f"{url}: the host cannot be found", "check the address and the network") from error
        if isinstance(error.reason, ssl.SSLError):
            raise IpaError(f"{url}: no secure connection: {error.reason}", local) from error
        raise IpaError(f"{url} cannot be reached: {error.reason}", "check the address and the network") from error
    except (OSError, http.client.HTTPException) as error:
        raise IpaError(f"{url}: the connection broke: {error!r}", "try again") from error


def _download(url: str, deadline: float) -> bytes:
    too_large = IpaError(f"{url} is larger than {URL_BYTES >> 20} MiB", "make it smaller, or name a local file")
    with _opener().open(url, timeout=URL_SECONDS) as response:
        announced = response.length or 0
        if announced > URL_BYTES:
            raise too_large
        data = bytearray()
        while chunk := response.read1(1 << 16):
            data += chunk
            if len(data) > URL_BYTES:
                raise too_large
            if time.monotonic() > deadline:
                raise TimeoutError
        if len(data) < announced:
            raise http.client.IncompleteRead(bytes(data), announced - len(data))
        return bytes(data)


# --- decoding -------------------------------------------------------------------------------------------------

_DAMAGE = (  # what Pillow's decoders raise on damaged files
    OSError,
    SyntaxError,
    ValueError,
    TypeError,
    LookupError,
    ArithmeticError,
    EOFError,
    RuntimeError,
    AssertionError,
    MemoryError,
    struct.error,
    zlib.error,
)


def _decode(data: bytes, source: str) -> tuple[Image, tuple[str, ...]]:
    from PIL import Image, ImageOps, UnidentifiedImageError

    if not data:
        raise IpaError(f"{source} is empty", f"it must be a {_KINDS} picture")
    limit = f"more than {PIXELS // 1_000_000} million pixels"
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Pillow warns of damage and of size; both are judged here
            with Image.open(io.BytesIO(data), formats=_formats()) as opened:
                if opened.width * opened.height > PIXELS:
                    raise IpaError(f"{source} has {limit}: {opened.width}x{opened.height}", "make it smaller")
                animated = opened.format != "MPO" and getattr(opened, "is_animated", False)
                notes = ["of several frames only the first is used"] if animated else []
                opened.load()
                image = _plain_rgb(ImageOps.exif_transpose(opened), notes)
    except UnidentifiedImageError as error:
        what = "a web page or SVG" if data.lstrip()[:1] == b"<" else "damaged, or no picture"
        raise IpaError(f"{source} is {what}", f"it must be a {_KINDS} picture") from error
    except Image.DecompressionBombError as error:
        raise IpaError(f"{source} has {limit}", "make it smaller") from error
    except _DAMAGE as error:
        what = " ".join(str(error).split()) or type(error).__name__
        raise IpaError(f"{source} cannot be decoded: {what}", "use another copy of the picture") from error
    return image, tuple(notes)


def _formats() -> list[str]:
    from PIL import Image

    for plugin in _FORMATS.values():
        with suppress(ImportError):
            import_module(f"PIL.{plugin}")
    return [name for name in _FORMATS if name in Image.OPEN]


def _plain_rgb(image: Image, notes: list[str]) -> Image:
    from PIL import Image

    if image.mode.startswith("I") or image.mode == "F":
        image = _eight_bits(image)
    elif image.mode == "CMYK":
        image = _from_cmyk(image, notes)
    elif image.has_transparency_data:
        image = image.convert("RGBA")
        if image.getchannel("A").getextrema() != (255, 255):
            notes.append("transparent parts are shown on white")
        white = Image.new("RGBA", image.size, "white")
        image = Image.alpha_composite(white, image)
    image = image.convert("RGB")
    image.info = {}
    return image


def _eight_bits(image: Image) -> Image:
    # Pillow's own conversion clips at 255. Levels that are neither 16 bits nor 0..1 have no agreed white.
    import numpy as np
    from PIL import Image

    levels = np.asarray(image).astype(np.float64)
    levels[~np.isfinite(levels)] = 0
    low, high = 0.0, 1.0 if image.mode == "F" else 65535.0
    if levels.min() < low or levels.max() > high:
        low, high = levels.min(), levels.max()
    levels -= low
    levels *= 255 / (high - low or 1)
    return Image.fromarray(levels.round().astype(np.uint8))


def _from_cmyk(image: Image, notes: list[str]) -> Image:
    from PIL import ImageCms

    profile = image.info.get("icc_profile")
    if not profile:
        return image.convert("RGB")
    try:
        source = ImageCms.ImageCmsProfile(io.BytesIO(profile))
        converted = ImageCms.profileToProfile(image, source, ImageCms.createProfile("sRGB"), outputMode="RGB")
    except (ImageCms.PyCMSError, OSError, ImportError):  # damaged, for other colours, or Pillow without LittleCMS
        notes.append("its colour profile could not be used")
        return image.convert("RGB")
    assert converted is not None  # only when converting in place
    return converted
