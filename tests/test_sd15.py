"""SD 1.5 and Plus adapters against diffusers' own pipelines, in miniatures with random weights."""

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import ipa_cli
from ipa_cli.schedulers import CLASSES
from tests.unets import adapter, plus_projection, save_adapter

DEMO = Path(ipa_cli.__file__).parent / "demo"
PROMPT = "a large star in the middle"
STEPS, SIDE, SEED, GUIDANCE = 4, 64, 3, 4.0
IMAGE_DIM, HIDDEN_DIM = 128, 128  # of the demo's image encoder
UNET: dict[str, Any] = {
    "attention_head_dim": 2,
    "block_out_channels": [32, 64],
    "cross_attention_dim": 64,
    "down_block_types": ["CrossAttnDownBlock2D", "DownBlock2D"],
    "layers_per_block": 1,
    "norm_num_groups": 8,
    "sample_size": 8,
    "up_block_types": ["UpBlock2D", "CrossAttnUpBlock2D"],
}
# As old repositories have it: without `steps_offset` and `clip_sample` set right.
OLD_PNDM = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear", "skip_prk_steps": True}


def build(folder: Path) -> Path:
    """A folder of SD 1.5's layout with a base and a Plus adapter beside it; the VAE is the demo's."""
    from diffusers import AutoencoderKL, PNDMScheduler, UNet2DConditionModel
    from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

    torch.manual_seed(1)
    unet = UNet2DConditionModel(**UNET)
    vae = AutoencoderKL.from_pretrained(DEMO / "vae", torch_dtype=torch.float32)
    vae.register_to_config(scaling_factor=0.4)
    tokenizer = CLIPTokenizer.from_pretrained(DEMO / "tokenizer")
    text = CLIPTextConfig.from_pretrained(DEMO / "text_encoder", hidden_size=64)
    parts = {
        "unet": unet,
        "vae": vae,
        "tokenizer": tokenizer,
        "text_encoder": CLIPTextModel(text),
        "scheduler": PNDMScheduler(**OLD_PNDM),
    }
    for name, part in parts.items():
        part.save_pretrained(folder / name)
    listing = ", ".join(f'"{name}": ["x", "{type(part).__name__}"]' for name, part in parts.items())
    listing = listing.replace('["x", "CLIP', '["transformers", "CLIP').replace('["x"', '["diffusers"')
    (folder / "model_index.json").write_text(f'{{"_class_name": "StableDiffusionPipeline", {listing}}}')
    return write_adapters(folder.parent / "sd15-adapters", unet) and folder


def write_adapters(folder: Path, unet: Any) -> Path:
    """A base and a Plus adapter for `unet`, and the demo's image encoder."""
    shutil.copytree(DEMO / "ip_adapter" / "image_encoder", folder / "image_encoder")
    state = adapter(unet, image_dim=IMAGE_DIM)
    save_adapter(folder / "base.safetensors", state)
    projection = plus_projection(unet.config.cross_attention_dim, HIDDEN_DIM, latents=6)
    save_adapter(folder / "plus.safetensors", {**state, "image_proj": projection})
    return folder


@pytest.fixture(scope="module")
def sd15(tmp_path_factory) -> Path:
    return build(tmp_path_factory.mktemp("models") / "sd15")


@pytest.fixture(scope="module")
def sdxl_plus(tmp_path_factory) -> Path:
    """Adapters for the demo model, which has the shape of SDXL."""
    from diffusers import UNet2DConditionModel

    with torch.device("cpu"):
        unet = UNet2DConditionModel.from_config(UNet2DConditionModel.load_config(DEMO / "unet"))
    return write_adapters(tmp_path_factory.mktemp("sdxl") / "adapters", unet)


@pytest.fixture(scope="module")
def reference(tmp_path_factory) -> list[Path]:
    """Two square pictures of the size that the image encoder sees, so that nobody has to scale them."""
    folder = tmp_path_factory.mktemp("references")
    generator = np.random.default_rng(5)
    paths = [folder / "one.png", folder / "two.png"]
    for path in paths:
        coarse = Image.fromarray(generator.integers(0, 256, (4, 4, 3), dtype=np.uint8))
        coarse.resize((128, 128), Image.Resampling.BICUBIC).save(path)
    return paths


def theirs(kind: str, model: Path, adapters: Path, file: str, images: list[Path], scale: float, **changes) -> Any:
    """What diffusers draws; `scheduler` among the changes is a name of ours."""
    import diffusers

    pipeline = getattr(diffusers, kind).from_pretrained(model, torch_dtype=torch.float32)
    pipeline.load_ip_adapter(
        str(adapters.parent), subfolder=adapters.name, weight_name=file, image_encoder_folder="image_encoder"
    )
    pipeline.set_progress_bar_config(disable=True)
    scheduler = changes.pop("scheduler", None)
    if scheduler:
        pipeline.scheduler = getattr(diffusers, CLASSES[scheduler]).from_config(pipeline.scheduler.config)
    pipeline.set_ip_adapter_scale(scale)
    opened = [Image.open(path).convert("RGB") for path in images]
    arguments = {
        "prompt": PROMPT,
        "ip_adapter_image": [opened] if len(opened) > 1 else opened[0],
        "num_inference_steps": STEPS,
        "guidance_scale": GUIDANCE,
        "height": SIDE,
        "width": SIDE,
        "generator": torch.Generator("cpu").manual_seed(SEED),
    }
    return np.asarray(pipeline(**arguments | changes).images[0], dtype=int)


def ours(ipa, model: object, adapters: Path, file: str, images: list[Path], scale: float, *flags: object) -> Any:
    size = ("--width", SIDE, "--height", SIDE, "--steps", STEPS, "--warmup", 0)
    settings = ("--prompt", PROMPT, "--seed", SEED, "--scale", scale, "--guidance-scale", GUIDANCE)
    pictures = [word for path in images for word in ("--image", path)]
    chosen = ("--model", model, "--ip-adapter", adapters / file, *pictures, "--backend", "eager")
    ran = ipa("generate", *size, *settings, *chosen, *flags, "--json")
    (image,) = ran.data()["images"]
    with Image.open(image["path"]) as picture:
        return np.asarray(picture, dtype=int)


def sd15_pair(ipa, model: Path, file: str, images: list[Path], scale: float, flags: tuple = (), **changes) -> Any:
    """An SD 1.5 picture of ours and of diffusers'."""
    adapters = model.parent / "sd15-adapters"
    mine = ours(ipa, model, adapters, file, images, scale, *flags)
    return mine, theirs("StableDiffusionPipeline", model, adapters, file, images, scale, **changes)


# --- SD 1.5 ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("file", "scale", "flags", "changes"),
    [
        ("base.safetensors", 0.0, (), {}),
        ("base.safetensors", 0.6, (), {}),
        ("plus.safetensors", 0.6, (), {}),
        ("base.safetensors", 0.6, ("--negative-prompt", "a small circle"), {"negative_prompt": "a small circle"}),
        ("base.safetensors", 0.6, ("--guidance-scale", 1), {"guidance_scale": 1.0}),
        ("base.safetensors", 0.6, ("--width", 128), {"width": 128}),
    ],
)
def test_sd15_draws_what_diffusers_draws(ipa, sd15, reference, file, scale, flags, changes):
    mine, expected = sd15_pair(ipa, sd15, file, reference[:1], scale, flags, **changes)
    assert expected.std() > 5  # a picture, not one grey
    assert abs(mine - expected).max() <= 1


@pytest.mark.parametrize("name", ["euler", "ddim", "pndm", "unipc", "dpm++"])
def test_sd15_draws_with_each_scheduler_what_diffusers_draws(ipa, sd15, reference, name):
    flags = ("--scheduler", name)
    mine, expected = sd15_pair(ipa, sd15, "base.safetensors", reference[:1], 0.6, flags, scheduler=name)
    assert abs(mine - expected).max() <= 1


@pytest.mark.parametrize("file", ["base.safetensors", "plus.safetensors"])
def test_sd15_sees_several_references_as_diffusers_does(ipa, sd15, reference, file):
    mine, expected = sd15_pair(ipa, sd15, file, reference, 0.8)
    alone, _ = sd15_pair(ipa, sd15, file, reference[:1], 0.8)
    assert abs(mine - expected).max() <= 1
    assert abs(mine - alone).max() > 3


# --- Plus on SDXL ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("scale", [0.0, 0.6])
@pytest.mark.parametrize("count", [1, 2])
def test_a_plus_adapter_of_sdxl_draws_what_diffusers_draws(ipa, sdxl_plus, reference, scale, count):
    images = reference[:count]
    mine = ours(ipa, "demo", sdxl_plus, "plus.safetensors", images, scale)
    expected = theirs("StableDiffusionXLPipeline", DEMO, sdxl_plus, "plus.safetensors", images, scale)
    assert expected.std() > 5
    assert abs(mine - expected).max() <= 1


def test_a_plus_adapter_counts_by_its_scale(ipa, sdxl_plus, reference):
    one, other = (ours(ipa, "demo", sdxl_plus, "plus.safetensors", reference[:1], scale) for scale in (0.0, 0.6))
    assert abs(one - other).max() > 3
