"""`ipa generate --from picture.png`: a picture is drawn again from what it carries."""

import json
import shutil
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image
from PIL.PngImagePlugin import PngInfo

import ipa_cli
from ipa_cli import config
from ipa_cli.engine import replay
from ipa_cli.engine.recorded import Recorded, read
from ipa_cli.errors import IpaError
from ipa_cli.images.metadata import read_settings
from ipa_cli.models import schedulers
from ipa_cli.result import NullReporter
from tests import loras

pytestmark = pytest.mark.slow

DEMO = Path(ipa_cli.__file__).parent / "demo"
FAST = ("--width", 64, "--height", 64, "--steps", 2, "--warmup", 0)


def carrying(path: Path, **chunks) -> Path:
    """A picture with these text chunks; a dictionary is written as JSON."""
    text = PngInfo()
    for key, value in chunks.items():
        text.add_text(key, value if isinstance(value, str) else json.dumps(value))
    Image.new("RGB", (8, 8)).save(path, pnginfo=text)
    return path


def pixels(path: str) -> np.ndarray:
    with Image.open(path) as picture:
        return np.asarray(picture)


def changed(world, source: str, **settings) -> Path:
    """A copy of a picture that says something else."""
    return carrying(world.cwd / "changed.png", ipa={**read_settings(world.cwd / source), **settings})


@pytest.fixture
def drawn(ipa, world):
    shutil.copy(DEMO / "reference.png", world.cwd / "ref.png")
    flags = ("--image", "ref.png", "--scale", 0.4, "-p", "a star: big, red", "--negative-prompt", "blue")
    assert ipa("generate", *FAST, *flags, "--output", "cat.png").exit_code == 0
    return world.cwd / "cat.png"


def test_it_comes_out_the_same_byte_for_byte(ipa, world, drawn):
    assert ipa("generate", "--from", "cat.png", "--output", "again.png").exit_code == 0
    assert (world.cwd / "again.png").read_bytes() == drawn.read_bytes()


def test_none_drops_what_a_picture_has(ipa, world):
    mask = Image.new("L", (64, 64), 255)
    mask.paste(0, (0, 0, 32, 64))
    mask.save("mask.png")
    loras.write(world.cwd / "style.safetensors", loras.of_demo())
    plain = ("-p", "a star", "--seed", 1, "--output")
    given = {
        "lora": "style.safetensors",
        "control": "demo,image=mask.png",
        "region": "mask=mask.png,prompt=a moon",
        "init-image": "mask.png",
        "hires": "1.5",
        "image": "mask.png",
        "mask": "mask.png",
        "scheduler": "ddim",
        "preset": "exact",
    }
    more = [word for name, value in given.items() for word in (f"--{name}", value)]
    assert ipa("generate", *FAST, *more, "--strength", 1, *plain, "rich.png").exit_code == 0
    assert ipa("generate", *FAST, "--image", "none", *plain, "plain.png").exit_code == 0
    assert Path("rich.png").read_bytes() != Path("plain.png").read_bytes()
    without = [word for name in given for word in (f"--{name}", "none")]
    ran = ipa("generate", "--from", "rich.png", *without, "--output", "again.png")
    assert ran.exit_code == 0 and "effect" not in ran.stderr, ran.stderr
    assert (pixels("again.png") == pixels("plain.png")).all()
    assert ran.stderr.count("left out") == 0, ran.stderr


def test_none_drops_what_files_and_variables_give(ipa, world, monkeypatch):
    Path("ipa.toml").write_text('lora = ["gone.safetensors"]\ncontrol = ["demo,image=gone.png"]\nhires = "1.5"\n')
    assert ipa("generate", *FAST, "--output", "a.png").exit_code == 1
    monkeypatch.setenv("IPA_LORA", "none")
    ran = ipa("generate", *FAST, "--control", "none", "--hires", "none", "--output", "a.png", "--json")
    assert ran.data()["images"][0]["width"] == 64
    both = ipa("generate", "--lora", "none", "--lora", "style.safetensors")
    assert both.exit_code == 2 and "--lora none is given beside another --lora" in both.stderr


def test_weights_of_references_go_with_them(ipa, world, drawn):
    both = ("--image", "ref.png", "--image", "cat.png", "--image-weight", 1, "--image-weight", 0.5)
    assert ipa("generate", *FAST, *both, "--output", "two.png").exit_code == 0
    ran = ipa("generate", "--from", "two.png", "--image", "ref.png", "--output", "one.png")
    assert ran.exit_code == 0 and "two.png: left out: image_weight" in ran.stderr


def test_so_does_one_that_left_everything_to_the_model_and_chance(ipa, world, monkeypatch):
    assert ipa("generate", *FAST, "--output", "cat.png").exit_code == 0
    for name in ("PROMPT", "SCHEDULER", "IP_ADAPTER", "IMAGE", "SCALE", "SEED", "STEPS", "VAE_TILING"):
        value = {"SCHEDULER": "ddim", "IP_ADAPTER": "none", "VAE_TILING": "1"}.get(name, "1")
        monkeypatch.setenv(f"IPA_{name}", value)
    assert ipa("generate", "--from", "cat.png", "--output", "again.png").exit_code == 0
    assert (world.cwd / "again.png").read_bytes() == (world.cwd / "cat.png").read_bytes()


GUIDANCE = ("--guidance-start", 0.25, "--guidance-end", 0.75, "--guidance-rescale", 0.7, "--steps", 4)


@pytest.mark.parametrize(
    "flags", [("--scheduler", "ddim"), ("--ip-adapter", "none"), ("--dtype", "bfloat16"), GUIDANCE]
)
def test_so_do_unusual_settings(ipa, world, flags):
    assert ipa("generate", *FAST, *flags, "--output", "cat.png").exit_code == 0
    ran = ipa("generate", "--from", "cat.png", "--output", "again.png")
    assert ran.exit_code == 0 and "left out: " not in ran.stderr, ran.stderr
    assert (world.cwd / "again.png").read_bytes() == (world.cwd / "cat.png").read_bytes()


def test_so_does_a_picture_of_a_sweep(ipa, world, drawn):
    flags = ("--size", "64x64", "--steps", 2, "--image", "ref.png", "--image", "cat.png", "--seed", 5)
    assert ipa("sweep-scale", "--scales", "0,0.7", *flags, "--output", "sweep").exit_code == 0
    for number, point in enumerate(sorted((world.cwd / "sweep" / "pictures").glob("*.png"))):
        assert ipa("generate", "--from", point, "--output", f"again-{number}.png").exit_code == 0
        assert (world.cwd / f"again-{number}.png").read_bytes() == point.read_bytes(), point
    assert number == 3


def test_the_new_picture_has_the_usual_name(ipa, world, drawn):
    before = drawn.read_bytes()
    (image,) = ipa("generate", "--from", "cat.png", "--seed", 3, "--json").data()["images"]
    assert Path(image["path"]).name == "ipa-3.png" and drawn.read_bytes() == before


def test_flags_override(ipa, world, drawn):
    data = ipa("generate", "--from", "cat.png", "--seed", 9, "--scale", 0.1, "-n", 2, "--json").data()
    assert [(image["seed"], image["scale"]) for image in data["images"]] == [(9, 0.1), (10, 0.1)]
    again = read_settings(Path(data["images"][0]["path"]))
    before = read_settings(drawn)
    assert {name for name in before if before[name] != again[name]} == {"seed", "adapters"}


def test_the_scale_of_adapters_that_did_not_say_their_own_is_overridden(ipa, world, drawn):
    adapters = ("--adapter", "own,image=ref.png", "--adapter", "own,image=ref.png,scale=0.2", "--scale", 0.7)
    assert ipa("generate", *FAST, *adapters, "--output", "two.png").exit_code == 0
    for flags, scales in (((), [0.7, 0.2]), (("--scale", 0.1), [0.1, 0.2])):
        assert ipa("generate", "--from", "two.png", *flags, "--output", "again.png", "--force").exit_code == 0
        assert [adapter["scale"] for adapter in read_settings(world.cwd / "again.png")["adapters"]] == scales


def test_references_by_flag_replace_those_of_the_picture(ipa, world, drawn):
    assert ipa("generate", *FAST, "--adapter", "own,image=ref.png,scale=0.2", "--output", "one.png").exit_code == 0
    ran = ipa("generate", "--from", "one.png", "--image", "ref.png", "--scale", 0.5, "--output", "again.png")
    assert ran.exit_code == 0 and "one.png: left out: adapter" in ran.stderr
    (adapter,) = read_settings(world.cwd / "again.png")["adapters"]
    assert adapter["scale"] == 0.5


def test_a_flag_stands_for_what_the_picture_says_wrongly(ipa, world, drawn):
    changed(world, "cat.png", width=100, scheduler=None, seed=-1)
    ran = ipa("generate", "--from", "changed.png", "--json")
    assert ran.exit_code == 1
    assert "picture changed.png: width = 100" in ran.error()["message"] and "96 or 104" in ran.error()["message"]
    assert ipa("generate", "--from", "changed.png", "--width", 64, "--seed", 1).exit_code == 0


# --- references -----------------------------------------------------------------------------------------------


def test_a_missing_reference_is_an_error_unless_another_is_named(ipa, world, drawn):
    (world.cwd / "ref.png").rename(world.cwd / "moved.png")
    ran = ipa("generate", "--from", "cat.png", "--json")
    assert ran.exit_code == 1 and "ref.png" in ran.error()["message"] and "cat.png" in ran.error()["message"]
    assert "--image" in ran.error()["hint"]
    ran = ipa("generate", "--from", "cat.png", "--image", "moved.png", "--output", "again.png")
    assert ran.exit_code == 0 and "warning" not in ran.stderr, ran.stderr


def test_a_changed_reference_is_reported(ipa, world, drawn):
    Image.effect_noise((40, 60), 90).convert("RGB").save(world.cwd / "ref.png")
    ran = ipa("generate", "--from", "cat.png", "--output", "again.png")
    assert ran.exit_code == 0 and "warning: ref.png has changed since cat.png was drawn" in ran.stderr
    assert "warning" not in ipa("generate", "--from", "again.png", "--output", "third.png").stderr


def test_the_models_own_reference_is_recorded_without_a_path_and_checked(ipa, world):
    assert ipa("generate", *FAST, "--output", "cat.png").exit_code == 0
    adapters = read_settings(world.cwd / "cat.png")["adapters"]
    assert [image["source"] for image in adapters[0]["images"]] == [None]
    adapters[0]["images"][0]["sha256"] = "0" * 64
    changed(world, "cat.png", adapters=adapters)
    assert "the model's own reference picture has changed" in ipa("generate", "--from", "changed.png").stderr


@pytest.mark.parametrize("where", ["images", "mask", "adapter"])
def test_no_picture_makes_us_ask_a_server(ipa, world, drawn, where):
    url = "http://127.0.0.1:9/cat.png?token=secret"
    asked, adapters = read_settings(drawn)["settings"], read_settings(drawn)["adapters"]
    if where == "images":
        adapters[0]["images"] = [{"source": url, "sha256": None}]
    else:
        asked = {**asked, where: [url if where == "mask" else f"own,image={url}"]}
    changed(world, "cat.png", settings=asked, adapters=adapters)
    ran = ipa("generate", "--from", "changed.png", "--json")
    assert ran.exit_code == 1 and "names http://127.0.0.1:9/cat.png" in ran.error()["message"]
    assert "--allow-fetch" in ran.error()["hint"] and "secret" not in ran.stdout + ran.stderr
    ran = ipa("generate", "--from", "changed.png", "--allow-fetch", "--json")
    assert "changed.png: downloads http://127.0.0.1:9/cat.png" in ran.stderr
    assert ran.exit_code == 1 and "cannot be reached" in ran.error()["message"]


def test_a_flag_takes_the_place_of_an_address(ipa, world, drawn):
    adapters = read_settings(drawn)["adapters"]
    adapters[0]["images"] = [{"source": "http://127.0.0.1:9/cat.png", "sha256": None}]
    changed(world, "cat.png", adapters=adapters)
    assert ipa("generate", "--from", "changed.png", "--image", "ref.png", "--output", "again.png").exit_code == 0


def test_what_is_read_elsewhere_is_said(ipa, world, drawn):
    assert "reads" not in ipa("generate", "--from", "cat.png", "--output", "a.png").stderr
    shutil.copy(world.cwd / "ref.png", world.home / "ref.png")
    adapters = read_settings(drawn)["adapters"]
    adapters[0]["images"][0]["source"] = str(world.home / "ref.png")
    changed(world, "cat.png", adapters=adapters)
    ran = ipa("generate", "--from", "changed.png", "--output", "b.png")
    assert ran.exit_code == 0 and f"changed.png: reads {world.home / 'ref.png'}" in ran.stderr


# --- what is not taken over -----------------------------------------------------------------------------------


def test_an_unknown_name_is_reported_in_one_line(ipa, world, drawn):
    asked = read_settings(drawn)["settings"]
    changed(world, "cat.png", hires=2, settings={**asked, "tile_size": 3, "compile_options": '{"cuda_graph": false}'})
    ran = ipa("generate", "--from", "changed.png", "--output", "again.png")
    assert ran.exit_code == 0
    (line,) = [line for line in ran.stderr.splitlines() if "left out: " in line]
    assert all(word in line for word in ("changed.png", "hires", "tile_size", "compile_options", "--compile-options"))
    assert read_settings(world.cwd / "again.png")["settings"] == asked


def test_a_machine_that_is_not_here_is_reported(ipa, world, drawn):
    asked = {**read_settings(world.cwd / "cat.png")["settings"], "precision": "fp8"}
    changed(world, "cat.png", device="cuda", dtype="float16", backend="inductor", settings=asked)
    data = ipa("generate", "--from", "changed.png", "--device", "cpu", "--json").data()
    assert (data["device"], data["dtype"], data["backend"]) == ("cpu", "float32", "eager")
    ran = ipa("generate", "--from", "changed.png", "--device", "cpu")
    assert "warning: changed.png was drawn with cuda, float16, fp8, inductor, and this is cpu" in ran.stderr


def test_a_backend_that_is_not_here_is_reported(ipa, world, drawn):
    changed(world, "cat.png", backend="oneflow")
    ran = ipa("generate", "--from", "changed.png", "--json")
    assert ran.data()["backend"] == "eager"
    assert "warning: changed.png was drawn by a backend that is not available: oneflow" in ran.stderr
    assert ipa("generate", "--from", "changed.png", "--backend", "oneflow", "--json").exit_code == 1


def test_a_model_that_is_not_here_is_reported(ipa, world, drawn):
    changed(world, "cat.png", model="./gone")
    ran = ipa("generate", "--from", "changed.png", "--json")
    assert ran.exit_code == 1 and "gone" in ran.error()["message"]


def test_a_picture_of_another_program_is_followed_as_far_as_it_goes(ipa, world):
    text = (
        "a red star\nNegative prompt: blue\nSteps: 2, Sampler: DDIM, Schedule type: Karras, CFG scale: 4, Seed: 3, "
        "Size: 64x64, Model: sd_xl_base_1.0, Clip skip: 2, Version: v1.10"
    )
    carrying(world.cwd / "other.png", parameters=text)
    ran = ipa("generate", "--from", "other.png", "--output", "cat.png")
    assert ran.exit_code == 0, ran.stderr
    (line,) = [line for line in ran.stderr.splitlines() if "left out: " in line]
    assert all(word in line for word in ("model sd_xl_base_1.0", "schedule Karras", "Clip skip 2", "Version v1.10"))
    drawn = read_settings(world.cwd / "cat.png")
    expected = {"prompt": "a red star", "negative_prompt": "blue", "steps": 2, "guidance_scale": 4.0, "seed": 3}
    assert {name: drawn[name] for name in expected} == expected
    assert (drawn["scheduler"], drawn["width"], drawn["model"]) == ("ddim", 64, "demo")


@pytest.mark.parametrize(
    ("sampler", "schedule", "said"),
    [
        ("lcm", None, "schedule karras, eta 0.5"),
        ("DPM++ 2M", "karras", "eta 0.5"),
        ("DPM++ 2M Exponential", "exponential", "schedule karras, eta 0.5"),
    ],
)
def test_a_sampler_in_place_of_the_pictures_takes_along_what_it_has_not_itself(world, sampler, schedule, said):
    notes: list[str] = []
    picture = Recorded(Path("cat.png"), {"scheduler": "ddim", "schedule": "karras", "eta": 0.5}, ())
    layer = replay.layer(picture, {"scheduler": sampler}, SimpleNamespace(note=notes.append))
    asked = config.resolve({"scheduler": sampler}, picture=layer).settings
    chosen = schedulers.choose(asked.scheduler, asked.schedule, asked.eta)
    assert chosen.schedule == schedule and f"left out: {said}" in notes[0]
    kept = replay.layer(picture, {"scheduler": sampler, "schedule": "beta"}, SimpleNamespace(note=notes.append))
    assert "eta" not in kept.values and "schedule karras" not in notes[1]


def test_what_another_program_says_wrongly_is_said_by_a_flag(ipa, world):
    text = "a star\nSteps: 2, Sampler: DDIM, CFG scale: 4, Seed: -1, Size: 100x64"
    carrying(world.cwd / "other.png", parameters=text)
    for flags, name in (((), "seed"), (("--seed", 1), "width")):
        ran = ipa("generate", "--from", "other.png", *flags, "--json")
        assert ran.exit_code == 1 and ran.error()["hint"] == f"say another with --{name}", ran.error()
    assert ipa("generate", "--from", "other.png", "--size", "64x64", "--seed", 1).exit_code == 0


@pytest.mark.parametrize("model", ["sdxl", "sd15", "demo"])
def test_a_model_of_another_program_is_none_of_ours_though_it_is_named_alike(world, model):
    text = f"a star\nSteps: 2, Sampler: DDIM, CFG scale: 4, Seed: 3, Model: {model}, Version: v1.10"
    recorded = read(carrying(world.cwd / "other.png", parameters=text))
    assert "model" not in recorded.values and recorded.left_out[0] == f"model {model} (name one with --model)"


def test_our_own_text_without_our_chunk_names_a_model_of_ours(world):
    text = "a star\nSteps: 2, Sampler: Odd one, CFG scale: 4, Seed: 3, Model: some/thing, Version: ipa 0.1"
    recorded = read(carrying(world.cwd / "other.png", parameters=text))
    assert recorded.values["model"] == "some/thing" and "scheduler" not in recorded.values
    assert any("Odd one" in entry for entry in recorded.left_out)


# --- hostile --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("chunk", "words"),
    [
        ({"settings": []}, "damaged"),
        ({"settings": {"vae_tiling": "yes"}}, "vae_tiling = 'yes': expected true or false"),
        ({"settings": {"vae_tiling": None}}, "expected true or false"),
        ({"adapters": [{"images": "ref.png"}]}, "damaged"),
        ({"adapters": [{"images": [{"source": 3}]}]}, "damaged"),
        ({"adapters": [{"scale": [1]}]}, "scale = [1]: expected a number"),
        ({"adapters": [{"scale": 1e99}]}, "from 0 to 10"),
        ({"steps": 10**30}, "from 1 to 1000"),
        ({"dtype": 16}, "dtype = 16: expected a string"),
        ({"device": "gpu\x1b[2J"}, ""),
        ({"model": "\x1b]0;x\x07"}, "unknown model"),
    ],
)
def test_what_is_wrong_is_reported_and_nothing_is_drawn(ipa, world, chunk, words):
    carrying(world.cwd / "bad.png", ipa={"schema_version": 1, "width": 64, "height": 64, "steps": 1, **chunk})
    ran = ipa("generate", "--from", "bad.png", "--output", "cat.png")
    assert "\x1b" not in ran.stderr and "\x07" not in ran.stderr
    if words:
        assert ran.exit_code in (1, 2) and words in ran.stderr and "hint:" in ran.stderr
        assert world.files() == ["bad.png"]


@pytest.mark.parametrize("name", ["nowhere.png", "notes.txt", "plain.png"])
def test_a_file_without_settings_is_reported(ipa, world, name):
    (world.cwd / "notes.txt").write_text("no picture")
    carrying(world.cwd / "plain.png")
    ran = ipa("generate", "--from", name, "--json")
    assert ran.exit_code == 1 and name in ran.error()["message"] and ran.error()["hint"]


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)
KEYS = st.sampled_from(["settings", "adapters", "device", "backend", "scheduler", "steps", "image", "model", "x"])


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(
    chunk=st.dictionaries(KEYS, JSON | st.lists(st.fixed_dictionaries({"images": JSON, "scale": JSON}), max_size=2)),
    asked=st.dictionaries(st.sampled_from(["vae_tiling", "ip_adapter", "scheduler", "compile_options", "y"]), JSON),
)
def test_any_chunk_becomes_settings_or_a_clear_error(world, chunk, asked):
    from ipa_cli.config import resolve

    path = carrying(world.cwd / "any.png", ipa={"settings": asked, **chunk, "schema_version": 1})
    try:
        recorded = read(path)
        resolve({}, {}, world.cwd, replay.layer(recorded, {}, NullReporter()))
    except IpaError as error:
        assert error.hint and "\n" not in error.hint


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        ({"mask": ["-"]}, "mask - of changed.png came from stdin"),
        ({"embeds": "-"}, "embeds - of changed.png came from stdin"),
        ({"adapter": ["own,image=-"]}, "image - of changed.png came from stdin"),
        ({"mask": ["/**/*.png"]}, "mask /**/*.png of changed.png is a pattern"),
        ({"adapter": ["own,image=~/**"]}, "image ~/** of changed.png is a pattern"),
    ],
)
def test_no_picture_makes_ipa_read_stdin_or_search_the_disk(ipa, world, asked, message):
    carrying(world.cwd / "cat.png", ipa={"schema_version": 1, "prompt": "a star"})
    changed(world, "cat.png", settings=asked)
    ran = ipa("generate", "--from", "changed.png", "--json")
    assert ran.exit_code == 1 and message in ran.error()["message"] and "name the file with" in ran.error()["hint"]


def test_a_picture_from_before_there_were_weights_is_drawn_literally(world):
    old = {"schema_version": 1, "prompt": "a (red:1.4) star", "steps": 2}
    path = carrying(world.cwd / "old.png", ipa=old)
    assert read(path).values["prompt_syntax"] == "literal"
    path = carrying(world.cwd / "new.png", ipa={**old, "prompt_syntax": "comfyui"})
    assert read(path).values["prompt_syntax"] == "comfyui"


@pytest.mark.parametrize(
    ("more", "expected"),
    [
        ("Version: v1.10", "a1111"),
        ("Version: ipa 0.1", "literal"),
        ("Prompt syntax: a1111, Version: ipa 0.1", "a1111"),
    ],
)
def test_the_text_of_a1111_is_in_its_syntax_unless_an_earlier_ipa_wrote_it(world, more, expected):
    text = f"a (red:1.4) star\nSteps: 2, CFG scale: 4, Seed: 3, Size: 64x64, {more}"
    assert read(carrying(world.cwd / "other.png", parameters=text)).values["prompt_syntax"] == expected
