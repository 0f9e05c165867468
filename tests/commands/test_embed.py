"""`ipa embed`, and what `--embeds` refuses."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from safetensors import safe_open
from safetensors.numpy import load_file, save_file

import ipa_cli

REFERENCE = Path(ipa_cli.__file__).parent / "demo" / "reference.png"
FAST = ("--width", 64, "--height", 64, "--steps", 2, "--warmup", 0, "--seed", 7)


@pytest.fixture
def embeds(ipa, world):
    ran = ipa("embed", REFERENCE, "-o", "one.safetensors")
    assert ran.exit_code == 0 and "1 picture for demo" in ran.stdout, ran.stderr
    return world.cwd / "one.safetensors"


def changed(path: Path, tensors=None, **metadata) -> None:
    with safe_open(path, framework="np") as file:
        known = json.loads(file.metadata()["ipa"])
    save_file({**load_file(path), **(tensors or {})}, path, {"ipa": json.dumps({**known, **metadata})})


@pytest.mark.slow
def test_an_existing_file_is_kept_unless_forced(ipa, embeds):
    ran = ipa("embed", REFERENCE, "-o", embeds, "--json")
    assert ran.exit_code == 1 and "is there already" in ran.error()["message"]
    before = embeds.read_bytes()
    assert ipa("embed", REFERENCE, "-o", embeds, "--force").exit_code == 0 and embeds.read_bytes() == before


def test_what_does_not_fit_is_refused(ipa, embeds, world):
    whole, positive = embeds.read_bytes(), load_file(embeds)["positive"]

    def refused(words: str, *flags: object) -> None:
        ran = ipa("generate", *FAST, "--embeds", embeds, *flags, "--json")
        assert ran.exit_code in (1, 2) and words in ran.error()["message"] and ran.error()["hint"]
        assert not list(world.cwd.glob("*.png"))
        embeds.write_bytes(whole)

    changed(embeds, file="ip-adapter_sdxl.safetensors")
    refused("made for the adapter ip-adapter_sdxl.safetensors")
    changed(embeds, {"positive": positive * np.float32("nan")})
    refused("not finite")
    changed(embeds, {"positive": positive[:, 1:].copy()})
    refused("of shape")
    changed(embeds, format="x")
    refused("no image embeddings")
    wrong = ipa("generate", *FAST, "--embeds", REFERENCE, "--json").error()
    assert "no whole file of embeddings" in wrong["message"] and "--embeds reference.safetensors" in wrong["hint"]
    embeds.write_bytes(whole[:-1])
    refused("no whole file of embeddings: it is cut off")
    embeds.write_bytes(b"Not found\n")
    refused("no whole file of embeddings: it is a text file")
    refused("--image and --embeds are both given", "--image", REFERENCE)
    refused("2 image weights", "--image-weight", 1, "--image-weight", 1)


@pytest.mark.slow
def test_embeddings_may_come_from_stdin(ipa, embeds, stdin, world):
    with embeds.open("rb") as file:
        stdin(file.fileno())
        assert ipa("generate", *FAST, "--embeds", "-", "-o", "stdin.png").exit_code == 0
    assert ipa("generate", *FAST, "--embeds", embeds, "-o", "file.png").exit_code == 0
    pixels = [Image.open(world.cwd / name).tobytes() for name in ("stdin.png", "file.png")]
    assert pixels[0] == pixels[1]
    assert "~nobody-of-that-name" in ipa("generate", "--embeds", "~nobody-of-that-name/x", "--json").error()["message"]


def test_a_device_in_the_place_of_embeddings_is_refused(ipa):
    assert "/dev/zero is a device" in ipa("generate", *FAST, "--embeds", "/dev/zero", "--json").error()["message"]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("nowhere.png",), "nowhere.png"),
        ((REFERENCE, "-o", "cat.png"), "not named .safetensors"),
        ((REFERENCE, "-o", ""), "not named .safetensors"),
        ((REFERENCE, "-o", "/dev/null/a.safetensors"), "Not a directory"),
        ((REFERENCE, "-o", f"{'x' * 300}.safetensors"), "too long"),
        ((REFERENCE, "--ip-adapter", "none"), "one real adapter"),
    ],
)
def test_what_cannot_be_encoded_is_reported(ipa, world, arguments, words):
    ran = ipa("embed", *arguments, "--json")
    assert ran.exit_code in (1, 2) and words in ran.error()["message"]
    assert world.files() == []
