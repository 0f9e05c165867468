"""A picture to begin with at the size that is drawn."""

import numpy as np
import pytest
from PIL import Image

from ipa_cli.config import padding
from ipa_cli.config.padding import Padding
from ipa_cli.errors import IpaError
from ipa_cli.images import init_image, reference

NONE = Padding()


def noisy(width: int, height: int) -> Image.Image:
    values = np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return Image.fromarray(values)


def given(width: int, height: int):
    return reference.of_image(noisy(width, height))


def mask(width: int, height: int, box: tuple[int, int, int, int]):
    made = Image.new("L", (width, height))
    made.paste(255, box)
    return reference.of_image(made, as_mask=True)


@pytest.mark.parametrize(
    ("size", "wanted"),
    [
        ((64, 64), (64, 64)),
        ((101, 77), (96, 72)),
        ((300, 200), (120, 80)),  # more than 100 x 100 x 4: scaled to 100 x 100 or less
        ((199, 199), (192, 192)),
        ((1000, 30), (512, 8)),  # its longer side
    ],
)
def test_its_size_is_its_own_in_multiples_of_8_within_limits(size, wanted):
    assert init_image.size_of(given(*size), NONE, 4 * 100 * 100, 512) == wanted
    bordered = init_image.size_of(given(*size), Padding(left=8, top=16), 4 * 100 * 100, 512)
    assert bordered == (wanted[0] + 8, wanted[1] + 16)


def test_a_cut_to_multiples_of_8_leaves_the_pixels_as_they_are():
    source = noisy(101, 77)
    cut = init_image.fitted(source, (96, 72))
    assert (np.asarray(cut) == np.asarray(source)[2:74, 2:98]).all()
    assert init_image.fitted(source, source.size).tobytes() == source.tobytes()


def test_another_size_takes_the_middle_and_keeps_proportions():
    source = Image.new("RGB", (200, 100), "red")
    source.paste("blue", (50, 0, 150, 100))
    assert init_image.fitted(source, (64, 64)).getpixel((8, 30)) == (0, 0, 255)


def test_a_border_is_redrawn_and_filled_from_the_edge():
    source = given(64, 64)
    made = init_image.make(source, None, (96, 80), Padding(left=32, bottom=16), 0)
    area, image = np.asarray(made.area), np.asarray(made.image)
    assert (area[:64, 32:] == 0).all() and (area[64:] == 255).all() and (area[:, :32] == 255).all()
    assert (image[:64, 32:] == np.asarray(source.image)).all()
    assert 0 < image[:64, :32].std() < image[:64, 32:].std()  # blurred


def test_a_border_joins_a_mask():
    made = init_image.make(given(64, 64), mask(64, 64, (0, 0, 8, 8)), (72, 64), Padding(right=8), 0)
    area = np.asarray(made.area)
    assert (area[:8, :8] == 255).all() and (area[:, 64:] == 255).all() and (area[8:, :64] == 0).all()


def test_black_comes_back_pixel_for_pixel_and_grey_is_between():
    source = given(64, 64)
    made = init_image.make(source, mask(64, 64, (32, 0, 64, 64)), (64, 64), NONE, 0)
    drawn = np.asarray(made.over(Image.new("RGB", (64, 64), "red")))
    assert (drawn[:, :32] == np.asarray(source.image)[:, :32]).all() and (drawn[:, 32:] == (255, 0, 0)).all()
    soft = init_image.make(source, mask(64, 64, (32, 0, 64, 64)), (64, 64), NONE, 3)
    levels = np.asarray(soft.area)[30]
    assert 0 < levels[30] < levels[34] < 255 and levels[0] == 0 and levels[63] == 255
    assert soft.digest != made.digest


def test_a_mask_of_another_size_is_scaled_like_its_picture():
    made = init_image.make(given(201, 101), mask(402, 202, (0, 0, 201, 202)), (64, 64), NONE, 0)
    area = np.asarray(made.area)
    assert (area[:, :28] == 255).all() and (area[:, 36:] == 0).all()


@pytest.mark.parametrize(
    ("box", "size", "words"),
    [((0, 0, 0, 0), (64, 64), "dark everywhere"), ((0, 0, 9, 9), (64, 32), "64x32, its picture 64x64")],
)
def test_masks_that_say_nothing_or_do_not_fit_are_refused(box, size, words):
    with pytest.raises(IpaError, match=words) as refused:
        init_image.check_mask(mask(*size, box), given(64, 64))
    assert refused.value.hint


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("left=12", "a multiple of 8"),
        ("left=8192", "up to 4096"),
        ("left=-8", "expected pixels"),
        ("left=8,left=16", "given twice"),
        ("middle=8", "expected sides"),
        ("8", "expected sides"),
        ("", "expected sides"),
        ("left=0", "adds nothing"),
        ("left=٨", "expected pixels"),
        ("left=" + "9" * 5000, "expected pixels"),
    ],
)
def test_borders_that_make_no_sense_are_refused(text, words):
    assert words in (padding.check(text) or "")


def test_a_border_is_read():
    assert padding.parse("left=128, top=64") == Padding(left=128, top=64)
    assert padding.check("right=8,bottom=4096") is None
