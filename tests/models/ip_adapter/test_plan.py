"""Adapter files as people have them: from training, as pickles, for faces, in ComfyUI's folders, and what is none."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

import ipa_cli
from ipa_cli.config import Settings
from ipa_cli.errors import UsageError
from ipa_cli.models import weights
from ipa_cli.models.ip_adapter import image_encoder
from ipa_cli.models.location import ModelError
from ipa_cli.models.plan import make_plan

DEMO = Path(ipa_cli.__file__).parent / "demo"
ADAPTER = DEMO / "ip_adapter" / "ip-adapter.safetensors"
ENCODER = DEMO / "ip_adapter" / "image_encoder"
FAST = ("--width", 64, "--height", 64, "--steps", 1, "--warmup", 0, "--seed", 7, "--prompt", "a star", "--scale", 0.8)
REFERENCE = ("--image", DEMO / "reference.png", "--guidance-scale", 5)


@pytest.fixture(scope="module")
def tensors() -> dict[str, torch.Tensor]:
    """The miniature's adapter."""
    return load_file(ADAPTER)


def pixels(ran) -> np.ndarray:
    (image,) = ran.data()["images"]
    with Image.open(image["path"]) as picture:
        return np.asarray(picture, dtype=int)


@pytest.fixture(scope="module")
def drawn() -> dict[str, np.ndarray]:
    return {}


@pytest.fixture
def demo(ipa, drawn) -> np.ndarray:
    """What the demo draws; drawn once."""
    if not drawn:
        drawn["demo"] = pixels(ipa("generate", *FAST, *REFERENCE, "--json"))
    return drawn["demo"]


def trained(tensors: dict[str, torch.Tensor], prefix: str = "") -> dict[str, torch.Tensor]:
    """A checkpoint as IP-Adapter's own training writes it, its UNet included."""
    names = {"image_proj.": "image_proj_model.", "ip_adapter.": "adapter_modules."}
    found = {}
    for name, tensor in tensors.items():
        old = next(old for old in names if name.startswith(old))
        found[prefix + names[old] + name.removeprefix(old)] = tensor
    return {**found, f"{prefix}unet.conv_in.weight": torch.zeros(4, 4, 3, 3)}


def settings(adapter: Path, **more: object) -> Settings:
    return Settings(ip_adapter=str(adapter), image=("x.png",), **more)


def refused(adapter: Path, words: str, **more: object) -> str:
    """The hint of a refusal that planning gives."""
    with pytest.raises(ModelError) as told:
        make_plan(settings(adapter, **more))
    assert words in told.value.message and "\n" not in told.value.message + told.value.hint
    return told.value.hint


# --- what is loaded -----------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_a_pickled_training_checkpoint_draws_as_its_adapter_does(ipa, world, tensors, demo):
    shutil.copytree(ENCODER, world.cwd / "run" / "image_encoder")
    torch.save(trained(tensors), world.cwd / "run" / "pytorch_model.bin")
    ran = ipa("generate", *FAST, *REFERENCE, "--ip-adapter", "run", "--json")
    assert (pixels(ran) == demo).all() and ran.data()["adapter"].endswith("pytorch_model.bin")


@pytest.mark.parametrize("prefix", ["", "module."])
def test_a_training_checkpoint_is_read_under_the_usual_names(tmp_path, tensors, prefix):
    save_file(trained(tensors, prefix), tmp_path / "model.safetensors")
    torch.save(trained(tensors, prefix), tmp_path / "model.bin")
    usual = weights.nested(load_file(ADAPTER))
    for name in ("model.safetensors", "model.bin"):
        found = weights.nested(weights.read(tmp_path / name, None, torch.device("cpu"), torch.float32))
        assert {part: sorted(found[part]) for part in found} == {part: sorted(usual[part]) for part in usual}


@pytest.fixture
def comfyui(world, tensors, monkeypatch) -> Path:
    """ComfyUI's folders: the image encoder is one file elsewhere, without a configuration."""
    monkeypatch.setitem(image_encoder.HEADS, 160, (5, "gelu"))  # of the miniature's
    root = world.cwd / "ComfyUI models"
    (root / "ipadapter").mkdir(parents=True)
    (root / "clip_vision").mkdir()
    save_file(tensors, root / "ipadapter" / "ip-adapter.safetensors")
    shutil.copy(ENCODER / "model.safetensors", root / "clip_vision" / "CLIP-ViT-H-14-laion2B-s32B-b79K.safetensors")
    return root


@pytest.mark.slow
def test_an_image_encoder_elsewhere_is_named_as_a_file(ipa, comfyui, demo):
    adapter = comfyui / "ipadapter" / "ip-adapter.safetensors"
    encoder = comfyui / "clip_vision" / "CLIP-ViT-H-14-laion2B-s32B-b79K.safetensors"
    assert f"--image-encoder '{encoder}'" in refused(adapter, "has no image encoder")
    ran = ipa("generate", *FAST, *REFERENCE, "--ip-adapter", adapter, "--image-encoder", encoder, "--json")
    assert (pixels(ran) == demo).all()
    own = f"{adapter},image={DEMO / 'reference.png'},encoder={encoder}"
    assert (pixels(ipa("generate", *FAST, *REFERENCE[2:], "--adapter", own, "--json")) == demo).all()


@pytest.mark.parametrize("kind", ["folder", "folder/", "whole CLIP"])
def test_an_image_encoder_elsewhere_is_named_as_a_folder(comfyui, kind):
    folder = Path(shutil.copytree(ENCODER, comfyui / "encoder"))
    if kind == "whole CLIP":
        vision = json.loads((folder / "config.json").read_text())
        (folder / "config.json").write_text(json.dumps({"projection_dim": 256, "vision_config": vision}))
    named = str(folder) + "/" * kind.endswith("/")
    plan = make_plan(settings(comfyui / "ipadapter", image_encoder=named))
    assert plan.adapter.encoder.config["hidden_size"] == 160 and str(plan.adapter.encoder) == str(folder)


def test_a_copy_of_h94_s_repository_gives_the_usual_adapter(world, tensors):
    for family in ("models", "sdxl_models"):
        shutil.copytree(ENCODER, world.cwd / "IP-Adapter" / family / "image_encoder")
        for name in ("ip-adapter_sdxl", "ip-adapter_sdxl_vit-h"):
            save_file(tensors, world.cwd / "IP-Adapter" / family / f"{name}.safetensors")
    assert make_plan(settings(world.cwd / "IP-Adapter")).adapter.file == "sdxl_models/ip-adapter_sdxl.safetensors"


@pytest.mark.parametrize(
    ("named", "words"),
    [
        ("nothing", "there is no image encoder 'nothing'"),
        (str(DEMO / "reference.png"), "is no .safetensors file"),
        (str(ADAPTER), "is no CLIP image encoder"),
        (str(DEMO), "it has no config.json"),
        (str(DEMO / "text_encoder"), "should be a CLIP vision model"),
    ],
)
def test_what_is_no_image_encoder_is_reported(world, named, words):
    refused(ADAPTER, words, image_encoder=named)


@pytest.mark.parametrize(("preset", "layers"), [("sd15", 32), ("sdxl", 48)])
def test_clip_s_large_image_encoders_are_known_by_their_shapes(preset, layers):
    file = DEMO.parent / "presets" / preset / "ip_adapter" / "image_encoder" / "config.json"
    config = json.loads(file.read_text())
    hidden, patch = config["hidden_size"], config["patch_size"]
    shapes = {
        "vision_model.embeddings.patch_embedding.weight": (hidden, 3, patch, patch),
        "vision_model.embeddings.position_embedding.weight": ((224 // patch) ** 2 + 1, hidden),
        "visual_projection.weight": (config["projection_dim"], hidden),
        **{f"vision_model.encoder.layers.{n}.layer_norm1.weight": (hidden,) for n in range(layers)},
        "vision_model.encoder.layers.0.mlp.fc1.weight": (config["intermediate_size"], hidden),
    }
    found = image_encoder.of_shapes("x", shapes)
    assert found == {key: config.get(key, 3) for key in found}


@pytest.mark.parametrize("shape", [(0, 1280), (1, 1280), (10**9, 1280), (257,), ()])
def test_an_image_encoder_without_places_for_its_patches_is_reported(shape):
    shapes = {
        "vision_model.embeddings.patch_embedding.weight": (1280, 3, 14, 14),
        "vision_model.embeddings.position_embedding.weight": shape,
        "vision_model.encoder.layers.0.mlp.fc1.weight": (5120, 1280),
        "visual_projection.weight": (1024, 1280),
    }
    with pytest.raises(ModelError):
        image_encoder.of_shapes("x", shapes)


def test_the_activation_and_heads_of_the_large_encoders_are_the_presets_own():
    for preset in ("sd15", "sdxl"):
        file = DEMO.parent / "presets" / preset / "ip_adapter" / "image_encoder" / "config.json"
        config = json.loads(file.read_text())
        assert image_encoder.HEADS[config["hidden_size"]] == (config["num_attention_heads"], config["hidden_act"])


# --- what is refused ----------------------------------------------------------------------------------------------


def test_an_adapter_that_needs_a_controlnet_of_its_own_is_named_and_another_offered(tmp_path, tensors):
    layers = {name: tensor for name, tensor in tensors.items() if name.startswith("ip_adapter.")}
    resampler = {"image_proj.latents": torch.zeros(1, 4, 64), "image_proj.proj_in.weight": torch.zeros(64, 512)}
    save_file({**layers, **resampler}, tmp_path / "ip-adapter.safetensors")
    hint = refused(tmp_path / "ip-adapter.safetensors", "InstantID adapter")
    assert "ip-adapter-plus-face_sdxl_vit-h.safetensors" in hint


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("lora_unet_down_blocks_1_attn1_to_q.lora_down.weight", "a LoRA"),
        ("unet.down_blocks.1.attn1.to_q.lora_A.weight", "a LoRA"),
        ("model.diffusion_model.input_blocks.0.0.weight", "a UNet alone"),
        ("conditioner.embedders.0.transformer.text_model.x", "a whole model"),
        ("vision_model.embeddings.class_embedding", "an image encoder"),
        ("text_model.embeddings.position_embedding.weight", "a text encoder"),
        ("double_blocks.0.processor.ip_adapter_double_stream_k_proj.weight", "an adapter for FLUX"),
        ("controlnet_cond_embedding.conv_in.weight", "a ControlNet"),
        ("clip_g", "an embedding (textual inversion)"),
        ("id_adapter.mapping_0.0.weight", "a PuLID model"),
        ("down_blocks.0.resnets.0.conv1.weight", "the UNet of a diffusers folder"),
        ("x", "is no IP-Adapter"),
    ],
)
@pytest.mark.parametrize("ending", [".safetensors", ".bin"])
def test_what_is_no_adapter_is_named(tmp_path, name, kind, ending):
    file = tmp_path / f"it{ending}"
    (save_file if ending == ".safetensors" else torch.save)({name: torch.zeros(2, 2)}, file)
    assert refused(file, kind)


@pytest.mark.parametrize("damage", ["missing", "wide", "more", "layer", "flat", "number"])
def test_tensors_of_another_shape_are_reported_before_the_model_is_read(ipa, world, tensors, damage):
    changed = dict(tensors)
    if damage == "missing":
        del changed["image_proj.norm.bias"]
    elif damage == "wide":
        changed["image_proj.norm.bias"] = torch.zeros(7)
    elif damage == "more":
        changed["image_proj.instruct.weight"] = torch.zeros(7)
    elif damage == "flat":
        changed["ip_adapter.1.to_k_ip.weight"] = torch.zeros(128)
    elif damage == "layer":
        changed["ip_adapter.3.to_v_ip.weight"] = torch.zeros(7, 128)
    else:
        changed["image_proj.norm.bias"] = torch.tensor(0.0)
    save_file(changed, world.cwd / "ip-adapter.safetensors")
    flags = ("--ip-adapter", "ip-adapter.safetensors", "--image-encoder", ENCODER)
    error = ipa("generate", *FAST, *REFERENCE, *flags, "--json").error()
    assert error["type"] == "ModelError" and ("image_proj." in error["message"] or "_ip.weight" in error["message"])


@pytest.mark.parametrize("name", ["ip_adapter", "image_encoder"])
def test_random_weights_take_no_adapter_from_elsewhere(name):
    with pytest.raises(UsageError, match="builds its own adapter") as told:
        make_plan(Settings(load_format="dummy", image=("x.png",), **{name: "own"}))
    assert told.value.hint == f"leave out --{name.replace('_', '-')}"


def test_random_weights_of_a_model_without_adapter_see_through_the_usual_encoder(tmp_path):
    model = shutil.copytree(DEMO, tmp_path / "model", ignore=shutil.ignore_patterns("ip_adapter", "*.safetensors"))
    plan = make_plan(Settings(model=str(model), load_format="dummy", image=("x.png",)))
    assert plan.adapter.encoder.config["hidden_size"] == 1664


@pytest.mark.parametrize("more", [{"steps": 7}, {"image_proj": {"x": 7}}, {7: torch.zeros(1)}, {"a": {"b": {}}}])
def test_a_pickle_that_holds_more_than_tensors_is_reported(tmp_path, tensors, more):
    torch.save({**tensors, **more}, tmp_path / "it.bin")
    with pytest.raises(ipa_cli.errors.IpaError, match="holds more than tensors"):
        weights.adapter_shapes(tmp_path / "it.bin")
