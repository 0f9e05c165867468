"""Every command that README and docs show, as it stands there: a reader pastes it, so it has to work."""

from __future__ import annotations

import itertools
import json
import os
import re
import shlex
import shutil
import sys
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageDraw
from safetensors.numpy import save

import ipa_cli
from ipa_cli.errors import IpaError
from tests import controlnets, faceid, insightface, loras
from tests.conftest import HUB_CACHE
from tests.hubs import Hub, folder, serving
from tests.serve import server

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[1]
DEMO = Path(ipa_cli.__file__).parent / "demo"
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
# What takes long is made small: by settings below flags, and where a command says its size or steps, in their place.
QUICK = {"IPA_STEPS": "1", "IPA_WIDTH": "64", "IPA_HEIGHT": "64", "IPA_WARMUP": "0", "IPA_DEVICE": "cpu"}
SMALL = {"--size": "64x64", "--steps": "5", "--dtype": "float32"}
# Minutes of compiling and measuring are not repeated here: these are run up to that work.
LONG = {"compile": "ipa_cli.engine.graphs.prepare", "bench": "ipa_cli.bench.run.bench"}
REACHED = "the work begins here"
NEEDS_GPU = "fp8 needs a GPU"
TWO_GPUS = "needs two NVIDIA GPUs"


@dataclass(frozen=True)
class Block:
    """The commands of one shell block, which may use each other's files."""

    page: str
    line: int
    commands: tuple[str, ...]

    def __str__(self) -> str:
        return f"{self.page}:{self.line}"


def blocks(page: Path) -> Iterator[Block]:
    text = page.read_text(encoding="utf-8")
    for found in re.finditer(r"^```(?:bash|console)\n(.*?)^```", text, re.MULTILINE | re.DOTALL):
        lines = found[1].replace("\\\n", " ").splitlines()
        if any(line.startswith("$ ") for line in lines):  # a session: the other lines are what is printed
            lines = [line[2:] for line in lines if line.startswith("$ ")]
        commands = tuple(line for line in lines if re.match(r"ipa\s|\w+=\$\(ipa\s", line))
        if commands:
            yield Block(page.name, text.count("\n", 0, found.start()) + 1, commands)


BLOCKS = [block for page in PAGES for block in blocks(page)]


def words(command: str) -> list[str]:
    """What the shell hands to `ipa`: no comment, nothing behind a pipe, the inside of `$(…)`."""
    inner = re.fullmatch(r"\w+=\$\((.*)\)(?:\s*#.*)?", command)
    split = shlex.split(inner[1] if inner else command, comments=True)
    split = [word.replace("/path/to/environment", sys.prefix) for word in split]
    for end in ("|", ">", "&&"):
        if end in split:
            split = split[: split.index(end)]
    if split[1] in LONG:
        return split[1:]
    return [SMALL.get(before, word) for before, word in itertools.pairwise(split)]


@cache
def face_adapters() -> dict[str, bytes]:
    """h94's, for the demo model."""
    states = json.loads((DEMO / "ip_adapter" / "image_encoder" / "config.json").read_text())["hidden_size"]
    kinds: dict[str, dict[str, Any]] = {"faceid": {}, "faceid-plusv2": {"states": states}}
    with tempfile.TemporaryDirectory() as scratch:
        written = [
            faceid.write(Path(scratch) / f"ip-adapter-{kind}_sdxl.bin", loras.demo_unet(), **more)
            for kind, more in kinds.items()
        ]
        return {path.name: path.read_bytes() for path in written}


@cache
def controlnet() -> dict[str, bytes]:
    """One for the demo model."""
    with tempfile.TemporaryDirectory() as scratch:
        return folder(controlnets.save(DEMO, Path(scratch) / "control"))


@pytest.fixture
def readers_folder(world, tmp_path, monkeypatch):
    """What a reader is taken to have: some pictures, and a hub that answers."""
    Path("holiday").mkdir()
    Path("fox.txt").write_text("a red fox\n")
    Path("list.txt").write_text("a star\na ring\n")
    Path("jobs.jsonl").write_text('{"id": "cat-1", "image": "cat.png", "prompt": "a star"}\n{"id": "ring"}\n')
    colours = ("orange", "navy", "teal", "olive", "gold")
    names = ("cat.png", "dog.png", "painting.png", "wide.jpg", "holiday/beach.jpg")
    for name, colour in zip(names, colours, strict=True):
        image = Image.new("RGB", ({"wide.jpg": 192, "cat.png": 128}.get(name, 96), 96), "white")  # as photographs are
        ImageDraw.Draw(image).ellipse((10, 20, 70, 90), colour)
        image.save(name)
    masks = ("left.png", 64, (0, 0, 31, 63)), ("right.png", 64, (32, 0, 63, 63)), ("cat-mask.png", 85, (0, 0, 40, 63))
    for name, width, box in masks:
        mask = Image.new("L", (width, 64))
        ImageDraw.Draw(mask).rectangle(box, fill="white")
        mask.save(name)
    embedding = save({name: np.ones((2, 64), "float32") for name in ("clip_l", "clip_g")})
    for path in (Path("bad.safetensors"), world.home / "embeddings" / "bad.safetensors"):
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(embedding)
    lora = loras.of_demo()
    for name in ("style.safetensors", "ink.safetensors", "loras/ink.safetensors"):
        Path(name).parent.mkdir(exist_ok=True)
        loras.write(Path(name), lora)
    np.save("face.npy", faceid.embedding())
    image = Image.new("RGB", (96, 96), "white")
    ImageDraw.Draw(image).rectangle((30, 30, 60, 70), "red")
    image.save("face.png")
    for name in ("pose.png", "depth.png", "outlines.png"):
        image.save(name)
    Path("pose.safetensors").write_bytes(controlnet()["diffusion_pytorch_model.safetensors"])
    insightface.install(tmp_path, world.home, monkeypatch)
    for name, value in QUICK.items():
        monkeypatch.setenv(name, value)
    shutil.rmtree(HUB_CACHE, ignore_errors=True)
    whole = folder(DEMO)
    model = {name: data for name, data in whole.items() if not name.startswith("ip_adapter/")}
    adapter = {
        name.replace("ip_adapter/", "sdxl_models/", 1).replace("/ip-adapter.", "/ip-adapter_sdxl."): data
        for name, data in whole.items()
        if name not in model
    }
    others = {"h94/IP-Adapter": adapter, "me/toy": {"learned.safetensors": embedding}}
    others["me/style"] = {"style.safetensors": Path("style.safetensors").read_bytes()}
    encoder = {name.replace("sdxl_models/", "models/"): data for name, data in adapter.items() if "encoder" in name}
    others["h94/IP-Adapter"] = {**adapter, **encoder}
    others["h94/IP-Adapter-FaceID"] = face_adapters()
    others |= {"me/canny": controlnet(), "me/depth": controlnet()}
    with serving(Hub({"stabilityai/stable-diffusion-xl-base-1.0": model, **others})):
        yield world


def test_there_is_something_to_run():
    assert len(BLOCKS) > 10 and "…" not in "".join(command for block in BLOCKS for command in block.commands)


@pytest.mark.parametrize("block", BLOCKS, ids=str)
def test_commands_work_as_pasted(ipa, readers_folder, monkeypatch, block):
    with ExitStack() as servers:
        for command in block.commands:
            arguments = words(command)
            if "--pad" in arguments:  # the size is that of the picture with its border
                monkeypatch.delenv("IPA_WIDTH", raising=False)
                monkeypatch.delenv("IPA_HEIGHT", raising=False)
            if arguments[-1] == "&":
                running = server.serving(dict(os.environ), Path.cwd(), arguments[1:-1])
                servers.enter_context(running).wait_until_ready()
            else:
                run(ipa, monkeypatch, arguments, f"{block}: {command}")


def run(ipa, monkeypatch, arguments, where):
    with monkeypatch.context() as stopping:
        if arguments[0] in LONG:
            stopping.setattr(LONG[arguments[0]], lambda *_, **__: (_ for _ in ()).throw(IpaError(REACHED)))
        ran = ipa(*arguments)
    wanted = REACHED if arguments[0] in LONG else ""
    if ("fp8" in where and NEEDS_GPU in ran.stderr) or ("--gpus 2" in where and TWO_GPUS in ran.stderr):
        return
    assert ran.exit_code == bool(wanted) and wanted in ran.stderr, f"{where}\n{ran.stdout}{ran.stderr}"
