"""Text on pictures: every character is drawn as itself or as ASCII, never as the box of a missing one."""

import shutil

import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image, ImageDraw, ImageFont

from ipa_cli.images import drawing


@pytest.fixture(params=["system", "pillow"])
def font(request, monkeypatch):
    """The font of this machine, and the one of a machine that has none."""
    if request.param == "pillow":
        monkeypatch.setattr(drawing, "SYSTEM_FONTS", ())
    drawing.font.cache_clear()
    yield drawing.font(14)
    drawing.font.cache_clear()


def boxes(text, font):
    """The characters that `font` draws as the box of a missing one."""
    missing = font.getmask("\uffff")
    masks = {character: font.getmask(character) for character in text}
    return [c for c, mask in masks.items() if mask.size == missing.size and bytes(mask) == bytes(missing)]


@pytest.mark.parametrize("text", ["Käse → naïve", "猫 and 🦊", "Привет", "e\u0301 a\u200db", "a\ud800b\x07c\ue000"])
def test_nothing_is_drawn_as_a_box(font, text):
    found = drawing.drawable(text, font)
    assert found and boxes(found, font) == []


@given(st.text())
def test_any_text_becomes_drawable(text):
    font = drawing.font(14)
    assert boxes(drawing.drawable(text, font), font) == []


def test_what_a_font_lacks_is_spelt_in_ascii():
    font = ImageFont.load_default(14)
    assert boxes("Käse → naïve", font) == ["ä", "→", "ï"]  # else this tests nothing
    assert drawing.drawable("Käse → naïve, 猫, 🦊", font) == "Kase > naive, Mao, :fox:"
    assert drawing.drawable("a\ud800b\x07c\ue000", font) == "a?b?c?"
    assert drawing.drawable("e\u0301, a\u200db, \u0301", font) == "e, ab, "


def test_a_font_of_the_system_draws_letters_with_accents_and_arrows():
    font = drawing.font(14)
    if font.getname()[0] != "DejaVu Sans":
        pytest.skip("DejaVu Sans is not installed: apt-get install fonts-dejavu-core")
    assert drawing.drawable("Käse → naïve", font) == "Käse → naïve"


def test_no_font_is_taken_from_the_working_directory(world, monkeypatch):
    installed = drawing.font(14).path
    if not isinstance(installed, str):
        pytest.skip("no font is installed")
    for name in drawing.SYSTEM_FONTS:
        shutil.copy(installed, world.cwd / name)
    for name in ("XDG_DATA_HOME", "XDG_DATA_DIRS"):
        monkeypatch.setenv(name, str(world.home))
    drawing.font.cache_clear()
    try:
        assert drawing.font(14).getname() == ImageFont.load_default(14).getname()
    finally:
        drawing.font.cache_clear()


def test_text_is_clipped_and_wrapped_to_its_width():
    font = drawing.font(12)
    assert drawing.clip("short", 100, font) == "short"
    long = drawing.clip("a long\nline " * 20, 100, font)
    assert long.endswith("…") and font.getlength(long) <= 100
    wrapped = drawing.wrap("some words " * 30 + "unbreakable" * 30, 100, 4, font)
    assert len(wrapped) == 4 and all(font.getlength(line) <= 100 for line in wrapped)
    assert drawing.wrap("", 100, 4, font) == []


def test_a_written_line_stays_within_its_width():
    image = Image.new("RGB", (200, 40), drawing.BACKGROUND)
    drawing.write(ImageDraw.Draw(image), (20, 10), "Käse → naïve " * 20, 14, drawing.TEXT, width=100)
    left, _, right, _ = Image.eval(image.convert("L"), lambda value: 255 - value).getbbox()
    assert left >= 18 and right <= 122
