"""`--lora` and `<lora:…>` through the program: pictures, what they record, and drawing them again."""

from __future__ import annotations

import hashlib

import pytest
import torch
from PIL import Image

from ipa_cli.engine.engine import Engine
from ipa_cli.errors import IpaError
from ipa_cli.images.metadata import read_settings
from ipa_cli.models import loader
from tests import hubs, loras

FAST = ("--size", "64x64", "--steps", 2, "--warmup", 0, "--seed", 1, "--backend", "eager")


@pytest.fixture
def style(world):
    return loras.write(world.cwd / "style.safetensors", loras.of_demo(strength=1.0))


def pixels(world, name: str) -> bytes:
    with Image.open(world.cwd / name) as picture:
        return picture.tobytes()


@pytest.mark.slow
def test_a_picture_records_its_loras_and_is_drawn_again_with_them(ipa, world, style):
    assert ipa("generate", *FAST, "-o", "plain.png").exit_code == 0
    ran = ipa("generate", *FAST, "--lora", "style.safetensors,weight=0.5,text_weight=0.25", "-o", "a.png")
    assert ran.exit_code == 0, ran.stderr
    assert pixels(world, "a.png") != pixels(world, "plain.png")
    recorded, data = read_settings(world.cwd / "a.png"), style.read_bytes()
    body = hashlib.sha256(data[8 + int.from_bytes(data[:8], "little") :]).hexdigest()
    (one,) = recorded["loras"]
    assert one == {
        "name": "style",
        "sha256": hashlib.sha256(data).hexdigest(),
        "data_sha256": body,
        "weight": 0.5,
        "text_weight": 0.25,
    }
    assert recorded["settings"]["lora"] == ["style.safetensors,weight=0.5,text_weight=0.25"]
    with Image.open(world.cwd / "a.png") as picture:
        text = picture.text["parameters"]
    assert " <lora:style:0.25:0.5>\n" in text and f'Lora hashes: "style: {body[:12]}"' in text
    assert "loras" not in read_settings(world.cwd / "plain.png")

    ran = ipa("generate", "--from", "a.png", "-o", "again.png")
    assert ran.exit_code == 0 and "has changed" not in ran.stderr
    assert (world.cwd / "again.png").read_bytes() == (world.cwd / "a.png").read_bytes()
    loras.write(style, loras.of_demo(seed=1))
    ran = ipa("generate", "--from", "a.png", "-o", "other.png")
    assert ran.exit_code == 0 and "the LoRA style has changed since a.png was drawn" in ran.stderr


@pytest.mark.slow
def test_a_tag_in_a_prompt_is_the_flag(ipa, world, style):
    (world.cwd / "loras" / "mine").mkdir(parents=True)
    style.rename(world.cwd / "loras" / "mine" / "style.safetensors")
    there = ("--lora-dir", "loras")
    flag = ("--lora", "loras/mine/style.safetensors,weight=0.5")
    assert ipa("generate", *FAST, *flag, "-p", "a star", "-o", "a.png").exit_code == 0
    ran = ipa("generate", *FAST, *there, "-p", "a star <lora:style:0.5>", "-p", "a star", "-o", "b-{index}.png")
    assert ran.exit_code == 0 and "plain words" not in ran.stderr
    assert pixels(world, "b-0.png") == pixels(world, "a.png") != pixels(world, "b-1.png")
    recorded = read_settings(world.cwd / "b-0.png")
    assert recorded["prompt"] == "a star" and recorded["loras"][0]["weight"] == 0.5
    assert ipa("generate", "--from", "b-0.png", "-o", "c.png").exit_code == 0
    assert pixels(world, "c.png") == pixels(world, "a.png")
    ran = ipa("generate", *FAST, "-p", "a star <lora:style:0.5>", "-o", "d.png")
    assert "read as plain words" in ran.stderr and "with --lora-dir those in the prompt" in ran.stderr


@pytest.mark.slow
def test_a_sweep_varies_the_weight_without_compiling(ipa, world, style):
    flags = ("--size", "64x64", "--steps", 2, "--seed", 1, "--scales", "0,1", "--backend", "eager", "-o", "sweep")
    ran = ipa("sweep-scale", *flags, "--lora", "style.safetensors", "--lora-weights", "0,0.5,1", "--json")
    data = ran.data()
    assert len(data["points"]) == 6 and data["recompiles"] == 0
    assert data["plan"]["lora_weights"] == [0.0, 0.5, 1.0] and data["plan"]["loras"][0][0][:2] == [1.0, 1.0]
    assert len({point["sha256"] for point in data["points"]}) == 6
    recorded = read_settings(world.cwd / "sweep" / "pictures" / "row-2-reference-scale-0.png")
    assert recorded["loras"][0]["weight"] == 0.5


@pytest.mark.parametrize("command", [("generate",), ("sweep-scale", "--scales", "0,1")])
def test_every_prompt_of_several_is_checked_for_its_loras(ipa, world, style, monkeypatch, command):
    monkeypatch.setattr(loader, "load", lambda *_, **__: pytest.fail("weights are read"))
    (world.cwd / "loras").mkdir()
    style.rename(world.cwd / "loras" / "sdxl_lightning_8step.safetensors")
    (world.cwd / "loras" / "lcm.safetensors").write_bytes(
        (world.cwd / "loras" / "sdxl_lightning_8step.safetensors").read_bytes()
    )
    there = (*command, "--device", "cpu", "--lora-dir", "loras", "--json")
    fast, slow = "a star <lora:sdxl_lightning_8step:1>", "a star"
    ran = ipa(*there, "--preset", "few-step", "-p", fast, "-p", slow)
    assert "neither model nor LoRA says" in ran.error()["message"]
    ran = ipa(*there, "--preset", "few-step", "-p", fast, "-p", "a star <lora:lcm:1>")
    assert "want different samplers or steps" in ran.error()["message"]


def test_weights_of_a_sweep_are_those_that_a_lora_may_have(ipa, world, style):
    flags = ("--scales", "0,1", "--lora", "style.safetensors,weight=2", "--lora-weights", "1,15", "-o", "sweep")
    assert "weight of style to 30: expected a number" in ipa("sweep-scale", *flags, "--json").error()["message"]


@pytest.mark.slow
def test_a_lora_comes_from_the_hub(ipa, world, style):
    files = {"a.safetensors": style.read_bytes(), "in/b.safetensors": b"", "README.md": b""}
    with hubs.serving(hubs.Hub({"me/style": files})) as hub:
        assert ipa("generate", *FAST, "--lora", "me/style", "-o", "a.png").exit_code == 0
        ran = ipa("generate", *FAST, "--lora", "me/style:b.safetensors", "--json")
        assert "me/style has no b.safetensors" in ran.error()["message"]
        ran = ipa("generate", *FAST, "--lora", "me/other", "--json")
        assert "has no repository 'me/other'" in ran.error()["message"]
    assert len(hub.sent("a.safetensors")) == 1
    assert read_settings(world.cwd / "a.png")["settings"]["lora"] == ["me/style"]
    assert ipa("generate", *FAST, "--lora", "style.safetensors", "-o", "b.png").exit_code == 0
    assert pixels(world, "a.png") == pixels(world, "b.png")


@pytest.mark.parametrize(
    ("flags", "words", "code"),
    [
        (("--lora", "nowhere.safetensors"), "there is no LoRA 'nowhere.safetensors'", 1),
        (("--lora", "empty"), "empty holds no LoRA", 1),
        (("--lora", "several"), "several holds several files: a.safetensors, b.safetensors", 1),
        (("--lora", "notes.txt"), "notes.txt is no .safetensors file", 1),
        (("--lora", "broken.safetensors"), "not a whole .safetensors file", 1),
        (("--lora", "style.safetensors,weight=1e9"), "expected a number from -20 to 20", 2),
        (("--lora", "style.safetensors", "--backend", "oneflow"), "oneflow", 1),
        (("--lora-dir", "several", "-p", "x <lora:c:1>"), "has no LoRA 'c'", 1),
        (("--lora-dir", "several", "-p", "x <lora:a:much>"), "'much' is no weight", 2),
        (("--lora-dir", "several", "-p", "x <lora:../style:1>"), "has no LoRA '../style'", 1),
        (("--lora-dir", "several", "-p", f"x <lora:{'n' * 300}:1>"), "has no LoRA 'nnn", 1),
        (("--lora", "style.safetensors:0.8"), "':0.8' after the file style.safetensors", 2),
        (("--lora-dir", "nowhere", "-p", "x <lora:a:1>"), "there is no folder nowhere", 1),
    ],
)
def test_what_is_wrong_is_said_before_weights_are_read(ipa, world, style, monkeypatch, flags, words, code):
    monkeypatch.setattr(loader, "load", lambda *_, **__: pytest.fail("weights are read"))
    for name in ("empty", "several"):
        (world.cwd / name).mkdir()
    for name in ("a", "b"):
        loras.write(world.cwd / "several" / f"{name}.safetensors", loras.of_demo())
    (world.cwd / "notes.txt").write_text("x")
    (world.cwd / "broken.safetensors").write_bytes(style.read_bytes()[:-50])
    ran = ipa("generate", "--device", "cpu", *FAST[:-2], *flags, "--json")
    assert words in ran.error()["message"] and ran.exit_code == code, ran.stdout
    assert "\n" not in ran.error()["message"]


def test_a_lora_whose_numbers_leave_the_range_is_named(ipa, world):
    tensors = loras.of_demo()
    alphas = {name.replace("lora_A.weight", "alpha"): torch.tensor(1e38) for name in tensors if "lora_A" in name}
    loras.write(world.cwd / "style.safetensors", {**tensors, **alphas})
    said = ipa("generate", "--device", "cpu", *FAST, "--lora", "style.safetensors", "--json").error()
    assert "the picture with the LoRA style came out as NaN" in said["message"] and "lower weight" in said["hint"]


def test_compiling_checks_a_lora_and_needs_nothing_for_it(ipa, world, style, monkeypatch):
    ran = ipa("compile", "--device", "cpu", "--lora", "nowhere.safetensors", "--json")
    assert "there is no LoRA" in ran.error()["message"]

    def stop(*_, **__):
        raise IpaError("weights are read")

    monkeypatch.setattr(loader, "load", stop)
    ran = ipa("compile", "--device", "cpu", "--lora", "style.safetensors")
    assert "a LoRA needs no graph of its own" in ran.stderr and "weights are read" in ran.stderr


def test_a_foreign_picture_names_no_address(ipa, world, style):
    from tests.engine.test_replay import carrying

    asked = {"lora": ["https://example.org/a.safetensors"]}
    carrying(world.cwd / "a.png", ipa={"schema_version": 1, "settings": asked})
    ran = ipa("generate", "--from", "a.png", "--json")
    assert "contacts no server because of a picture" in ran.error()["message"]


def test_files_of_the_same_name_are_told_apart_when_drawn_again(tmp_path):
    from types import SimpleNamespace

    from ipa_cli.engine.replay import Recorded, check_same_loras

    warned = []
    recorded = Recorded(tmp_path, {}, (), loras=(("style", "1"), ("style", "2"), ("gone", "3")))
    loaded = [SimpleNamespace(file=SimpleNamespace(name="style", sha256=digest)) for digest in "12"]
    check_same_loras(recorded, loaded, SimpleNamespace(warn=warned.append))
    assert not warned
    check_same_loras(recorded, loaded[1:], SimpleNamespace(warn=warned.append))
    assert len(warned) == 1


def test_a_file_that_a_picture_names_and_that_is_gone_does_not_come_from_the_hub(ipa, world):
    from tests.engine.test_replay import carrying

    asked = {"lora": ["loras/ink.safetensors", "me/style"]}
    carrying(world.cwd / "a.png", ipa={"schema_version": 1, "settings": asked})
    ran = ipa("generate", "--from", "a.png")
    assert "there is no LoRA 'loras/ink.safetensors'" in ran.stderr
    assert "loads from the hub me/style\n" in ran.stderr


@pytest.mark.slow
def test_a_picture_that_cannot_be_merged_leaves_the_model_as_it_was(world, style, monkeypatch):
    from dataclasses import replace

    from ipa_cli.config import LoraConfig, Settings
    from ipa_cli.models.lora import change
    from ipa_cli.models.lora.lora import load
    from ipa_cli.models.plan import make_plan
    from ipa_cli.pipeline.references import load_references
    from ipa_cli.pipeline.task import make_request
    from ipa_cli.result import NullReporter

    settings = Settings(prompt="a star", width=64, height=64, steps=1, seed=1, device="cpu", backend="eager", warmup=0)
    engine = Engine.open(settings, make_plan(settings), NullReporter())
    before = {name: weight.clone() for name, weight in engine.model.unet.state_dict().items()}
    found = load((LoraConfig(str(style)),), engine.plan, NullReporter())
    asked = make_request(settings, engine.plan, load_references(settings, NullReporter()), found)
    merged, calls = change.merged, []

    def fails(*arguments):
        calls.append(1)
        if len(calls) == 2:
            raise RuntimeError("no memory")
        return merged(*arguments)

    with monkeypatch.context() as patched:
        patched.setattr(change, "merged", fails)
        with pytest.raises(RuntimeError):
            engine.draw(asked)
    assert all(torch.equal(weight, before[name]) for name, weight in engine.model.unet.state_dict().items())
    assert engine.draw(asked).images[0].tobytes() != engine.draw(replace(asked, loras=())).images[0].tobytes()
