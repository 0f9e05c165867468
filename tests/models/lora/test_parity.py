"""Pictures with LoRAs against diffusers' own, from the same files, in float32."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import ipa_cli
from tests import loras

pytest.importorskip("peft")
pytestmark = pytest.mark.slow
DEMO = Path(ipa_cli.__file__).parent / "demo"
PROMPT, STEPS, SIDE, SEED = "a large star in the middle", 3, 128, 3
CONVOLUTIONS = ("conv1", "conv2", "conv_shortcut", "conv", "conv_in", "conv_out", "linear_1", "linear_2")


@pytest.fixture(scope="module")
def pipe():
    from diffusers import StableDiffusionXLPipeline

    pipeline = StableDiffusionXLPipeline.from_pretrained(DEMO)
    pipeline.load_ip_adapter(
        str(DEMO), subfolder="ip_adapter", weight_name="ip-adapter.safetensors", image_encoder_folder="image_encoder"
    )
    pipeline.set_ip_adapter_scale(0.5)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


@pytest.fixture(scope="module")
def parts():
    """The parts of the model that LoRAs change, in our own classes."""
    from ipa_cli.config import Settings
    from ipa_cli.engine.engine import Engine
    from ipa_cli.models.plan import make_plan
    from ipa_cli.result import NullReporter

    settings = Settings(device="cpu")
    model = Engine.open(settings, make_plan(settings), NullReporter()).model
    return {"unet": model.unet, **dict(zip(model.architecture.text_encoders, model.text_encoders, strict=True))}


def theirs(pipe, *files: tuple[Path, float]) -> np.ndarray:
    for number, (path, _) in enumerate(files):
        pipe.load_lora_weights(path, adapter_name=f"lora{number}")
    if files:
        pipe.set_adapters([f"lora{number}" for number in range(len(files))], [weight for _, weight in files])
    try:
        with Image.open(DEMO / "reference.png") as reference:
            made = pipe(
                PROMPT,
                ip_adapter_image=reference.convert("RGB"),
                num_inference_steps=STEPS,
                guidance_scale=4.0,
                height=SIDE,
                width=SIDE,
                generator=torch.Generator("cpu").manual_seed(SEED),
            )
        return np.asarray(made.images[0], dtype=int)
    finally:
        pipe.unload_lora_weights()


def ours(ipa, *files: tuple[Path, float]) -> np.ndarray:
    settings = ("--prompt", PROMPT, "--seed", SEED, "--guidance-scale", 4, "--scale", 0.5, "--steps", STEPS)
    flags = [text for path, weight in files for text in ("--lora", f"{path},weight={weight}")]
    ran = ipa("generate", *settings, "--size", f"{SIDE}x{SIDE}", "--backend", "eager", "--warmup", 0, *flags, "--json")
    with Image.open(ran.data()["images"][0]["path"]) as picture:
        return np.asarray(picture, dtype=int)


def check(ipa, pipe, *files: tuple[Path, float]) -> None:
    expected = theirs(pipe, *files)
    assert abs(expected - theirs(pipe)).max() > 16  # it does something
    assert abs(ours(ipa, *files) - expected).max() <= 1


def unet(parts):
    return {"unet": parts["unet"]}


def test_peft_with_text_encoders(ipa, pipe, parts, tmp_path):
    check(ipa, pipe, (loras.write(tmp_path / "a.safetensors", loras.peft(parts)), 0.7))


def test_kohya_with_alpha_and_text_encoders(ipa, pipe, parts, tmp_path):
    tensors = loras.kohya(loras.peft(parts, strength=0.6), loras.kohya_names(parts), alpha=2.0)
    check(ipa, pipe, (loras.write(tmp_path / "a.safetensors", tensors), 1.0))


def test_kohya_with_convolutions(ipa, pipe, parts, tmp_path):
    tensors = loras.peft(unet(parts), (*loras.ALL, *CONVOLUTIONS), strength=0.15)
    tensors = loras.kohya(tensors, loras.kohya_names(parts), alpha=4.0)
    check(ipa, pipe, (loras.write(tmp_path / "a.safetensors", tensors), 1.0))


def test_two_at_once(ipa, pipe, parts, tmp_path):
    first = loras.write(tmp_path / "a.safetensors", loras.peft(parts, seed=1))
    tensors = loras.kohya(loras.peft(unet(parts), loras.ATTENTION, rank=8, seed=500), loras.kohya_names(parts), 4.0)
    check(ipa, pipe, (first, 0.6), (loras.write(tmp_path / "b.safetensors", tensors), -0.8))


def test_attention_processors_of_older_diffusers(ipa, pipe, parts, tmp_path):
    tensors = {}
    for name, tensor in loras.peft(unet(parts), loras.ATTENTION).items():
        name = name.replace("to_out.0", "to_out")
        for kind in ("q", "k", "v", "out"):
            name = name.replace(f".to_{kind}.lora_A", f".processor.to_{kind}_lora.down")
            name = name.replace(f".to_{kind}.lora_B", f".processor.to_{kind}_lora.up")
        tensors[name] = tensor
    assert all(".processor." in name for name in tensors)
    check(ipa, pipe, (loras.write(tmp_path / "a.safetensors", tensors), 1.0))


def test_dora(ipa, pipe, parts, tmp_path):
    tensors = loras.peft(unet(parts), loras.ATTENTION)
    found = loras.modules(parts["unet"], loras.ATTENTION)
    norms = {name: weight.norm(dim=1) * torch.linspace(0.7, 1.3, len(weight)) for name, weight in found.items()}
    of_peft = {**tensors, **{f"unet.{name}.lora_magnitude_vector": one for name, one in norms.items()}}
    file = loras.write(tmp_path / "a.safetensors", of_peft), 0.8
    check(ipa, pipe, file)
    # diffusers leaves kohya's magnitudes out with a warning: the same file in its names is the same picture here.
    names = loras.kohya_names(parts)
    scales = {f"{names[f'unet.{name}']}.dora_scale": one[:, None] for name, one in norms.items()}
    of_kohya = {**loras.kohya(tensors, names, alpha=4.0), **scales}
    assert (ours(ipa, file) == ours(ipa, (loras.write(tmp_path / "b.safetensors", of_kohya), 0.8))).all()


def test_what_diffusers_writes_itself(ipa, pipe, parts, tmp_path):
    """With PEFT's configuration beside the tensors: alpha is not the rank, and one layer has another."""
    from diffusers import StableDiffusionXLPipeline
    from peft import LoraConfig
    from peft.utils import get_peft_model_state_dict

    unet = pipe.unet
    config = LoraConfig(
        r=4, lora_alpha=10, target_modules=["to_q", "to_v"], init_lora_weights=False, alpha_pattern={"attn1.to_q": 2}
    )
    torch.manual_seed(5)
    unet.add_adapter(config, "own")
    state = {name: tensor * 0.6 for name, tensor in get_peft_model_state_dict(unet, adapter_name="own").items()}
    StableDiffusionXLPipeline.save_lora_weights(
        tmp_path, unet_lora_layers=state, unet_lora_adapter_metadata=unet.peft_config["own"].to_dict()
    )
    unet.delete_adapters("own")
    check(ipa, pipe, (tmp_path / "pytorch_lora_weights.safetensors", 1.0))
