"""Masks as people paint them: what counts, and what is said of it."""

import pytest
from PIL import Image

from ipa_cli.images.reference import load_mask

CLEAR = (255, 255, 255, 0)
ALPHA, LIGHT = "as a mask it counts where it is not transparent", "as a mask it counts where it is light"
ON_WHITE = "transparent parts are shown on white"


@pytest.mark.parametrize(
    ("left", "right", "counts", "said"),
    [
        ("white", "black", "left", ""),
        ("red", "black", "left", ""),
        ("blue", "black", "left", ""),
        ("#c8c8c8", "#303030", "left", ""),
        ("red", "white", "right", LIGHT),
        ("black", "red", "right", ""),
        ("white", CLEAR, "left", ALPHA),
        ("white", (0, 0, 0, 0), "left", ALPHA),
        ("red", CLEAR, "left", ALPHA),
        ("black", CLEAR, "right", ON_WHITE),
        ("black", (0, 0, 0, 0), "right", ON_WHITE),
        ("white", (0, 0, 0, 255), "left", ""),
        ((255, 255, 255, 255), (255, 255, 255, 100), "left", ALPHA),
        ("white", "white", "both", "white everywhere and has no effect"),
        (CLEAR, CLEAR, "both", "white everywhere and has no effect"),
        ("black", "black", "none", ""),
    ],
)
def test_what_people_paint_is_what_counts(tmp_path, left, right, counts, said):
    image = Image.new("RGBA", (8, 4), right)
    image.paste(left, (0, 0, 4, 4))
    if image.getchannel("A").getextrema() == (255, 255):
        image = image.convert("RGB")
    image.save(tmp_path / "mask.png")
    mask = load_mask(str(tmp_path / "mask.png"))
    assert mask.image.mode == "L"
    where = [mask.image.getpixel((x, 1)) >= 128 for x in (0, 7)]
    assert where == {"left": [True, False], "right": [False, True], "both": [True] * 2, "none": [False] * 2}[counts]
    assert said in " ".join(mask.notes) and bool(said) == bool(mask.notes)


def test_a_grey_mask_stays_as_it_is(tmp_path):
    image = Image.linear_gradient("L")
    image.save(tmp_path / "mask.png")
    assert load_mask(str(tmp_path / "mask.png")).image.tobytes() == image.tobytes()
