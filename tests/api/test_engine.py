"""The Python API: what is exported, what it draws, and how it fails."""

from __future__ import annotations

import importlib
import inspect
import os
import subprocess
import sys
import tempfile
import warnings
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import ipa_cli
from ipa_cli.config import FIELDS
from ipa_cli.config.names import ALSO
from ipa_cli.engine import denoisers
from ipa_cli.engine.keywords import RequestSettings
from tests import loras
from tests.conftest import isolated

pytestmark = pytest.mark.slow
REFERENCE = Path(ipa_cli.__file__).parent / "demo" / "reference.png"
SMALL = {"width": 64, "height": 64, "steps": 2, "seed": 7}
FLAGS = ("--width", 64, "--height", 64, "--steps", 2, "--seed", 7, "--warmup", 0)


@pytest.fixture(scope="module")
def opened(tmp_path_factory):
    """One engine for all tests that only draw."""
    with pytest.MonkeyPatch.context() as patch:
        isolated(tmp_path_factory.mktemp("opened"), patch)
        with ipa_cli.open(progress=False) as engine:
            yield engine


@pytest.fixture
def engine(opened, world):
    return opened


def pixels(picture) -> np.ndarray:
    return np.asarray(picture if isinstance(picture, Image.Image) else picture.image, dtype=int)


# --- what there is ------------------------------------------------------------------------------------------------


def test_the_exported_names():
    assert ipa_cli.__all__ == ["Engine", "IpaError", "Picture", "UsageError", "__version__", "open"]
    assert all(hasattr(ipa_cli, name) for name in ipa_cli.__all__) and set(ipa_cli.__all__) <= set(dir(ipa_cli))
    with pytest.raises(AttributeError, match="no attribute 'opne'"):
        _ = ipa_cli.opne
    assert list(inspect.signature(ipa_cli.open).parameters) == [
        *("model", "adapter", "backend", "device", "dtype", "progress", "project", "settings")
    ]
    assert (Path(ipa_cli.__file__).parent / "py.typed").exists()


def test_the_typed_settings_of_draw_are_its_parameters():
    parameters = set(inspect.signature(ipa_cli.Engine.draw).parameters) - {"self", "prompt", "num_images"}
    assert parameters == set(RequestSettings.__annotations__)
    assert parameters < {*FIELDS, *ALSO}


def test_importing_it_imports_nothing_heavy():
    code = (
        "import ipa_cli, sys; print(sorted({name.split('.')[0] for name in sys.modules} & {'torch', 'PIL', 'typer'}))"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"


# --- pictures -----------------------------------------------------------------------------------------------------


def test_a_picture_and_a_mask_in_memory_are_drawn_over(engine, world):
    init, mask = Image.new("RGB", (64, 64), "teal"), Image.new("L", (64, 64))
    mask.paste(255, (32, 0, 64, 64))
    drawn = engine.draw("a star", init_image=init, inpaint_mask=mask, steps=2, seed=7)
    assert (pixels(drawn)[:, :32] == pixels(init)[:, :32]).all() and pixels(drawn)[:, 32:].std() > 0
    over = engine.draw("a star", init_image=init, strength=0.5, steps=2, seed=7, num_images=2, batch_size=2)
    assert [one.settings["init"]["strength"] for one in over] == [0.5, 0.5]
    init.save(world.cwd / "init.png")
    named = engine.draw("a star", init_image="init.png", strength=0.5, steps=2, seed=7)
    assert abs(pixels(named) - pixels(over[0])).max() <= 1
    for settings, words in (({"inpaint_mask": mask}, "no picture to begin with"), ({"pad": "x=1"}, "expected sides")):
        with pytest.raises(ipa_cli.UsageError, match=words):
            engine.draw("a star", **settings)


def test_a_picture_is_that_of_the_command_line_byte_for_byte(engine, ipa, world):
    said = ("--prompt", "a star", "--image", REFERENCE, "--scale", 0.4, "--guidance-scale", 3, "--scheduler", "ddim")
    assert ipa("generate", *FLAGS, *said, "-o", "command.png").exit_code == 0
    picture = engine.draw("a star", image=REFERENCE, scale=0.4, guidance_scale=3, scheduler="ddim", **SMALL)
    assert picture.save("api.png") == Path("api.png")
    assert (world.cwd / "api.png").read_bytes() == (world.cwd / "command.png").read_bytes()
    assert (picture.prompt, picture.seed, picture.scale, picture.size) == ("a star", 7, 0.4, (64, 64))


def test_loras_come_with_each_picture(engine, ipa, world):
    loras.write(world.cwd / "style.safetensors", loras.of_demo(strength=1.0))
    said = "style.safetensors,weight=0.5"
    assert ipa("generate", *FLAGS, "--lora", said, "-p", "a star", "-o", "a.png").exit_code == 0
    plain = engine.draw("a star", **SMALL)
    styled = engine.draw("a star", lora=said, **SMALL)
    assert styled.save("b.png") and (world.cwd / "a.png").read_bytes() == (world.cwd / "b.png").read_bytes()
    assert styled.image.tobytes() != plain.image.tobytes()
    assert engine.draw("a star", lora=[], **SMALL).image.tobytes() == plain.image.tobytes()


def test_a_saved_picture_is_drawn_again_by_the_command_line(engine, ipa, world):
    drawn = engine.draw("a star", image=str(REFERENCE), scale=0.4, **SMALL)
    drawn.save("first.png")
    assert ipa("generate", "--from", "first.png", "-o", "again.png").exit_code == 0
    assert (pixels(Image.open(world.cwd / "again.png")) == pixels(drawn)).all()


def test_saving_keeps_files_and_takes_what_output_takes(engine, world):
    picture = engine.draw("a star", **SMALL)
    assert [picture.save("cat.png").name for _ in range(2)] == ["cat.png", "cat-1.png"]
    assert picture.save("cat.png", force=True).name == "cat.png"
    assert picture.save("{prompt}-{seed}.webp", quality=50) == Path("a-star-7.webp")
    assert picture.save(Path("cat")) == Path("cat.png").with_name("cat-2.png")
    with pytest.raises(ipa_cli.UsageError, match="pictures are written as"):
        picture.save("cat.bmp")
    with pytest.raises(ipa_cli.UsageError, match="a PNG is lossless"):
        picture.save("cat.png", quality=50)


def test_several_pictures_are_a_list_and_one_is_not(engine):
    first, second = engine.draw("a star", num_images=2, batch_size=2, **SMALL)
    assert (first.seed, second.seed) == (7, 8)
    assert abs(pixels(first) - pixels(engine.draw("a star", **SMALL))).max() <= 1
    assert len(engine.draw("a star", num_images=1, **SMALL)) == 1


def test_pictures_in_memory_are_as_those_in_files(engine, world):
    image, mask = Image.new("RGB", (64, 64), "red"), Image.new("L", (64, 64))
    mask.paste(255, (0, 0, 64, 32))
    image.save("red.png")
    mask.save("mask.png")
    from_files = engine.draw("a star", image="red.png", mask="mask.png", **SMALL)
    in_memory = engine.draw("a star", image=image, mask=[mask], **SMALL)
    assert (pixels(from_files) == pixels(in_memory)).all()
    (recorded,) = in_memory.settings["adapters"]
    assert recorded["images"][0]["source"].startswith("picture in memory ")
    assert (pixels(engine.draw("a star", image=[image, REFERENCE], image_weight=[1, 0.5], **SMALL)) != 0).any()
    see_through = Image.new("RGBA", (64, 64), (255, 0, 0, 0))
    white = Image.new("RGB", (64, 64), "white")
    assert (
        pixels(engine.draw("a star", image=see_through, **SMALL)) == pixels(engine.draw("a star", image=white, **SMALL))
    ).all()


def test_each_of_several_references_has_a_picture_of_its_own(engine, world):
    pair = [Image.new("RGB", (32, 32), colour) for colour in ("red", "blue")]
    with pytest.raises(ipa_cli.UsageError, match="2 references are drawn one by one") as refused:
        engine.draw("a star", image=pair, image_per_picture=True, **SMALL)
    assert "num_images=1" in refused.value.hint
    drawn = engine.draw("a star", image=pair, image_per_picture=True, num_images=1, batch_size=2, **SMALL)
    assert [one.seed for one in drawn] == [7, 7] and len(drawn) == 2
    alone = engine.draw("a star", image=pair[1], **SMALL)
    assert abs(pixels(drawn[1]) - pixels(alone)).max() <= 1
    assert drawn[1].settings["adapters"][0]["images"] == alone.settings["adapters"][0]["images"]


def test_a_negative_image_in_memory_is_as_one_in_a_file(engine, world):
    Image.new("RGB", (32, 32), "blue").save("blue.png")
    how = {"image": Image.new("RGB", (32, 32), "red"), "guidance_scale": 3, **SMALL}
    memory = engine.draw("a star", negative_image=Image.open("blue.png"), **how)
    assert (pixels(memory) == pixels(engine.draw("a star", negative_image="blue.png", **how))).all()
    assert (pixels(memory) != pixels(engine.draw("a star", **how))).any()


def test_a_notebook_shows_a_picture_as_its_file(engine):
    picture = engine.draw("a star", **SMALL)
    path = picture.save("shown.png")
    assert picture._repr_png_() == path.read_bytes()
    assert repr(picture) == f"Picture(prompt='a star', seed=7, scale={picture.scale})"


def test_layers_as_a_mapping_and_embeddings_from_a_file(engine, ipa, world):
    layers = {"down": {"block_2": [0.0, 1.0]}}
    as_json = engine.draw("a star", ip_layers='{"down": {"block_2": [0.0, 1.0]}}', **SMALL)
    assert (pixels(engine.draw("a star", ip_layers=layers, **SMALL)) == pixels(as_json)).all()
    assert ipa("embed", REFERENCE, "-o", "one.safetensors").exit_code == 0
    embedded = engine.draw("a star", embeds=Path("one.safetensors"), **SMALL)
    assert (pixels(embedded) == pixels(engine.draw("a star", image=REFERENCE, **SMALL))).all()


def test_several_adapters_have_a_mapping_each(world):
    with ipa_cli.open(adapter=["own", "own"], progress=False) as engine:
        red, blue = Image.new("RGB", (64, 64), "red"), Image.new("RGB", (64, 64), "blue")
        both = engine.draw("a star", adapter=[{"image": red, "scale": 0.8}, {"image": blue, "scale": 0.8}], **SMALL)
        one = engine.draw("a star", adapter=[{"image": red, "scale": 0.8}, {"image": blue, "scale": 0.0}], **SMALL)
        assert (pixels(both) != pixels(one)).any()
        for wrong, words in (
            ([{"image": red}], "1 mappings for 2 adapters"),
            ([{"picture": red}, {}], "unknown key 'picture'"),
            ([{"scale": 11}, {}], "expected a number from 0 to 10"),
        ):
            with pytest.raises(ipa_cli.UsageError, match=words):
                engine.draw("a star", adapter=wrong, **SMALL)
    with ipa_cli.open(adapter="own,scale=0.3", progress=False) as engine:
        assert engine.draw("a star", image=REFERENCE, **SMALL).scale == 0.3


def test_without_an_adapter_a_reference_is_refused(world):
    with ipa_cli.open(adapter="none", progress=False) as engine:
        assert engine.adapter is None and engine.draw("a star", **SMALL).scale == 0
        with pytest.raises(ipa_cli.UsageError, match="no adapter is loaded"):
            engine.draw("a star", image=REFERENCE, **SMALL)


# --- settings -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"steps": "3"}, "steps = '3': expected a whole number"),
        ({"steps": 0}, "--steps 0: expected a number from 1 to 1000"),
        ({"width": 65}, "--width 65: expected a multiple of 8"),
        ({"ip_mode": "styl"}, "did you mean 'style'"),
        ({"image": 7}, "expected a list of strings"),
        ({"scheduler": "eular"}, "unknown sampler 'eular'; did you mean 'euler'"),
        ({"sampler": "eular"}, "unknown sampler 'eular'; did you mean 'euler'"),
        ({"sampler": "lcm", "scheduler": "tcd"}, "scheduler is given twice"),
        ({"image": "cat.png", "embeds": "cat.safetensors"}, "--image and --embeds are both given"),
    ],
)
def test_a_wrong_setting_is_refused_as_the_command_line_does(engine, settings, words):
    with pytest.raises(ipa_cli.UsageError, match=words):
        engine.draw("a star", **settings)


def test_a_missing_picture_is_a_failure_and_no_wrong_usage(engine):
    with pytest.raises(ipa_cli.IpaError, match=r"nowhere\.png does not exist") as failed:
        engine.draw("a star", image="nowhere.png")
    assert not isinstance(failed.value, ipa_cli.UsageError) and failed.value.hint


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"stepz": 3}, "there is no setting 'stepz'; did you mean 'steps'"),
        ({"output": "cat.png"}, "there is no setting 'output'"),
        ({"model": "demi"}, "unknown model 'demi'; did you mean 'demo'"),
        ({"backend": "egaer"}, "unknown backend 'egaer'"),
        ({"dtype": "float15"}, "--dtype float15"),
        ({"adapter": "own,scle=1"}, "adapter: unknown key 'scle'"),
    ],
)
def test_what_cannot_be_opened_is_refused_before_it_loads(world, settings, words):
    with pytest.raises(ipa_cli.UsageError, match=words):
        ipa_cli.open(progress=False, **settings)


def test_settings_come_from_keywords_then_the_environment_and_never_unasked_from_the_project(world, monkeypatch):
    (world.cwd / "ipa.toml").write_text("steps = 3\nwidth = 96\nheight = 64\n")
    monkeypatch.setenv("IPA_WIDTH", "64")
    monkeypatch.setenv("IPA_HEIGHT", "128")
    with ipa_cli.open(progress=False, height=64, num_images=4) as engine:
        picture = engine.draw("a star", steps=2)
        assert (picture.size, picture.settings["steps"]) == ((64, 64), 2)
    with ipa_cli.open(progress=False, project=True) as engine:
        picture = engine.draw("a star")
        assert (picture.size, picture.settings["steps"]) == ((64, 128), 3)


def test_a_closed_engine_says_so_and_leaves_no_files(world):
    engine = ipa_cli.open(progress=False)
    assert repr(engine).startswith("<ipa_cli.Engine demo on ")
    engine.draw("a star", **SMALL)
    scratch = world.home / ".cache" / "ipa" / "graphs-v1" / ".work"
    assert list(scratch.iterdir())
    engine.close()
    engine.close()
    assert not list(scratch.iterdir()) and repr(engine) == "<ipa_cli.Engine, closed>"
    with pytest.raises(ipa_cli.UsageError, match="this engine is closed"):
        engine.draw("a star")


def test_temporary_files_of_the_program_stay_where_they_were(world, monkeypatch):
    seen = []
    prepare = denoisers.Denoisers._prepare
    monkeypatch.setattr(
        denoisers.Denoisers, "_prepare", lambda *given: seen.append(tempfile.gettempdir()) or prepare(*given)
    )
    importlib.import_module("torch._dynamo")  # diffusers does, and it sets a variable for all that follows
    before, variables = tempfile.gettempdir(), dict(os.environ)
    with ipa_cli.open(progress=False) as engine:
        engine.draw("a star", **SMALL)
        engine.draw("a star", **SMALL | {"width": 96})
        assert (tempfile.gettempdir(), dict(os.environ)) == (before, variables)
    assert len(seen) == 2 and len(set(seen)) == 1 and seen[0].startswith(str(world.home))


# --- what is seen of it -------------------------------------------------------------------------------------------


def test_bars_are_shown_unless_switched_off(world, capsys):
    for progress in (True, False):
        with ipa_cli.open(progress=progress) as engine:
            engine.draw("a star", **SMALL)
        said = capsys.readouterr()
        assert not said.out and ("loading demo" in said.err and "2/2" in said.err) == progress
        assert progress or not said.err


def test_warnings_are_pythons(engine):
    with pytest.warns(UserWarning, match="read as plain words"):
        engine.draw("a (red:1.4) star", prompt_syntax="literal", **SMALL)
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        engine.draw("a (red:1.4) star", **SMALL)


def test_an_init_image_that_is_scaled_is_noted(engine, caplog):
    with caplog.at_level("INFO", "ipa_cli"):
        engine.draw(init_image=Image.new("RGB", (128, 64)), **SMALL)
    assert any("the init image, 128x64, is drawn over at 64x64: scaled" in one.message for one in caplog.records)
