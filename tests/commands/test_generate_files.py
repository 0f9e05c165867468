"""The files of `ipa generate`: names, formats, stdout, and the settings in them."""

import hashlib
import io
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path

import pytest
from PIL import Image

import ipa_cli
from ipa_cli.images.infotext import parse_parameters
from ipa_cli.images.metadata import read_settings

DEMO = Path(ipa_cli.__file__).parent / "demo"
REFERENCE = DEMO / "reference.png"
# As little work as makes a picture.
FAST = ("--width", 64, "--height", 64, "--steps", 2, "--warmup", 0, "--seed", 7)


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
    assert (parsed["Sampler"], parsed["Schedule type"]) == ("Euler", "SGM Uniform")  # the model's own
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
    assert image["path"] == str(mine) and Image.open(mine).size == (64, 64)
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
