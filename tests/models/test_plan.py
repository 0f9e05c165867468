"""Models and adapters from disk: what is loaded, what is refused, and that a refusal comes before anything large."""

import json
import os
import pickle
import shutil
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

import ipa_cli
from ipa_cli.config import Settings, units
from ipa_cli.models.configurations import cross_attention_layers
from ipa_cli.models.plan import make_plan
from ipa_cli.models.weights import WeightsError, header, nested, readable_by_gpu

PACKAGE = Path(ipa_cli.__file__).parent
DEMO = PACKAGE / "demo"
UNET = "unet/diffusion_pytorch_model.safetensors"
ADAPTER = DEMO / "ip_adapter" / "ip-adapter.safetensors"
SMALL = ("--width", 64, "--height", 64, "--steps", 1, "--warmup", 0)
FAST = (*SMALL, "--seed", 7, "--prompt", "a star", "--scale", 0.8, "--guidance-scale", 5)
REFERENCE = ("--image", DEMO / "reference.png")


@pytest.fixture
def model(world) -> Path:
    """A diffusers folder of the user's own, adapter included."""
    shutil.copytree(DEMO, world.cwd / "model")
    return world.cwd / "model"


@pytest.fixture
def adapter(world) -> Path:
    """An adapter of the user's own with its image encoder beside it."""
    shutil.copytree(DEMO / "ip_adapter", world.cwd / "adapter")
    return world.cwd / "adapter"


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


def refused(ran, *words: str) -> dict[str, str]:
    assert ran.exit_code == 1, ran.stdout + ran.stderr
    error = ran.error()
    for word in words:
        assert word in error["message"], error
    assert "\n" not in error["message"] + error["hint"]
    return error


# --- what is loaded -------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_a_diffusers_folder_draws_as_the_demo_does(ipa, model, demo):
    ours = ipa("generate", *FAST, *REFERENCE, "--model", model, "--json")
    assert ours.json()["data"]["model"] == str(model)
    assert (pixels(ours) == demo).all()


@pytest.mark.slow
def test_no_library_reads_a_model_by_itself(ipa, model, demo, monkeypatch):
    """All parts are built from what was checked, with the weights that were read in threads."""
    import diffusers
    import transformers

    for kind in (diffusers.ModelMixin, diffusers.ConfigMixin, transformers.PreTrainedModel):
        for name in ("from_pretrained", "load_config"):
            monkeypatch.setattr(kind, name, None, raising=False)
    monkeypatch.setattr(transformers.PreTrainedTokenizerBase, "from_pretrained", None)
    assert (pixels(ipa("generate", *FAST, *REFERENCE, "--model", model, "--json")) == demo).all()


@pytest.mark.slow
def test_a_model_in_pickles_and_old_names_draws_as_the_demo_does(ipa, model, demo):
    """As SD 1.5's first repositories have it."""
    old = ((".to_q.", ".query."), (".to_k.", ".key."), (".to_v.", ".value."), (".to_out.0.", ".proj_attn."))
    for file in (path for path in model.rglob("*.safetensors") if path.parent.name != "ip_adapter"):
        state = load_file(file)
        for new, name in old if file.parent.name == "vae" else ():
            state = {key.replace(new, name): tensor for key, tensor in state.items()}
        stem = "diffusion_pytorch_model" if file.parent.name in ("unet", "vae") else "pytorch_model"
        torch.save(state, file.with_name(f"{stem}.bin"))
        file.unlink()
    assert (pixels(ipa("generate", *FAST, *REFERENCE, "--model", model, "--json")) == demo).all()


@pytest.mark.slow
def test_a_model_in_half_precision_is_read_in_full(ipa, model, demo):
    for file in model.rglob("*.safetensors"):
        save_file({name: tensor.half() for name, tensor in load_file(file).items()}, file)
    assert abs(pixels(ipa("generate", *FAST, *REFERENCE, "--model", model, "--json")) - demo).mean() < 1


def test_kinds_of_numbers_that_only_safetensors_knows_are_left_to_it(tmp_path):
    save_file({"x": torch.zeros(3, dtype=torch.complex64)}, tmp_path / "x.safetensors")
    save_file({"x": torch.zeros(3)}, tmp_path / "y.safetensors")
    assert not readable_by_gpu(tmp_path / "x.safetensors") and readable_by_gpu(tmp_path / "y.safetensors")


@pytest.mark.parametrize("kind", ["folder", "file", "relative folder", "subfolder"])
def test_an_adapter_is_found_as_folder_file_or_subfolder(world, adapter, kind):
    chosen = {
        "folder": {"ip_adapter": str(adapter)},
        "file": {"ip_adapter": str(adapter / "ip-adapter.safetensors")},
        "relative folder": {"ip_adapter": "adapter", "ip_adapter_weight_name": "ip-adapter.safetensors"},
        "subfolder": {"ip_adapter": str(world.cwd), "ip_adapter_subfolder": "adapter"},
    }[kind]
    found = make_plan(Settings(image=("x.png",), **chosen)).adapter
    assert found.location.folder / found.file == adapter / "ip-adapter.safetensors"
    assert Path(str(found.encoder)) == adapter / "image_encoder"


@pytest.mark.slow
def test_a_model_without_adapter_draws_from_the_prompt_alone(ipa, model):
    shutil.rmtree(model / "ip_adapter")
    ran = ipa("generate", *FAST, "--model", model, "--json")
    assert ran.data()["adapter"] is None and ran.data()["references"] == []
    assert "drawing from the prompt alone" in ran.stderr and "main memory" not in ran.stderr


@pytest.mark.slow
def test_a_reference_that_no_adapter_follows_is_warned_of(ipa, world):
    ran = ipa("generate", *FAST, *REFERENCE, "--ip-adapter", "none", "--json")
    assert ran.data()["references"] == [] and "none of the references is followed" in ran.stderr


@pytest.mark.slow
def test_weights_that_main_memory_has_no_room_for_are_reported_of(ipa, model, monkeypatch):
    monkeypatch.setattr("psutil.virtual_memory", lambda: SimpleNamespace(available=1000))
    ran = ipa("generate", *FAST, *REFERENCE, "--model", model, "--json")
    for beside in ("lora", "controlnet"):  # no parts of the model
        shutil.rmtree(model / beside)
    count = sum(tensor.numel() for path in model.rglob("*.safetensors") for tensor in load_file(path).values())
    assert f"the weights take {units.size(4 * count)} of main memory, and 1.0 kB are free" in ran.stderr
    assert "decoding 64x64 takes at least" in ran.error()["message"]


@pytest.mark.slow
def test_dummy_weights_are_seeded_and_their_adapter_counts(ipa, demo):
    dummy = ("generate", *FAST, "--load-format", "dummy", "--json")
    first, second = pixels(ipa(*dummy)), pixels(ipa(*dummy))
    assert (first == second).all()
    assert (first != pixels(ipa(*dummy, "--scale", 0.1))).any()
    assert (first != demo).any()


@pytest.mark.slow
def test_dummy_weights_need_no_weights(ipa, model):
    for weights in model.rglob("*.safetensors"):
        weights.unlink()
    assert pixels(ipa("generate", *FAST, "--model", model, "--load-format", "dummy", "--json")).shape == (64, 64, 3)


@pytest.mark.slow
def test_a_variant_of_some_parts_is_taken_where_it_is_and_the_others_are_reported(ipa, model, demo):
    whole = model / UNET
    whole.rename(whole.with_suffix(".fp16.safetensors"))
    ran = ipa("generate", *FAST, *REFERENCE, "--model", model, "--variant", "fp16", "--json")
    assert (pixels(ran) == demo).all()
    assert "not there as fp16: text_encoder, text_encoder_2, vae (read as they are)" in ran.stderr


def test_the_sdxl_preset_has_the_layers_of_sdxl():
    config = json.loads((PACKAGE / "presets" / "sdxl" / "unet" / "config.json").read_text())
    assert cross_attention_layers(config) == 70
    from diffusers import UNet2DConditionModel

    from ipa_cli.unet.attention import layers

    demo = json.loads((DEMO / "unet" / "config.json").read_text())
    with torch.device("meta"):
        assert cross_attention_layers(demo) == len(layers(UNet2DConditionModel.from_config(demo)))


# --- pickles --------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_a_pickle_of_bare_tensors_is_an_adapter_too(ipa, adapter, demo):
    torch.save(nested(load_file(ADAPTER)), adapter / "ip-adapter.bin")
    (adapter / "ip-adapter.safetensors").unlink()
    ours = ipa("generate", *FAST, *REFERENCE, "--ip-adapter", adapter, "--json")
    assert (pixels(ours) == demo).all()


class Malicious:
    def __init__(self, marker: Path):
        self.marker = marker

    def __reduce__(self) -> tuple[object, ...]:
        return os.mkdir, (str(self.marker),)


@pytest.mark.parametrize("saved_by", ["torch", "pickle"])
def test_a_pickle_with_code_is_refused_and_does_not_run(ipa, world, adapter, saved_by):
    marker = world.cwd / "ran"
    payload = {**nested(load_file(ADAPTER)), "more": Malicious(marker)}
    file = adapter / "ip-adapter.bin"
    if saved_by == "torch":
        torch.save(payload, file)
    else:
        file.write_bytes(pickle.dumps(payload))
    (adapter / "ip-adapter.safetensors").unlink()
    refused(ipa("generate", *FAST, *REFERENCE, "--ip-adapter", adapter, "--json"), "not a pickle of bare tensors")
    assert not marker.exists()


def test_an_adapter_that_a_disk_cannot_read_is_reported(ipa, world):
    (world.cwd / "broken.bin").symlink_to("/proc/self/mem")
    refused(ipa("generate", *FAST, *REFERENCE, "--ip-adapter", "broken.bin", "--json"), "cannot be read")


def test_the_malicious_pickle_is_malicious(world):
    """It would have run, had anything unpickled it."""
    pickle.loads(pickle.dumps(Malicious(world.cwd / "ran")))
    assert (world.cwd / "ran").is_dir()


@pytest.mark.parametrize("content", [b"", b"\x80\x04", b"PK\x03\x04junk", b"<html></html>", b"\x00" * 100])
def test_junk_that_calls_itself_a_pickle_is_reported(ipa, adapter, content):
    (adapter / "ip-adapter.bin").write_bytes(content)
    (adapter / "ip-adapter.safetensors").unlink()
    refused(ipa("generate", *FAST, *REFERENCE, "--ip-adapter", adapter, "--json"), "ip-adapter.bin")


def test_a_pickled_adapter_that_does_not_fit_is_reported(ipa, adapter):
    state = nested(load_file(ADAPTER))
    state["ip_adapter"] = {name: tensor[:, :64].clone() for name, tensor in state["ip_adapter"].items()}
    torch.save(state, adapter / "ip-adapter.bin")
    (adapter / "ip-adapter.safetensors").unlink()
    refused(ipa("generate", *FAST, *REFERENCE, "--ip-adapter", adapter, "--json"))


@pytest.mark.slow
def test_a_model_in_pickles_is_not_opened_as_code(ipa, model, world):
    torch.save({"weights": Malicious(world.cwd / "ran")}, model / "unet" / "diffusion_pytorch_model.bin")
    (model / UNET).unlink()
    ran = ipa("generate", *FAST, *REFERENCE, "--model", model, "--json")
    assert not (world.cwd / "ran").exists()
    refused(ran, "diffusion_pytorch_model.bin")


def test_a_checkpoint_pickle_is_refused(ipa, world):
    (world.cwd / "model.ckpt").write_bytes(b"\x80\x04")
    error = refused(ipa("generate", *FAST, "--model", "./model.ckpt", "--json"), "model.ckpt is a pickle")
    assert ".safetensors" in error["hint"]


# --- what does not fit ----------------------------------------------------------------------------------------


@pytest.fixture
def bare_model(model) -> Path:
    """A model that could not be loaded: what is told about it was told by reading small files alone."""
    for weights in (model / "unet", model / "vae", model / "text_encoder", model / "text_encoder_2"):
        (weights / next(weights.glob("*.safetensors")).name).write_bytes(b"not read")
    return model


def rewrite(path: Path, **changes: object) -> None:
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def test_an_adapter_of_another_width_is_reported_before_anything_large_is_read(ipa, bare_model, adapter):
    flat = {
        f"{part}.{name}": tensor if part == "image_proj" else tensor[:, :64].clone()
        for part, tensors in nested(load_file(ADAPTER)).items()
        for name, tensor in tensors.items()
    }
    save_file(flat, adapter / "ip-adapter.safetensors")
    ran = ipa("generate", *FAST, *REFERENCE, "--model", bare_model, "--ip-adapter", adapter, "--json")
    refused(ran, "11 cross-attention layers of width 64", "has 11 of width 128")


def test_an_adapter_for_fewer_layers_is_reported(ipa, bare_model, adapter):
    flat = {
        f"{part}.{name}": tensor
        for part, tensors in nested(load_file(ADAPTER)).items()
        for name, tensor in tensors.items()
        if not name.startswith("1.")
    }
    save_file(flat, adapter / "ip-adapter.safetensors")
    ran = ipa("generate", *FAST, *REFERENCE, "--model", bare_model, "--ip-adapter", adapter, "--json")
    refused(ran, "10 cross-attention layers", "has 11")


def test_an_image_encoder_of_another_width_is_reported(ipa, bare_model, adapter):
    rewrite(adapter / "image_encoder" / "config.json", projection_dim=64)
    ran = ipa("generate", *FAST, *REFERENCE, "--model", bare_model, "--ip-adapter", adapter, "--json")
    refused(ran, "takes images of width 256", "image_encoder (64)")


def test_a_missing_image_encoder_is_reported(ipa, bare_model, adapter):
    shutil.rmtree(adapter / "image_encoder")
    ran = ipa("generate", *FAST, *REFERENCE, "--model", bare_model, "--ip-adapter", adapter, "--json")
    refused(ran, "no image encoder")


def test_several_adapters_are_named(ipa, bare_model, adapter):
    shutil.copy(adapter / "ip-adapter.safetensors", adapter / "other.safetensors")
    ran = ipa("generate", *FAST, *REFERENCE, "--model", bare_model, "--ip-adapter", adapter, "--json")
    refused(ran, "holds several adapters: ip-adapter.safetensors, other.safetensors")


def test_weights_that_are_no_adapter_are_reported(ipa, bare_model):
    flags = ("--ip-adapter", DEMO / "vae" / "diffusion_pytorch_model.safetensors")
    refused(ipa("generate", *FAST, *REFERENCE, "--model", bare_model, *flags, "--json"), "is no IP-Adapter")


@pytest.mark.parametrize(
    "changes",
    [
        {"in_channels": 8},  # editing by instructions
        {"addition_embed_type": None, "cross_attention_dim": 1024},  # SD 2
        {"addition_embed_type": "image"},
        {"encoder_hid_dim_type": "text_proj"},
    ],
)
def test_a_model_of_another_architecture_is_reported(ipa, bare_model, changes):
    rewrite(bare_model / "unet" / "config.json", **changes)
    refused(ipa("generate", *FAST, "--model", bare_model, "--json"), "is not a model of SDXL or SD 1.5")


@pytest.mark.slow
@pytest.mark.parametrize("name", ["unet/config.json", "model_index.json", "scheduler/scheduler_config.json"])
@pytest.mark.parametrize("content", ["", "{", "[]", "\x00", None])
def test_a_broken_configuration_is_reported(ipa, model, name, content):
    if content is None:
        (model / name).unlink()
    else:
        (model / name).write_text(content)
    refused(ipa("generate", *FAST, *REFERENCE, "--model", model, "--json"), Path(name).name)


@pytest.mark.slow
@pytest.mark.parametrize("name", [UNET, "vae/diffusion_pytorch_model.safetensors", "text_encoder/model.safetensors"])
@pytest.mark.parametrize("damage", ["cut", "empty", "missing"])
def test_damaged_weights_are_reported(ipa, model, name, damage):
    whole = (model / name).read_bytes()
    if damage == "missing":
        (model / name).unlink()
    else:
        (model / name).write_bytes(whole[: len(whole) // 2] if damage == "cut" else b"")
    refused(ipa("generate", *FAST, *REFERENCE, "--model", model, "--json"), name.split("/")[0])


def test_a_missing_tokenizer_is_reported(ipa, model):
    shutil.rmtree(model / "tokenizer_2")
    refused(ipa("generate", *FAST, *REFERENCE, "--model", model, "--json"), "tokenizer_2")


def test_a_file_that_is_no_checkpoint_is_reported(ipa, world):
    shutil.copy(ADAPTER, world.cwd / "model.safetensors")
    refused(ipa("generate", *FAST, "--model", "model.safetensors", "--json"), "is an IP-Adapter")
    (world.cwd / "model.safetensors").write_bytes(b"junk")
    refused(ipa("generate", *FAST, "--model", "model.safetensors", "--json"), "not a whole .safetensors file")


@pytest.mark.parametrize("content", [b"", b"\x00" * 8, b"\xff" * 16, b"\x10" + b"\x00" * 7 + b"{}", b"<html></html>"])
def test_a_header_is_whole_or_reported(tmp_path, content):
    (tmp_path / "x.safetensors").write_bytes(content)
    with pytest.raises(WeightsError):
        header(tmp_path / "x.safetensors")
