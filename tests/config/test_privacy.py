"""Nothing that is written for others tells a password, a token or a home folder."""

import json
import shutil
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

import ipa_cli
from ipa_cli.config import FIELDS, Settings, regions
from ipa_cli.config.privacy import WORDS, public, public_name, public_settings, public_text
from ipa_cli.config.values import PARSED, element_type
from ipa_cli.images.metadata import read_settings

DEMO = Path(ipa_cli.__file__).parent / "demo"
SECRET = "hunter2hunter2"
ADDRESS = f"https://me:{SECRET}@host:8080/a.png?token={SECRET}&b=c d={SECRET}#{SECRET}"


@pytest.mark.parametrize(
    ("name", "left"),
    [
        (ADDRESS, "https://host:8080/a.png"),
        ("https://host/a.png", "https://host/a.png"),
        ("s3://key:secret@bucket/a?b", "s3://bucket/a"),
        ("https://me:p@ss@host", "https://host"),
        ("HOME/refs/a.png", "~/refs/a.png"),
        ("HOME", "~"),
        ("HOMEBREW/a.png", "HOMEBREW/a.png"),
        ("/mntHOME/a.png", "/mntHOME/a.png"),
        ("file://HOME/a.png", "file://~/a.png"),
        ("who is it?.png", "who is it?.png"),
        ("a#b@c.png", "a#b@c.png"),
        ("owner/hf_finetuned-model", "owner/hf_finetuned-model"),
    ],
)
def test_a_name_keeps_what_finds_it_and_no_more(world, name, left):
    name, left = name.replace("HOME", str(world.home)), left.replace("HOME", str(world.home))
    assert public_name(name) == left == public_name(left)


@pytest.mark.parametrize(
    ("said", "left"),
    [
        ("cannot reach https://me:pw@host/x?sig=1: it is off", "cannot reach https://host/x: it is off"),
        ('"http://host/a?b=c", and (https://host/#d).', '"http://host/a", and (https://host/).'),
        ("HOME/a and HOME: HOME/b?", "~/a and ~: ~/b?"),
        ("hf_" + "x" * 34 + " was sent", "<secret> was sent"),
        ("what? yes#no@all", "what? yes#no@all"),
    ],
)
def test_a_message_keeps_its_words(world, said, left):
    said = said.replace("HOME", str(world.home))
    assert public_text(said) == left == public_text(left)


@pytest.mark.slow
@pytest.mark.parametrize(
    "piece", ["://", "://?", "://a@", "?:", "hf_", "sk-", "/", "~", "HOME/", "://?:,;.)", "@", "#", "a"]
)
def test_no_text_takes_long(world, piece):
    said = "https://a?" + piece.replace("HOME", str(world.home)) * 50_000
    started = time.process_time()
    for text in (said, said[10:]):
        public_text(text)
        public_name(text)
    assert time.process_time() - started < 5  # minutes when quadratic


def test_a_home_behind_a_link_or_at_the_root(world, monkeypatch, tmp_path):
    link = tmp_path / "link"
    link.symlink_to(world.home)
    monkeypatch.setenv("HOME", str(link))
    assert public_name(f"{link}/a") == public_name(f"{world.home}/a") == "~/a"
    for home in ("/", ""):
        monkeypatch.setenv("HOME", home)
        assert public_name("/etc/a") == "/etc/a"


@pytest.mark.parametrize("name", [name for name in FIELDS if element_type(name) not in (int, float, bool)])
def test_no_setting_tells_a_secret(world, name):
    """A new setting that names something must be one of a place, or none of its words comes through."""
    values = [ADDRESS, f"{world.home}/a", f'{{"a": "https://me:{SECRET}@host/x?{SECRET}"}}']
    if name == "adapter":
        values += [f"own,image={ADDRESS},scale=0.5,mask={world.home}/m.png", f"{world.home}/a:b/c,embeds={ADDRESS}"]
    if name == "lora":
        values += [f"{world.home}/a:b/c,weight=0.5"]
    if name == "embedding":
        values += [f"{world.home}/a:b/c,token=<x>"]
    if name == "region":  # its prompt is the user's own
        values = [f"mask={place},prompt=a star" for place in (ADDRESS.partition(",")[0], f"{world.home}/a")]
    for value in values:
        parse = PARSED.get(element_type(name))
        one = value if parse is None else parse(value, name)
        settings = replace(Settings(), **{name: (one,) if isinstance(FIELDS[name].default, tuple) else one})
        text = json.dumps(public_settings(settings, [name]))
        assert name in WORDS or (SECRET not in text and str(world.home) not in text), text
    if name == "adapter":
        kept = public_settings(settings, ["adapter"])["adapter"]
        assert kept == ["~/a:b/c,embeds=https://host:8080/a.png"]


def test_only_the_users_own_words_stay_as_they_are(world):
    address = "https://me:pw@host/a?b=c"
    data = {"prompt": address, "a": [{"b": (address, 1, None)}], "prompts": [address]}
    assert public(data) == {"prompt": address, "a": [{"b": ["https://host/a", 1, None]}], "prompts": [address]}


def test_the_prompts_of_regions_stay_as_they_are_and_their_masks_do_not(world):
    spec = "mask={},prompt=in {}/x see https://host/?q,negative=https://me:pw@host/"
    given, left = (spec.format(mask, world.home) for mask in ("https://me:pw@host/a?b=c", "https://host/a"))
    asked = Settings(region=(regions.parse(given, "--region"),))
    recorded = public_settings(asked, ["region"])
    assert recorded == {"region": [left]} == public({"region": [given]}) == public({"region": [left]})
    assert public({"region": ["https://me:pw@host/a?b=c"]}) == {"region": ["https://host/a"]}


class Quiet(SimpleHTTPRequestHandler):
    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def address(tmp_path: Path) -> Iterator[str]:
    """Where a reference picture is served to those who know the token."""
    (tmp_path / "served").mkdir()
    shutil.copy(DEMO / "reference.png", tmp_path / "served" / "cat.png")
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=tmp_path / "served"))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}/cat.png?token={SECRET}"
    server.shutdown()
    server.server_close()


@pytest.mark.slow
def test_no_file_tells_a_secret_and_pictures_can_be_drawn_again(ipa, world, address):
    model, mask = world.home / "models" / "mine", world.home / "mask.png"
    shutil.copytree(DEMO, model)
    shutil.copy(DEMO / "reference.png", mask)
    fast = ("--model", model, "--steps", 1, "--warmup", 0, "--prompt", "a star", "--seed", 1)
    adapter = f"{model}:ip_adapter/ip-adapter.safetensors,image={mask},mask={mask},scale=0.5"
    size = ("--width", 64, "--height", 64)
    assert ipa("generate", *fast, *size, "--image", address, "--mask", mask, "-o", "a.png").exit_code == 0
    assert ipa("generate", *fast, *size, "--adapter", adapter, "-o", "b.png").exit_code == 0
    sweep = ("--size", "64x64", "--scales", "0,1", "--image", address, "--mask", mask, "-o", "sweep")
    assert ipa("sweep-scale", *fast, *sweep).exit_code == 0
    assert ipa("embed", address, mask, "--model", model, "-o", "a.safetensors").exit_code == 0
    assert ipa("generate", *fast, *size, "--embeds", "a.safetensors", "-o", "c.png").exit_code == 0

    written = [path for path in world.cwd.rglob("*") if path.is_file()]
    assert len(written) > 8
    for path in written:
        content = path.read_bytes()
        for planted in (SECRET, str(world.home)):
            assert planted.encode() not in content, f"{path} tells {planted}"
            if path.suffix == ".png" and path.parent.name != "sweep":
                assert planted not in json.dumps(read_settings(path))
    assert read_settings(world.cwd / "b.png")["settings"]["adapter"] == [
        "~/models/mine:ip_adapter/ip-adapter.safetensors,image=~/mask.png,mask=~/mask.png,scale=0.5"
    ]
    assert ipa("generate", "--from", "b.png", "-o", "again.png").exit_code == 0
    assert (world.cwd / "again.png").read_bytes() == (world.cwd / "b.png").read_bytes()
