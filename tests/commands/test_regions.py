"""`--region` through the program: what pictures record, drawing them again, sweeps, Python, and what is refused."""

from __future__ import annotations

import json

import pytest
from PIL import Image

import ipa_cli
from ipa_cli.config import regions
from ipa_cli.images.metadata import texts
from ipa_cli.models import loader

FAST = ("--steps", 3, "--warmup", 0, "--seed", 1, "--backend", "eager", "--prompt", "a star", "--size", "64x64")
RED = "mask=left.png,prompt=a red star, round, and bright,weight=0.8,negative=blur, haze"
SEE = "prompt=a fox of https://host/?q=fox,mask=left.png"


@pytest.fixture
def masks(world):
    """`left.png` is white on its left half, `dark.png` nowhere, `wide.png` has other proportions."""
    for name, size, box in (
        ("left", (64, 64), (0, 0, 32, 64)),
        ("dark", (64, 64), (0, 0, 0, 0)),
        ("wide", (96, 64), None),
    ):
        mask = Image.new("L", size, 0 if box else 255)
        if box:
            mask.paste(255, box)
        mask.save(world.cwd / f"{name}.png")
    return world.cwd


@pytest.mark.slow
def test_a_picture_with_regions_is_drawn_again_from_what_it_records(ipa, world, masks):
    asked = ("--region", RED, "--region", SEE)
    first = ipa("generate", *FAST, *asked, "--output", "one.png", "--json").data()["images"][0]["sha256"]
    again = ipa("generate", "--from", "one.png", "--warmup", 0, "--output", "two.png", "--json").data()
    assert again["images"][0]["sha256"] == first
    (one, two) = json.loads(texts(world.cwd / "two.png")["ipa"])["regions"]
    assert (one["prompt"], one["negative_prompt"], one["weight"]) == (
        "a red star, round, and bright",
        "blur, haze",
        0.8,
    )
    assert two["prompt"] == "a fox of https://host/?q=fox" and two["mask"]["source"] == "left.png"
    Image.new("L", (64, 64), 255).save(masks / "left.png")
    assert "left.png has changed" in ipa("generate", "--from", "one.png", "--warmup", 0, "-o", "three.png").stderr
    (masks / "left.png").unlink()
    failed = ipa("generate", "--from", "one.png", "--output", "four.png", "--json").error()
    assert "the mask of a region of one.png is missing" in failed["message"] and "--region" in failed["hint"]


@pytest.mark.slow
def test_a_sweep_and_python_draw_regions(ipa, world, masks):
    drawn = ipa("generate", *FAST, "--scale", 0.5, "--region", RED, "--output", "one.png", "--json").data()["images"][0]
    sweep = ("sweep-scale", *FAST, "--scales", "0,0.5", "--output", "sweep")
    ipa(*sweep, "--region", RED, "--json").data()
    (point,) = (world.cwd / "sweep/pictures").glob("*-scale-0.5.png")
    with Image.open(point) as ours, Image.open(world.cwd / drawn["path"]) as theirs:
        assert ours.tobytes() == theirs.tobytes()
    assert "regions" in ipa(*sweep, "--resume", "--json").error()["message"]
    with ipa_cli.open(backend="eager", progress=False) as engine, Image.open("left.png") as mask:
        common = {"width": 64, "height": 64, "steps": 3, "seed": 1, "scale": 0.5}
        own = {"mask": mask, "prompt": "a red star, round, and bright", "weight": 0.8, "negative": "blur, haze"}
        with Image.open(world.cwd / drawn["path"]) as theirs:
            assert engine.draw("a star", region=[own], **common).image.tobytes() == theirs.tobytes()
            assert engine.draw("a star", region=[RED], **common).image.tobytes() == theirs.tobytes()


def test_the_text_of_a_region_is_read_back():
    for text in (RED, "mask=a b.png,prompt=(red:1.2) [star]", "mask=m.png,prompt=x,negative="):
        assert str(regions.parse(text, "--region")) == text
        assert regions.of_values(regions.parse(text, "--region").values(), "region") == regions.parse(text, "--region")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("left.png", "no mask= and no prompt="),
        ("prompt=a star", "has no mask"),
        ("mask=left.png", "has no prompt"),
        ("mask=left.png,prompt= ", "has no prompt"),
        ("mask=left.png,prompt=a,prompt=b", "prompt twice"),
        ("mask=left.png,prompt=a,wieght=2", "unknown key 'wieght'; did you mean 'weight'?"),
        ("mask=left.png,prompt=a,weight=much", "expected a number"),
        ("mask=left.png,prompt=a,weight=0", "more than 0"),
        ("mask=left.png,prompt=a,weight=nan", "from 0 to 10"),
        ("mask=dark.png,prompt=a", "black everywhere"),
        ("mask=wide.png,prompt=a", "96x64, the picture 64x64"),
        ("mask=gone.png,prompt=a", "gone.png"),
    ],
)
def test_bad_input_is_refused_before_a_model_is_loaded(ipa, masks, monkeypatch, text, said):
    monkeypatch.setattr(loader, "load", None)
    ran = ipa("generate", *FAST, "--region", text, "--json")
    assert ran.exit_code in (1, 2) and said in ran.error()["message"]


def test_more_regions_than_eight_are_refused(ipa, masks):
    assert "at most 8" in ipa("generate", *FAST, *["--region", RED] * 9, "--json").error()["message"]
