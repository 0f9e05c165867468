"""Files of settings as they should never be: nothing hangs, and one line says what is wrong."""

import os
import random
import subprocess
import sys
import time
from pathlib import Path

import pytest

from ipa_cli.config import FIELDS, resolve
from ipa_cli.errors import IpaError


def refused(world, **environ) -> str:
    started = time.monotonic()
    with pytest.raises(IpaError) as caught:
        resolve({}, {**world.environ, **environ}, world.cwd)
    assert time.monotonic() - started < 10
    assert caught.value.hint and "\n" not in caught.value.message and len(caught.value.message) < 600
    return caught.value.message


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (".".join(["a"] * 50_000) + " = 1", "larger than"),
        (".".join(["a"] * 30_000) + " = 1", "more than 100 parts"),
        ("steps = {" + " . ".join(["a"] * 10_000) + " = 1}", "more than 100 parts"),
        ("[" + ".".join(["a"] * 10_000) + "]", "more than 100 parts"),
        ("steps" + ".a" * 100 + " = 1", "expected a whole number"),
        ("# " + "x" * 200_000, "larger than"),
        ("steps = 0x" + "f" * 20_000, "too long to show"),
        ("prompt = [1, 0x" + "f" * 20_000 + "]", "too long to show"),
        ("image = " + "[" * 100 + "]" * 100, "image"),
        ("steps = " + "[" * 60_000, "not valid TOML"),
        ("[[steps]]\n" * 6000, "expected a whole number"),
        ("x" * 60_000 + " = 1", "unknown key 'xxx"),
        ('prompt = "a\nb"', "not valid TOML"),
        ('"a\\nb" = 1', "unknown key 'a b'"),
    ],
)
def test_a_file_that_would_hang_or_flood_is_refused_in_one_line(world, content, words):
    path = world.cwd / "ipa.toml"
    path.write_text(content)
    message = refused(world)
    assert words in message and str(path) in message
    other = path.rename(world.home / "other.toml")
    assert words in refused(world, IPA_CONFIG=str(other))


def test_dots_within_texts_are_no_keys(world):
    (world.cwd / "ipa.toml").write_text(f'prompt = "{"a. " * 90}"\nnegative_prompt = "{"b. " * 90}"')
    assert resolve({}, world.environ, world.cwd).settings.prompt == "a. " * 90


def test_pipes_devices_and_folders_are_no_files_of_settings(world, tmp_path):
    pipe = world.cwd / "ipa.toml"
    os.mkfifo(pipe)
    assert resolve({}, world.environ, world.cwd).sources["steps"].kind == "default"
    for place in (pipe, world.home, Path("/dev/zero"), Path("/dev/null"), tmp_path / "none"):
        assert f"IPA_CONFIG names {place}" in refused(world, IPA_CONFIG=str(place))


def test_a_link_to_an_endless_device_is_not_followed(world):
    (world.cwd / "ipa.toml").symlink_to("/dev/zero")
    assert resolve({}, world.environ, world.cwd).sources["steps"].kind == "default"


@pytest.mark.slow
def test_a_command_in_a_hostile_folder_answers_at_once(world):
    (world.cwd / "ipa.toml").write_text(".".join(["a"] * 30_000) + " = 1")
    command = [sys.executable, "-m", "ipa_cli", "cache", "ls"]
    done = subprocess.run(command, env=world.environ, capture_output=True, text=True, timeout=30)
    assert done.returncode == 2 and len(done.stderr.splitlines()) == 2


WORDS = ["1", "0.5", "nan", '"x"', "[]", "{}", '"~/x"', '"http://x"', '"own,image=../x,b=1"', '"\\u0000"', "true"]
LONG = [
    "[" * 600 + "]" * 600,
    "0x" + "f" * 9000,
    "1979-05-27T07:32:00Z",
    '"' + "a/" * 3000 + '"',
    "{" + "a." * 90 + "a=1}",
]


def test_names_too_long_for_any_disk_are_no_bug(world):
    for name in ("inner", "a", "c", "f"):
        (world.cwd / name).mkdir()
    (world.cwd / "ipa.toml").write_text(f'model = "a/{"b" * 300}"\nadapter = "c/{"d" * 300}:e,image=f/{"g" * 5000}"')
    settings = resolve({}, world.environ, world.cwd / "inner").settings
    assert settings.model == f"a/{'b' * 300}"


@pytest.mark.slow
def test_any_mixture_gives_settings_or_one_line(world):
    chosen, path = random.Random(5), world.cwd / "ipa.toml"
    keys = [*FIELDS, "[steps]", "[[a]]", '""', "steps.a.b", "x" * 900]
    inner = world.cwd / "inner"
    inner.mkdir()
    for _ in range(300):
        lines = [f"{chosen.choice(keys)} = {chosen.choice(WORDS + LONG)}" for _ in range(chosen.choice([1, 1, 2, 5]))]
        path.write_text("\n".join(lines))
        try:
            for folder in (world.cwd, inner):
                resolve({}, world.environ, folder)
        except IpaError as error:
            assert error.hint and len(error.message) < 600


@pytest.mark.parametrize("encoding", ["utf-16", "latin-1"])
def test_another_encoding_is_said_to_be_one(world, encoding):
    """PowerShell's `>` writes UTF-16."""
    (world.cwd / "ipa.toml").write_bytes('prompt = "étoile"\n'.encode(encoding))
    with pytest.raises(IpaError, match="is not UTF-8 text") as caught:
        resolve({}, world.environ, world.cwd)
    assert caught.value.hint == "save it as UTF-8"


@pytest.mark.parametrize("path", ["C:\\models", "C:\\Users\\me"])
def test_a_path_of_windows_in_double_quotes_is_answered_with_single_ones(world, path):
    (world.cwd / "ipa.toml").write_text(f'vae = "{path}"\n')
    with pytest.raises(IpaError, match="is not valid TOML") as caught:
        resolve({}, world.environ, world.cwd)
    assert "single quotes" in str(caught.value.hint)
