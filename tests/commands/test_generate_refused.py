"""What `ipa generate` refuses, and what it leaves when it is stopped or a disk is full."""

import json
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

import ipa_cli
from ipa_cli.engine.engine import Engine
from ipa_cli.errors import IpaError
from tests.hubs import ENDPOINT

DEMO = Path(ipa_cli.__file__).parent / "demo"
REFERENCE = DEMO / "reference.png"
# As little work as makes a picture.
FAST = ("--width", 64, "--height", 64, "--steps", 2, "--warmup", 0, "--seed", 7)


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
        (("--seed", 2**63 - 2, "--num-images", 3), 2, "the last of 3 pictures would have the seed 9223372036854775808"),
        (("--model", "dmo"), 2, "did you mean 'demo'?"),
        (("--model", "./nowhere"), 1, "nowhere"),
        (("--model", "nowhere.safetensors"), 1, "nowhere.safetensors"),
        (("--model", "notes.txt"), 1, "notes.txt is no .safetensors file"),
        (("--model", "folder"), 1, "no model_index.json"),
        (("--model", "a b/c"), 2, "a b/c"),
        (("--model", ""), 2, "model"),
        (("--ip-adapter", ""), 1, "there is no adapter ''"),
        (("--cache-dir", "s3://a/b"), 2, "an address is no folder here"),
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


@pytest.mark.parametrize(
    ("stopped_by", "exit_code", "words"),
    [(KeyboardInterrupt(), 130, "interrupted"), (IpaError("no memory", ""), 1, "no memory")],
)
def test_pictures_that_are_there_are_named_when_the_others_are_not_drawn(
    ipa, world, monkeypatch, stopped_by, exit_code, words
):
    draw = Engine.draw_batch

    def stopped_at_the_third(engine, request, numbers, name):
        if numbers[0] == 2:
            raise stopped_by
        return draw(engine, request, numbers, name)

    monkeypatch.setattr(Engine, "draw_batch", stopped_at_the_third)
    ran = ipa("generate", *FAST, "--num-images", 4, "--output", "fox.png", "--json")
    assert ran.exit_code == exit_code and ran.error()["message"] == words
    assert "warning: saved 2 of 4 pictures: fox-1.png, fox-2.png" in ran.stderr
    assert world.files() == ["fox-1.png", "fox-2.png"]


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
