"""Tiles of references and their sharpening, against the numbers of ComfyUI's node and a plain loop."""

import math

import numpy as np
import pytest
from PIL import Image

from ipa_cli.images import fitting, tiles
from ipa_cli.images.sharpening import sharpened


def noise(width: int, height: int) -> Image.Image:
    return Image.fromarray(np.random.default_rng(0).integers(0, 256, (height, width, 3), np.uint8))


@pytest.mark.parametrize(
    ("size", "shown", "corners"),
    [
        ((600, 600), (512, 512), [(0, 0), (256, 0), (0, 256), (256, 256)]),
        ((800, 640), (512, 512), [(0, 0), (256, 0), (0, 256), (256, 256)]),  # nearly square: its middle
        ((1024, 512), (512, 256), [(0, 0), (256, 0)]),
        ((512, 1024), (256, 512), [(0, 0), (0, 256)]),
        ((600, 400), (384, 256), [(0, 0), (128, 0)]),  # tiles of 256 over 384 pixels overlap by 128
        ((1000, 400), (640, 256), [(0, 0), (192, 0), (384, 0)]),
        ((300, 1800), (256, 1024), [(0, 0), (0, 256), (0, 512), (0, 768)]),  # more than four to one
    ],
)
def test_a_picture_is_cut_as_comfyui_cuts_it(size, shown, corners):
    tiling = tiles.of_size(*size)
    left, top, right, bottom = tiling.shown
    assert (right - left, bottom - top) == shown and list(tiling.corners) == corners
    for area, (x, y) in zip(tiling.areas, corners, strict=True):
        assert area == pytest.approx((x / shown[0], y / shown[1], (x + 256) / shown[0], (y + 256) / shown[1]))


@pytest.mark.parametrize("size", [(97, 61), (61, 97), (500, 500), (3000, 200), (200, 3000), (13, 10)])
def test_tiles_cover_the_picture_from_edge_to_edge(size):
    found = tiles.of_size(*size)
    assert 2 <= len(found.areas) <= 4
    assert min(one.left for one in found.areas) == min(one.top for one in found.areas) == 0
    assert max(one.right for one in found.areas) == pytest.approx(1) and max(one.bottom for one in found.areas) <= 1
    assert [tile.size for tile in tiles.cut(noise(*size))] == [(256, 256)] * len(found.areas)


def test_each_tile_shows_its_part():
    picture = Image.new("RGB", (800, 400), "red")
    picture.paste("blue", (400, 0, 800, 400))
    left, right = tiles.cut(picture)
    assert left.getpixel((60, 100)) == (255, 0, 0) and right.getpixel((200, 100)) == (0, 0, 255)
    assert [square.size for square in fitting.squares(picture, 32, "tiles")] == [(32, 32)] * 2


@pytest.mark.parametrize("amount", [0.05, 0.5, 1.0])
def test_sharpening_is_contrast_adaptive(amount):
    picture = noise(7, 5)
    pixels = np.asarray(picture, dtype=float) / 255
    expected = np.zeros_like(pixels)
    for y, x, channel in np.ndindex(*pixels.shape):

        def at(row, column, channel=channel):
            inside = 0 <= row < pixels.shape[0] and 0 <= column < pixels.shape[1]
            return pixels[row, column, channel] if inside else 0.0

        cross = [at(y - 1, x), at(y, x - 1), at(y, x + 1), at(y + 1, x)]
        corners = [at(y + row, x + column) for row in (-1, 1) for column in (-1, 1)]
        low, high = min(*cross, at(y, x)) + min(corners), max(*cross, at(y, x)) + max(corners)
        amplitude = math.sqrt(min(low, 2 - high) / high) if high else 0.0
        weight = -amplitude * (amount * (1 / 5 - 1 / 8) + 1 / 8)
        expected[y, x, channel] = min(1.0, max(0.0, (sum(cross) * weight + at(y, x)) / (1 + 4 * weight)))
    assert np.abs(np.asarray(sharpened(picture, amount), dtype=float) / 255 - expected).max() <= 0.51 / 255


def test_no_sharpening_is_the_picture_itself_and_black_stays_black():
    picture = noise(7, 5)
    assert sharpened(picture, 0.0) is picture
    assert not np.asarray(sharpened(Image.new("RGB", (4, 4)), 1.0)).any()
    crisp, soft = (np.asarray(fitting.squares(noise(64, 64), 32, "pad", amount)[0], int) for amount in (1.0, 0.0))
    assert (crisp != soft).any()
