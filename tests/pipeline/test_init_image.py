"""Drawing over a picture, against diffusers' own pipelines, on the shipped miniature."""

import json
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image, ImageDraw

import ipa_cli
from ipa_cli.models.schedulers import SCHEDULERS
from tests.models import test_sd15 as miniature

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


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        *((name, "inpaint") for name in ("euler-a", "dpm++", "ddim", "heun", "unipc", "pndm", "lcm", "dpm++-2s")),
        *((name, "img2img") for name in ("euler-a", "dpm++", "pndm")),
    ],
)
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


@pytest.fixture(scope="module")
def models(tmp_path_factory, pipelines) -> dict[str, Path]:
    """SD 1.5 in miniature, and models of both architectures whose UNets have nine channels, for inpainting."""
    root = tmp_path_factory.mktemp("models")
    found = {"sd15": miniature.build(root / "sd15")}
    index = found["sd15"] / "model_index.json"
    index.write_text(json.dumps({**json.loads(index.read_text()), "_diffusers_version": "0.42.1"}))
    found["sd15-nine"] = widened(found["sd15"], root / "sd15-nine", "StableDiffusionInpaintPipeline")
    found["sdxl-nine"] = widened(DEMO, root / "sdxl-nine", "StableDiffusionXLInpaintPipeline")
    return found


def widened(model: Path, folder: Path, kind: str) -> Path:
    """The same model with a UNet that takes a mask and the latents of a masked picture too."""
    from diffusers import UNet2DConditionModel

    shutil.copytree(model, folder)
    before = UNet2DConditionModel.from_pretrained(model / "unet", torch_dtype=torch.float32)
    torch.manual_seed(2)
    after = UNet2DConditionModel.from_config({**before.config, "in_channels": 9})
    state = {name: one for name, one in before.state_dict().items() if name != "conv_in.weight"}
    more = torch.randn(before.conv_in.weight.shape[0], 5, 3, 3) * before.conv_in.weight.std()
    after.load_state_dict({**state, "conv_in.weight": torch.cat([before.conv_in.weight.detach(), more], dim=1)})
    shutil.rmtree(folder / "unet")
    after.save_pretrained(folder / "unet")
    index = folder / "model_index.json"
    index.write_text(re.sub(r"StableDiffusion(XL)?Pipeline", kind, index.read_text()))
    return folder


def opened(kind: str, model: Path, adapters: Path, file: str):
    import diffusers

    pipeline = getattr(diffusers, kind).from_pretrained(model, torch_dtype=torch.float32)
    pipeline.load_ip_adapter(
        str(adapters), subfolder="", weight_name=file, image_encoder_folder=str(DEMO / "ip_adapter" / "image_encoder")
    )
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


@pytest.mark.parametrize("scale", [0.0, 0.7])
@pytest.mark.parametrize(
    ("kind", "strength", "sampler"),
    [
        ("img2img", 0.6, "pndm"),
        ("img2img", 0.6, "euler-a"),
        ("inpaint", 0.6, "ddim"),
        ("inpaint", 1.0, "euler-a"),
    ],
)
def test_sd15_draws_over_a_picture_what_diffusers_draws(ipa, models, init, kind, strength, sampler, scale):
    name = "StableDiffusionImg2ImgPipeline" if kind == "img2img" else "StableDiffusionInpaintPipeline"
    adapters = models["sd15"].parent / "sd15-adapters"
    drawn, expected = both(ipa, init, name, models["sd15"], adapters, "base.safetensors", strength, scale, sampler)
    white = pixels(init.with_name("mask.png")) == 255 if kind == "inpaint" else np.full(drawn.shape[:2], True)
    assert abs(drawn - expected)[white].max() <= 1
    assert (drawn == pixels(init))[~white].all()


@pytest.mark.parametrize("scale", [0.0, 0.7])
@pytest.mark.parametrize(("family", "strength"), [("sd15", 1.0), ("sd15", 0.6), ("sdxl", 1.0), ("sdxl", 0.6)])
def test_unets_made_for_inpainting_draw_what_they_draw_in_diffusers(ipa, models, init, family, strength, scale):
    xl, sampler = "XL" if family == "sdxl" else "", "euler-a"
    adapters, file = models["sd15"].parent / "sd15-adapters", "base.safetensors"
    if family == "sdxl":
        adapters, file = DEMO / "ip_adapter", "ip-adapter.safetensors"
    name = f"StableDiffusion{xl}InpaintPipeline"
    drawn, expected = both(ipa, init, name, models[f"{family}-nine"], adapters, file, strength, scale, sampler)
    white = pixels(init.with_name("mask.png")) == 255
    assert abs(drawn - expected)[white].max() <= 1
    assert (drawn == pixels(init))[~white].all()


def both(ipa, init, kind: str, model: Path, adapters: Path, file: str, strength: float, scale: float, sampler: str):
    """A picture of ours and of diffusers', drawn by a model in a folder."""
    import diffusers

    pipeline = opened(kind, model, adapters, file)
    made = SCHEDULERS[sampler]
    pipeline.scheduler = getattr(diffusers, made.class_name).from_config(pipeline.scheduler.config, **made.settings)
    masked = "inpaint" if "Inpaint" in kind else "img2img"
    expected = theirs({masked: pipeline}, masked, init, scale, strength=strength)
    flags = ("--model", model, "--ip-adapter", adapters / file, "--image", DEMO / "reference.png", "--fit", "crop")
    flags += ("--image-encoder", DEMO / "ip_adapter" / "image_encoder", "--sampler", sampler, "--strength", strength)
    flags += ("--inpaint-mask", "mask.png") if masked == "inpaint" else ()
    return ours(ipa, init, scale, *flags), expected


def test_pictures_drawn_at_once_are_those_drawn_one_by_one(ipa, init):
    flags = ("--prompt", PROMPT, "--seed", SEED, "--backend", "eager", "--warmup", 0, "--steps", 4, "--json")
    flags += ("--init-image", init, "--inpaint-mask", "mask.png", "--num-images", 3, "--sampler", "euler-a")
    drawn = [ipa("generate", *flags, "--batch-size", count).data()["images"] for count in (1, 3)]
    alone, together = [[pixels(Path(image["path"])) for image in images] for images in drawn]
    for one, other in zip(alone, together, strict=True):
        assert abs(one - other).max() <= 1
    assert abs(alone[0] - alone[1]).max() > 20
