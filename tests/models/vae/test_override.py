"""`--vae`: another VAE from a file, a folder or a hub, for folders and one-file models alike."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from ipa_cli.config import Settings
from ipa_cli.errors import UsageError
from ipa_cli.models import loader
from ipa_cli.models.location import ModelError
from ipa_cli.models.plan import DEMO, make_plan
from ipa_cli.result import NullReporter
from tests import checkpoints
from tests.hubs import Hub, serving
from tests.hubs import folder as files_of

WEIGHTS = "diffusion_pytorch_model.safetensors"
CPU = torch.device("cpu")
Tensors = dict[str, torch.Tensor]


@pytest.fixture(scope="module")
def other() -> Tensors:
    """The tensors of a VAE that is not the demo's."""
    return {name: tensor + 1 for name, tensor in load_file(DEMO / "vae" / WEIGHTS).items()}


def vae_of(model: object, vae: object) -> Tensors:
    plan = make_plan(Settings(model=str(model), vae=str(vae), ip_adapter="none", prompt="x"))
    return loader.load(plan, CPU, CPU, torch.float32, NullReporter(), False).vae.state_dict()


def assert_same(ours: Tensors, theirs: Tensors) -> None:
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)


def old_names(tensors: Tensors) -> Tensors:
    """As diffusers named a VAE's attention until 2023."""
    pairs = {"to_q": "query", "to_k": "key", "to_v": "value", "to_out.0": "proj_attn"}
    for new, old in pairs.items():
        tensors = {name.replace(f"attentions.0.{new}.", f"attentions.0.{old}."): one for name, one in tensors.items()}
    return tensors


def without_prefix(tensors: Tensors) -> Tensors:
    return {name.removeprefix(checkpoints.VAE): tensor for name, tensor in checkpoints.vae(tensors).items()}


@pytest.mark.slow
@pytest.mark.parametrize(
    "form",
    [
        without_prefix,
        checkpoints.vae,
        dict,
        old_names,
        lambda tensors: {f"vae.{name}": tensor for name, tensor in tensors.items()},
        lambda tensors: {"x": torch.ones(1), **checkpoints.vae(tensors)},
    ],
    ids=[
        "bare",
        "of a checkpoint",
        "of diffusers",
        "of old diffusers",
        "of diffusers, with a prefix",
        "in a checkpoint",
    ],
)
def test_a_file_may_name_its_tensors_in_any_way(world, other, form):
    save_file({name: tensor.contiguous() for name, tensor in form(other).items()}, "other.safetensors")
    assert_same(vae_of("demo", "other.safetensors"), other)


def folder(path: Path, tensors: Tensors, **changes: object) -> Path:
    path.mkdir(parents=True)
    config = json.loads((DEMO / "vae" / "config.json").read_text())
    (path / "config.json").write_text(json.dumps(config | changes))
    save_file(tensors, path / WEIGHTS)
    return path


@pytest.mark.slow
def test_a_folder_is_a_vae_or_a_model_that_has_one(world, other):
    folder(world.cwd / "whole" / "vae", other)
    for name in ("whole", "whole/vae"):
        assert_same(vae_of("demo", name), other)


@pytest.mark.slow
@pytest.mark.parametrize("inside", ["", "vae/"], ids=["alone", "in a model"])
def test_a_hub_gives_a_vae_and_nothing_more(world, other, inside):
    repo = f"someone/{'whole' if inside else 'alone'}"
    files = {inside + name: data for name, data in files_of(folder(world.cwd / "other", other)).items()}
    with serving(Hub({repo: {**files, "sdxl.vae.safetensors": b"", "unet/x.safetensors": b""}})) as hub:
        assert_same(vae_of("demo", repo), other)
    assert {sent.file for sent in hub.sent("")} == {"", *files}


def test_with_another_vae_the_models_own_is_not_loaded(world, other):
    shutil.copytree(DEMO, "model", ignore=shutil.ignore_patterns("diffusion_pytorch_model.safetensors"))
    shutil.copy(DEMO / "unet" / WEIGHTS, "model/unet")
    folder(world.cwd / "other", other)
    assert_same(vae_of(world.cwd / "model", "other"), other)


@pytest.mark.slow
def test_a_picture_is_drawn_with_it(ipa, world, other):
    folder(world.cwd / "other", other)
    small = ("generate", "--width", 64, "--height", 64, "--steps", 1, "--warmup", 0, "--seed", 1, "--json")
    usual, ours = (ipa(*small, *more).data()["images"][0] for more in ((), ("--vae", "other")))
    assert usual["sha256"] != ours["sha256"]
    again = ipa("generate", "--from", ours["path"], "--warmup", 0, "--json").data()["images"][0]
    assert again["sha256"] == ours["sha256"]


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"scaling_factor": 0.5}, "its scaling_factor is 0.5, this model's 1.0"),
        ({"latent_channels": 16}, "its latent_channels is 16, this model's 4"),
        ({"_class_name": "AutoencoderTiny"}, "is of the class AutoencoderTiny"),
    ],
)
def test_a_vae_for_other_models_is_reported(world, other, changes, told):
    folder(world.cwd / "other", other, **changes)
    with pytest.raises(ModelError, match=told):
        vae_of("demo", "other")


@pytest.mark.parametrize(
    ("name", "tensors", "told"),
    [
        ("wide.safetensors", {"decoder.conv_in.weight": torch.ones(64, 16, 3, 3)}, "its latent_channels is 16"),
        ("part.safetensors", {"decoder.conv_in.weight": torch.ones(64, 4, 3, 3)}, "of its vae is missing"),
        ("lora.safetensors", {"x.lora_up.weight": torch.ones(1)}, "is a LoRA"),
        ("tiny.safetensors", {"decoder.1.weight": torch.ones(1)}, r"a small VAE for previews \(TAESD\)"),
        ("none.safetensors", None, "there is no file"),
        ("nothing", None, "there is no VAE 'nothing'"),
        (".", None, "is no VAE: it has no config.json"),
    ],
)
def test_what_is_no_vae_is_reported(world, name, tensors, told):
    if tensors:
        save_file(tensors, name)
    with pytest.raises(ModelError, match=told):
        vae_of("demo", name)


def test_random_weights_have_a_vae_of_their_own(world):
    with pytest.raises(UsageError, match="builds its own VAE"):
        make_plan(Settings(load_format="dummy", vae="other"))


@pytest.mark.parametrize("name", [WEIGHTS, "diffusion_pytorch_model.fp16.safetensors"])
def test_a_vae_named_by_its_file_is_held_against_the_configuration_beside_it(tmp_path, name):
    shutil.copytree(DEMO / "vae", folder := tmp_path / "vae")
    (folder / WEIGHTS).rename(folder / name)
    config = json.loads((folder / "config.json").read_text())
    assert make_plan(Settings(vae=str(folder / name), ip_adapter="none")).vae is not None
    (folder / "config.json").write_text(json.dumps({**config, "scaling_factor": 0.5}))
    for place in (folder, folder / name):
        with pytest.raises(ModelError, match=r"for other models: its scaling_factor is 0\.5"):
            make_plan(Settings(vae=str(place), ip_adapter="none"))
