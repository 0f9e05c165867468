"""`--init-image` through the program: what pictures record, drawing them again, and what is refused before loading."""

from __future__ import annotations

import hashlib

import numpy as np
import pytest
from PIL import Image, ImageDraw

from ipa_cli.engine import graphs
from ipa_cli.errors import IpaError
from ipa_cli.images.metadata import read_settings
from ipa_cli.models import loader

FAST = ("--steps", 4, "--warmup", 0, "--seed", 1, "--backend", "eager", "--prompt", "a star")


@pytest.fixture
def init(world):
    """`init.png`, and masks: `mask.png` is white on the right, `dark.png` nowhere, `white.png` all over."""
    picture = Image.new("RGB", (96, 64), "navy")
    ImageDraw.Draw(picture).ellipse((10, 10, 80, 50), fill="gold")
    picture.save(world.cwd / "init.png")
    boxes = {"mask": (48, 0, 96, 64), "dark": (0, 0, 0, 0), "white": (0, 0, 96, 64), "dot": (1, 1, 4, 4)}
    for name, box in boxes.items():
        mask = Image.new("L", picture.size)
        mask.paste(255, box)
        mask.save(world.cwd / f"{name}.png")
    return world.cwd / "init.png"


def pixels(world, name: str) -> np.ndarray:
    with Image.open(world.cwd / name) as picture:
        return np.asarray(picture.convert("RGB"), dtype=int)


@pytest.mark.slow
def test_a_picture_records_what_it_began_with_and_is_drawn_again(ipa, world, init):
    flags = ("--init-image", "init.png", "--inpaint-mask", "mask.png", "--mask-blur", 2, "--strength", 0.5)
    ran = ipa("generate", *FAST, *flags, "-o", "a.png")
    assert ran.exit_code == 0, ran.stderr
    recorded = read_settings(world.cwd / "a.png")
    digests = [hashlib.sha256((world.cwd / name).read_bytes()).hexdigest() for name in ("init.png", "mask.png")]
    images = [
        {"source": name, "sha256": digest} for name, digest in zip(("init.png", "mask.png"), digests, strict=True)
    ]
    assert recorded["init"] == {"strength": 0.5, "mask_blur": 2.0, "images": images}
    assert (recorded["width"], recorded["height"]) == (96, 64)
    asked = {name: recorded["settings"][name] for name in ("init_image", "inpaint_mask", "strength", "mask_blur")}
    assert asked == {"init_image": "init.png", "inpaint_mask": "mask.png", "strength": 0.5, "mask_blur": 2.0}
    with Image.open(world.cwd / "a.png") as picture:
        assert "Denoising strength: 0.5, Mask blur: 2," in picture.text["parameters"]

    ran = ipa("generate", "--from", "a.png", "-o", "again.png")
    assert ran.exit_code == 0 and "has changed" not in ran.stderr
    assert (world.cwd / "again.png").read_bytes() == (world.cwd / "a.png").read_bytes()
    Image.new("RGB", (96, 64), "red").save(init)
    ran = ipa("generate", "--from", "a.png", "-o", "other.png")
    assert ran.exit_code == 0 and "init.png has changed since a.png was drawn" in ran.stderr
    init.unlink()
    ran = ipa("generate", "--from", "a.png", "-o", "gone.png")
    assert ran.exit_code == 1 and "the init image of a.png is missing" in ran.stderr
    assert "name the file with --init-image" in ran.stderr


@pytest.mark.slow
def test_a_border_is_drawn_around_the_picture_which_stays(ipa, world, init):
    flags = ("--init-image", "init.png", "--pad", "left=32,bottom=16")
    ran = ipa("generate", *FAST, *flags, "-o", "wide.png")
    assert ran.exit_code == 0, ran.stderr
    drawn = pixels(world, "wide.png")
    assert drawn.shape == (80, 128, 3) and (drawn[:64, 32:] == pixels(world, "init.png")).all()
    assert read_settings(world.cwd / "wide.png")["init"]["strength"] == 1
    ran = ipa("generate", "--from", "wide.png", "-o", "again.png")
    assert ran.exit_code == 0, ran.stderr
    assert (world.cwd / "again.png").read_bytes() == (world.cwd / "wide.png").read_bytes()


@pytest.mark.slow
def test_without_a_size_the_picture_is_as_large_and_a_note_says_what_is_cut_or_scaled(ipa, world, init):
    Image.open(init).resize((101, 70)).save(world.cwd / "odd.png")
    for flags, size, words in (
        ((), (96, 64), "the init image, 101x70, is drawn over at 96x64: cut to multiples of 8"),
        (("--size", "64x64"), (64, 64), "drawn over at 64x64: scaled, and cut where the proportions differ"),
        (("--width", 200), (200, 136), "drawn over at 200x136: scaled"),
        (("--height", 96, "--pad", "top=32"), (96, 96), "drawn over at 96x64: cut"),
    ):
        ran = ipa("generate", *FAST, "--init-image", "odd.png", *flags, "-o", "out.png", "--force")
        assert ran.exit_code == 0 and words in ran.stderr, ran.stderr
        assert Image.open(world.cwd / "out.png").size == size
    ran = ipa("generate", *FAST, "--init-image", "init.png", "-o", "out.png", "--force")
    assert "drawn over at" not in ran.stderr


@pytest.mark.slow
def test_a_mask_that_is_white_everywhere_is_none(ipa, world, init):
    plain = ipa("generate", *FAST, "--init-image", "init.png", "-o", "plain.png")
    flags = ("--init-image", "init.png", "--inpaint-mask", "white.png", "--strength", 0.6)
    white = ipa("generate", *FAST, *flags, "-o", "white-too.png")
    assert plain.exit_code == white.exit_code == 0
    assert "the inpaint mask white.png is white everywhere: the whole picture is redrawn" in white.stderr
    assert "no effect" not in white.stderr
    assert (pixels(world, "plain.png") == pixels(world, "white-too.png")).all()


@pytest.mark.parametrize(
    ("flags", "words", "exit_code"),
    [
        (("--init-image", "gone.png"), "gone.png does not exist", 1),
        (("--init-image", "broken.png"), "broken.png", 1),
        (("--init-image", "."), "stands for", 2),
        (("--init-image", "small.png"), "the init image would be 32x32: at least 64 pixels a side", 2),
        (("--init-image", "init.png", "--strength", 0), "a strength of 0 leaves none of 4 steps", 2),
        (("--init-image", "init.png", "--strength", 0.2), "a strength of 0.2 leaves none of 4 steps", 2),
        (("--init-image", "init.png", "--strength", 1.5), "expected a number from 0 to 1", 2),
        (("--init-image", "init.png", "--strength", "nan"), "expected a number from 0 to 1", 2),
        (("--init-image", "init.png", "--inpaint-mask", "dark.png"), "dark everywhere", 1),
        (("--init-image", "init.png", "--inpaint-mask", "gone.png"), "gone.png does not exist", 1),
        (("--init-image", "init.png", "--inpaint-mask", "small.png"), "small.png is 32x32, its picture 96x64", 1),
        (("--init-image", "init.png", "--inpaint-mask", "dot.png"), "too small", 1),
        (("--inpaint-mask", "mask.png"), "--inpaint-mask is given and no picture to begin with", 2),
        (("--pad", "left=64"), "--pad is given and no picture to begin with", 2),
        (("--init-image", "init.png", "--pad", "left=13"), "a multiple of 8", 2),
        (("--init-image", "init.png", "--pad", "left=4096,right=4096"), "at most 8192 pixels a side", 2),
        (("--init-image", "init.png", "--pad", "left=64", "--size", "96x64"), "the init image would be 32x64", 2),
    ],
)
def test_what_cannot_be_drawn_over_is_refused_before_the_model_is_read(
    ipa, world, init, monkeypatch, flags, words, exit_code
):
    (world.cwd / "broken.png").write_bytes(init.read_bytes()[:90])
    Image.new("L", (32, 32), 255).save(world.cwd / "small.png")
    monkeypatch.setattr(loader, "load", None)
    ran = ipa("generate", *FAST, *flags)
    assert ran.exit_code == exit_code and words in ran.stderr, ran.stderr
    assert "hint: " in ran.stderr


def test_a_model_made_for_inpainting_wants_a_mask(ipa, world, init, monkeypatch):
    from tests import tiny_model
    from tests.unets import TINY

    tiny_model.write(world.cwd / "nine", {**TINY, "in_channels": 9})
    monkeypatch.setattr(loader, "load", None)
    model = ("--model", "nine", "--load-format", "dummy", "--ip-adapter", "none")
    for flags in ((), ("--init-image", "init.png")):
        ran = ipa("generate", *FAST, *model, *flags)
        assert ran.exit_code == 2 and "is made for inpainting and wants a mask" in ran.stderr, ran.stderr


@pytest.mark.slow
def test_a_model_made_for_inpainting_is_compiled_without_a_mask(ipa, world, monkeypatch):
    from tests import tiny_model
    from tests.unets import TINY

    shapes = []

    def reached(unet, wanted, *_):
        shapes.append(tuple(wanted.example.sample.shape))
        raise IpaError("the work begins here")

    tiny_model.write(world.cwd / "nine", {**TINY, "in_channels": 9})
    monkeypatch.setattr(graphs, "prepare", reached)
    ran = ipa("compile", "--model", "nine", "--load-format", "dummy", "--device", "cpu", "--size", "64x64")
    assert "the work begins here" in ran.stderr and shapes == [(2, 9, 8, 8)], ran.stderr


@pytest.mark.slow
@pytest.mark.parametrize("mask", ["mask.png", "white.png"])
def test_a_model_made_for_inpainting_draws_with_a_mask(ipa, world, init, mask):
    from tests import tiny_model
    from tests.unets import TINY

    tiny_model.write(world.cwd / "nine", {**TINY, "in_channels": 9})
    model = ("--model", "nine", "--load-format", "dummy", "--ip-adapter", "none")
    ran = ipa("generate", *FAST, *model, "--init-image", "init.png", "--inpaint-mask", mask, "-o", "out.png")
    assert ran.exit_code == 0, ran.stderr
    kept = pixels(world, mask) == 0
    assert (pixels(world, "out.png") == pixels(world, "init.png"))[kept].all()


@pytest.mark.slow
def test_settings_without_a_picture_to_begin_with_have_no_effect_and_a_note_says_so(ipa, world):
    ran = ipa("generate", *FAST, "--size", "64x64", "--strength", 0.3, "--mask-blur", 4)
    assert ran.exit_code == 0
    assert "the strength has no effect without --init-image" in ran.stderr
    assert "the mask blur has no effect without --inpaint-mask or --pad" in ran.stderr


@pytest.mark.slow
def test_a_sweep_draws_over_a_picture_at_every_scale_and_size(ipa, world, init):
    flags = ("--init-image", "init.png", "--inpaint-mask", "mask.png", "--strength", 0.5, "--size", "96x64")
    sweep = ("sweep-scale", *FAST, *flags, "--size", "64x64", "--scales", "0,1", "--image", "init.png", "-o", "swept")
    ran = ipa(*sweep, "--json")
    data = ran.data()
    assert data["recompiles"] == 0 and len(data["points"]) == 4
    wide = [one for one in sorted((world.cwd / "swept" / "pictures").glob("*.png")) if Image.open(one).width == 96]
    assert len(wide) == 2
    black = pixels(world, "mask.png") == 0
    for path in wide:
        drawn = np.asarray(Image.open(path).convert("RGB"), dtype=int)
        assert (drawn == pixels(world, "init.png"))[black].all()
    assert ipa(*sweep, "--resume", "--json").data()["drawn"] == 0
    ran = ipa(*sweep[:-2], "-o", "swept", "--strength", 1, "--resume")
    assert ran.exit_code != 0 and "init" in ran.stderr, ran.stderr


@pytest.mark.slow
def test_strengths_of_other_programs_wait_for_a_picture(ipa, world, init):
    from PIL.PngImagePlugin import PngInfo

    text = PngInfo()
    settings = "Steps: 4, Sampler: Euler, CFG scale: 5, Seed: 3, Size: 96x64, Denoising strength: 0.5"
    text.add_text("parameters", f"a star\n{settings}")
    Image.new("RGB", (96, 64)).save(world.cwd / "theirs.png", pnginfo=text)
    ran = ipa("generate", "--from", "theirs.png", "--backend", "eager", "-o", "a.png")
    assert ran.exit_code == 0 and "strength 0.5 (add --init-image)" in ran.stderr, ran.stderr
    ran = ipa("generate", "--from", "theirs.png", "--backend", "eager", "--init-image", "init.png", "-o", "b.png")
    assert ran.exit_code == 0 and read_settings(world.cwd / "b.png")["init"]["strength"] == 0.5
