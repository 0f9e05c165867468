import hashlib
import io
import socket
import struct
import subprocess
import sys
import threading
import time
import zlib
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image, ImageCms, features

from ipa_cli.errors import IpaError, UsageError
from ipa_cli.images import decode, download
from ipa_cli.images.reference import Reference, expand, load

# Left half red, right half blue; wide enough that lossy formats keep the halves apart.
HALVES = Image.new("RGB", (64, 32), "red")
HALVES.paste("blue", (32, 0, 64, 32))


def encoded(image: Image.Image = HALVES, kind: str = "PNG", **options) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def saved(path: Path, image: Image.Image = HALVES, **options) -> str:
    image.save(path, **options)
    return str(path)


def refused(reference: str, message: str) -> IpaError:
    with pytest.raises(IpaError) as caught:
        load(reference)
    assert message in caught.value.message
    assert "\n" not in caught.value.message and caught.value.hint
    return caught.value


def png_claiming(width: int, height: int) -> bytes:
    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b"")


# --- what a user may type -------------------------------------------------------------------------------------


@pytest.fixture
def folder(tmp_path, monkeypatch):
    for name in ("cat10.png", "cat2.png", "Cat1.JPG", "dog.webp", "dog.gif", "my.cat.png"):
        saved(tmp_path / name)
    (tmp_path / "notes.txt").write_text("no picture")
    (tmp_path / ".hidden.png").write_text("")
    (tmp_path / "sub.png").mkdir()
    (tmp_path / "empty").mkdir()
    monkeypatch.setenv("HOME", str(tmp_path))
    return tmp_path


def test_a_folder_is_every_picture_in_natural_order(folder):
    expected = ["Cat1.JPG", "cat2.png", "cat10.png", "dog.gif", "dog.webp", "my.cat.png"]
    for typed in (f"{folder}", f"{folder}/", "~", "~/"):
        assert expand(typed) == [str(folder / name) for name in expected]


def test_a_file_and_a_name_without_suffix_are_one_picture(folder, monkeypatch):
    assert expand(f"{folder}/cat2.png") == [f"{folder}/cat2.png"]
    assert expand(f"{folder}/notes.txt") == [f"{folder}/notes.txt"]  # loading will say what it is
    assert expand(f"{folder}/cat2") == [f"{folder}/cat2.png"]
    assert expand(f"{folder}/my.cat") == [f"{folder}/my.cat.png"]
    assert expand("~/cat2") == [f"{folder}/cat2.png"]
    monkeypatch.chdir(folder)
    assert expand("cat2") == ["cat2.png"]
    assert load("~/cat2.png").width == 64


@pytest.mark.parametrize(
    ("typed", "message", "hint"),
    [
        ("{}/dog", "could be any of dog.gif, dog.webp", "name one: {}/dog.gif"),
        ("{}/catt2.png", "does not exist", "did you mean {}/cat2.png?"),
        ("{}/catt2", "does not exist", "did you mean {}/cat2.png?"),
        ("{}/CAT2.PNG", "does not exist", "did you mean {}/cat2.png?"),
        ("{}/x2.png", "does not exist", "check the path"),
        ("{}/zzzzzzzzz", "does not exist", "check the path"),
        ("{}/none/cat.png", "there is no folder {}/none", "check the path"),
        ("{}/cat2.png/x.png", "there is no folder {}/cat2.png", "check the path"),
        ("{}/empty/", "no picture in {}/empty", "pictures end in .png"),
        ("{}/" + "x" * 300, "File name too long", "check the path"),
        ("~nobody-of-that-name/x", "home directory", "write the folder in full"),
        ("", "names no picture", "--image cat.png"),
        ("a\0b", "names no picture", "--image cat.png"),
    ],
)
def test_what_stands_for_nothing_gets_a_suggestion(folder, typed, message, hint):
    with pytest.raises(IpaError) as caught:
        expand(typed.format(folder))
    assert message.format(folder) in caught.value.message
    assert caught.value.hint.startswith(hint.format(folder))


def test_suffixes_that_people_have_are_pictures_too(tmp_path):
    for suffix in (".jfif", ".jpe", ".JPEG", ".apng", ".mpo"):
        saved(tmp_path / f"a{suffix}", format="PNG")
    assert len(expand(str(tmp_path))) == 5


def test_a_pattern_is_every_picture_it_matches_in_natural_order(folder):
    below = folder / "sub.png" / "deep"
    below.mkdir()
    for name in ("cat3.png", "cat12.png"):
        saved(below / name)
    named = {
        "cat*.png": ["cat2.png", "cat10.png"],
        "*": ["Cat1.JPG", "cat2.png", "cat10.png", "dog.gif", "dog.webp", "my.cat.png"],
        "[cd]?[tg].*": ["dog.gif", "dog.webp"],
        "**/cat*.png": ["cat2.png", "cat10.png", "sub.png/deep/cat3.png", "sub.png/deep/cat12.png"],
    }
    for pattern, names in named.items():
        assert expand(f"{folder}/{pattern}") == expand(f"~/{pattern}") == [f"{folder}/{name}" for name in names]
    saved(folder / "cat[2].png")
    assert expand(f"{folder}/cat[2].png") == [f"{folder}/cat[2].png"]  # there is one of that very name
    with pytest.raises(IpaError, match="no picture in"):
        expand(f"{folder}/bird*.png")


def test_pictures_that_cannot_be_read_are_told_of(folder, monkeypatch):
    monkeypatch.setitem(sys.modules, "pillow_heif", None)
    monkeypatch.delitem(Image.OPEN, "HEIF", raising=False)
    for name in ("IMG_2.HEIC", "IMG_10.heif", "raw.cr2", "logo.svg"):
        (folder / name).write_bytes(b"")
    notes = []
    assert len(expand(str(folder), notes.append)) == 6
    assert notes == [
        f"{folder}: left out IMG_2.HEIC, IMG_10.heif: HEIC needs the package pillow-heif",
        f"{folder}: left out logo.svg, raw.cr2: of a kind that is not read",
    ]
    with pytest.raises(IpaError, match="no picture in") as caught:
        expand(f"{folder}/IMG*")
    assert caught.value.hint == "pip install pillow-heif"


def test_heic_without_its_package_is_not_called_damaged(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "pillow_heif", None)
    monkeypatch.delitem(Image.OPEN, "HEIF", raising=False)
    for brands in (b"heic\0\0\0\0mif1heic", b"mif1\0\0\0\0mif1heic"):
        (tmp_path / "cat.jpg").write_bytes(struct.pack(">I", 8 + len(brands)) + b"ftyp" + brands + bytes(40))
        error = refused(str(tmp_path / "cat.jpg"), "cannot be read: HEIC needs the package pillow-heif")
        assert error.hint == "pip install pillow-heif"


def test_heic_is_read_with_its_package(tmp_path):
    pytest.importorskip("pillow_heif").register_heif_opener()
    exif = Image.Exif()
    exif[0x0112] = 6
    image = load(saved(tmp_path / "cat.HEIC", HALVES, format="HEIF", quality=90, exif=exif)).image
    assert image.mode == "RGB" and np.abs(np.asarray(image.getpixel((4, 4)), int) - (255, 0, 0)).max() < 30
    assert expand(str(tmp_path)) == [f"{tmp_path}/cat.HEIC"]
    (tmp_path / "cat.HEIC").write_bytes((tmp_path / "cat.HEIC").read_bytes()[:-50])
    with pytest.raises(IpaError):
        load(f"{tmp_path}/cat.HEIC")


def test_loading_what_is_not_there_gets_a_suggestion_too(folder):
    assert refused(f"{folder}/catt2.png", "does not exist").hint == f"did you mean {folder}/cat2.png?"


@pytest.mark.parametrize(
    "url",
    [
        "file:///etc/passwd",
        "file:/etc/passwd",
        "FTP://host/cat.png",
        "data:image/png;base64,AAAA",
        "gopher://host/",
        "http://",
        "http:///cat.png",
        "http://[::1/cat.png",
        "http://host:port/cat.png",
        "http://" + "ü" * 100 + "/cat.png",
        "http://" + "a" * 64 + ".org/cat.png",
        "http://a..b/cat.png",
        "http://.org/cat.png",
        "http://\u2024/cat.png",
        "https://me:secret@host/cat.png",
    ],
)
def test_other_addresses_are_refused_by_both(url):
    for action in (expand, load):
        with pytest.raises(UsageError) as caught:
            action(url)
        assert caught.value.hint and "secret" not in caught.value.message


# --- files ----------------------------------------------------------------------------------------------------


def test_a_reference_says_where_it_came_from(tmp_path):
    path = saved(tmp_path / "cat.png")
    reference = load(path)
    assert reference.image.tobytes() == HALVES.tobytes()
    assert (reference.source, reference.width, reference.height, reference.notes) == (path, 64, 32, ())
    assert reference.sha256 == hashlib.sha256(Path(path).read_bytes()).hexdigest()


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF", "AVIF"])
def test_every_listed_format_is_read(tmp_path, kind):
    if kind == "AVIF" and "AVIF" not in decode.formats():
        pytest.skip("this Pillow has no AVIF")
    (tmp_path / "misnamed.txt").write_bytes(encoded(kind=kind))
    image = load(str(tmp_path / "misnamed.txt")).image
    assert image.mode == "RGB" and image.size == (64, 32)
    assert np.abs(np.asarray(image, int) - np.asarray(HALVES, int))[:, [4, 60]].max() < 25


@pytest.mark.parametrize("kind", ["PPM", "TGA", "ICO", "PCX", "SGI", "EPS", "JPEG2000"])
def test_other_decoders_are_never_reached(tmp_path, kind):
    Image.init()
    try:
        (tmp_path / "cat.png").write_bytes(encoded(kind=kind))
    except (OSError, KeyError):
        pytest.skip(f"this Pillow writes no {kind}")
    refused(str(tmp_path / "cat.png"), "damaged, or no picture")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "is empty"),
        (b"hello", "damaged, or no picture"),
        (b"<!DOCTYPE html><html>", "a web page or SVG"),
        (encoded()[:8], "damaged, or no picture"),
        (encoded(Image.effect_noise((64, 64), 90))[:-1000], "cannot be decoded"),
        (encoded(Image.effect_noise((64, 64), 90), "JPEG")[:-500], "truncated"),
        (encoded(Image.effect_noise((64, 64), 90), "GIF")[:-1000], "cannot be decoded"),
        (encoded(Image.effect_noise((64, 64), 90), "BMP")[:-1000], "truncated"),
        (png_claiming(8001, 8000), "more than 64 million pixels: 8001x8000"),
        (png_claiming(10_000, 10_000), "more than 64 million pixels: 10000x10000"),
        (png_claiming(100_000, 100_000), "more than 64 million pixels"),
        (png_claiming(0x7FFFFFFF, 0x7FFFFFFF), "million pixels"),
        (png_claiming(8000, 8000), "cannot be decoded"),
    ],
)
def test_what_is_no_whole_picture_is_refused(tmp_path, content, message, recwarn):
    path = tmp_path / "cat.png"
    path.write_bytes(content)
    assert str(path) in refused(str(path), message).message
    assert not recwarn.list


def test_a_folder_is_not_loaded(tmp_path):
    refused(str(tmp_path), "is a folder")


def test_an_unreadable_file_is_told(tmp_path):
    path = Path(saved(tmp_path / "cat.png"))
    path.chmod(0)
    code = f"""
import os
from ipa_cli.errors import IpaError
from ipa_cli.images.reference import load
if os.geteuid() == 0:
    os.setuid(65534)  # root may read anything
try:
    load({str(path)!r})
except IpaError as error:
    print(error.message)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout == f"{path} cannot be read: Permission denied\n", done.stderr


# --- pixels ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "TIFF"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_is_honoured(tmp_path, kind, orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    (tmp_path / "cat").write_bytes(encoded(kind=kind, exif=exif))
    reference = load(str(tmp_path / "cat"))
    assert (reference.width, reference.height) == ((64, 32) if orientation < 5 else (32, 64))
    # The pixel that was at the left: where the EXIF standard puts it.
    row, column = {1: (16, 4), 2: (16, 60), 3: (16, 60), 4: (16, 4), 5: (4, 16), 6: (4, 16), 7: (60, 16), 8: (60, 16)}[
        orientation
    ]
    red, _, blue = reference.image.getpixel((column, row))
    assert red > 200 and blue < 60


def test_alpha_is_shown_on_white_and_told(tmp_path):
    image = Image.new("RGBA", (2, 1), (255, 0, 0, 255))
    image.putpixel((1, 0), (0, 0, 0, 51))
    reference = load(saved(tmp_path / "a.png", image))
    assert [reference.image.getpixel((x, 0)) for x in (0, 1)] == [(255, 0, 0), (204, 204, 204)]
    assert reference.notes == ("transparent parts are shown on white",)
    image.putalpha(255)
    assert load(saved(tmp_path / "b.png", image)).notes == ()
    assert load(saved(tmp_path / "c.png", Image.new("LA", (1, 1), (0, 0)))).image.getpixel((0, 0)) == (255,) * 3


def test_a_palette_with_transparency(tmp_path):
    image = Image.new("P", (2, 1))
    image.putpalette([255, 0, 0, 0, 255, 0])
    image.putpixel((1, 0), 1)
    for options in ({"transparency": 1}, {"transparency": b"\xff\x00"}):
        reference = load(saved(tmp_path / "a.png", image, **options))
        assert [reference.image.getpixel((x, 0)) for x in (0, 1)] == [(255, 0, 0), (255, 255, 255)]
        assert reference.notes
    assert load(saved(tmp_path / "b.gif", image)).image.getpixel((1, 0)) == (0, 255, 0)


def test_a_transparent_colour_key(tmp_path):
    path = saved(tmp_path / "a.png", HALVES, transparency=(255, 0, 0))
    assert [load(path).image.getpixel((x, 0)) for x in (0, 63)] == [(255, 255, 255), (0, 0, 255)]


@pytest.mark.parametrize("mode", ["1", "L"])
def test_grey_becomes_rgb(tmp_path, mode):
    assert load(saved(tmp_path / "a.png", HALVES.convert(mode))).image.mode == "RGB"


@pytest.mark.parametrize(
    ("name", "values"),
    [
        ("a.png", np.array([[0, 0x8000, 0xFFFF]], np.uint16)),
        ("a.tif", np.array([[0, 0x8000, 0xFFFF]], np.uint16)),
        ("a.tif", np.array([[0, 0x8000, 0xFFFF]], np.int32)),
        ("a.tif", np.array([[-1000, 0, 1000]], np.int32)),
        ("a.tif", np.array([[0, 0.5, 1]], np.float32)),
        ("a.tif", np.array([[-3e38, 0, 3e38]], np.float32)),
        ("a.tif", np.array([[np.nan, 0.5, 1]], np.float32)),
        ("a.tif", np.array([[-np.inf, 5, 10]], np.float32)),
    ],
)
def test_wide_levels_are_scaled_not_clipped(tmp_path, name, values):
    image = load(saved(tmp_path / name, Image.fromarray(values))).image
    assert [image.getpixel((x, 0)) for x in range(3)] == [(0,) * 3, (128,) * 3, (255,) * 3]


def test_big_endian_levels(tmp_path):
    image = Image.frombytes("I;16B", (3, 1), bytes.fromhex("00008000ffff"))
    assert load(saved(tmp_path / "a.tif", image)).image.getpixel((1, 0)) == (128,) * 3


def test_one_level_everywhere(tmp_path):
    image = Image.fromarray(np.full((2, 2), 1e6, np.float32))
    assert load(saved(tmp_path / "a.tif", image)).image.getpixel((0, 0)) == (0, 0, 0)


def test_cmyk(tmp_path):
    image = Image.new("CMYK", (8, 8), (0, 255, 255, 0))
    for name in ("a.jpg", "a.tif"):
        red, green, blue = load(saved(tmp_path / name, image)).image.getpixel((4, 4))
        assert red > 245 and green < 10 and blue < 10


def test_a_profile_that_does_not_fit_is_told(tmp_path):
    image = Image.new("CMYK", (8, 8), (0, 255, 255, 0))
    srgb = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    for profile in (srgb, b"no profile"):
        reference = load(saved(tmp_path / "a.tif", image, icc_profile=profile))
        assert reference.image.getpixel((4, 4)) == (255, 0, 0)
        assert reference.notes == ("its colour profile could not be used",)


def cmyk_profile() -> bytes:
    """Make the smallest CMYK profile: paper is white, black is black, all other inks are a middle grey (L* 50)."""
    grey, black = b"\x80\x80\x80", b"\0\x80\x80"
    grid = b"\xff\x80\x80" + black + (grey + black) * 7  # L*, a*, b* at the 2**4 corners, black changing fastest
    matrix = struct.pack(">9i", 0x10000, 0, 0, 0, 0x10000, 0, 0, 0, 0x10000)
    ramps = bytes(range(256))
    table = b"mft1\0\0\0\0" + bytes((4, 3, 2, 0)) + matrix + ramps * 4 + grid + ramps * 3
    white = b"XYZ \0\0\0\0" + struct.pack(">3i", 0xF6D6, 0x10000, 0xD32D)
    text = b"text\0\0\0\0none\0\0\0\0"
    tags = {b"desc": text, b"cprt": text, b"wtpt": white, b"A2B0": table + bytes(-len(table) % 4)}
    start = 128 + 4 + 12 * len(tags)
    index, body = struct.pack(">I", len(tags)), b""
    for name, content in tags.items():
        index += name + struct.pack(">II", start + len(body), len(content))
        body += content
    header = struct.pack(">I4xI4s4s4s12x4s", start + len(body), 0x02400000, b"prtr", b"CMYK", b"Lab ", b"acsp")
    header += bytes(28) + white[8:]
    return header + bytes(128 - len(header)) + index + body


@pytest.mark.skipif(not features.check("littlecms2"), reason="this Pillow has no LittleCMS")
@pytest.mark.parametrize("name", ["a.tif", "a.jpg"])
def test_a_cmyk_profile_decides_the_colours(tmp_path, name):
    for inks, grey in (((255, 0, 0, 0), 119), ((0, 0, 0, 0), 255), ((0, 0, 0, 255), 0)):
        path = saved(tmp_path / name, Image.new("CMYK", (8, 8), inks), icc_profile=cmyk_profile())
        reference = load(path)
        assert reference.notes == ()
        assert np.abs(np.asarray(reference.image, int) - grey).max() <= 2


@pytest.mark.parametrize("kind", ["GIF", "PNG", "WEBP", "TIFF"])
def test_of_several_frames_the_first_is_taken_and_told(tmp_path, kind):
    second = Image.new("RGB", (64, 32), "green")
    (tmp_path / "a").write_bytes(encoded(kind=kind, save_all=True, append_images=[second]))
    reference = load(str(tmp_path / "a"))
    assert reference.image.getpixel((4, 16))[0] > 200
    assert reference.notes == ("of several frames only the first is used",)


def test_the_second_picture_of_a_phone_is_no_frame(tmp_path):
    (tmp_path / "a.jpg").write_bytes(encoded(kind="MPO", save_all=True, append_images=[HALVES.resize((8, 4))]))
    assert load(str(tmp_path / "a.jpg")).notes == ()


def test_nothing_of_the_file_but_pixels_is_kept(tmp_path):
    exif = Image.Exif()
    exif[0x010E] = "where I live"
    assert load(saved(tmp_path / "a.jpg", exif=exif)).image.info == {}


# --- the web --------------------------------------------------------------------------------------------------


class Handler(BaseHTTPRequestHandler):
    def do_GET(self):
        path = self.path.split("?")[0]
        page = {"/cat.png": encoded(), "/k%C3%A4se%20x.png": encoded(), "/page": b"<html>", "/empty": b""}.get(path)
        if page is not None:
            self.answer(200, page)
        elif path == "/agent":
            self.answer(200 if self.headers["User-Agent"].startswith("ipa/") else 403, encoded())
        elif path.startswith("/hop"):
            hops = int(path[4:])
            self.answer(302, b"", Location=f"/hop{hops - 1}" if hops else "/cat.png")
        elif path.startswith("/moved"):
            self.answer(int(path[6:]), b"", Location="cat.png")
        elif path == "/loop":
            self.answer(301, b"", Location="/loop")
        elif path == "/away":
            self.answer(302, b"", Location=self.path.partition("?")[2])
        elif path == "/nowhere":
            self.answer(302, b"")
        elif path == "/huge":
            self.answer(200, b"", length=1 << 40)
        elif path in ("/endless", "/endless-redirect", "/endless-404"):
            self.send_response({"/endless": 200, "/endless-404": 404}.get(path, 302))
            self.send_header("Location", "/cat.png")
            self.end_headers()
            self.pour(b"x" * (1 << 16), 0)
        elif path == "/drip":
            self.send_response(200)
            self.end_headers()
            self.pour(b"x", 0.05)
        elif path == "/drip-headers":
            self.wfile.write(b"HTTP/1.0 200 OK\r\nX: ")
            self.pour(b"x", 0.05)
        elif path == "/silent":
            self.server.stop.wait(20)
        elif path == "/short":
            self.answer(200, encoded()[:50], length=5000)
        elif path == "/broken":
            self.wfile.write(b"nonsense\r\n\r\n")
        elif path == "/hangup":
            self.connection.shutdown(socket.SHUT_RDWR)
        elif path == "/chunked":
            self.protocol_version = "HTTP/1.1"
            self.send_response(200)
            self.send_header("Transfer-Encoding", "chunked")
            self.end_headers()
            self.wfile.write(b"5\r\nhello\r\nzz\r\n")
        else:
            self.answer(404, b"no")

    def answer(self, code, body, length=None, **headers):
        self.send_response(code)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body) if length is None else length))
        self.end_headers()
        self.wfile.write(body)

    def pour(self, piece, pause):
        self.server.poured[self.path] = 0
        try:
            while not self.server.stop.wait(pause):
                self.wfile.write(piece)
                self.wfile.flush()
                self.server.poured[self.path] += len(piece)
        except OSError:
            pass

    def log_message(self, *arguments):
        pass


@pytest.fixture
def server(monkeypatch):
    for name in ("http_proxy", "https_proxy", "all_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.stop, server.poured = threading.Event(), {}
    server.url = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    yield server
    server.stop.set()
    server.shutdown()
    server.server_close()
    thread.join()


@contextmanager
def within(seconds):
    start = time.monotonic()
    yield
    assert time.monotonic() - start < seconds, "no limit ended this"


def test_a_picture_from_the_web(server):
    url = f"{server.url}/cat.png?size=large#top"
    reference = load(*expand(url))
    assert reference.image.tobytes() == HALVES.tobytes()
    assert reference.source == f"{server.url}/cat.png?size=large"
    assert reference.sha256 == hashlib.sha256(encoded()).hexdigest()


@pytest.mark.parametrize(
    "path", ["/käse x.png", "/k%C3%A4se%20x.png", "/agent", "/hop3", *(f"/moved{c}" for c in (301, 302, 303, 307, 308))]
)
def test_addresses_and_redirects_that_work(server, path):
    assert load(server.url + path).width == 64
    assert load("HTTP" + (server.url + path)[4:]).width == 64


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("/none.png", "the server answered 404 Not Found"),
        ("/page", "is a web page or SVG"),
        ("/empty", "is empty"),
        ("/hop9", "redirects too often"),
        ("/loop", "redirects too often"),
        ("/nowhere", "the server answered 302 Found"),
        ("/away?file:///etc/passwd", "only http and https"),
        ("/away?ftp://127.0.0.1/cat.png", "only http and https"),
        ("/away?http://me:pass@127.0.0.1/", "must not carry a user name"),
        ("/away?http://a..b/", "redirects to an address that is not followed"),
        ("/away?http://" + "a" * 64 + "/", "redirects to an address that is not followed"),
        ("/away?http://[/", "redirects"),
        ("/away?http://a:99999/", "redirects to an address that is not followed"),
        ("/huge", "is larger than 32 MiB"),
        ("/short", "the connection broke"),
        ("/broken", "the connection broke"),
        ("/hangup", "the connection broke"),
        ("/chunked", "the connection broke"),
    ],
)
def test_answers_that_are_no_picture(server, path, message):
    assert server.url in refused(server.url + path, message).message


def test_a_body_is_not_read_past_its_limit(server, monkeypatch):
    monkeypatch.setattr(download, "URL_BYTES", 1 << 20)
    with within(10):
        refused(f"{server.url}/endless", "is larger than 1 MiB")
        refused(f"{server.url}/endless-404", "404")
        assert load(f"{server.url}/endless-redirect").width == 64
    assert all(0 < poured < 16 << 20 for poured in server.poured.values())  # what the sockets buffer


@pytest.mark.parametrize("path", ["/drip", "/drip-headers", "/silent"])
def test_the_time_limit_is_for_the_whole(server, monkeypatch, path):
    monkeypatch.setattr(download, "URL_SECONDS", 0.4)
    with within(5):
        refused(server.url + path, "did not arrive within 0.4 s")


def test_a_host_that_does_not_listen_or_exist(server):
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        refused(f"http://127.0.0.1:{unused.getsockname()[1]}/cat.png", "cannot be reached")
    refused("http://no-such-host.invalid/cat.png", "the host cannot be found")


def test_a_server_without_encryption_is_told(server):
    refused("https" + server.url[4:] + "/cat.png", "no secure connection")


# --- fuzz -----------------------------------------------------------------------------------------------------

ORIGINALS = {
    "png": encoded(),
    "palette": encoded(HALVES.convert("P"), transparency=b"\x00\x80"),
    "grey16": encoded(Image.fromarray(np.arange(64, dtype=np.uint16).reshape(8, 8) * 1000)),
    "jpeg": encoded(kind="JPEG", exif=b"Exif\0\0MM\0*\0\0\0\x08\0\x01\x01\x12\0\x03\0\0\0\x01\0\x06\0\0\0\0\0\0"),
    "cmyk": encoded(HALVES.convert("CMYK"), "JPEG"),
    "gif": encoded(kind="GIF", save_all=True, append_images=[Image.new("RGB", (64, 32), "green")]),
    "webp": encoded(HALVES.convert("RGBA"), "WEBP", lossless=True),
    "bmp": encoded(kind="BMP"),
    "tiff": encoded(kind="TIFF", compression="tiff_lzw"),
    "tiff-float": encoded(Image.fromarray(np.linspace(0, 1, 64, dtype=np.float32).reshape(8, 8)), "TIFF"),
}


def outcome(tmp_path_factory, content: bytes) -> None:
    path = tmp_path_factory.getbasetemp() / "fuzz"
    path.write_bytes(content)
    try:
        reference = load(str(path))
    except IpaError as error:
        assert str(path) in error.message and error.hint
    else:
        assert isinstance(reference, Reference) and reference.image.mode == "RGB"
        assert reference.image.size == (reference.width, reference.height)


@given(st.binary(max_size=200))
def test_random_bytes_are_refused_or_a_picture(tmp_path_factory, content):
    outcome(tmp_path_factory, content)


@pytest.mark.parametrize("kind", ORIGINALS)
@given(data=st.data())
def test_mutated_pictures_are_refused_or_a_picture(tmp_path_factory, kind, data):
    content = bytearray(ORIGINALS[kind])
    for _ in range(data.draw(st.integers(1, 6))):
        # Headers decide more than pixels: half of the changes go there.
        last = data.draw(st.sampled_from([min(200, len(content)), len(content)])) - 1
        content[data.draw(st.integers(0, last))] = data.draw(st.integers(0, 255))
    if data.draw(st.booleans()):
        del content[data.draw(st.integers(0, len(content))) :]
    outcome(tmp_path_factory, bytes(content))


@given(st.text(max_size=30) | st.text(max_size=20).map("http://".__add__))
def test_any_typed_text_names_pictures_or_is_refused(text):
    try:
        assert all(isinstance(name, str) for name in expand(text))
    except IpaError as error:
        assert error.hint
