"""ControlNets beside an IP-Adapter, against diffusers' own pipelines, on the shipped miniature."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image, ImageDraw

import ipa_cli
from ipa_cli.models.schedulers import SCHEDULERS
from tests import controlnets
from tests.models import test_sd15 as miniature

pytestmark = pytest.mark.slow

DEMO = Path(ipa_cli.__file__).parent / "demo"
PROMPT = "a large star in the middle"
STEPS, SEED, SIZE = 4, 3, (64, 96)


@pytest.fixture(scope="module")
def networks(tmp_path_factory) -> dict[str, Path]:
    """ControlNets with random weights, and an SD 1.5 model."""
    root = tmp_path_factory.mktemp("controlnets")
    found = {
        "outline": controlnets.save(DEMO, root / "outline", seed=1),
        "depth": controlnets.save(DEMO, root / "depth", seed=2),
        "union": controlnets.save(DEMO, root / "union", seed=3, kind="union"),
        "sd15-model": miniature.build(root / "sd15"),
    }
    index = found["sd15-model"] / "model_index.json"
    index.write_text(json.dumps({**json.loads(index.read_text()), "_diffusers_version": "0.42.1"}))
    found["sd15"] = controlnets.save(found["sd15-model"], root / "sd15-outline", seed=4, std=0.02)
    pooled = {"std": 0.02, "global_pool_conditions": True}
    found["pooled"] = controlnets.save(found["sd15-model"], root / "pooled", seed=4, **pooled)
    return found


@pytest.fixture(scope="module")
def components():
    """The parts of the miniature with its adapter, which all pipelines share."""
    from diffusers import StableDiffusionXLPipeline

    made = StableDiffusionXLPipeline.from_pretrained(DEMO, torch_dtype=torch.float32)
    made.load_ip_adapter(
        str(DEMO), subfolder="ip_adapter", weight_name="ip-adapter.safetensors", image_encoder_folder="image_encoder"
    )
    return made.components


@pytest.fixture
def maps(world) -> Path:
    """Two maps, `map.png` and `other.png`, a picture to begin with, `init.png`, and a mask of it."""
    for name, colour in (("map.png", "white"), ("other.png", "red"), ("init.png", "gold")):
        picture = Image.new("RGB", SIZE)
        ImageDraw.Draw(picture).ellipse((10, 20, 50, 60), outline=colour, width=3)
        picture.save(world.cwd / name)
    mask = Image.new("L", SIZE)
    mask.paste(255, (SIZE[0] // 2, 0, *SIZE))
    mask.save(world.cwd / "mask.png")
    return world.cwd


def ours(ipa, scale: float, *flags: object) -> np.ndarray:
    settings = ("--prompt", PROMPT, "--seed", SEED, "--guidance-scale", 5, "--backend", "eager", "--warmup", 0)
    size = ("--width", SIZE[0], "--height", SIZE[1]) if "--init-image" not in flags else ()
    given = (*size, "--steps", STEPS, "--scale", scale, "--force", "--output", "out.png")
    (image,) = ipa("generate", *settings, *given, *flags, "--json").data()["images"]
    return pixels(Path(image["path"]))


def pixels(path: Path) -> np.ndarray:
    with Image.open(path) as picture:
        return np.asarray(picture, dtype=int)


def theirs(pipeline, scale: float, **arguments) -> np.ndarray:
    pipeline.set_progress_bar_config(disable=True)
    pipeline.set_ip_adapter_scale(scale)
    with Image.open(DEMO / "reference.png") as reference:
        drawn = pipeline(
            prompt=PROMPT,
            ip_adapter_image=reference.convert("RGB"),
            num_inference_steps=STEPS,
            guidance_scale=5.0,
            generator=torch.Generator("cpu").manual_seed(SEED),
            **arguments,
        )
    return np.asarray(drawn.images[0], dtype=int)


def opened(kind: str, components, *folders: Path, union: bool = False):
    import diffusers

    cls = diffusers.ControlNetUnionModel if union else diffusers.ControlNetModel
    found = [cls.from_pretrained(folder, torch_dtype=torch.float32) for folder in folders]
    return getattr(diffusers, kind)(**components, controlnet=found[0] if len(found) == 1 else found)


def image(maps: Path, name: str) -> Image.Image:
    with Image.open(maps / name) as opened:
        return opened.convert("RGB")


@pytest.mark.parametrize("scale", [0.0, 0.8])
@pytest.mark.parametrize(("strength", "start", "end"), [(0.7, 0.0, 1.0), (1.5, 0.25, 0.75), (0.7, 0.5, 1.0)])
def test_a_picture_follows_a_map_as_in_diffusers(ipa, networks, components, maps, scale, strength, start, end):
    pipeline = opened("StableDiffusionXLControlNetPipeline", components, networks["outline"])
    span = {"control_guidance_start": start, "control_guidance_end": end}
    given = {"image": image(maps, "map.png"), "controlnet_conditioning_scale": strength}
    expected = theirs(pipeline, scale, **given, **span)
    spec = f"{networks['outline']},image=map.png,scale={strength},start={start},end={end}"
    drawn = ours(ipa, scale, "--control", spec)
    assert abs(drawn - expected).max() <= 1
    assert abs(drawn - ours(ipa, scale)).max() > 3


@pytest.mark.parametrize("scale", [0.0, 0.8])
def test_two_controls_add_up_as_in_diffusers(ipa, networks, components, maps, scale):
    pipeline = opened("StableDiffusionXLControlNetPipeline", components, networks["outline"], networks["depth"])
    expected = theirs(
        pipeline,
        scale,
        image=[image(maps, "map.png"), image(maps, "other.png")],
        controlnet_conditioning_scale=[0.7, 0.4],
        control_guidance_start=[0.0, 0.5],
        control_guidance_end=[0.5, 1.0],
    )
    first = ("--control", f"{networks['outline']},image=map.png,scale=0.7,end=0.5")
    drawn = ours(ipa, scale, *first, "--control", f"{networks['depth']},image=other.png,scale=0.4,start=0.5")
    assert abs(drawn - expected).max() <= 1


@pytest.mark.parametrize("scale", [0.0, 0.8])
@pytest.mark.parametrize("kind", ["Img2Img", "Inpaint"])
def test_a_picture_drawn_over_another_follows_a_map_as_in_diffusers(ipa, networks, components, maps, kind, scale):
    pipeline = opened(f"StableDiffusionXLControlNet{kind}Pipeline", components, networks["outline"])
    given = {"image": image(maps, "init.png"), "control_image": image(maps, "map.png"), "strength": 0.75}
    flags = ["--control", f"{networks['outline']},image=map.png,scale=0.7", "--init-image", "init.png"]
    flags += ["--strength", 0.75]
    white = np.full((SIZE[1], SIZE[0]), True)
    if kind == "Inpaint":
        given |= {"mask_image": Image.open(maps / "mask.png"), "width": SIZE[0], "height": SIZE[1]}
        flags += ["--inpaint-mask", "mask.png"]
        white = pixels(maps / "mask.png") == 255
    expected = theirs(pipeline, scale, **given, controlnet_conditioning_scale=0.7)
    assert abs(ours(ipa, scale, *flags) - expected)[white].max() <= 1


@pytest.mark.parametrize("scale", [0.0, 0.8])
def test_a_union_model_follows_a_map_of_the_kind_that_is_named(ipa, networks, components, maps, scale):
    pipeline = opened("StableDiffusionXLControlNetUnionPipeline", components, networks["union"], union=True)
    control = {"control_image": [image(maps, "map.png")], "control_mode": [3]}
    expected = theirs(pipeline, scale, **control, controlnet_conditioning_scale=0.7)
    drawn = ours(ipa, scale, "--control", f"{networks['union']},image=map.png,scale=0.7,mode=canny")
    assert abs(drawn - expected).max() <= 1
    other = ours(ipa, scale, "--control", f"{networks['union']},image=map.png,scale=0.7,mode=openpose")
    assert abs(drawn - other).max() > 5


@pytest.mark.parametrize("scale", [0.0, 0.7])
@pytest.mark.parametrize(("kind", "network"), [("", "sd15"), ("Img2Img", "sd15"), ("", "pooled")])
def test_sd15_follows_a_map_as_in_diffusers(ipa, networks, maps, scale, kind, network):
    import diffusers

    adapters = networks["sd15-model"].parent / "sd15-adapters"
    control = diffusers.ControlNetModel.from_pretrained(networks[network], torch_dtype=torch.float32)
    pipeline = getattr(diffusers, f"StableDiffusionControlNet{kind}Pipeline").from_pretrained(
        networks["sd15-model"], controlnet=control, torch_dtype=torch.float32
    )
    made = SCHEDULERS["euler-a"]
    # Not every pipeline of diffusers' corrects old configurations, as `StableDiffusionPipeline` does.
    kind_of, config = getattr(diffusers, made.class_name), pipeline.scheduler.config
    pipeline.scheduler = kind_of.from_config(config, **made.settings, steps_offset=1)
    pipeline.load_ip_adapter(
        str(adapters),
        subfolder="",
        weight_name="base.safetensors",
        image_encoder_folder=str(DEMO / "ip_adapter" / "image_encoder"),
    )
    given = {"image": image(maps, "map.png")}
    flags = ["--control", f"{networks[network]},image=map.png,scale=0.7"]
    if kind:
        given = {"image": image(maps, "init.png"), "control_image": image(maps, "map.png"), "strength": 0.75}
        flags += ["--init-image", "init.png", "--strength", 0.75]
    expected = theirs(pipeline, scale, **given, controlnet_conditioning_scale=0.7)
    flags += ["--model", networks["sd15-model"], "--ip-adapter", adapters / "base.safetensors"]
    flags += ["--image-encoder", DEMO / "ip_adapter" / "image_encoder", "--image", DEMO / "reference.png"]
    drawn = ours(ipa, scale, *flags, "--fit", "crop", "--sampler", "euler-a")
    assert abs(drawn - expected).max() <= 1
