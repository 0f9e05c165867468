"""`ipa generate --server` writes the files that `ipa generate` writes."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from PIL import Image

from ipa_cli.config import FIELDS
from ipa_cli.config.comparison import COMPARED
from ipa_cli.config.requests import FOLDERS, ONE_PICTURE, PICTURES
from ipa_cli.config.setting import PICTURE, PLACE, REFERENCE
from tests.serve.server import serving

pytestmark = pytest.mark.slow

FAST = ("--steps", 2, "--size", "64x64")


@pytest.fixture
def pictures(world):
    """References and masks: files, a folder of each, and one at home."""
    for folder in ("cats", "masks"):
        Path(folder).mkdir()
    for name, colour in (("cat.png", "teal"), ("cats/1.png", "red"), ("cats/2.jpg", "navy")):
        Image.new("RGB", (96, 64), colour).save(name)
    left = Image.new("L", (64, 64))
    left.paste(255, (0, 0, 32, 64))
    left.save("left.png")
    left.save("masks/a.png")
    left.resize((96, 64)).save("wide.png")
    left.rotate(180).save("masks/b.png")
    Image.new("RGB", (64, 64), "olive").save(world.home / "dog.png")
    Path("prompts.jsonl").write_text(
        '{"prompt": "a star", "num_images": 1}\n{"prompt": "a moon", "seed": 9, "num_images": 3}\n'
    )


def both(ipa, url, *flags):
    """What `ipa generate` writes and says here and at the server, as files by name and JSON."""
    done = []
    for place, more in (("here", ()), ("there", ("--server", url))):
        Path(place).mkdir()
        arguments = [str(flag).replace("OUT", place) for flag in flags]
        ran = ipa("generate", *FAST, *arguments, *more, "--json")
        assert ran.exit_code == 0, ran.stderr
        files = {path.name: path.read_bytes() for path in Path(place).iterdir()}
        done.append((files, ran.data()))
    return done


@pytest.mark.parametrize(
    "flags",
    [
        "--seed 1 -o OUT/a.png",
        "--seed 1 -n 5 --batch-size 2 -o OUT/",
        "--seed 1 --prompts-from prompts.jsonl --batch-size 2 -o OUT/{prompt}-{scale}-{seed}-{index:02}.png",
        "--seed 1 -p star -p moon --image cat.png --image cats --image-weight 1 --image-weight 0.5 --image-weight 0 "
        "-o OUT/x.png",
        "--seed 1 --image cat.png --mask left.png --scale 0.4 --ip-mode style --fit crop -o OUT/a.png",
        "--seed 1 --image cats/ --mask masks/ --ip-start 0 --ip-end 0.5 -o OUT/a.png",
        "--seed 1 --image left.png --mask left.png -o OUT/a.png",
        "--seed 1 --image ~/dog.png --negative-prompt dark --guidance-scale 4 --guidance-end 0.5 -o OUT/a.png",
        "--seed 1 --embeds pets.safetensors --image-weight 2 --image-weight 1 -o OUT/a.png",
        "--seed 1 --from old.png --scale 0.3 -o OUT/a.png",
        "--seed 1 --scheduler ddim --guidance-scale 3 --guidance-rescale 0.7 --format jpg --quality 70 -o OUT/",
        "--seed 1 --hires 1.5 --hires-upscaler lanczos --region mask=left.png,prompt=red,weight=0.5 -o OUT/a.png",
        "--seed 1 --quality 60 -o OUT/a.webp",
        "--seed 1 -o OUT/a.avif",
        "--seed 1 -n 2 --image cats --image ~/dog.png --image-per-picture --image-weight 1 --image-weight 0.5 "
        "--image-weight 1 --steps 2 -o OUT/{image}-{seed}.png",
        "--seed 1 --image cats --image-combine subtract --negative-image ~/dog.png --sharpening 0.5 "
        "--guidance-scale 3 -o OUT/",
        "--seed 1 --image wide.png --fit tiles --ip-mode style-transfer-precise --guidance-scale 3 -o OUT/",
        "--seed 1 --init-image cat.png --inpaint-mask wide.png --mask-blur 2 --image cats -o OUT/a.png",
        "--seed 1 -n 2 --init-image cat.png --strength 0.5 --steps 4 -o OUT/",
    ],
)
def test_the_file_is_the_one_that_is_drawn_here(ipa, served, pictures, flags):
    if "pets" in flags:
        assert ipa("embed", "cats", "--output", "pets.safetensors").exit_code == 0
    if "old" in flags:
        assert ipa("generate", *FAST, "--image", "cat.png", "--ip-mode", "layout", "-o", "old.png").exit_code == 0
    (here, said), (there, told) = both(ipa, served.url, *flags.split())
    assert there == here and here
    assert told.keys() == said.keys() and told["timings"].keys() == said["timings"].keys()
    assert (said["server"], told["server"]) == (None, served.url)
    for name in ("prompt", "model", "adapter", "device", "dtype", "backend", "steps"):
        assert told[name] == said[name], name
    own = [{**one, "path": Path(one["path"]).name} for one in said["images"]]
    assert own == [{**one, "path": Path(one["path"]).name} for one in told["images"]]
    assert set(told["graph"]) == set(said["graph"]) and set(told["memory"]) == set(said["memory"])


def test_no_reference_is_followed_there_either(ipa, served, world):
    (here, _), (there, told) = both(ipa, served.url, "--seed", 1, "--image", "none", "-o", "OUT/a.png")
    assert there == here and told["references"] == []


def test_scales_by_layer_come_out_the_same(ipa, served, pictures):
    (here, _), (there, _) = both(
        ipa, served.url, "--seed", 1, "--ip-layers", '{"up": 0.5, "down": 1.0}', "--image", "cat.png", "-o", "OUT/a.png"
    )
    assert there == here


def test_several_adapters_each_have_their_references(ipa, world, pictures):
    with serving(world.environ, world.cwd, ["--adapter", "own", "--adapter", "own"]) as server:
        server.wait_until_ready()
        first = "own,image=cat.png,mask=left.png,scale=0.5"
        flags = ("--adapter", first, "--adapter", "own,image=cats,mode=style,weight=1,weight=2", "--seed", 1)
        (here, _), (there, _) = both(ipa, server.url, *flags, "-o", "OUT/a.png")
        assert there == here
        plain = ipa("generate", "--server", server.url, "--image", "cat.png", "--json")
        assert "own" in plain.error()["message"] and plain.exit_code == 1


def test_a_reference_from_the_web_is_fetched_here_and_sent(ipa, world, served, pictures):
    handler = partial(SimpleHTTPRequestHandler, directory=world.cwd)
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as web:
        threading.Thread(target=web.serve_forever, daemon=True).start()
        address = f"http://127.0.0.1:{web.server_port}/cat.png?token=hunter2hunter2"
        (here, _), (there, told) = both(ipa, served.url, "--seed", 1, "--image", address, "-o", "OUT/a.png")
        web.shutdown()
    assert there == here
    assert told["references"] == [address.partition("?")[0]] and "hunter2" not in served.server.stderr


def test_stdin_and_stdout_serve_as_without_a_server(ipa, world, served, pictures, stdin):
    with Path("cat.png").open("rb") as file:
        stdin(file.fileno())
        assert ipa("generate", *FAST, "--seed", 1, "-i", "-", "-o", "a.png", "--server", served.url).exit_code == 0
    with Path("cat.png").open("rb") as file:
        stdin(file.fileno())
        assert ipa("generate", *FAST, "--seed", 1, "-i", "-", "-o", "b.png").exit_code == 0
    assert Path("a.png").read_bytes() == Path("b.png").read_bytes()
    typed = [*FAST, "--seed", 1, "-i", "cat.png", "-o", "-", "--server", served.url]
    command = [sys.executable, "-m", "ipa_cli", "generate", *map(str, typed)]
    Path("c.png").write_bytes(subprocess.run(command, env=world.environ, capture_output=True, check=True).stdout)
    assert ipa("generate", *FAST, "--seed", 1, "-i", "cat.png", "-o", "d.png").exit_code == 0
    assert Path("c.png").read_bytes() == Path("d.png").read_bytes()


def test_quiet_prints_the_paths_and_an_existing_file_is_kept(ipa, served):
    for expected in ("a.png\n", "a-1.png\n"):
        ran = ipa("generate", *FAST, "--server", served.url, "-o", "a.png", "-q")
        assert (ran.exit_code, ran.stdout, ran.stderr) == (0, expected, "")


def test_it_loads_nothing_heavy(world, served):
    from tests.test_layering import HEAVY, modules_after

    exit_code, loaded = modules_after(world, f"generate --steps 1 --size 64x64 --server {served.url} -o a.png")
    assert exit_code == 0
    assert not {name.split(".")[0] for name in loaded} & (HEAVY | {"httpx2", "pydantic", "safetensors"})


def test_every_setting_of_a_picture_is_sent_or_compared():
    """A new setting that names a place has to be sent as a file, or be one that the server is started with."""
    places = {
        name
        for name, one in FIELDS.items()
        if one.metadata["panel"] in (PICTURE, REFERENCE) and one.metadata["kind"] == PLACE
    }
    compared = {"adapter", "lora", "embedding", *FOLDERS}
    assert places == {*PICTURES, *ONE_PICTURE, "embeds", "region", "control", *compared} and compared <= set(COMPARED)


def test_what_the_server_says_is_said_here(ipa, served, pictures):
    Image.new("RGBA", (64, 64), (0, 0, 0, 0)).save("clear.png")
    flags = (*FAST, "--seed", 1, "--image", "clear.png", "-o", "a.png", "-f")
    here, there = ipa("generate", *flags), ipa("generate", *flags, "--server", served.url)
    said = [line for line in here.stderr.splitlines() if line.startswith("clear.png")]
    assert said and said[0] in there.stderr.splitlines()
    Path("ipa.toml").write_text("guidance-rescale = 0.5\n")
    there = ipa("generate", *flags, "--server", served.url, "--guidance-scale", 1, "--negative-prompt", "blur")
    assert "--negative-prompt has no effect" in there.stderr and "rescale" not in there.stderr


@pytest.mark.parametrize(
    ("flags", "exit_code"),
    [
        ("--image text.png", 1),
        ("--image gone.png", 1),
        ("--image cat.png --mask dark.png", 1),
        ("--image cat.png --mask flat.png", 1),
        ("--image cat.png --image-weight 1 --image-weight 2", 2),
        ("--scheduler nothing", 2),
        ("--ip-start 0.9 --ip-end 0.1", 2),
        ("--ip-layers {", 2),
        ("-o a.png --quality 3", 2),
        ("-o a.bmp", 2),
        ("-o cat.png/a.png", 1),
        ("-n 2 -o -", 2),
    ],
)
def test_what_is_wrong_is_said_as_it_is_here(ipa, served, pictures, flags, exit_code):
    Path("text.png").write_text("hello")
    Image.new("L", (64, 64), 0).save("dark.png")
    Image.new("L", (64, 32), 255).save("flat.png")
    arguments = (*FAST, "--seed", 1, *flags.split())
    here, there = (ipa("generate", *arguments, *more, "--json") for more in ((), ("--server", served.url)))
    assert (here.exit_code, there.exit_code) == (exit_code, exit_code)
    assert {**there.error(), "type": ""} == {**here.error(), "type": ""}


def test_a_picture_from_elsewhere_is_drawn_with_what_the_server_has(ipa, served, world):
    drawn = ipa("generate", *FAST, "--seed", 1, "--dtype", "bfloat16", "-o", "a.png")
    assert drawn.exit_code == 0, drawn.stderr
    again = ipa("generate", "--from", "a.png", "-o", "b.png", "--server", served.url)
    assert again.exit_code == 0
    assert "was drawn with bfloat16, and the server has float32" in again.stderr
    assert json.loads(Image.open("b.png").text["ipa"])["dtype"] == "float32"


def test_loras_of_the_server_act_and_those_in_a_prompt_where_both_name_their_folder(ipa, world, pictures):
    from tests import loras

    Path("loras").mkdir()
    for number, name in enumerate(("a", "b")):
        loras.write(Path("loras", f"{name}.safetensors"), loras.of_demo(number))
    named = ("--lora", "loras/a.safetensors,weight=0.5", "--lora-dir", "loras")
    with serving(world.environ, world.cwd, named) as server:
        server.wait_until_ready()
        prompt = ("--prompt", "star <lora:b:0.7>", "--seed", 1, "-o", "OUT/{prompt}.png")
        (here, _), (there, _) = both(ipa, server.url, *named, *prompt)
        assert there == here and list(here) == ["star.png"]
        (file,) = (path for path in Path("there").iterdir())
        assert len(json.loads(Image.open(file).text["ipa"])["loras"]) == 2
        plain = ipa("generate", *FAST, "--server", server.url, "--prompt", "star <lora:b:0.7>", "-o", "a.png")
        assert plain.exit_code == 0 and len(json.loads(Image.open("a.png").text["ipa"])["loras"]) == 1
