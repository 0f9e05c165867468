import hashlib
import io
import json
import shutil
import signal
import subprocess
import sys
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import ipa_cli
from ipa_cli.images.infotext import parse_parameters
from ipa_cli.images.metadata import read_settings
from tests.conftest import isolated, run_here
from tests.hubs import ENDPOINT

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


# --- what comes out -------------------------------------------------------------------------------------------


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


# --- the file -------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_the_picture_carries_its_settings(ipa, world):
    (world.cwd / "ref.png").write_bytes(REFERENCE.read_bytes())
    flags = ("--prompt", "a star: big, red", "--negative-prompt", "blue", "--scale", 0.4, "--image", "ref.png")
    ran = ipa("generate", *FAST, *flags, "--output", "cat.png")
    assert ran.exit_code == 0, ran.stderr
    with Image.open(world.cwd / "cat.png") as image:
        parsed = parse_parameters(image.info["parameters"])
    assert parsed["Prompt"] == "a star: big, red" and parsed["Negative prompt"] == "blue"
    assert (parsed["Seed"], parsed["Steps"], parsed["Size-1"], parsed["Model"]) == ("7", "2", "64", "demo")
    settings = read_settings(world.cwd / "cat.png")
    assert settings["scheduler"] == "EulerDiscreteScheduler" and settings["dtype"] == "float32"
    (adapter,) = settings["adapters"]
    digest = hashlib.sha256(REFERENCE.read_bytes()).hexdigest()
    assert (adapter["mode"], adapter["layers"], adapter["start"], adapter["end"]) == ("full", None, 0, 1)
    assert adapter["scale"] == 0.4 and adapter["images"] == [{"source": "ref.png", "sha256": digest, "weight": 1}]


@pytest.mark.slow
def test_an_existing_file_is_kept_unless_forced(ipa, world):
    mine = world.cwd / "cat.png"
    mine.write_text("mine")
    (image,) = ipa("generate", *FAST, "--output", "cat.png", "--json").data()["images"]
    assert image["path"] == str(world.cwd / "cat-1.png") and mine.read_text() == "mine"
    (image,) = ipa("generate", *FAST, "--output", "cat.png", "--force", "--json").data()["images"]
    assert image["path"] == str(mine) and pixels(mine).shape == (64, 64, 3)
    assert world.files() == ["cat-1.png", "cat.png"]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("output", "name"),
    [
        (None, "ipa-7.png"),
        ("out/", "out/ipa-7.png"),
        ("out", "out/ipa-7.png"),
        ("cat", "cat.png"),
        ("out/{prompt}-{seed}-{scale}-{index}.png", "out/a-red-fox-7-0.8-0.png"),
    ],
)
def test_an_output_is_a_file_a_folder_or_a_template(ipa, world, output, name):
    (world.cwd / "out").mkdir()
    flags = ("--output", output) if output else ()
    (image,) = ipa("generate", *FAST, "-p", "a red fox", "-s", 0.8, *flags, "--json").data()["images"]
    assert image["path"] == str(world.cwd / name)
    assert [file for file in world.files() if file.endswith(".png")] == [name]


# --- what is refused ------------------------------------------------------------------------------------------


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


@pytest.fixture
def junk(world):
    whole = REFERENCE.read_bytes()
    (world.cwd / "empty.png").touch()
    (world.cwd / "cut.png").write_bytes(whole[: len(whole) // 2])
    (world.cwd / "notes.txt").write_text("no picture")
    (world.cwd / "folder").mkdir()
    for name, size, grey in (("black.png", (8, 8), 0), ("white.png", (8, 8), 255), ("wide.png", (16, 8), 255)):
        Image.new("L", size, grey).save(world.cwd / name)
    (world.cwd / "page.png").write_text("<!doctype html><html></html>")
    return world


@pytest.mark.parametrize(
    ("flags", "exit_code", "words"),
    [
        (("--image", "nowhere.png"), 1, "nowhere.png does not exist"),
        (("-p", "@nowhere.txt"), 1, "nowhere.txt does not exist"),
        (("-p", "@https://a.b/c.txt?d"), 1, "https://a.b/c.txt is an address, and a file is read here"),
        (("--from", "https://user:password@a.b/c.png"), 1, "https://a.b/c.png is an address, and a file is read here"),
        (("--embeds", "s3://a/b"), 1, "s3://a/b is an address, and a file is read here"),
        (("--prompts-from", "https://a.b/c"), 1, "https://a.b/c is an address, and a file is read here"),
        (("--prompts-from", "empty.png"), 1, "contains no prompt"),
        (("-p", "-", "--image", "-"), 2, "stdin can be read only once"),
        (("--image", "empty.pn"), 1, "did you mean empty.png?"),
        (("--image", "empty.png"), 1, "empty.png"),
        (("--image", "cut.png"), 1, "cut.png"),
        (("--image", "notes.txt"), 1, "notes.txt"),
        (("--image", "page.png"), 1, "page.png"),
        (("--image", "folder"), 1, "no picture in folder"),
        (("--image", "ftp://example.org/cat.png"), 2, "ftp"),
        (("--image", "http://127.0.0.1:9/cat.png"), 1, "127.0.0.1:9"),
        (("--width", 100), 2, "96 or 104"),
        (("--height", 0), 2, "from 64 to 8192"),
        (("--height", -64), 2, "from 64 to 8192"),
        (("--width", 10**9), 2, "from 64 to 8192"),
        (("--width", 10**30), 2, "from 64 to 8192"),
        (("--scale", "nan"), 2, "from 0 to 10"),
        (("--scale", "inf"), 2, "from 0 to 10"),
        (("--scale", "-0.1"), 2, "from 0 to 10"),
        (("--scale", "1e400"), 2, "from 0 to 10"),
        (("--guidance-scale", "nan"), 2, "from 0 to 100"),
        (("--ip-mode", "stile"), 2, "did you mean 'style'?"),
        (("--ip-mode", "style", "--ip-layers", '{"mid": 1}'), 2, "both choose layers"),
        (("--ip-layers", '{"up": {"blok_0": 1}}'), 2, "did you mean 'block_0'?"),
        (("--ip-layers", '{"up": NaN}'), 2, "NaN"),
        (("--ip-start", "nan"), 2, "from 0 to 1"),
        (("--ip-end", 1.5), 2, "from 0 to 1"),
        (("--ip-start", 0.6, "--ip-end", 0.4), 2, "from 0.6 to 0.4"),
        (("--ip-start", 0.1, "--ip-end", 0.4), 2, "none of the 2 steps"),
        (("--image-weight", "nan"), 2, "from 0 to 10"),
        (("--image-weight", 1, "--image-weight", 0.5), 2, "2 image weights for 1 reference picture"),
        (("--image-weight", 0), 2, "--scale 0"),
        (("--fit", "corp"), 2, "did you mean 'crop'?"),
        (("--adapter", "own,scael=1"), 2, "did you mean 'scale'?"),
        (("--adapter", "own,scale=nan"), 2, "from 0 to 10"),
        (("--adapter", "own,scale=much"), 2, "expected a number"),
        (("--adapter", "own,scale=1,scale=2"), 2, "scale twice"),
        (("--adapter", "own,mode=stile"), 2, "did you mean 'style'?"),
        (("--adapter", "own,weight=1,weight=2"), 2, "2 image weights"),
        (("--adapter", "own,image=nowhere.png"), 1, "nowhere.png does not exist"),
        (("--adapter", "own,start=0.9,end=0.2"), 2, "from 0.9 to 0.2"),
        (("--adapter", "nowhere,image=page.png"), 1, "page.png"),
        (("--adapter", "own,scale=0.5", "--scale", 0.1), 2, "every --adapter has its own scale: --scale"),
        (("--adapter", "own,image=a.png,embeds=b.safetensors"), 2, "both image and embeds"),
        (("--adapter", "own", "--image", "cat.png"), 2, "--image and --adapter are both given"),
        (("--adapter", "own", "--ip-adapter", "none"), 2, "--ip-adapter and --adapter are both given"),
        (("--mask", "nowhere.png"), 1, "nowhere.png"),
        (("--mask", "black.png"), 1, "dark everywhere"),
        (("--mask", "wide.png"), 1, "16x8, the picture 64x64"),
        (("--mask", "white.png", "--mask", "white.png"), 2, "2 masks for 1 reference picture"),
        (("--steps", 0), 2, "from 1 to 1000"),
        (("--steps", 10**12), 2, "from 1 to 1000"),
        (("--num-images", 0), 2, "from 1 to 10000"),
        (("--seed", -1), 2, "--seed"),
        (("--model", "dmo"), 2, "did you mean 'demo'?"),
        (("--model", "./nowhere"), 1, "nowhere"),
        (("--model", "nowhere.safetensors"), 1, "nowhere.safetensors"),
        (("--model", "notes.txt"), 2, "notes.txt"),
        (("--model", "folder"), 1, "no model_index.json"),
        (("--model", "a b/c"), 2, "a b/c"),
        (("--model", ""), 2, "model"),
        (("--ip-adapter", ""), 1, "there is no adapter ''"),
        (("--ip-adapter", "nowhere"), 1, "nowhere"),
        (("--ip-adapter", "folder"), 1, "holds no adapter"),
        (("--ip-adapter", "notes.txt"), 1, "notes.txt"),
        (("--ip-adapter-weight-name", "ip-adaptor.safetensors"), 1, "did you mean 'ip-adapter.safetensors'?"),
        (("--ip-adapter-subfolder", "elsewhere"), 1, "elsewhere"),
        (("--scheduler", "eular"), 2, "did you mean 'euler'?"),
        (("--backend", "inductr"), 2, "did you mean 'inductor'?"),
        (("--compile-options", "{"), 2, "JSON"),
        (("--load-format", "dumy"), 2, "did you mean 'dummy'?"),
        (("--precision", "fp8", "--backend", "eager"), 2, "the backend eager has no fp8"),
        (("--dtype", "float17"), 2, "did you mean 'float16'?"),
        (("--device", "cuda:99"), 1, "no device 'cuda:99'"),
        (("--device", "gpu"), 2, "unknown device 'gpu'"),
        (("--offload", "all"), 2, "none, model, sequential"),
        (("--cache-max-size", "lots"), 2, "lots"),
        (("--output", "cat.gif"), 2, ".gif"),
        (("--output", "{sede}.png"), 2, "{sede}"),
        (("--output", "notes.txt/cat.png"), 1, "notes.txt"),
        (("--output", "x" * 300), 2, "too long"),
    ],
)
def test_bad_input_is_reported_and_nothing_is_written(ipa, junk, flags, exit_code, words):
    before = junk.files()
    ran = ipa("generate", *FAST, *flags, "--json")
    assert ran.exit_code == exit_code, ran.stdout + ran.stderr
    error = ran.error()
    assert words in error["message"] + error["hint"] and error["hint"]
    assert "\n" not in error["message"] + error["hint"]
    assert junk.files() == before


@pytest.mark.parametrize(
    ("command", "flags", "words"),
    [
        ("generate", ("--precision", "fp8"), "fp8 needs a GPU of compute capability 8.9"),
        ("generate", ("--backend", "inductor", "--compile-options", '{"precision": "fp8"}'), "fp8 needs a GPU"),
        ("generate", ("--backend", "inductor", "--compile-options", '{"nonsense": 1}'), "nonsense"),
        ("compile", ("--precision", "fp8"), "fp8 needs a GPU of compute capability 8.9"),
    ],
)
def test_what_a_device_cannot_do_is_refused_before_weights_are_read(ipa, world, monkeypatch, command, flags, words):
    monkeypatch.setattr("ipa_cli.models.loader.load", lambda *_: pytest.fail("it read the weights"))
    ran = ipa(command, "--device", "cpu", *flags, "--json")
    assert ran.exit_code == 2, ran.stdout + ran.stderr
    assert words in ran.error()["message"] and world.files() == []


@pytest.mark.slow
def test_a_precision_that_auto_leaves_out_is_reported(ipa):
    ran = ipa("generate", *FAST, "--device", "cpu", "--compile-options", '{"precision": "fp8"}', "--json")
    assert ran.data()["backend"] == "eager"
    assert "warning: without a graph nothing is drawn in fp8" in ran.stderr


def test_no_network_is_reported(ipa, world):
    ran = ipa("generate", *FAST, "--model", "someone/thing", "--json")
    assert ran.exit_code == 1 and f"cannot reach {ENDPOINT}" in ran.error()["message"]
    assert "HF_ENDPOINT" in ran.error()["hint"]
    assert world.files() == []


def test_a_model_that_wants_a_prompt_says_so(ipa, world):
    shutil.copytree(DEMO, world.cwd / "model")
    ran = ipa("generate", *FAST, "--model", "./model", "--json")
    assert ran.exit_code == 2 and "--prompt" in ran.error()["hint"]


def test_ctrl_c_during_the_steps_leaves_nothing(ipa_process, world):
    flags = ("--steps", 1000, "--width", 64, "--height", 64, "--output", "cat.png")
    ran = ipa_process("generate", *flags, interrupt_at="warming up:")
    assert ran.exit_code == 130, ran.stderr
    assert ran.stdout == "" and "interrupted" in ran.stderr and "Traceback" not in ran.stderr
    assert world.files() == []


def test_ctrl_c_twice_while_loading_answers_a_script_with_one_object(ipa_process, world):
    twice = (signal.SIGINT, signal.SIGINT)
    ran = ipa_process("generate", *FAST, "--json", interrupt_at="this is the demo model", signals=twice)
    assert ran.exit_code in (130, -signal.SIGINT), ran.stderr  # one that finds Python on its way out ends it at once
    assert ran.error()["type"] == "Interrupted"
    assert world.files() == []


@pytest.mark.slow
def test_a_read_only_folder_is_reported(world):
    done = in_a_mount(world, "ro", "generate", *FAST, "--output", "disk/cat.png", "--json")
    assert done.returncode == 1, done.stderr
    assert "cannot be written to" in json.loads(done.stdout)["error"]["message"]


@pytest.mark.slow
def test_a_full_disk_is_reported_and_nothing_is_left(world):
    done = in_a_mount(world, "size=4k", "generate", *FAST, "--output", "disk/cat.png", "--json")
    assert done.returncode == 1, done.stderr
    assert "no space left" in json.loads(done.stdout)["error"]["message"]
    assert done.stderr.splitlines()[-1] == "left: 0"


def in_a_mount(world, options: str, *arguments: object) -> subprocess.CompletedProcess[str]:
    """Run `ipa` with a small file system of its own at `disk`, and count what is left in it on stderr."""
    (world.cwd / "disk").mkdir()
    script = (
        f"mount -t tmpfs -o {options} none disk || exit 99; "
        '"$@"; status=$?; echo "left: $(ls -A disk | wc -l)" >&2; exit $status'
    )
    command = [sys.executable, "-m", "ipa_cli", *(str(argument) for argument in arguments)]
    try:
        done = subprocess.run(
            ["unshare", "-rm", "sh", "-c", script, "sh", *command], capture_output=True, text=True, env=world.environ
        )
    except FileNotFoundError:
        pytest.skip("no unshare here")
    if done.returncode == 99 or done.stderr.startswith("unshare:"):
        pytest.skip("no file system can be mounted here")
    return done


# --- stdout, and other formats than PNG -----------------------------------------------------------------------


class Piped(io.TextIOWrapper):
    """A stdout that takes bytes, on a terminal or not."""

    def __init__(self, terminal: bool):
        super().__init__(io.BytesIO())
        self.terminal = terminal

    def isatty(self) -> bool:
        return self.terminal


def piped(*arguments: object, terminal: bool = False) -> tuple[int, bytes, str]:
    from ipa_cli.app import run

    out, err = Piped(terminal), io.StringIO()
    with redirect_stdout(out), redirect_stderr(err):
        exit_code = run(["generate", *FAST, *map(str, arguments)])
    return exit_code, out.buffer.getvalue(), err.getvalue()


@pytest.mark.slow
def test_stdout_takes_the_picture_and_stderr_the_report(world):
    exit_code, data, said = piped("--output", "-", "--seed", 5)
    assert exit_code == 0, said
    (world.cwd / "piped.png").write_bytes(data)
    assert read_settings(world.cwd / "piped.png")["seed"] == 5
    assert "stdout  64x64, seed 5" in said and "model: demo" in said
    assert world.files() == ["piped.png"]


@pytest.mark.slow
def test_stdout_takes_other_formats_and_quiet(world):
    exit_code, data, said = piped("-o", "-", "--format", "webp", "--quiet")
    assert (exit_code, said, data[:4]) == (0, "", b"RIFF")


@pytest.mark.parametrize(
    ("flags", "terminal", "message"),
    [
        (("-n", 2), False, "stdout takes one picture, not 2"),
        (("--json",), False, "both write to stdout"),
        ((), True, "as bytes on a terminal"),
    ],
)
def test_stdout_takes_nothing_else(world, flags, terminal, message):
    exit_code, data, said = piped("-o", "-", *flags, terminal=terminal)
    assert exit_code == 2 and message in data.decode() + said and world.files() == []


@pytest.mark.slow
@pytest.mark.parametrize(
    ("flags", "name"),
    [
        (("-o", "new/{seed}.jpg"), "new/5.jpg"),
        (("-o", "cat.avif", "--quality", 40), "cat.avif"),
        (("--format", "webp"), "ipa-5.webp"),
        (("--format", "jpg", "-o", "cat"), "cat.jpg"),
    ],
)
def test_other_formats_carry_the_settings_too(ipa, world, flags, name):
    assert ipa("generate", *FAST, "--seed", 5, *flags).exit_code == 0
    assert (world.cwd / name).is_file() and read_settings(world.cwd / name)["seed"] == 5
    again = ipa("generate", "--from", name, "--output", "again.png", "--json").data()
    assert again["images"][0]["seed"] == 5


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (("--quality", 50), "a PNG is lossless"),
        (("-o", "cat.jpg", "--format", "png"), "does not have the suffix of --format png"),
        (("-o", "cat.webp", "--quality", 0), "quality"),
        (("-o", "cat.jpg", "--prompt", "x" * 30_000), "too long for a JPEG"),
        (("-o", "/dev/stdin"), "not a regular file"),
    ],
)
def test_what_no_format_can_is_a_usage_error(ipa, world, flags, message):
    ran = ipa("generate", *FAST, *flags)
    assert ran.exit_code == 2 and message in ran.stderr and world.files() == []


@pytest.mark.parametrize("kind", ["link", "folder"])
def test_force_replaces_plain_files_alone(ipa, world, kind):
    if kind == "link":
        (world.cwd / "mine").write_text("mine")
        (world.cwd / "cat.png").symlink_to("mine")
    else:
        (world.cwd / "cat.png").mkdir()
        (world.cwd / "cat.png" / "ipa-5.png").mkdir()
    ran = ipa("generate", *FAST, "--seed", 5, "--output", "cat.png", "--force")
    assert ran.exit_code == 1 and "only regular files are replaced" in ran.stderr
    assert (world.cwd / "cat.png").is_symlink() == (kind == "link")
