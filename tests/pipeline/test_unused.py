"""Settings without an effect are said, by the commands that draw, before the model is loaded."""

from pathlib import Path

import pytest
from PIL import Image

import ipa_cli
from ipa_cli.config import Settings
from ipa_cli.engine import keywords
from ipa_cli.engine.engine import Engine


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
