"""Modes, combined, negative and tiled references through the program: what pictures record, and what is refused."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from ipa_cli.images.metadata import read_settings
from ipa_cli.models import loader

FAST = ("--width", 64, "--height", 64, "--steps", 2, "--warmup", 0, "--seed", 1, "--backend", "eager", "-p", "a star")
TWO = ("--image", "cat.png", "--image", "dog.png")


@pytest.fixture
def references(world):
    for name, size, colour in (("cat", (48, 48), "red"), ("dog", (48, 48), "navy"), ("wide", (96, 48), "lime")):
        Image.new("RGB", size, colour).save(world.cwd / f"{name}.png")
    Image.new("L", (64, 64), 255).save(world.cwd / "white.png")
    return world.cwd


def digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("flags", "recorded", "text"),
    [
        (("--image", "cat.png", "--ip-mode", "weak-middle"), {"mode": "weak-middle"}, "IP-Adapter mode: weak-middle"),
        (
            (*TWO, "--image-combine", "norm-average", "--image-weight", 1, "--image-weight", 0.5),
            {"combine": "norm-average"},
            "IP-Adapter combine: norm-average",
        ),
        (
            ("--image", "wide.png", "--fit", "tiles", "--sharpening", 0.4, "--mask", "white.png"),
            {"fit": "tiles", "sharpening": 0.4},
            "IP-Adapter fit: tiles, IP-Adapter sharpening: 0.4",
        ),
        (
            (
                "--adapter",
                "own,image=cat.png,image=dog.png,combine=add,mode=ease-out,sharpening=0.5,negative_image=wide.png",
            ),
            {"combine": "add", "mode": "ease-out", "sharpening": 0.5},
            "IP-Adapter mode: ease-out, IP-Adapter combine: add, IP-Adapter sharpening: 0.5",
        ),
    ],
)
def test_a_picture_records_how_its_references_act_and_is_drawn_again(ipa, references, flags, recorded, text):
    ran = ipa("generate", *FAST, *flags, "-o", "a.png")
    assert ran.exit_code == 0, ran.stderr
    (used,) = read_settings(references / "a.png")["adapters"]
    assert {name: used[name] for name in recorded} == recorded
    with Image.open(references / "a.png") as picture:
        assert text in picture.text["parameters"]
    ran = ipa("generate", "--from", "a.png", "-o", "again.png")
    assert ran.exit_code == 0 and "has changed" not in ran.stderr
    assert (references / "again.png").read_bytes() == (references / "a.png").read_bytes()


@pytest.mark.slow
def test_a_negative_image_is_recorded_and_missed_when_it_has_changed(ipa, references):
    flags = ("--image", "cat.png", "--negative-image", "dog.png", "--guidance-scale", 3)
    assert ipa("generate", *FAST, *flags, "-o", "a.png").exit_code == 0
    recorded = read_settings(references / "a.png")
    said = {"source": "dog.png", "sha256": digest(references / "dog.png")}
    assert recorded["adapters"][0]["negative_image"] == said and recorded["settings"]["negative_image"] == "dog.png"
    assert ipa("generate", "--from", "a.png", "-o", "again.png").exit_code == 0
    assert digest(references / "again.png") == digest(references / "a.png")
    ran = ipa("generate", "--from", "a.png", "--negative-image", "wide.png", "-o", "other.png")
    assert digest(references / "other.png") != digest(references / "a.png") and "has changed" not in ran.stderr
    Image.new("RGB", (48, 48), "white").save("dog.png")
    assert "dog.png has changed since a.png was drawn" in ipa("generate", "--from", "a.png", "-o", "b.png").stderr
    Path("dog.png").unlink()
    assert "dog.png does not exist" in ipa("generate", "--from", "a.png", "-o", "b.png", "--json").error()["message"]


@pytest.mark.slow
def test_every_reference_has_pictures_of_its_own_which_say_whose_they_are(ipa, references):
    flags = (*TWO, "--image-per-picture", "--image-weight", 1, "--image-weight", 0.5, "-n", 2, "--batch-size", 3)
    data = ipa("generate", *FAST, *flags, "-o", "{image}-{seed}.png", "--json").data()
    names = ["cat-1.png", "cat-2.png", "dog-1.png", "dog-2.png"]
    assert [Path(one["path"]).name for one in data["images"]] == names
    assert [one["references"] for one in data["images"]] == [["cat.png"]] * 2 + [["dog.png"]] * 2
    recorded = read_settings(references / "dog-2.png")
    [image] = recorded["adapters"][0]["images"]
    assert image == {"source": "dog.png", "sha256": digest(references / "dog.png"), "weight": 0.5}
    assert (recorded["seed"], recorded["settings"]["image_per_picture"]) == (2, False)

    assert ipa("generate", "--from", "dog-2.png", "-o", "again.png").exit_code == 0
    batched, alone = (np.asarray(Image.open(name), dtype=int) for name in ("dog-2.png", "again.png"))
    assert abs(batched - alone).max() <= 1
    assert read_settings(references / "again.png")["settings"] == recorded["settings"]


@pytest.mark.slow
def test_adapters_with_references_of_each_picture_are_recorded_with_them(ipa, references):
    adapters = ("--adapter", "own,image=cat.png,image=dog.png,scale=0.5", "--adapter", "own,image=wide.png,mode=style")
    assert ipa("generate", *FAST, *adapters, "--image-per-picture", "-o", "{index}.png").exit_code == 0
    assert [one["source"] for one in read_settings(references / "1.png")["adapters"][0]["images"]] == ["dog.png"]
    assert ipa("generate", "--from", "1.png", "-o", "again.png").exit_code == 0
    assert digest(references / "again.png") == digest(references / "1.png")


@pytest.mark.slow
def test_combined_and_negative_embeddings_are_drawn_from_a_file_too(ipa, references):
    how = ("--image-combine", "subtract", "--image-weight", 1, "--image-weight", 0.5, "--negative-image", "wide.png")
    ran = ipa("embed", "cat.png", "dog.png", *how, "--sharpening", 0.5, "-o", "both.safetensors", "--json")
    assert ran.data()["shape"][0] == 1 and len(ran.data()["sources"]) == 2
    assert ipa("generate", *FAST, *TWO, *how, "--sharpening", 0.5, "-o", "direct.png").exit_code == 0
    assert ipa("generate", *FAST, "--embeds", "both.safetensors", "-o", "file.png").exit_code == 0
    assert np.array_equal(*(Image.open(name) for name in ("direct.png", "file.png")))


@pytest.mark.slow
def test_a_sweep_has_modes_tiles_and_a_negative_image_in_one_graph(ipa, references):
    flags = ("--fit", "tiles", "--ip-mode", "composition-precise", "--negative-image", "dog.png", "--sharpening", 0.5)
    quick = ("--steps", 2, "--size", "64x64", "--seed", 5, "--backend", "eager", "--scales", "0,1")
    done = ("sweep-scale", "--image", "cat.png", "--image", "dog.png", *flags, *quick, "-o", "out", "--json")
    data = ipa(*done).data()
    assert data["recompiles"] == 0 and len(data["points"]) == 4 and data["failed"] == 0
    plan = data["plan"]
    assert (plan["ip_mode"], plan["fit"], plan["sharpening"]) == ("composition-precise", "tiles", 0.5)
    assert plan["negative_images"] == [digest(references / "dog.png")]
    left_out = [flag for flag in done if flag not in ("--negative-image",)]
    left_out.remove("dog.png")
    assert "another sweep" in ipa(*left_out, "--resume").error()["message"] or ipa(*left_out, "--resume").exit_code == 2


@pytest.mark.slow
def test_what_needs_guidance_says_so_without(ipa, references):
    flags = ("--image", "cat.png", "--negative-image", "dog.png", "--ip-mode", "composition-precise")
    said = ipa("generate", *FAST, *flags, "--guidance-scale", 1, "-o", "a.png").stderr
    assert said.count("the negative image dog.png has no effect") == 1
    assert said.count("--ip-mode composition-precise leaves out the layers") == 1
    assert "without guidance" not in ipa("generate", *FAST, *flags, "--guidance-scale", 3, "-o", "b.png").stderr


@pytest.mark.slow
def test_modes_are_an_axis_of_a_sweep(ipa, references):
    quick = ("--steps", 2, "--seed", 5, "--backend", "eager")
    sweep = ("sweep-scale", *quick, "--size", "64x64", "--scales", "0,1", "-o", "out", "--json")
    modes = ("--ip-mode", "ease-in", "--ip-mode", "composition-precise")
    data = ipa(*sweep, "--image", "cat.png", *modes).data()
    assert data["plan"]["modes"] == ["ease-in", "composition-precise"]
    assert (data["recompiles"], data["failed"], len(data["points"])) == (0, 0, 4)
    one = ("generate", *quick, "--size", "64x64", "--image", "cat.png", "--scale", 1, *modes[2:], "-o", "one.png")
    assert ipa(*one).exit_code == 0
    point = Path("out/pictures/row-2-cat-scale-1.png")
    assert np.array_equal(Image.open(point), Image.open("one.png"))
    assert read_settings(point)["settings"]["ip_mode"] == "composition-precise"
    assert "composition-precise" in Path("out/index.html").read_text()
    assert "another sweep: modes" in ipa(*sweep, "--image", "cat.png", *modes[:2], "--resume").error()["message"]
    assert "given twice" in ipa(*sweep, "--image", "cat.png", *modes[:2], *modes[:2], "--force").error()["message"]
    assert "did you mean" in ipa(*sweep, "--ip-mode", "easein", "--force").error()["message"]

    adapters = ("--adapter", "own,image=cat.png", "--adapter", "own,image=dog.png,mode=layout,scale=0.5")
    assert ipa(*sweep, *adapters, *modes, "--force").data()["plan"]["modes"] == ["ease-in", "composition-precise"]
    used = read_settings(Path("out/pictures/row-2-cat-dog-scale-1.png"))["adapters"]
    assert [one["mode"] for one in used] == ["composition-precise", "layout"]


def test_the_settings_of_a_project_may_say_how_references_act(ipa, references):
    Path("ipa.toml").write_text(
        'ip-mode = "ease-in"\nimage-combine = "average"\nnegative-image = "dog.png"\nsharpening = 1\nfit = "tiles"\n'
        "image-per-picture = true\n"
    )
    shown = ipa("config", "show", "--json").data()["settings"]
    names = ("ip_mode", "image_combine", "negative_image", "sharpening", "fit", "image_per_picture")
    assert [shown[name]["value"] for name in names] == ["ease-in", "average", "dog.png", 1.0, "tiles", True]
    Path("ipa.toml").write_text('negative-image = "/etc/passwd"\n')
    assert "negative_image is ignored: it is outside" in ipa("config", "show").stdout


@pytest.mark.parametrize(
    ("flags", "exit_code", "words"),
    [
        (("--ip-mode", "ease in"), 2, "did you mean 'ease-in'?"),
        (("--ip-mode", "style-transfer-precise", "--ip-layers", '{"mid": 1}'), 2, "both choose layers"),
        (("--image-combine", "sum"), 2, "expected one of concat, average, norm-average, add, subtract"),
        (("--sharpening", 1.5), 2, "from 0 to 1"),
        (("--negative-image", "nowhere.png"), 1, "nowhere.png does not exist"),
        (
            ("--negative-image", "cat.png", "--adapter", "own,image=dog.png"),
            2,
            "--negative-image and --adapter are both given",
        ),
        (("--image", "cat.png", "--image", "-", "--negative-image", "-"), 2, "stdin can be read only once"),
        (("--adapter", "own,image=cat.png,negative_image=a.png,negative_image=b.png"), 2, "negative_image twice"),
        (("--adapter", "own,image=cat.png,combine=sum"), 2, "expected one of concat"),
        ((*TWO, "--image-per-picture", "--image-combine", "add"), 2, "--image-combine add makes one of references"),
        ((*TWO, "--image-per-picture", "-n", 6000), 2, "that makes 12000 pictures"),
        ((*TWO, "--mask", "white.png", "--mask", "white.png", "--image-per-picture"), 2, "one mask for all"),
        (
            ("--image", "cat.png", "--image", "wide.png", "--fit", "tiles"),
            2,
            "the tiles of cat.png, 48x48, are not those",
        ),
    ],
)
def test_bad_input_is_reported_before_anything_is_loaded(ipa, references, monkeypatch, flags, exit_code, words):
    monkeypatch.setattr(loader, "load", lambda *_: pytest.fail("the model was loaded"))
    before = sorted(references.iterdir())
    ran = ipa("generate", *FAST, *flags, "--json")
    assert ran.exit_code == exit_code, ran.stdout + ran.stderr
    error = ran.error()
    assert words in error["message"] + " " + error["hint"] and error["hint"] and "\n" not in error["message"]
    assert sorted(references.iterdir()) == before


def test_what_embeddings_cannot_hold_is_refused(ipa, references):
    for flags, words in (
        (("--fit", "tiles"), "tiles act in places of a picture"),
        (("--image-weight", 0.5), "no part of their embeddings"),
        (("--negative-image", "nowhere.png"), "nowhere.png does not exist"),
    ):
        ran = ipa("embed", "cat.png", *flags, "-o", "one.safetensors", "--json")
        assert words in json.dumps(ran.error()) and not Path("one.safetensors").exists()
