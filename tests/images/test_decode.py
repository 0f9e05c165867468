"""Bytes become pixels: every format, orientation and depth; damaged and other files are refused."""

import logging
import struct
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image, ImageCms, features

from ipa_cli.errors import IpaError
from ipa_cli.images import decode
from ipa_cli.images.reference import Reference, expand, load
from tests.images.pictures import HALVES, encoded, png_claiming, refused, saved


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
    refused(str(tmp_path / "cat.png"), "damaged, or not a picture")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "is empty"),
        (b"hello", "damaged, or not a picture"),
        (b"<!DOCTYPE html><html>", "a web page or SVG"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 69\n", "a Git LFS pointer"),
        (encoded()[:8], "damaged, or not a picture"),
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
def test_damaged_and_foreign_files_are_refused(tmp_path, content, message, recwarn):
    path = tmp_path / "cat.png"
    path.write_bytes(content)
    assert str(path) in refused(str(path), message).message
    assert not recwarn.list


def test_heic_without_its_package_is_not_called_damaged(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "pillow_heif", None)
    monkeypatch.delitem(Image.OPEN, "HEIF", raising=False)
    for brands in (b"heic\0\0\0\0mif1heic", b"mif1\0\0\0\0mif1heic"):
        (tmp_path / "cat.jpg").write_bytes(struct.pack(">I", 8 + len(brands)) + b"ftyp" + brands + bytes(40))
        error = refused(str(tmp_path / "cat.jpg"), "cannot be read: HEIC needs the package pillow-heif")
        assert error.hint == "pip install pillow-heif"


def test_heic_is_read_with_its_package(tmp_path, monkeypatch):
    pytest.importorskip("pillow_heif").register_heif_opener()
    exif = Image.Exif()
    exif[0x0112] = 6
    path = saved(tmp_path / "cat.HEIC", HALVES, format="HEIF", quality=90, exif=exif)
    monkeypatch.delitem(Image.OPEN, "HEIF")  # as before anything asked for it
    image = load(path).image
    assert image.mode == "RGB" and np.abs(np.asarray(image.getpixel((4, 4)), int) - (255, 0, 0)).max() < 30
    assert expand(str(tmp_path)) == [f"{tmp_path}/cat.HEIC"]
    (tmp_path / "cat.HEIC").write_bytes((tmp_path / "cat.HEIC").read_bytes()[:-50])
    with pytest.raises(IpaError):
        load(f"{tmp_path}/cat.HEIC")


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


def test_alpha_is_shown_on_white_and_reported(tmp_path):
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


def test_a_profile_that_does_not_fit_is_reported(tmp_path):
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
def test_of_several_frames_the_first_is_taken_and_reported(tmp_path, kind):
    second = Image.new("RGB", (64, 32), "green")
    (tmp_path / "a").write_bytes(encoded(kind=kind, save_all=True, append_images=[second]))
    reference = load(str(tmp_path / "a"))
    assert reference.image.getpixel((4, 16))[0] > 200
    assert reference.notes == ("only the first of several frames is used",)


def test_the_second_picture_of_a_phone_is_not_a_frame(tmp_path):
    (tmp_path / "a.jpg").write_bytes(encoded(kind="MPO", save_all=True, append_images=[HALVES.resize((8, 4))]))
    assert load(str(tmp_path / "a.jpg")).notes == ()


def test_nothing_of_the_file_but_pixels_is_kept(tmp_path):
    exif = Image.Exif()
    exif[0x010E] = "where I live"
    assert load(saved(tmp_path / "a.jpg", exif=exif)).image.info == {}


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


def test_decoding_leaves_nothing_behind(world):
    """A handler for every picture took the memory of a batch, and of a server, little by little."""

    def decoded():
        Image.new("RGB", (4, 4)).save("small.png")
        return decode.decode(Path("small.png").read_bytes(), "small.png")

    decoded()
    before = len(logging.getLogger("PIL").handlers)
    decoded()
    assert len(logging.getLogger("PIL").handlers) == before
