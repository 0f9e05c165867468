"""Maps that are made of a picture, without a network."""

import numpy as np
import pytest
from PIL import Image, ImageDraw

from ipa_cli.config import controls
from ipa_cli.images import control_map

SIZE = (96, 64)


@pytest.fixture(scope="module")
def drawing() -> Image.Image:
    """A black line on white."""
    picture = Image.new("RGB", (192, 128), "white")
    ImageDraw.Draw(picture).line((0, 64, 192, 64), "black", 8)
    return picture


def made(drawing: Image.Image, preprocess: str | None) -> np.ndarray:
    if preprocess not in (None, "invert"):
        pytest.importorskip("cv2")
    picture = control_map.make(drawing, SIZE, preprocess)
    assert picture.size == SIZE and picture.mode == "RGB"
    return np.asarray(picture, dtype=int)[:, 40, 0]


def test_lines_become_white_on_black(drawing):
    for preprocess in ("lineart_standard", "scribble_xdog", "invert"):
        column = made(drawing, preprocess)
        assert column[32] > 100 and column[4] == column[60] == 0, preprocess
    assert made(drawing, "scribble_xdog")[32] == 255
    assert list(np.flatnonzero(made(drawing, "canny"))) != [] and made(drawing, "canny")[32] == 0  # its two edges


def test_a_blurred_picture_keeps_its_mean_and_loses_its_line(drawing):
    plain, blurred = made(drawing, None), made(drawing, "blur_gaussian")
    assert plain[32] < 20 and 150 < blurred[32] < 250 and abs(plain.mean() - blurred.mean()) < 3


@pytest.mark.parametrize("preprocess", controls.MAPS)
@pytest.mark.parametrize("colour", ["black", "white", "gray"])
def test_a_picture_of_one_colour_has_a_map_too(preprocess, colour):
    column = made(Image.new("RGB", (32, 32), colour), preprocess)
    assert len(set(column)) == 1


def test_edges_and_lines_are_those_of_the_first_code(drawing):
    """Worked out as A1111's extension and ComfyUI's nodes do, in their order."""
    cv2 = pytest.importorskip("cv2")
    noise = np.random.default_rng(0).integers(0, 256, (*SIZE[::-1], 3), dtype=np.uint8)
    pixels = noise.astype(np.float32)
    darker = np.min(cv2.GaussianBlur(pixels, (0, 0), 6.0) - pixels, axis=2).clip(0, 255)
    lines = (darker / max(16, np.median(darker[darker > 8])) * 127).clip(0, 255).astype(np.uint8)
    ours = np.asarray(control_map.make(Image.fromarray(noise), SIZE, "lineart_standard"))[..., 0]
    assert abs(ours.astype(int) - lines).max() <= 1
