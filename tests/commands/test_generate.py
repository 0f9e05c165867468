"""Pictures of `ipa generate`: what changes them, their prompts, references and masks."""

import hashlib
import json
import subprocess
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import ipa_cli
from ipa_cli.images.metadata import read_settings
from tests.conftest import isolated, run_here

DEMO = Path(ipa_cli.__file__).parent / "demo"
REFERENCE = DEMO / "reference.png"
# As little work as makes a picture.
FAST = ("--width", 64, "--height", 64, "--steps", 2, "--warmup", 0, "--seed", 7)


def pixels(path: Path) -> np.ndarray:
    with Image.open(path) as image:
        assert image.mode == "RGB"
        return np.asarray(image, dtype=int)


def test_no_reference_is_followed_where_none_is_said_not_even_the_models_own(ipa, monkeypatch):
    monkeypatch.setenv("IPA_IMAGE", str(REFERENCE))

    def drawn(*flags):
        ran = ipa("generate", *FAST, *flags, "--json")
        return ran.data()["images"][0]["sha256"], ran.data()["references"], ran.stderr

    words, none, said = drawn("--image", "none", "-o", "words.png")
    assert none == [] and "drawing from the prompt alone" in said and not Path("none").exists()
    assert pixels(Path("words.png")).tolist() != pixels(Path(ipa("generate", *FAST, "-q").stdout.strip())).tolist()
    assert drawn("--from", "words.png")[0] == words
    assert "--scale has no effect without a reference" in drawn("--image", "none", "--scale", 0.5)[2]
    Path("jobs.jsonl").write_text('{"id": "a", "image": "none", "seed": 7}')
    flags = ("--width", 64, "--height", 64, "--steps", 2)
    assert ipa("batch", "jobs.jsonl", *flags, "-o", "out").exit_code == 0
    assert json.loads(Path("out/results.jsonl").read_text())["sha256"] == words


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> np.ndarray:
    """The picture that FAST alone draws."""
    with pytest.MonkeyPatch.context() as monkeypatch:
        world = isolated(tmp_path_factory.mktemp("plain"), monkeypatch)
        assert run_here("generate", *FAST, "--output", "plain.png").exit_code == 0
        return pixels(world.cwd / "plain.png")


def test_a_bare_generate_draws_a_picture_and_says_where(ipa_process, world):
    ran = ipa_process("generate", "--steps", 2)
    assert ran.exit_code == 0, ran.stderr
    (name,) = world.files()
    first, *facts = ran.stdout.splitlines()
    assert first.startswith(f"{name}  256x256, seed ") and ", scale 0." in first
    told = dict(fact.split(": ", 1) for fact in facts)
    assert list(told) == ["prompt", "reference", "model", "backend", "speed", "time", "memory"]
    assert told["backend"].startswith("eager: no graph in the cache, and compiling for a CPU takes minutes")
    assert "compiling for a CPU" not in ran.stderr  # once is enough
    assert " it/s, 2 steps in " in told["speed"] and " s total; load " in told["time"]
    assert pixels(world.cwd / name).shape == (256, 256, 3)
    assert "\x1b" not in ran.stdout + ran.stderr


@pytest.mark.slow
def test_a_size_in_one_word(ipa, world):
    flags = [flag for flag in FAST if flag not in ("--width", "--height", 64)]
    (image,) = ipa("generate", *flags, "--size", "96x64", "--json").data()["images"]
    assert (image["width"], image["height"]) == (96, 64)
    assert ipa("generate", *flags, "--size", "96x64", "--width", 64).exit_code == 2
    assert "--width 65" in ipa("generate", *flags, "--size", "65x64", "--json").error()["message"]


@pytest.mark.slow
def test_json_says_everything(ipa, world):
    ran = ipa("generate", *FAST, "--scale", 0.5, "--num-images", 2, "--warmup", 1, "--output", "cat.png", "--json")
    data = ran.data()
    assert ran.json()["command"] == "generate"
    for number, image in enumerate(data["images"]):
        path = world.cwd / f"cat-{number + 1}.png"
        assert image == {
            "path": str(path),
            "prompt": data["prompt"],
            "seed": 7 + number,
            "scale": 0.5,
            "width": 64,
            "height": 64,
            "sha256": hashlib.sha256(path.read_bytes()).hexdigest(),
            "references": data["references"],
        }
    timings = data["timings"]
    assert {"load_s", "warmup_s", "inference_s", "e2e_s", "it_per_s"} <= set(timings)
    assert all(timings[key] > 0 for key in ("load_s", "warmup_s", "inference_s", "e2e_s", "it_per_s"))
    assert timings["e2e_s"] >= timings["load_s"] + timings["warmup_s"] + timings["inference_s"]
    assert data["memory"]["peak_gib"] > 0
    assert (data["backend"], data["device"], data["dtype"], data["model"]) == ("eager", "cpu", "float32", "demo")
    assert world.files() == ["cat-1.png", "cat-2.png"]


@pytest.mark.slow
def test_warm_up_is_not_counted_as_speed(ipa):
    timings = ipa("generate", *FAST, "--warmup", 4, "--json").data()["timings"]
    assert 2 / timings["it_per_s"] <= timings["inference_s"]
    assert ipa("generate", *FAST, "--json").data()["timings"]["warmup_s"] < timings["warmup_s"]


@pytest.mark.slow
def test_equal_settings_and_seed_give_equal_bytes(ipa, world):
    for name in ("a.png", "b.png"):
        ipa("generate", *FAST, "--output", name)
    ipa("generate", *FAST, "--seed", 8, "--output", "c.png")
    first, second, other = ((world.cwd / name).read_bytes() for name in ("a.png", "b.png", "c.png"))
    assert first == second
    assert (pixels(world.cwd / "a.png") != pixels(world.cwd / "c.png")).any() and first != other


@pytest.mark.slow
def test_the_nth_picture_is_the_one_its_own_seed_draws(ipa, world):
    ipa("generate", *FAST, "--num-images", 2, "--output", "many.png")
    ipa("generate", *FAST, "--seed", 8, "--output", "one.png")
    assert (world.cwd / "many-2.png").read_bytes() == (world.cwd / "one.png").read_bytes()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("flags", "changes"),
    [
        (("--scale", 0.2), True),
        (("--prompt", "a small blue square"), True),
        (("--negative-prompt", "red"), True),
        (("--guidance-scale", 1), True),
        (("--scheduler", "euler-a"), True),
        (("--image", "other.png"), True),
        (("--image", str(REFERENCE), "--image", "other.png"), True),
        (("--ip-adapter", "none"), True),
        (("--image", str(REFERENCE)), False),
        (("--ip-mode", "style"), True),
        (("--ip-layers", '{"mid": 0.5}'), True),
        (("--ip-start", 0.5), True),
        (("--ip-layers", '{"down": 0.8, "mid": 0.8, "up": 0.8}'), False),
        (("--vae-slicing",), False),
        (("--backend", "none"), False),
        (("--compile",), False),
    ],
)
def test_a_setting_changes_the_picture_or_does_not(plain, ipa, world, flags, changes):
    Image.effect_noise((40, 60), 90).convert("RGB").save(world.cwd / "other.png")
    ran = ipa("generate", *FAST, *flags, "--output", "changed.png")
    assert ran.exit_code == 0, ran.stderr
    assert (plain != pixels(world.cwd / "changed.png")).any() == changes


@pytest.mark.slow
def test_at_scale_0_the_reference_does_not_count(ipa, world):
    Image.effect_noise((40, 60), 90).convert("RGB").save(world.cwd / "other.png")
    for name, flags in (("a.png", ()), ("b.png", ("--image", "other.png")), ("c.png", ("--ip-adapter", "none"))):
        assert ipa("generate", *FAST, "--scale", 0, *flags, "--output", name).exit_code == 0
    assert (pixels(world.cwd / "a.png") == pixels(world.cwd / "b.png")).all()
    assert (pixels(world.cwd / "a.png") == pixels(world.cwd / "c.png")).all()


@pytest.mark.slow
def test_a_size_that_is_no_square(ipa, world):
    assert ipa("generate", *FAST, "--width", 104, "--output", "wide.png").exit_code == 0
    assert pixels(world.cwd / "wide.png").shape == (64, 104, 3)


def test_settings_come_from_every_layer(ipa, world, monkeypatch):
    (world.cwd / "ipa.toml").write_text("steps = 2\nwidth = 64\nheight = 64\nwarmup = 0\nseed = 1\nscale = 0.1")
    monkeypatch.setenv("IPA_SEED", "2")
    (image,) = ipa("generate", "--scale", 0.3, "--json").data()["images"]
    assert (image["width"], image["seed"], image["scale"]) == (64, 2, 0.3)


@pytest.mark.slow
def test_a_picture_of_two_adapters_is_drawn_again_from_itself(ipa, world):
    for name in ("a.png", "b.png"):
        Image.effect_noise((40, 60), 90).convert("RGB").save(world.cwd / name)
    first, second = "own,image=a.png,image=b.png,weight=1,weight=0.3", "image=b.png,scale=0.2,fit=crop"
    assert ipa("generate", *FAST, "--adapter", first, "--adapter", second, "--output", "first.png").exit_code == 0
    ran = ipa("generate", "--from", "first.png", "--warmup", 0, "--output", "again.png")
    assert ran.exit_code == 0, ran.stderr
    assert (pixels(world.cwd / "first.png") == pixels(world.cwd / "again.png")).all()
    one, two = read_settings(world.cwd / "again.png")["adapters"]
    assert [image["weight"] for image in one["images"]] == [1, 0.3] and two["scale"] == 0.2


@pytest.mark.slow
def test_a_picture_may_come_from_stdin_or_a_pipe_and_only_one(ipa, world, stdin):
    with REFERENCE.open("rb") as file:
        stdin(file.fileno())
        assert ipa("generate", *FAST, "--image", "-", "--output", "stdin.png").exit_code == 0
    with subprocess.Popen(["cat", REFERENCE], stdout=subprocess.PIPE) as cat:
        name = f"/dev/fd/{cat.stdout.fileno()}"
        assert ipa("generate", *FAST, "--image", name, "--output", "pipe.png").exit_code == 0
    assert ipa("generate", *FAST, "--image", REFERENCE, "--output", "file.png").exit_code == 0
    names = ("stdin.png", "pipe.png", "file.png")
    assert len({Image.open(world.cwd / name).tobytes() for name in names}) == 1
    again = ipa("generate", "--from", "stdin.png", "--json")
    assert "came from stdin" in again.error()["message"]
    both = ipa("generate", *FAST, "--image", "-", "--mask", "-", "--json")
    assert both.exit_code == 2 and "stdin" in both.error()["message"]


@pytest.mark.slow
def test_every_prompt_is_drawn_with_the_same_seeds(ipa, world, stdin):
    (world.cwd / "star.txt").write_text("a blue star\n")
    (world.cwd / "list.jsonl").write_text(
        '{"prompt": "a green ring", "seed": 3}\n{"prompt": "a dot", "negative_prompt": "red", "num_images": 1}\n'
    )
    prompts = ("-p", "a red fox", "-p", "@star.txt", "--prompts-from", "list.jsonl")
    ran = ipa("generate", *FAST, *prompts, "-n", 2, "--batch-size", 2, "-o", "{index}-{prompt}-{seed}.png", "--json")
    data = ran.data()
    assert data["prompt"] is None
    drawn = [(image["prompt"], image["seed"], Path(image["path"]).name) for image in data["images"]]
    assert drawn == [
        ("a red fox", 7, "0-a-red-fox-7.png"),
        ("a red fox", 8, "1-a-red-fox-8.png"),
        ("a blue star", 7, "2-a-blue-star-7.png"),
        ("a blue star", 8, "3-a-blue-star-8.png"),
        ("a green ring", 3, "4-a-green-ring-3.png"),
        ("a green ring", 4, "5-a-green-ring-4.png"),
        ("a dot", 7, "6-a-dot-7.png"),
    ]
    with (world.cwd / "star.txt").open("rb") as file:
        stdin(file.fileno())
        assert ipa("generate", *FAST, "-p", "-", "-n", 2, "--batch-size", 2, "-o", "alone.png").exit_code == 0
    assert (world.cwd / "alone-2.png").read_bytes() == (world.cwd / "3-a-blue-star-8.png").read_bytes()
    assert ipa("generate", "--from", "6-a-dot-7.png", "--batch-size", 2, "-o", "again.png").exit_code == 0
    assert read_settings(world.cwd / "again.png")["negative_prompt"] == "red"
    pixels = [Image.open(world.cwd / name).tobytes() for name in ("again.png", "6-a-dot-7.png")]
    assert pixels[0] == pixels[1]


@pytest.mark.slow
def test_what_a_literal_prompt_does_not_say_is_reported_once(ipa, world):
    words = "(a red star:1.4) BREAK " + "and a very blue one " * 20
    ran = ipa(
        "generate",
        *FAST,
        "-p",
        words,
        "-p",
        "[a dot]",
        "--negative-prompt",
        words,
        "--quiet",
        "--prompt-syntax",
        "literal",
    )
    assert ran.stderr.count("read as plain words (--prompt-syntax literal): (a red star:1.4), BREAK, [a dot]") == 1
    assert ran.stderr.count("the prompt is longer than") == 1 and "left out:" in ran.stderr


@pytest.mark.slow
def test_a_mask_may_be_painted_in_alpha_or_in_colour(ipa, world):
    painted = {"white.png": ("black", "white"), "clear.png": ("#ffffff00", "white"), "red.png": ("black", "red")}
    pixels = []
    for name, (outside, inside) in painted.items():
        mask = Image.new("RGBA", (64, 64), outside)
        mask.paste(inside, (0, 0, 32, 64))
        mask.save(world.cwd / name)
        flags = ("--adapter", f"own,image={REFERENCE},mask={name}", "--output", f"out-{name}")
        ran = ipa("generate", *FAST, *flags, *flags[:2])
        assert ran.exit_code == 0, ran.stderr
        assert ran.stderr.count("it counts where it is not transparent") == (name == "clear.png")
        pixels.append(Image.open(world.cwd / f"out-{name}").tobytes())
    assert pixels[0] == pixels[1] == pixels[2]
    ran = ipa("generate", *FAST, "--image", REFERENCE, "--output", "without.png")
    assert Image.open(world.cwd / "without.png").tobytes() != pixels[0]
