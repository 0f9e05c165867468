"""The contact sheet and the animations."""

import io

import numpy as np
import pytest
from PIL import Image, ImageDraw

from ipa_cli.images import drawing
from ipa_cli.sweep import animation, difference, sheet
from tests.sweep.folders import draw, make, picture


def shown(drawn, subtitle="demo"):
    data = sheet.draw(drawn.folder, drawn.sweep, drawn.outcomes, drawn.references, subtitle)
    return Image.open(io.BytesIO(data), formats=["PNG"])


def at(image, drawn, number):
    """The cell of a point on the sheet, square and of full size."""
    row, column = divmod(number - 1, len(drawn.sweep.scales))
    left = sheet.MARGIN + sheet.LABEL + column * (sheet.CELL + sheet.GAP)
    top = sheet.MARGIN + sheet.HEADER + row * (sheet.CELL + sheet.GAP)
    return image.crop((left, top, left + sheet.CELL, top + sheet.CELL))


def test_every_picture_stands_in_its_cell(tmp_path):
    drawn = draw(tmp_path, make())
    image = shown(drawn)
    for point in drawn.sweep.points:
        expected = picture(point, point.scale).resize((sheet.CELL, sheet.CELL), Image.Resampling.LANCZOS)
        assert np.array_equal(at(image, drawn, point.number), expected)


def test_equal_pictures_give_equal_bytes(tmp_path):
    drawn = draw(tmp_path, make())
    once, again = (sheet.draw(tmp_path, drawn.sweep, drawn.outcomes, drawn.references, "demo") for _ in range(2))
    assert once == again
    row = difference.completed_rows(drawn.outcomes)[1]
    assert animation.animate(tmp_path, row) == animation.animate(tmp_path, row)


def test_rows_columns_and_references_are_labelled(tmp_path):
    plain = shown(draw(tmp_path / "a", make()))
    header = (0, sheet.MARGIN + 50, plain.width, sheet.MARGIN + sheet.HEADER - 8)
    labels = (0, sheet.MARGIN + sheet.HEADER, sheet.MARGIN + sheet.LABEL - 4, plain.height)
    scales = shown(draw(tmp_path / "b", make((0.0, 0.25, 1.0))))
    names = shown(draw(tmp_path / "c", make(references=("cat.png", "horse.png"))))
    assert not np.array_equal(plain.crop(header), scales.crop(header))
    assert np.array_equal(plain.crop(header), names.crop(header))
    assert np.array_equal(plain.crop(labels), scales.crop(labels))
    assert not np.array_equal(plain.crop(labels), names.crop(labels))


def test_a_failed_point_is_marked_and_says_why(tmp_path):
    drawn = draw(tmp_path, make(), failed={2})
    cell = np.asarray(at(shown(drawn), drawn, 2))
    assert tuple(cell[0, 100]) == tuple(int(drawing.ERROR[n : n + 2], 16) for n in (1, 3, 5))
    assert (cell[30:80] < 200).any()


def test_long_labels_stay_in_their_column(tmp_path):
    prompts = ("a very long prompt that never ends " * 12, "wordwithoutanyblank" * 12)
    drawn = draw(tmp_path, make((0.0, 1.0), ("n" * 300 + ".png",), prompts, ((64, 64), (64, 32)), (1, 2)))
    image = shown(drawn, "subtitle " * 100)
    gutter = image.crop((sheet.MARGIN + sheet.LABEL - 6, sheet.MARGIN + 60, sheet.MARGIN + sheet.LABEL, image.height))
    assert all(row in (drawing.BACKGROUND, drawing.LINE) for row in _colours(gutter))
    assert all(colour == drawing.BACKGROUND for colour in _colours(image.crop((image.width - 20, 0, image.width, 80))))


def _colours(image):
    return {"#{:02x}{:02x}{:02x}".format(*colour) for _, colour in image.getcolors(1 << 20)}


@pytest.mark.slow
def test_large_sweeps_have_smaller_cells(tmp_path):
    drawn = draw(tmp_path, make(tuple(n / 100 for n in range(101)), ("a", "b", "c")))
    image = shown(drawn)
    assert image.width <= sheet.MAX_SIDE and image.width * image.height <= sheet.MAX_PIXELS


def test_no_character_on_the_sheet_is_drawn_as_a_box(tmp_path, monkeypatch):
    drawn_texts, text = [], ImageDraw.ImageDraw.text

    def spy(self, xy, line, **more):
        drawn_texts.append((line, more["font"]))
        return text(self, xy, line, **more)

    monkeypatch.setattr(ImageDraw.ImageDraw, "text", spy)
    drawn = draw(tmp_path, make((0.0, 1.0), ("Käse → naïve.png", "猫.png"), ("Käse → naïve, 🦊", "plain")))
    shown(drawn, "Modell für Käse → 猫")
    lines = [line for line, _ in drawn_texts]
    for expected in ("1. Käse → naïve.png", "Käse → naïve, 🦊", "Modell für Käse → 猫"):
        assert drawing.drawable(expected, drawing.font(12)) in lines
    assert all(drawing.has_glyph(character, font) for line, font in drawn_texts for character in line)


def test_the_animation_runs_through_the_scales(tmp_path):
    drawn = draw(tmp_path, make((0.0, 0.25, 1.0), sizes=((256, 128),)))
    data = animation.animate(tmp_path, difference.completed_rows(drawn.outcomes)[1])
    with Image.open(io.BytesIO(data), formats=["WEBP"]) as image:
        assert (image.n_frames, image.size, image.info["loop"]) == (3, (256, 128 + animation.STRIP), 0)
        for number, point in enumerate(drawn.sweep.points[:3]):
            image.seek(number)
            frame = np.asarray(image.convert("RGB"), np.int16)
            assert np.abs(frame[:128] - picture(point, point.scale)).mean() < 3
            # Where the handle on the strip stands.
            dark = np.flatnonzero(frame[128 + animation.STRIP // 2 - 5, 132:] < 100)
            assert abs(dark.mean() / 3 - (256 - 16 - 132) * point.scale) < 4


def test_animations_are_named_so_that_they_sort():
    sweep = make(references=tuple(f"{n}.png" for n in range(10)))
    assert animation.file_name(sweep, 3) == "animations/row-03-2.webp"


@pytest.mark.parametrize("size", [(64, 512), (512, 64)])
def test_narrow_pictures_are_drawn_and_animated(tmp_path, size):
    drawn = draw(tmp_path, make((0.0, 1.0), sizes=(size,)))
    shown(drawn)
    assert animation.animate(tmp_path, difference.completed_rows(drawn.outcomes)[1])
