"""`ipa sweep-scale` with the demo model: what it leaves, that it survives, and that it tells when it did not work."""

from __future__ import annotations

import json
import random
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageDraw

import ipa_cli
from ipa_cli.images.metadata import read_settings
from ipa_cli.pipeline import image_encoding, text_encoding
from tests import loras, tiny_model
from tests.unets import FLAT

pytestmark = pytest.mark.slow

QUICK = ("--steps", 2, "--size", "64x64", "--seed", 5, "--device", "cpu", "--backend", "eager", "--warmup", 1)


@pytest.fixture
def references(world):
    """Two pictures that are nothing alike."""
    for name, colour, box in (("cat.png", "orange", (10, 10, 60, 90)), ("dog.png", "navy", (40, 20, 90, 60))):
        image = Image.new("RGB", (96, 96), "white")
        ImageDraw.Draw(image).ellipse(box, colour)
        image.save(name)
    return ("--image", "cat.png", "--image", "dog.png")


@pytest.fixture
def adapter(world):
    """A copy of the demo's adapter, to be damaged by `scaled_by`."""
    shutil.copytree(Path(ipa_cli.__file__).parent / "demo" / "ip_adapter", "adapter")
    return ("--ip-adapter", "adapter")


def scaled_by(factor):
    """Multiply what the adapter adds to the picture."""
    from safetensors.torch import load_file, save_file

    file = Path("adapter/ip-adapter.safetensors")
    weights = load_file(file)
    save_file({name: value.float() * (factor if "to_v_ip" in name else 1) for name, value in weights.items()}, file)


def contents(folder):
    return {
        path.relative_to(folder).as_posix(): path.read_bytes() for path in Path(folder).rglob("*") if path.is_file()
    }


def test_a_sweep_leaves_everything_it_should(ipa, references, monkeypatch):
    encoded = Counter()
    for module, name in ((text_encoding, "encode_texts"), (image_encoding, "encode_images")):
        real = getattr(module, name)
        monkeypatch.setattr(module, name, lambda *a, _n=name, _r=real: (encoded.update([_n]), _r(*a))[1])

    ran = ipa("sweep-scale", "--scales", "0,0.5,1", *references, *QUICK, "--size", "64x96", "-o", "out", "--json")
    data = ran.data()
    assert "3 scales × 2 references × 2 sizes = 12 pictures" in ran.stderr
    assert "12 pictures to draw, 2 steps each: about" in ran.stderr
    assert encoded == {"encode_texts": 1, "encode_images": 2}
    assert (data["drawn"], data["failed"], data["frozen"], data["recompiles"]) == (12, 0, [], 0)
    assert [graph["size"] for graph in data["graphs"]] == [[64, 64], [64, 96]]
    assert len(data["changes"]) == 8 and all(change["mean_difference"] > 0 for change in data["changes"])

    left = set(contents("out")) - {".lock"}
    stems = [f"row-{row}-{'cat' if row < 3 else 'dog'}" for row in range(1, 5)]
    names = {f"pictures/{stem}-scale-{scale}.png" for stem in stems for scale in ("0", "0.5", "1")}
    films = {f"animations/{stem}.webp" for stem in stems}
    assert left == names | films | {"contact-sheet.png", "index.html", "results.jsonl", "sweep.json"}
    lines = [json.loads(line) for line in Path("out/results.jsonl").read_text().splitlines()]
    assert [(line["row"], line["scale"], line["status"]) for line in lines] == [
        (row, scale, "ok") for row in range(1, 5) for scale in (0, 0.5, 1)
    ]
    assert {point["path"] for point in data["points"]} == {str(Path("out", name).absolute()) for name in names}
    assert Image.open("out/pictures/row-4-dog-scale-1.png").size == (64, 96)
    plan = json.loads(Path("out/sweep.json").read_text())["plan"]
    assert plan == data["plan"] and plan["references"] == ["cat.png", "dog.png"]
    assert plan["backend"] == ["eager", "eager"]


@pytest.fixture
def folder_without_defaults(world):
    """A model as people have it: nothing in it says what to draw, or how."""
    demo = Path(ipa_cli.__file__).parent / "demo"
    shutil.copytree(demo, "model", ignore=shutil.ignore_patterns("defaults.json", "reference.png", "README.md"))
    return ("--model", "model")


@pytest.mark.parametrize("axis", ["prompt", "image", "size", "seed", "embeds", "adapter", "mask"])
def test_every_axis_of_a_sweep_works_with_a_model_that_has_no_defaults(ipa, references, folder_without_defaults, axis):
    Image.new("L", (48, 96), "white").save("mask.png")
    if axis == "embeds":
        for name in ("cat", "dog"):
            assert ipa("embed", f"{name}.png", *folder_without_defaults, "-o", f"{name}.safetensors").exit_code == 0
    prompt, image, size, seed = ("--prompt", "a star"), references[:2], ("--size", "64x64"), ("--seed", 5)
    varied = {
        "prompt": (*prompt, "--prompt", "a moon", *image, *size, *seed),
        "image": (*prompt, *references, *size, *seed),
        "size": (*prompt, *image, *size, "--size", "64x128", *seed),
        "seed": (*prompt, *image, *size, *seed, "--seed", 6),
        "embeds": (*prompt, "--embeds", "cat.safetensors", "--embeds", "dog.safetensors", *size, *seed),
        "adapter": (*prompt, "--adapter", "own,image=cat.png", "--adapter", "own,image=dog.png,scale=0.2", *size),
        "mask": (*prompt, *image, "--mask", "mask.png", "--size", "64x128", *seed),
    }
    flags = ("--scales", "0,1", "--steps", 1, "--device", "cpu", "--backend", "eager", "--warmup", 0)
    data = ipa("sweep-scale", *folder_without_defaults, *varied[axis], *flags, "-o", "out", "--json").data()
    assert data["drawn"] == (2 if axis in ("adapter", "mask") else 4) and not data["failed"]
    assert all(change["mean_difference"] > 0 for change in data["changes"])


def test_a_sweep_without_any_prompt_asks_for_one(ipa, references, folder_without_defaults):
    refused = ipa("sweep-scale", *folder_without_defaults, *references, *QUICK, "-o", "out")
    assert refused.exit_code == 2 and "--prompt" in refused.stderr and not Path("out").exists()


def test_a_point_is_what_generate_draws(ipa, references):
    ipa("sweep-scale", "--scales", "0,0.5", *references, *QUICK, "-p", "a star", "-p", "a moon", "-o", "out")
    flags = ("--steps", 2, "--width", 64, "--height", 64, "--seed", 5, "--device", "cpu", "--backend", "eager")
    assert ipa("generate", "-p", "a moon", "-i", "dog.png", "--scale", 0.5, *flags, "-o", "one.png").exit_code == 0
    point = Path("out/pictures/row-4-dog-scale-0.5.png")
    assert np.array_equal(Image.open(point), Image.open("one.png"))
    assert read_settings(point) == read_settings(Path("one.png"))


def test_embeddings_draw_the_same_rows_without_an_image_encoder(ipa, references, adapter):
    for name in ("cat", "dog"):
        assert ipa("embed", f"{name}.png", *adapter, "-o", f"{name}.safetensors").exit_code == 0
    flags = ("sweep-scale", "--scales", "0,1", *adapter, *QUICK, "--json")
    assert ipa(*flags, *references, "-o", "images").exit_code == 0
    Path("adapter/image_encoder/model.safetensors").unlink()
    flags = (*flags, "--embeds", "cat.safetensors", "--embeds", "dog.safetensors", "-o", "embeds")
    assert ipa(*flags).data()["plan"]["references"] == ["cat.safetensors", "dog.safetensors"]
    before = contents("embeds")
    assert '"name": "dog.safetensors", "source": "dog.safetensors", "src": ""' in before["index.html"].decode()
    for row, name in ((1, "cat"), (2, "dog")):
        pair = [Path(folder, f"pictures/row-{row}-{name}-scale-1.png") for folder in ("images", "embeds")]
        assert np.array_equal(*map(Image.open, pair))
        assert read_settings(pair[1])["settings"]["embeds"] == f"{name}.safetensors"

    Path("embeds/pictures/row-2-dog-scale-1.png").unlink()
    assert ipa(*flags, "--resume").data()["drawn"] == 1
    assert contents("embeds") == before


def test_several_adapters_are_one_row_and_those_that_say_their_scale_keep_it(ipa, references):
    adapters = ("--adapter", "own,image=cat.png,mode=layout", "--adapter", "own,image=dog.png,scale=0.3")
    flags = ("sweep-scale", "--scales", "0,0.5", *adapters, *QUICK, "-o", "out", "--json")
    data = ipa(*flags).data()
    assert data["plan"]["references"] == ["cat.png + dog.png"] and len(data["points"]) == 2
    assert data["plan"]["ip_mode"] == ["layout", "full"]
    before = contents("out")

    one = ("--steps", 2, "--width", 64, "--height", 64, "--seed", 5, "--device", "cpu", "--backend", "eager")
    assert ipa("generate", *adapters, "--scale", 0.5, *one, "-o", "one.png").exit_code == 0
    point = Path("out/pictures/row-1-cat-dog-scale-0.5.png")
    assert np.array_equal(Image.open(point), Image.open("one.png"))
    assert [used["scale"] for used in read_settings(point)["adapters"]] == [0.5, 0.3]

    point.unlink()
    assert ipa(*flags, "--resume").data()["drawn"] == 1
    assert contents("out") == before
    other = [flag.replace("0.3", "0.4") if isinstance(flag, str) else flag for flag in flags]
    assert "another sweep: adapters" in ipa(*other, "--resume").error()["message"]


def test_a_report_for_people(ipa, references):
    ran = ipa("sweep-scale", "--from", 0, "--to", 2, "--num", 3, *references, *QUICK, "-o", "out")
    assert ran.exit_code == 0
    lines = ran.stdout.splitlines()
    assert lines[0] == "out/index.html  3 scales × 2 references = 6 pictures"
    assert "recompiles between points: 0" in lines[1]
    assert lines[2] == "eager: asked for, nothing to compile"
    assert lines[3].split("\t") == ["scale", "mean difference of 255", "pixels changed"]
    assert [line.split("\t")[0] for line in lines[4:]] == ["0 → 1", "1 → 2"]


# --- a sweep survives -----------------------------------------------------------------------------------------


def test_killed_at_any_moment_and_resumed_it_ends_with_identical_files(ipa, world, references):
    flags = ("sweep-scale", "--scales", "0,0.5,1", *references, *QUICK, "--prompt", "a star", "--prompt", "a moon")
    command = [sys.executable, "-m", "ipa_cli", *map(str, flags), "-o", "killed", "--resume"]
    command += ["--dtype", "float32"]  # what auto means here

    assert ipa(*flags, "-o", "whole").exit_code == 0
    expected = contents("whole")
    rng = random.Random(20)
    for lines in (0, 5, 12):  # how many points are done when it is killed; with 12 it writes sheet and page
        process = subprocess.Popen(command, env=world.environ, stderr=subprocess.DEVNULL)
        journal = Path("killed/results.jsonl")
        while process.poll() is None and not (journal.exists() and journal.read_bytes().count(b"\n") >= lines):
            time.sleep(0.002)
        time.sleep(rng.uniform(0, 0.05))
        process.send_signal(signal.SIGKILL)
        assert process.wait() in (-signal.SIGKILL, 0)
    assert journal.read_bytes().count(b"\n") <= 12
    assert ipa(*flags, "-o", "killed", "--resume").exit_code == 0
    assert contents("killed") == expected


def test_interrupted_it_says_how_to_go_on(ipa, ipa_process, references):
    flags = ("--scales", "0,1", *references, "--steps", 20, *QUICK[2:], "-o", "out")
    stopped = ipa_process("sweep-scale", *flags, interrupt_at="1 of 4", signals=[signal.SIGTERM])
    assert stopped.exit_code == 143 and "ended by SIGTERM" in stopped.stderr
    assert "--resume continues" in stopped.stderr
    went_on = ipa("sweep-scale", *flags, "--resume", "--json").data()
    assert 1 <= went_on["drawn"] <= 3 and len(went_on["points"]) == 4


def test_a_finished_sweep_is_not_drawn_again_and_keeps_its_random_seed(ipa, references):
    flags = ("sweep-scale", "--scales", "0,1", *references, *QUICK[:4], *QUICK[6:], "-o", "out")
    first = ipa(*flags, "--json").data()
    before = contents("out")
    again = ipa(*flags, "--resume", "--json")
    assert again.data()["drawn"] == 0 and "loading" not in again.stderr
    assert again.data()["plan"]["seeds"] == first["plan"]["seeds"]
    assert contents("out") == before
    refused = ipa(*flags, "--json")
    assert refused.exit_code == 1 and "--resume" in refused.error()["hint"]
    for other, said in (("--dtype", "bfloat16"), ("--scheduler", "ddim"), ("--ip-mode", "style"), ("--fit", "crop")):
        refused = ipa(*flags, "--resume", other, said, "--json")
        assert refused.exit_code == 1 and f'→ "{said}"' in refused.error()["message"]


def test_samplers_and_guidance_are_part_of_a_sweep(ipa, references):
    sampled = ("--sampler", "DPM++ 2M Karras", "--guidance-end", 0.5, "--steps", 4)
    flags = ("sweep-scale", *QUICK[2:], *references[:2], "--scales", "0,1", "--output", "s")
    done = ipa(*flags, *sampled, "--json").data()
    assert done["drawn"] == 2 and done["recompiles"] == 0
    plan = done["plan"]
    assert (plan["scheduler"], plan["schedule"], plan["guidance_end"]) == ("dpm++", "karras", 0.5)
    assert ipa(*flags, *sampled, "--resume", "--json").data()["drawn"] == 0
    same = ("--sampler", "dpmpp_2m", "--schedule", "karras", *sampled[2:])
    assert ipa(*flags, *same, "--resume", "--json").data()["drawn"] == 0
    other = ipa(*flags, "--sampler", "euler", *sampled[2:], "--resume", "--json").error()
    assert "another sweep: scheduler" in other["message"]


@pytest.mark.parametrize(
    ("asked", "name"),
    [
        (("--guidance-start", 0.5), "guidance start"),
        (("--sampler", "dpm++"), "scheduler"),
        (("--schedule", "karras"), "schedule"),
        (("--preset", "tcd"), "preset"),
        (("--lora", "style.safetensors"), "loras"),
        (("--lora", "style.safetensors", "--lora-weights", 0.5), "lora weights"),
        (("--init-image", "cat.png"), "init"),
    ],
)
def test_what_an_earlier_run_asked_for_is_not_left_out_silently(ipa, references, asked, name):
    loras.write(Path("style.safetensors"), loras.of_demo())
    flags = ("sweep-scale", "--scales", "1", *references[:2], *QUICK[2:], "--steps", 2, "-o", "out")
    assert ipa(*flags, *asked).exit_code == 0
    left_out = ipa(*flags, "--resume", "--json").error()["message"]
    assert "out holds another sweep" in left_out and name in left_out
    assert ipa(*flags, *asked, "--resume", "--json").data()["drawn"] == 0


def test_layers_of_an_earlier_run_are_not_left_out_silently(ipa, references):
    flags = ("sweep-scale", "--scales", "0,1", *references, *QUICK, "-o", "out")
    assert ipa(*flags, "--ip-mode", "style").exit_code == 0
    refused = ipa(*flags, "--resume", "--json")
    assert refused.exit_code == 1 and 'ip mode "style" → "full"' in refused.error()["message"]


def test_another_sweep_needs_force(ipa, references):
    assert ipa("sweep-scale", "--scales", "0,0.5,1", *references, *QUICK, "-o", "out").exit_code == 0
    Path("out/notes.txt").write_text("mine")
    other = ("sweep-scale", "--scales", "0,1", "--image", "cat.png", *QUICK, "-o", "out")
    before = contents("out")
    for more in ((), ("--resume",)):
        refused = ipa(*other, *more)
        assert refused.exit_code == 1 and "loading" not in refused.stderr
        assert "another sweep: scales 0, 0.5, 1 → 0, 1, references" in refused.stderr
        assert "sha256" not in refused.stderr
    assert contents("out") == before
    Image.new("RGB", (96, 96), "green").save("cat.png")
    same = ipa("sweep-scale", "--scales", "0,0.5,1", *references, *QUICK, "-o", "out", "--resume", "--json")
    assert same.error()["message"].endswith("another sweep: the content of a reference has changed")
    assert ipa(*other, "--force").exit_code == 0
    left = set(contents("out")) - {".lock"}
    assert sorted(left) == [
        "animations/row-1-cat.webp",
        "contact-sheet.png",
        "index.html",
        "notes.txt",
        "pictures/row-1-cat-scale-0.png",
        "pictures/row-1-cat-scale-1.png",
        "results.jsonl",
        "sweep.json",
    ]


# --- what went wrong is told ----------------------------------------------------------------------------------


def test_a_failing_point_is_recorded_and_the_others_go_on(ipa, references, adapter):
    scaled_by(1e30)  # too large for float32 once the scale is not zero
    flags = ("sweep-scale", "--scales", "0,0.5", *references, *adapter, *QUICK, "-o", "out")
    ran = ipa(*flags, "--json")
    envelope = ran.json()
    assert (ran.exit_code, envelope["status"], envelope["data"]["failed"]) == (1, "error", 2)
    assert [point["error"] is None for point in envelope["data"]["points"]] == [True, False, True, False]
    lines = [json.loads(line) for line in Path("out/results.jsonl").read_text().splitlines()]
    assert [line["status"] for line in lines] == ["ok", "failed", "ok", "failed"]
    assert "NaN" in lines[1]["error"] and "NaN" in Path("out/index.html").read_text()
    assert ran.stderr.count("failed: ") == 2

    before = contents("out")
    again = ipa(*flags, "--resume")
    assert again.exit_code == 1 and "drawn 2" in again.stdout and again.stdout.count("FAILED") == 2
    assert contents("out") == before


def test_a_frozen_scale_is_a_loud_failure(ipa, references, adapter):
    scaled_by(0)  # the reference adds nothing, whatever the scale
    ran = ipa("sweep-scale", "--scales", "0,0.5,1", *references, *adapter, *QUICK, "-o", "out")
    assert ran.exit_code == 1
    assert "FROZEN row 1: the scales 0, 0.5 and 1 gave the same picture" in ran.stdout
    assert "FROZEN row 2" in ran.stdout and "--backend eager" in ran.stdout
    assert "The scale is frozen" in Path("out/index.html").read_text()


@pytest.mark.parametrize(
    "flags, said",
    [
        (("--scales", "0,nan"), "nan"),
        (("--scales", ""), "empty"),
        (("--from", 1, "--to", 0), "--from 1 is not below --to 0"),
        (("--scales", "0,1", "--num", 3), "cannot be combined"),
        (("--size", "65x64"), "multiple of 8"),
        (("--seed", -1), "--seed -1"),
        (("--seed", 5), "--seed 5 is given twice"),
        (("--prompt", "a", "--prompt", "a"), "--prompt a is given twice"),
        (("--image", "cat.png"), "cat.png is given twice"),
        (("--resume", "--force"), "contradict"),
        (("--ip-adapter", "none"), "no scale to sweep"),
        (("--mask", "cat.png", "--mask", "dog.png"), "--adapter 'own,image=cat.png,weight=1"),
        (("--adapter", "own,image=cat.png"), "--image and --adapter"),
        (("--scheduler", "eulr"), "eulr"),
        (("--backend", "egaer"), "egaer"),
    ],
)
def test_bad_input_is_reported_before_anything_is_loaded(ipa, references, flags, said):
    ran = ipa("sweep-scale", *references, *QUICK, "-o", "out", *flags)
    assert ran.exit_code == 2
    assert said in ran.stderr and "hint:" in ran.stderr
    assert "loading" not in ran.stderr and not Path("out").exists()


@pytest.mark.parametrize(
    "flags, said",
    [
        (("--embeds", "cat.safetensors", "--embeds", "cat.safetensors"), "--embeds cat.safetensors is given twice"),
        (("--embeds", "cat.safetensors", "--embeds", "both.safetensors"), "both.safetensors holds 2 pictures"),
        (("--embeds", "cat.safetensors", "--adapter", "own,image=cat.png"), "--embeds and --adapter"),
        (("--embeds", "cat.safetensors", "--image", "cat.png"), "--image and --embeds"),
        (("--adapter", "own,image=cat.png,scale=1"), "none to sweep"),
    ],
)
def test_references_that_do_not_go_together_are_reported_before_anything_is_loaded(ipa, references, flags, said):
    assert ipa("embed", "cat.png", "-o", "cat.safetensors").exit_code == 0
    assert ipa("embed", "cat.png", "dog.png", "-o", "both.safetensors").exit_code == 0
    ran = ipa("sweep-scale", *QUICK, "-o", "out", *flags)
    assert ran.exit_code == 2
    assert said in ran.stderr and "hint:" in ran.stderr
    assert "loading" not in ran.stderr and not Path("out").exists()


def test_a_missing_picture_in_the_middle_is_found_before_anything_is_loaded(ipa, references):
    ran = ipa("sweep-scale", "-i", "cat.png", "-i", "dgo.png", "-i", "dog.png", *QUICK, "-o", "out")
    assert ran.exit_code == 1
    assert "dgo.png does not exist" in ran.stderr and "dog.png" in ran.stderr
    assert "loading" not in ran.stderr and not Path("out").exists()


def test_a_folder_with_files_of_the_user_is_left_alone(ipa, references):
    Path("site").mkdir()
    Path("site/index.html").write_text("mine")
    ran = ipa("sweep-scale", *references, *QUICK, "-o", "site")
    assert ran.exit_code == 1 and "index.html" in ran.stderr
    assert contents("site") == {"index.html": b"mine"}


# --- one graph for all scales ---------------------------------------------------------------------------------


@pytest.mark.campaign
@pytest.mark.timeout(900)  # it compiles
def test_one_compiled_graph_draws_every_scale_and_mask(ipa, references):
    for name, box in (("left.png", (0, 0, 31, 63)), ("top.png", (0, 0, 63, 31))):
        mask = Image.new("L", (64, 64))
        ImageDraw.Draw(mask).rectangle(box, "white")
        mask.save(name)
    model = ("--model", tiny_model.write(Path("model"), FLAT), "--load-format", "dummy", "-p", "a star", "--steps", 2)
    flags = ("sweep-scale", *model, "--scales", "0,0.5,1", *references, "--mask", "left.png", *QUICK[2:6])
    flags = (*flags, "--device", "cpu", "--json")
    compiled = ipa(*flags, "--backend", "inductor", "-o", "compiled").data()
    (graph,) = compiled["graphs"]
    assert graph["origin"] == "compiled" and compiled["plan"]["graph"] == [graph["id"]]
    assert compiled["recompiles"] == 0 and all(change["mean_difference"] > 0 for change in compiled["changes"])

    Path("compiled/pictures/row-2-dog-scale-1.png").unlink()
    before = contents("compiled")
    resumed = ipa(*flags, "--backend", "inductor", "-o", "compiled", "--resume").data()
    assert (resumed["drawn"], resumed["graphs"][0]["origin"]) == (1, "cache")
    assert before.items() < contents("compiled").items()

    ipa(*flags, "--backend", "eager", "-o", "eager").data()
    for name in (name for name in contents("eager") if name.startswith("pictures/")):
        pair = [np.asarray(Image.open(Path(folder, name)), int) for folder in ("compiled", "eager")]
        assert np.abs(pair[0] - pair[1]).max() <= 1

    one = ("generate", *model, "--image", "cat.png", "--width", 64, "--height", 64, "--seed", 5, "--device", "cpu")
    one = (*one, "--scale", 1, "--force", "--json", "--mask", "top.png")
    drawn = ipa(*one, "--backend", "inductor", "--no-compile", "-o", "compiled.png").data()
    assert drawn["graph"]["id"] == graph["id"]  # the mask is an input
    ipa(*one, "--backend", "eager", "-o", "eager.png").data()
    top, plain, left = (
        np.asarray(Image.open(path), int)
        for path in ("compiled.png", "eager.png", "compiled/pictures/row-1-cat-scale-1.png")
    )
    assert np.abs(top - plain).max() <= 1 and np.abs(top - left).max() > 1
    for how in (
        ("--ip-mode", "ease-in"),
        ("--ip-mode", "composition-precise"),
        ("--image", "dog.png", "--image-combine", "average"),
        ("--image", "dog.png", "--image-per-picture"),
        ("--negative-image", "dog.png"),
    ):
        same = ipa(*one, *how, "--backend", "inductor", "--no-compile", "-o", "{image}.png").data()
        assert same["graph"]["id"] == graph["id"], how
    without = ipa(*one[:-2], "--backend", "inductor", "--no-compile", "-o", "without.png")
    assert without.exit_code == 1 and "masks yes → none" in without.error()["message"]
    wider = ipa(*one, "--width", 128, "--height", 128, "--backend", "inductor", "--no-compile", "-o", "wider.png")
    assert wider.exit_code == 1 and "width 64 → 128" in wider.error()["message"]


@pytest.mark.gpu
def test_one_cuda_graph_a_size_serves_every_scale(ipa, references):
    flags = ("--steps", 2, "--size", "64x64", "--size", "64x96", "--seed", 5, "--device", "cuda", "--backend", "eager")
    data = ipa("sweep-scale", "--scales", "0,0.5,1", *references, *flags, "-o", "out", "--json").data()
    assert data["recompiles"] == 0 and data["frozen"] == []
