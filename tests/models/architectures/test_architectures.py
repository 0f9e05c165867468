"""The table of architectures, and that a further one is drawn with once it is in the table."""

import json
import re
from dataclasses import fields
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import ipa_cli
from ipa_cli import backends
from ipa_cli.config import Settings
from ipa_cli.models import architectures
from ipa_cli.models.architectures import SD15, SDXL, base, clip
from ipa_cli.models.architectures.base import PRESETS
from tests.models.architectures import toy
from tests.test_layering import MODULES, imports

PACKAGE = Path(ipa_cli.__file__).parent


@pytest.fixture
def with_toy(monkeypatch):
    monkeypatch.setattr(architectures, "TABLE", (toy.TOY, *architectures.TABLE))


def drawn(ipa, model, *flags):
    size = ("--width", 96, "--height", 64, "--steps", 2, "--seed", 1, "--warmup", 0)
    ran = ipa("generate", "--model", model, "--load-format", "dummy", "--backend", "eager", *size, *flags, "--json")
    with Image.open(ran.data()["images"][0]["path"]) as picture:
        return np.asarray(picture.convert("RGB"), dtype=int)


@pytest.mark.slow
def test_a_further_architecture_draws_once_it_is_in_the_table(ipa, world, with_toy):
    model = toy.write(world.cwd / "model")
    first = drawn(ipa, model, "--prompt", "a fox")
    assert first.shape == (64, 96, 3) and first.std() > 1
    assert abs(drawn(ipa, model, "--prompt", "a blue house") - first).max() > 0  # its own way to encode
    assert abs(drawn(ipa, model, "--prompt", "a fox", "--scale", 0) - first).max() > 0  # its adapter is attached


def test_masks_have_the_size_of_its_latents(ipa, world, with_toy):
    Image.new("L", (96, 64), 255).save(world.cwd / "white.png")
    half = Image.new("L", (96, 64), 0)
    half.paste(255, (0, 0, 48, 64))
    half.save(world.cwd / "half.png")
    model = toy.write(world.cwd / "model")
    whole = drawn(ipa, model, "--prompt", "a fox")
    assert (drawn(ipa, model, "--prompt", "a fox", "--mask", world.cwd / "white.png") == whole).all()
    assert (drawn(ipa, model, "--prompt", "a fox", "--mask", world.cwd / "half.png") != whole).any()


def test_without_it_in_the_table_the_model_is_refused_by_name(ipa, world):
    ran = ipa("generate", "--model", toy.write(world.cwd / "model"), "--load-format", "dummy", "--json")
    assert "is not a model of SDXL or SD 1.5" in ran.error()["message"]


def test_a_vae_of_other_latents_than_the_architectures_is_refused(ipa, world, with_toy):
    model = toy.write(world.cwd / "model")
    config = json.loads((model / "vae" / "config.json").read_text())
    longer = {key: [*value, value[-1]] for key, value in config.items() if isinstance(value, list)}
    (model / "vae" / "config.json").write_text(json.dumps({**config, **longer}))
    ran = ipa("generate", "--model", model, "--load-format", "dummy", "--json")
    assert "pixels for each latent pixel of the VAE, of Toy: 8 and 4 do not fit" in ran.error()["message"]


def test_messages_and_presets_follow_the_table(with_toy):
    assert architectures.names() == "Toy, SDXL or SD 1.5"
    assert architectures.presets() == ("toy", "sdxl", "sd15")
    assert architectures.of_preset("toy") is toy.TOY and architectures.of_preset("another") is None


def test_the_presets_for_completion_are_those_of_the_table():
    (words,) = (one.metadata["words"] for one in fields(Settings) if one.name == "model")
    assert sorted(words[1:]) == sorted(architectures.presets())


@pytest.mark.parametrize("architecture", architectures.TABLE, ids=lambda one: one.preset)
def test_each_architecture_is_that_of_its_preset(architecture):
    unet = json.loads((PRESETS / architecture.preset / "unet" / "config.json").read_text())
    assert architectures.of_unet(unet) is architecture
    assert [one for one in architectures.TABLE if one.fits_unet(unet)] == [architecture]
    assert unet["cross_attention_dim"] == architecture.cross_attention_dim
    assert architecture.latent_factor * unet["sample_size"] == architecture.native_size


@pytest.mark.parametrize(
    "change", [{"in_channels": 8}, {"cross_attention_dim": 1024}, {"class_embed_type": "timestep"}]
)
def test_a_unet_that_takes_other_inputs_is_of_no_architecture(change):
    assert architectures.of_unet({"cross_attention_dim": 768, **change}) is None
    assert architectures.of_unet({"cross_attention_dim": 768}) is SD15
    assert architectures.of_unet({"addition_embed_type": "text_time"}) is SDXL


def test_no_module_outside_the_room_asks_for_one_architecture():
    room = "ipa_cli.models.architectures"
    single = {f"{room}.{name}" for name in ("SDXL", "SD15", "sdxl", "sd15", "sdxl.SDXL", "sd15.SD15")}
    outside = {name for name in MODULES if not name.startswith("models/architectures")}
    assert not {name for name in outside if imports(name) & single}
    assert imports("models/architectures") & single


def test_the_guide_to_a_further_architecture_names_what_exists():
    import diffusers

    from ipa_cli.unet import inputs

    text = (PACKAGE.parent / "docs" / "adding-a-model-family.md").read_text(encoding="utf-8")
    named = {name.replace("<preset>", "sd15").rstrip("/") for name in re.findall(r"`([^`\n]+)`", text)}
    paths = {name for name in named if "/" in name or name.endswith(".md")}
    missing = {path for path in paths if not any((at / path).exists() for at in (PACKAGE.parent, PRESETS / "sd15"))}
    assert len(paths) > 8 and not missing
    names = {name for name in named - paths if re.fullmatch(r"[\w.]+", name)}
    places = (base, architectures, inputs, base.Architecture, diffusers, clip, backends.MODULES)
    known = {"unet", "vae", "scheduler", "latent_channels", *places[-1]}  # folders, and what configurations call it
    known |= {"added_cond_kwargs", "__init__", "clip.encode"}
    assert not {name for name in names if name not in known and not any(hasattr(place, name) for place in places)}
    assert "latent_factor" in names and hasattr(clip, "encode")
    (refusal,) = re.findall(r'\("(this UNet has parts that[^"]+)"\)', text.replace("\n", " "))
    assert refusal in (PACKAGE / "backends" / "inductor" / "regions.py").read_text(encoding="utf-8")
