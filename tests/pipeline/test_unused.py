"""Settings without an effect are said, by the commands that draw, before the model is loaded."""

from dataclasses import replace
from pathlib import Path

import pytest
from PIL import Image

import ipa_cli
from ipa_cli.config import Settings
from ipa_cli.engine import keywords
from ipa_cli.engine.engine import Engine
from ipa_cli.models.plan import make_plan


@pytest.fixture
def notes(ipa, monkeypatch):
    """What a command notes before it would load the model."""

    def stop(*_, **__):
        raise ipa_cli.IpaError("the model is loaded now")

    for name, colour in (("cat.png", "red"), ("dog.png", "blue")):
        Image.new("RGB", (64, 64), colour).save(name)
    mask = Image.new("L", (64, 64))
    mask.paste(255, (0, 0, 32, 64))
    mask.save("mask.png")

    def run(command: str, *flags: object) -> str:
        with monkeypatch.context() as patched:
            patched.setattr(Engine, "open", stop)
            ran = ipa(command, "--size", "64x64", "--steps", 4, "--backend", "eager", *flags)
        assert ran.exit_code == 1 and "the model is loaded now" in ran.stderr, ran.stderr
        return ran.stderr

    run.ipa = ipa
    return run


def test_what_is_given_twice_is_warned_of(notes):
    once = ("--control", "demo,image=mask.png", "--adapter", "own,image=cat.png", "--lora", "demo")
    seen = notes("generate", *once, *once)
    for said in ("--control demo,image=mask.png is", "--adapter own,image=cat.png is", "the LoRA outlines is"):
        assert f"warning: {said} given 2 times" in seen
    assert "2 times" not in notes("generate", *once, "--adapter", "own,image=dog.png")


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        ("--fit crop", "--fit has no effect without a reference"),
        ("--sharpening 0.5 --ip-mode style", "--ip-mode, --sharpening have no effect without a reference"),
        ("--mask mask.png --ip-end 0.5", "--mask, --ip-end have no effect without a reference"),
        ("--image-per-picture", "--image-per-picture has no effect without a reference"),
        ("--scale 0.3", "--scale has no effect without a reference"),
        ("--scale 0", None),
        ("", None),
    ],
)
def test_settings_of_references_without_one(notes, flags, said):
    stderr = notes("generate", "--ip-adapter", "none", *flags.split())
    assert said in stderr if said else "effect" not in stderr


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        ("--image cat.png --image-combine average", "--image-combine has no effect with a single reference"),
        ("--image cat.png --image-per-picture", "--image-per-picture has no effect with a single reference"),
        ("--adapter own,image=cat.png,combine=add", "combine= of --adapter has no effect with a single reference"),
        ("--image cat.png --image dog.png --image-combine average", None),
        ("--adapter own,image=cat.png --adapter own,image=cat.png,image=dog.png --image-combine average", None),
        (
            "--adapter own,image=cat.png --adapter own,image=cat.png,image=dog.png,combine=add --image-combine average",
            "--image-combine has no effect with a single reference",
        ),
        ("--image cat.png --image dog.png --image-per-picture", None),
        ("--image cat.png --fit crop --sharpening 0.5 --ip-mode style", None),
        ("--guidance-scale 1 --negative-prompt blur", "--negative-prompt has no effect without guidance"),
        ("--guidance-scale 1 --guidance-rescale 0.5", "--guidance-rescale has no effect without guidance"),
        (
            "--guidance-scale 1 --region mask=mask.png,prompt=star,negative=blur",
            "negative= of --region has no effect without guidance",
        ),
        ("--guidance-scale 2 --negative-prompt blur --region mask=mask.png,prompt=star,negative=blur", None),
        ("--guidance-scale 1 --gpus 2", "--gpus has no effect without guidance"),
        ("--vae-slicing", "--vae-slicing has no effect as pictures are always decoded one at a time"),
        ("--batch-size 2", "--batch-size has no effect with a single picture for each prompt"),
        ("--batch-size 2 --num-images 2", None),
        ("--step-cache forecast:3 --steps 2", "--step-cache forecast:3 has no effect in 2 steps"),
        ("--preset fast --steps 2", "--preset fast has no effect in 2 steps"),
        ("--preset fast", None),
        ("--lora-dir .", "--lora-dir has no effect without <lora:…> in a prompt"),
        ("--embedding-dir .", "--embedding-dir has no effect without embedding:name in a prompt"),
        ("--cache-push", "--cache-push has no effect without --cache-remote"),
        ("--cache-signing-key k.pem", "--cache-signing-key has no effect without --cache-push"),
        ("--server-token-file cat.png", "--server-token-file has no effect without --server"),
        ("--allow-fetch", "--allow-fetch has no effect without --from"),
        ("--ip-mode style --ip-mode layout", "--ip-mode takes one value: of those given the last one counts"),
        ("--seed 1 --seed 2 --force --force", "--seed takes one value: of those given the last one counts"),
    ],
)
def test_settings_that_a_request_has_no_use_for(notes, flags, said):
    stderr = notes("generate", *flags.split())
    assert said in stderr if said else "effect" not in stderr and "counts" not in stderr


@pytest.mark.slow
def test_settings_of_pictures_beside_image_embeddings(notes):
    assert notes.ipa("embed", "cat.png", "-o", "cat.safetensors").exit_code == 0
    assert "--fit, --sharpening have no effect with the image embeddings cat.safetensors" in notes(
        "generate", "--embeds", "cat.safetensors", "--fit", "crop", "--sharpening", 1
    )
    inside = notes("generate", "--adapter", "own,embeds=cat.safetensors,fit=crop")
    assert "fit= of --adapter has no effect with the image embeddings" in inside
    assert "--fit has no effect" in notes("sweep-scale", "--embeds", "cat.safetensors", "--fit", "crop")
    assert "effect" not in notes("generate", "--embeds", "cat.safetensors", "--ip-mode", "style")
    both = ("--adapter", "own,embeds=cat.safetensors", "--adapter", "own,image=cat.png")
    assert "effect" not in notes("generate", *both, "--fit", "crop")  # the second adapter's


def test_settings_that_a_sweep_has_no_use_for(notes):
    assert "--image-combine has no effect with a single reference" in notes(
        "sweep-scale", "--image", "cat.png", "--image", "dog.png", "--image-combine", "average"
    )
    Path("ipa.toml").write_text("image-per-picture = true\n")
    both = ("--adapter", "own,image=cat.png", "--adapter", "own,image=dog.png")
    assert "--image-per-picture has no effect: a row of this sweep has the references" in notes("sweep-scale", *both)
    assert "effect" not in notes("sweep-scale", "--image", "cat.png", "--image", "dog.png")  # a row for each, as always


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        ('--image cat.png --ip-layers {"down":1}', "--ip-mode and --ip-layers both choose layers"),
        ('--adapter own,image=cat.png,layers={"down":1}', "every --adapter has layers of its own"),
    ],
)
def test_modes_that_no_row_follows_are_refused(notes, flags, words):
    ran = notes.ipa("sweep-scale", *flags.split(), "--ip-mode", "full", "--ip-mode", "style")
    assert ran.exit_code == 2 and words in ran.stderr


def test_flags_given_twice_are_said_but_for_those_that_add_up(notes):
    quiet = notes.ipa("generate", "--image", "cat.png", "--image", "gone.png", "--steps", 1, "--steps", 2, "--quiet")
    assert "--steps takes one value" not in quiet.stderr
    again = notes.ipa("generate", "--image", "cat.png", "--image", "gone.png", "--steps", 1, "--steps", 2)
    assert "--steps takes one value" in again.stderr and "--image takes" not in again.stderr


STANDING = """
image-combine = "average"
fit = "crop"
sharpening = 0.5
negative-prompt = "blur"
guidance-rescale = 0.5
strength = 0.4
mask-blur = 4
hires-strength = 0.4
scale = 0.7
"""


@pytest.mark.parametrize("flags", ["--image cat.png --guidance-scale 1", "--ip-adapter none"])
def test_what_stands_in_a_settings_file_or_the_environment_is_not_said(notes, monkeypatch, flags):
    Path("ipa.toml").write_text(STANDING)
    monkeypatch.setenv("IPA_IP_END", "0.5")
    assert "effect" not in notes("generate", *flags.split())
    typed = notes("generate", *flags.split(), "--negative-prompt", "grain", "--strength", 0.3, "--guidance-scale", 1)
    assert "--negative-prompt has no effect without guidance" in typed and "the strength has no effect" in typed


def test_what_a_request_gives_is_said_and_what_its_engine_was_opened_with_is_not():
    opened = Settings(fit="crop")
    assert opened.given("fit", "sharpening") == ["fit"]
    asked, _ = keywords.of_request(opened, {"sharpening": 0.5, "fit": None})
    assert asked.fit == "crop" and asked.given("fit", "sharpening") == ["sharpening"]


def test_files_of_an_adapter_that_is_one_file_are_not_chosen_silently():
    folder = Path(ipa_cli.__file__).parent / "demo" / "ip_adapter"
    names = {"ip_adapter_subfolder": "sub", "ip_adapter_weight_name": "other.bin"}
    file, encoder = str(folder / "ip-adapter.safetensors"), str(folder / "image_encoder")
    settings = Settings(ip_adapter=file, image_encoder=encoder, **names)
    first, second = make_plan(settings).unused
    assert "--ip-adapter-subfolder sub is not used" in first and "--ip-adapter-weight-name other.bin is not" in second
    assert not make_plan(replace(settings, inherited=frozenset(names))).unused


def test_machine_settings_without_an_effect_are_noted(ipa):
    flags = ("--size", "64x64", "--steps", 1, "--warmup", 0, "--device", "cpu", "--offload", "model", "--force")
    stderr = ipa("generate", *flags, "--compile-options", '{"cuda_graph": false}').stderr
    assert "--offload model has no effect on cpu" in stderr
    assert "--compile-options has no effect with the backend eager" in stderr
