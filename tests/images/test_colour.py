"""Colours come in as browsers show them, whatever profile a picture was saved with."""

import io
import struct
import zlib

import numpy as np
import pytest
from PIL import Image, ImageCms, features

from ipa_cli.images.reference import load

pytestmark = pytest.mark.skipif(not features.check("littlecms2"), reason="this Pillow has no LittleCMS")

GREEN = (40, 150, 60)
UNUSABLE = "its colour profile could not be used"
PRIMARIES = {  # red, green and blue, adapted to D50, and the gamma
    "Display P3": ((0.5151, 0.2412, -0.0011), (0.2919, 0.6922, 0.0419), (0.1572, 0.0666, 0.7841), 2.2),
    "Adobe RGB": ((0.60974, 0.31111, 0.01947), (0.20528, 0.62567, 0.06087), (0.14919, 0.06322, 0.74457), 563 / 256),
    "ProPhoto": ((0.7977, 0.2880, 0.0), (0.1352, 0.7119, 0.0), (0.0313, 0.0001, 0.8249), 1.8),
}


def profile(tags: dict[bytes, bytes], space: bytes) -> bytes:
    text = b"text\0\0\0\0none\0\0\0\0"
    tags = {b"desc": text, b"cprt": text, b"wtpt": xyz((0.9642, 1, 0.8249)), **tags}
    table, body, start = struct.pack(">I", len(tags)), b"", 132 + 12 * len(tags)
    for name, content in tags.items():
        table += name + struct.pack(">II", start + len(body), len(content))
        body += content
    header = struct.pack(">I4xI4s4s4s12x4s28x", start + len(body), 0x02400000, b"mntr", space, b"XYZ ", b"acsp")
    return (header + xyz((0.9642, 1, 0.8249))[8:]).ljust(128, b"\0") + table + body


def xyz(values) -> bytes:
    return b"XYZ \0\0\0\0" + b"".join(struct.pack(">i", round(value * 65536)) for value in values)


def curve(gamma: float) -> bytes:
    return b"curv\0\0\0\0" + struct.pack(">IH2x", 1, round(gamma * 256))


def rgb_profile(name: str) -> bytes:
    *primaries, gamma = PRIMARIES[name]
    colours = {letter + b"XYZ": xyz(values) for letter, values in zip((b"r", b"g", b"b"), primaries, strict=True)}
    return profile({**colours, **dict.fromkeys((b"rTRC", b"gTRC", b"bTRC"), curve(gamma))}, b"RGB ")


def shown_by(name: str, colour=GREEN) -> Image.Image:
    """A picture that shows `colour` of sRGB by the profile `name`."""
    target = ImageCms.ImageCmsProfile(io.BytesIO(rgb_profile(name)))
    image = Image.new("RGB", (32, 32), colour)
    return ImageCms.profileToProfile(image, ImageCms.createProfile("sRGB"), target, outputMode="RGB")


def near(path, colour) -> bool:
    reference = load(str(path))
    assert reference.image.mode == "RGB" and not reference.image.info
    return np.abs(np.asarray(reference.image.getpixel((5, 5)), int) - colour).max() <= 2


@pytest.mark.parametrize("kind", ["png", "jpg", "webp", "tif"])
@pytest.mark.parametrize("name", PRIMARIES)
def test_a_profile_decides_the_colours(tmp_path, name, kind):
    image, path = shown_by(name), tmp_path / f"a.{kind}"
    options = {"jpg": {"quality": 100, "subsampling": 0}, "webp": {"lossless": True}}.get(kind, {})
    image.save(path, icc_profile=rgb_profile(name), **options)
    assert np.abs(np.asarray(image.getpixel((5, 5)), int) - GREEN).max() > 20
    # What is left of ProPhoto in 8 bits of a JPEG is no better.
    assert near(path, GREEN) if (name, kind) != ("ProPhoto", "jpg") else load(str(path)).notes == ()
    assert load(str(path)).notes == ()


def test_alpha_and_palettes_keep_their_profile(tmp_path):
    image = shown_by("Display P3")
    image.quantize(4).save(tmp_path / "palette.png", icc_profile=rgb_profile("Display P3"))
    assert near(tmp_path / "palette.png", GREEN)
    image.putalpha(255)
    image.paste((0, 0, 0, 0), (16, 0, 32, 32))
    image.save(tmp_path / "alpha.png", icc_profile=rgb_profile("Display P3"))
    reference = load(str(tmp_path / "alpha.png"))
    assert near(tmp_path / "alpha.png", GREEN) and reference.image.getpixel((20, 5)) == (255, 255, 255)
    assert reference.notes == ("transparent parts are shown on white",)


@pytest.mark.parametrize("mode", ["L", "LA", "I;16"])
def test_grey_has_profiles_too(tmp_path, mode):
    linear = profile({b"kTRC": curve(1.0)}, b"GRAY")
    image = Image.new("L", (8, 8), 55)
    if mode == "LA":
        image.putalpha(255)
    elif mode == "I;16":
        image = Image.fromarray(np.full((8, 8), 55 * 257, np.uint16))
    image.save(tmp_path / "a.png", icc_profile=linear)
    assert near(tmp_path / "a.png", (128, 128, 128)) and load(str(tmp_path / "a.png")).notes == ()


def test_a_grey_picture_may_have_kept_its_colour_profile(tmp_path):
    grey = shown_by("ProPhoto", (120, 120, 120)).convert("L")
    grey.save(tmp_path / "a.jpg", quality=100, icc_profile=rgb_profile("ProPhoto"))
    assert near(tmp_path / "a.jpg", (120, 120, 120)) and load(str(tmp_path / "a.jpg")).notes == ()


def test_srgb_changes_nothing(tmp_path):
    image = Image.effect_noise((64, 64), 90).convert("RGB")
    image.save(tmp_path / "a.png", icc_profile=ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes())
    assert load(str(tmp_path / "a.png")).image.tobytes() == image.tobytes()


@pytest.mark.parametrize(
    "broken", [b"x", bytes(200), rgb_profile("ProPhoto")[:200], profile({b"kTRC": curve(1.0)}, b"GRAY")]
)
def test_a_broken_profile_is_reported_and_left_out(tmp_path, broken):
    Image.new("RGB", (8, 8), GREEN).save(tmp_path / "a.png", icc_profile=broken)
    reference = load(str(tmp_path / "a.png"))
    assert reference.image.getpixel((5, 5)) == GREEN and reference.notes == (UNUSABLE,)


def test_a_camera_says_adobe_rgb_without_a_profile(tmp_path):
    exif = Image.Exif()
    exif.get_ifd(0x8769).update({0xA001: 0xFFFF, 0xA005: {1: "R03"}})
    options = {"quality": 100, "subsampling": 0, "exif": exif}
    shown_by("Adobe RGB").save(tmp_path / "a.jpg", **options)
    assert near(tmp_path / "a.jpg", GREEN)
    Image.new("RGB", (32, 32), GREEN).save(
        tmp_path / "b.jpg", icc_profile=ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes(), **options
    )
    assert near(tmp_path / "b.jpg", GREEN)  # the profile has the last word


def test_a_gamma_of_its_own_is_reported(tmp_path):
    image, said = Image.new("RGB", (8, 8), GREEN), []
    for gamma in (45455, 100_000):
        buffer = io.BytesIO()
        image.save(buffer, "PNG")
        data, chunk = buffer.getvalue(), b"gAMA" + struct.pack(">I", gamma)
        chunk = struct.pack(">I", 4) + chunk + struct.pack(">I", zlib.crc32(chunk))
        (tmp_path / "a.png").write_bytes(data[:33] + chunk + data[33:])
        said.append(load(str(tmp_path / "a.png")).notes)
    assert said == [(), ("its gamma of 1 is not applied",)]


def test_a_picture_without_that_part_of_exif_is_read_by_every_pillow(tmp_path, monkeypatch):
    def absent(exif, tag):  # as Pillow 12 answers
        raise KeyError(tag)

    Image.new("RGB", (8, 8), GREEN).save(tmp_path / "a.png")
    monkeypatch.setattr(Image.Exif, "get_ifd", absent)
    assert near(tmp_path / "a.png", GREEN)
