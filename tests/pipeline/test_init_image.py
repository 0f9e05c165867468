"""Drawing over a picture, against diffusers' own pipelines, on the shipped miniature."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image, ImageDraw

import ipa_cli
from ipa_cli.models.schedulers import SCHEDULERS

pytestmark = pytest.mark.slow

DEMO = Path(ipa_cli.__file__).parent / "demo"
PROMPT = "a large star in the middle"
STEPS, SEED, SIZE = 8, 3, (128, 96)


@pytest.fixture(scope="module")
def pipelines():
    from diffusers import StableDiffusionXLImg2ImgPipeline, StableDiffusionXLInpaintPipeline

    first = StableDiffusionXLImg2ImgPipeline.from_pretrained(DEMO)
    first.load_ip_adapter(
        str(DEMO), subfolder="ip_adapter", weight_name="ip-adapter.safetensors", image_encoder_folder="image_encoder"
    )
    second = StableDiffusionXLInpaintPipeline(**first.components)
    for pipeline in (first, second):
        pipeline.set_progress_bar_config(disable=True)
    return {"img2img": first, "inpaint": second}


@pytest.fixture
def init(world) -> Path:
    """A picture to begin with, and beside it a mask of its right half, `mask.png`."""
    picture = Image.new("RGB", SIZE, "navy")
    ImageDraw.Draw(picture).ellipse((20, 10, 90, 80), fill="gold")
    picture.save(world.cwd / "init.png")
    mask = Image.new("L", SIZE)
    mask.paste(255, (SIZE[0] // 2, 0, *SIZE))
    mask.save(world.cwd / "mask.png")
    return world.cwd / "init.png"


def theirs(pipelines, kind: str, init: Path, scale: float, **changes) -> np.ndarray:
    pipeline = pipelines[kind]
    pipeline.set_ip_adapter_scale(scale)
    masked = {"mask_image": Image.open(init.with_name("mask.png")), "width": SIZE[0], "height": SIZE[1]}
    with Image.open(DEMO / "reference.png") as reference:
        arguments = {
            "prompt": PROMPT,
            "image": Image.open(init).convert("RGB"),
            "ip_adapter_image": reference.convert("RGB"),
            "num_inference_steps": STEPS,
            "guidance_scale": 5.0,
            "generator": torch.Generator("cpu").manual_seed(SEED),
            **(masked if kind == "inpaint" else {}),
        }
        return np.asarray(pipeline(**arguments | changes).images[0], dtype=int)


def ours(ipa, init: Path, scale: float, *flags: object) -> np.ndarray:
    settings = ("--prompt", PROMPT, "--seed", SEED, "--guidance-scale", 5, "--backend", "eager", "--warmup", 0)
    given = ("--init-image", init, "--steps", STEPS, "--scale", scale, "--force", "--output", "out.png")
    (image,) = ipa("generate", *settings, *given, *flags, "--json").data()["images"]
    with Image.open(image["path"]) as picture:
        return np.asarray(picture, dtype=int)


def pixels(path: Path) -> np.ndarray:
    with Image.open(path) as picture:
        return np.asarray(picture, dtype=int)


@pytest.mark.parametrize(("scale", "strength"), [(0.0, 0.6), (0.8, 0.6), (0.8, 0.3), (0.8, 1.0)])
def test_a_picture_drawn_over_another_is_the_one_diffusers_draws(ipa, pipelines, init, scale, strength):
    expected = theirs(pipelines, "img2img", init, scale, strength=strength)
    assert abs(ours(ipa, init, scale, "--strength", strength) - expected).max() <= 1
    assert abs(expected - pixels(init)).max() > 20


@pytest.mark.parametrize(("scale", "strength"), [(0.0, 0.6), (0.8, 0.6), (0.8, 1.0)])
def test_an_area_redrawn_is_the_one_diffusers_draws_and_the_rest_is_the_original(ipa, pipelines, init, scale, strength):
    expected = theirs(pipelines, "inpaint", init, scale, strength=strength)
    drawn = ours(ipa, init, scale, "--strength", strength, "--inpaint-mask", "mask.png")
    white = pixels(init.with_name("mask.png")) == 255
    assert abs(drawn - expected)[white].max() <= 1
    assert (drawn == pixels(init))[~white].all()
    assert abs(drawn - pixels(init))[white].max() > 20


@pytest.fixture
def with_scheduler(pipelines):
    """Give the pipelines another scheduler for a while."""
    import diffusers

    before = pipelines["img2img"].scheduler

    def use(name: str, **settings) -> None:
        kind = getattr(diffusers, SCHEDULERS[name].class_name)
        for pipeline in pipelines.values():
            pipeline.scheduler = kind.from_config(before.config, **SCHEDULERS[name].settings, **settings)

    yield use
    for pipeline in pipelines.values():
        pipeline.scheduler = before


@pytest.mark.parametrize("kind", ["img2img", "inpaint"])
@pytest.mark.parametrize("name", [name for name, one in SCHEDULERS.items() if one.needs is None])
def test_samplers_begin_in_the_middle_as_in_diffusers(ipa, pipelines, with_scheduler, init, name, kind):
    """Multistep samplers have no earlier steps to look back at, ancestral ones draw their noise after the first."""
    with_scheduler(name)
    expected = theirs(pipelines, kind, init, 0.6, strength=0.6)
    mask = ("--inpaint-mask", "mask.png") if kind == "inpaint" else ()
    drawn = ours(ipa, init, 0.6, "--sampler", name, "--strength", 0.6, *mask)
    white = pixels(init.with_name("mask.png")) == 255 if mask else np.full(drawn.shape[:2], True)
    assert abs(drawn - expected)[white].max() <= 1


@pytest.mark.parametrize("kind", ["img2img", "inpaint"])
def test_a_schedule_begins_in_the_middle_as_in_diffusers(ipa, pipelines, with_scheduler, init, kind):
    with_scheduler("dpm++", use_karras_sigmas=True)
    expected = theirs(pipelines, kind, init, 0.6, strength=0.6)
    mask = ("--inpaint-mask", "mask.png") if kind == "inpaint" else ()
    drawn = ours(ipa, init, 0.6, "--sampler", "dpm++", "--schedule", "karras", "--strength", 0.6, *mask)
    white = pixels(init.with_name("mask.png")) == 255 if mask else np.full(drawn.shape[:2], True)
    assert abs(drawn - expected)[white].max() <= 1
