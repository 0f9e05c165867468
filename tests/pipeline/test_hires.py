"""A second pass at a larger size: against drawing over the first by hand, against diffusers, and how it is counted."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import ipa_cli
from ipa_cli.config import Settings
from ipa_cli.engine.engine import Engine
from ipa_cli.engine.together import alike
from ipa_cli.errors import UsageError
from ipa_cli.images import reference
from ipa_cli.models.plan import make_plan
from ipa_cli.pipeline.hires import Hires, enlarged_latents
from ipa_cli.pipeline.references import InMemory, load_references
from ipa_cli.pipeline.task import make_request
from ipa_cli.result import NullReporter

DEMO = Path(ipa_cli.__file__).parent / "demo"
BASE = Settings(prompt="a star", width=64, height=64, steps=6, seed=7, device="cpu", backend="eager", warmup=0)


@pytest.fixture(scope="module")
def engine(tmp_path_factory):
    settings = replace(BASE, cache_dir=tmp_path_factory.mktemp("cache"))
    return Engine.open(settings, make_plan(settings), NullReporter())


def request(engine, init: Image.Image | None = None, mask: Image.Image | None = None, **changes):
    pictures = {} if init is None else {("init", False): reference.of_image(init)}
    pictures |= {} if mask is None else {("mask", True): reference.of_image(mask, as_mask=True)}
    names = {"init_image": None if init is None else "init", "mask": () if mask is None else ("mask",)}
    settings = replace(engine.settings, **names, **changes)
    return make_request(settings, engine.plan, load_references(settings, NullReporter(), InMemory(pictures)))


def drawn(engine, **changes) -> list[Image.Image]:
    return list(engine.draw(request(engine, **changes)).images.values())


def pixels(image: Image.Image) -> np.ndarray:
    return np.asarray(image, dtype=int)


@pytest.mark.slow
@pytest.mark.parametrize("sampler", [None, "dpm++", "euler-a"])
def test_enlarged_pixels_are_drawn_over_as_an_init_image_is(engine, sampler):
    same = {"scheduler": sampler, "num_images": 2}
    twice = drawn(engine, hires="1.5", hires_upscaler="lanczos", hires_strength=0.5, **same)
    for number, first in enumerate(drawn(engine, **same)):
        over = drawn(engine, init=first, width=96, height=96, strength=0.5, scheduler=sampler, seed=7 + number)
        assert twice[number].size == (96, 96) and (pixels(twice[number]) == pixels(over[0])).all()


@pytest.mark.slow
def test_pictures_of_a_batch_are_those_drawn_one_by_one(engine):
    for upscaler in ("latent", "lanczos"):
        asked = {"hires": "96x96", "hires_upscaler": upscaler, "num_images": 3}
        for one, other in zip(drawn(engine, **asked), drawn(engine, batch_size=2, **asked), strict=True):
            assert abs(pixels(one) - pixels(other)).max() <= 1


@pytest.mark.slow
@pytest.mark.parametrize(("upscaler", "mode"), [("latent", "bilinear"), ("latent-nearest-exact", "nearest-exact")])
def test_enlarged_latents_are_drawn_over_as_in_diffusers(engine, upscaler, mode):
    from diffusers import StableDiffusionXLImg2ImgPipeline, StableDiffusionXLPipeline

    first = StableDiffusionXLPipeline.from_pretrained(DEMO)
    first.load_ip_adapter(
        str(DEMO), subfolder="ip_adapter", weight_name="ip-adapter.safetensors", image_encoder_folder="image_encoder"
    )
    second = StableDiffusionXLImg2ImgPipeline(**first.components)
    with Image.open(DEMO / "reference.png") as image:
        common = {"prompt": "a star", "ip_adapter_image": image.convert("RGB"), "guidance_scale": 5.0}
    common["num_inference_steps"] = 6
    for pipeline in (first, second):
        pipeline.set_progress_bar_config(disable=True)
        pipeline.set_ip_adapter_scale(0.7)

    def seeded() -> torch.Generator:
        return torch.Generator("cpu").manual_seed(7)

    latents = first(**common, width=64, height=64, generator=seeded(), output_type="latent").images
    latents = torch.nn.functional.interpolate(latents, (12, 12), mode=mode)
    expected = second(**common, image=latents, strength=0.55, generator=seeded()).images[0]
    (ours,) = drawn(engine, hires="1.5", hires_upscaler=upscaler, scale=0.7, guidance_scale=5.0)
    assert abs(pixels(ours) - pixels(expected)).max() <= 1


@pytest.mark.slow
def test_a_picture_to_begin_with_is_drawn_over_and_then_enlarged(engine):
    init = Image.new("RGB", (64, 64), "navy")
    (first,) = drawn(engine, init=init, strength=0.5)
    (over,) = drawn(engine, init=first, width=96, height=96, strength=0.4)
    (both,) = drawn(engine, init=init, strength=0.5, hires="1.5", hires_strength=0.4, hires_upscaler="lanczos")
    assert (pixels(both) == pixels(over)).all()


@pytest.mark.slow
def test_masks_guidance_windows_and_prompts_hold_in_both_passes(engine):
    mask = Image.new("L", (64, 64))
    mask.paste(255, (32, 0, 64, 64))
    common = {"mask": mask, "guidance_scale": 5.0, "guidance_end": 0.5}
    (first,) = drawn(engine, **common)
    (over,) = drawn(engine, init=first, width=96, height=96, strength=0.5, **common)
    (both,) = drawn(engine, hires="1.5", hires_strength=0.5, hires_upscaler="lanczos", **common)
    assert (pixels(both) == pixels(over)).all()


@pytest.mark.slow
def test_requests_with_the_same_second_pass_share_calls(engine):
    one, two = (request(engine, hires="1.5", seed=seed) for seed in (1, 2))
    assert alike(one, two) and not alike(one, request(engine)) and not alike(one, request(engine, hires="2"))
    for drawing, each in zip(engine.draw_together([one, two]), (one, two), strict=True):
        assert drawing.images[0].size == (96, 96)
        assert abs(pixels(drawing.images[0]) - pixels(engine.draw(each).images[0])).max() <= 1


def test_steps_are_those_of_img2img_or_as_many_as_are_asked_for():
    assert Hires("2", 0.55, None, "latent").steps_over(20) == (20, 11)
    assert Hires("2", 0.55, 10, "latent").steps_over(20) == (18, 10)  # A1111: int(10 / 0.55)
    assert Hires("2", 1.0, 10, "latent").steps_over(20) == (10, 10)


def test_sizes_by_a_factor_are_multiples_of_eight(engine):
    assert Hires("1.5", 0.5, None, "latent").size_over(832, 1216) == (1248, 1824)
    assert Hires("1.15", 0.5, None, "latent").size_over(800, 1000) == (920, 1144)
    asked = request(engine, hires="1.3", hires_steps=4)
    assert [(one.width, one.height, one.steps_taken) for one in asked.passes] == [(64, 64, 6), (80, 80, 4)]
    assert asked.steps_taken == 10


def test_latents_of_other_proportions_lose_their_edges():
    latents = torch.zeros(1, 4, 8, 8)
    latents[..., 2:6, :] = 1
    assert (enlarged_latents(latents, (16, 8), "latent-nearest") == 1).all()
    assert enlarged_latents(latents, (16, 16), "latent-bicubic-antialiased").shape == (1, 4, 16, 16)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"hires": "120x64", "width": 128}, "smaller than the picture of 128x64"),
        ({"hires": "2", "width": 8192}, "at most 8192 pixels"),
        ({"hires": "2", "hires_strength": 0.1}, "leaves none of 6 steps"),
        ({"hires": "2", "hires_strength": 0.0, "hires_steps": 4}, "strength of 0"),
        ({"hires": "2", "init": Image.new("RGB", (64, 64)), "pad": "left=64", "width": 128}, "a mask or border"),
    ],
)
def test_a_second_pass_that_cannot_be_drawn_is_refused(engine, changes, said):
    with pytest.raises(UsageError, match=said):
        request(engine, **changes)
