"""`--control` through the program: what it records, what goes with it, and what is refused before weights are read."""

import json
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image, ImageDraw
from safetensors.torch import load_file

import ipa_cli
from ipa_cli.config import Settings, controls
from ipa_cli.engine.engine import Engine
from ipa_cli.images import control_map, infotext, metadata
from ipa_cli.models.plan import make_plan
from ipa_cli.pipeline.references import load_references
from ipa_cli.pipeline.task import make_request
from ipa_cli.result import NullReporter
from tests import controlnets

DEMO = Path(ipa_cli.__file__).parent / "demo"
QUICK = ("--width", 64, "--height", 64, "--steps", 2, "--warmup", 0, "--backend", "eager", "--seed", 1, "--force")


@pytest.fixture(scope="module")
def network(tmp_path_factory) -> Path:
    return controlnets.save(DEMO, tmp_path_factory.mktemp("controlnet") / "outline")


@pytest.fixture
def maps(world) -> Path:
    for name, size in (("map.png", (64, 64)), ("wide.png", (128, 64))):
        picture = Image.new("RGB", size)
        ImageDraw.Draw(picture).ellipse((10, 20, 50, 60), "white")
        picture.save(name)
    return world.cwd


def pixels(path: object) -> np.ndarray:
    with Image.open(str(path)) as picture:
        return np.asarray(picture, dtype=int)


@pytest.mark.slow
def test_a_picture_records_what_it_followed_and_is_drawn_again(ipa, network, maps):
    spec = f"{network},image=map.png,scale=0.7,end=0.5"
    assert ipa("generate", *QUICK, "--control", spec, "--output", "a.png").exit_code == 0
    texts = metadata.texts(Path("a.png"))
    recorded = json.loads(texts["ipa"])
    (control,) = recorded["controls"]
    assert (control["scale"], control["start"], control["end"]) == (0.7, 0.0, 0.5)
    assert control["image"]["source"] == "map.png" and recorded["settings"]["control"] == [spec]
    unit = infotext.parse_parameters(texts["parameters"])["ControlNet 1"]
    assert "Module: none" in unit and "Weight: 0.7" in unit and "Guidance End: 0.5" in unit
    assert ipa("generate", "--from", "a.png", "--force", "--output", "b.png").exit_code == 0
    assert (pixels("a.png") == pixels("b.png")).all()
    Image.new("RGB", (64, 64), "red").save("map.png")
    changed = ipa("generate", "--from", "a.png", "--force", "--output", "b.png")
    assert "map.png has changed" in changed.stderr and (pixels("a.png") != pixels("b.png")).any()
    Path("map.png").unlink()
    failed = ipa("generate", "--from", "a.png", "--json").error()
    assert "the map of a ControlNet of a.png is missing" in failed["message"] and "--control" in failed["hint"]


@pytest.mark.slow
def test_a_sweep_draws_a_row_for_each_factor_of_the_scales_as_generate_does(ipa, network, maps):
    sweep = ("sweep-scale", *QUICK[4:6], *QUICK[8:-1], "--size", "64x64", "--scales", "0,1", "-o", "out", "--json")
    followed = ("--control", f"{network},image=map.png,scale=0.5", "--control", f"{network},image=map.png,scale=0.2")
    data = ipa(*sweep, *followed, "--control-scales", "0,0.5,2").data()
    assert data["plan"]["control_scales"] == [0.0, 0.5, 2.0] and data["graphs"][0]["controls"]
    assert (data["recompiles"], data["failed"], len(data["points"])) == (0, 0, 6)
    one = ("--control", f"{network},image=map.png", "--control", f"{network},image=map.png,scale=0.4")
    assert ipa("generate", *QUICK, *one, "--scale", 1, "--output", "one.png").exit_code == 0
    point = Path("out/pictures/row-3-reference-scale-1.png")
    assert (pixels(point) == pixels("one.png")).all()
    recorded = [json.loads(metadata.texts(path)["ipa"]) for path in (point, Path("one.png"))]
    assert [[control["scale"] for control in record["controls"]] for record in recorded] == [[1.0, 0.4]] * 2
    assert recorded[0]["settings"]["control"] == recorded[1]["settings"]["control"]
    lines = [json.loads(line) for line in Path("out/results.jsonl").read_text().splitlines()]
    assert [line["control_scale"] for line in lines] == [0.0, 0.0, 0.5, 0.5, 2.0, 2.0]
    page = Path("out/index.html").read_text()
    assert "seed 1 · control 0.5</span>" in page and "image map.png, scale 0.5" in page
    assert ipa(*sweep, *followed, "--control-scales", "0,0.5,2", "--resume").data()["drawn"] == 0
    assert "another sweep: control scales" in ipa(*sweep, *followed, "--resume").error()["message"]


@pytest.mark.parametrize(
    ("factors", "words"),
    [
        ("0,x", "'x' is not a number"),
        ("0,,1", "an entry is empty"),
        ("-1", "expected a number from 0 to 10"),
        ("nan", "expected a number"),
        ("1,1.0", "--control-scales 1 is given twice"),
        ("0,1e-9", "more than 6 decimal places"),
        ("1,9", "multiplies the scale of"),
    ],
)
def test_factors_of_no_use_are_refused_before_weights_are_read(ipa, network, maps, monkeypatch, factors, words):
    monkeypatch.setattr(Engine, "open", lambda *_, **__: pytest.fail("weights are read"))
    ran = ipa("sweep-scale", "--control", f"{network},image=map.png,scale=2", "--control-scales", factors)
    assert ran.exit_code == 2 and words in ran.stderr.splitlines()[0]


def test_factors_without_a_controlnet_and_maps_that_are_stretched_or_empty_are_told(ipa, network, maps, monkeypatch):
    ran = ipa("sweep-scale", "--control-scales", "0,1")
    assert ran.exit_code == 2 and "there is no ControlNet" in ran.stderr

    def stop(*_, **__):
        raise ipa_cli.IpaError("the model is loaded now")

    monkeypatch.setattr(Engine, "open", stop)
    Image.new("RGB", (64, 64)).save("empty.png")
    ran = ipa("generate", *QUICK, "--control", f"{network},image=empty.png", "--control", f"{network},image=map.png")
    assert "empty.png is of one colour" in ran.stderr and "map.png is of one colour" not in ran.stderr
    ran = ipa("sweep-scale", "--size", "64x64", "--control", f"{network},image=wide.png")
    assert ran.exit_code == 1 and "wide.png is 128x64, the picture 64x64: it is stretched" in ran.stderr


@pytest.mark.parametrize("preprocess", control_map.OF_LINES)
def test_a_preprocessor_that_finds_nothing_is_warned_of(ipa, network, maps, monkeypatch, preprocess):
    monkeypatch.setattr(Engine, "open", lambda *_, **__: (_ for _ in ()).throw(ipa_cli.IpaError("loaded now")))
    Image.linear_gradient("L").resize((64, 64)).point(lambda grey: 120 + grey // 64).save("faint.png")
    Image.new("RGB", (64, 64)).save("flat.png")
    specs = [f"{network},image={name}.png,preprocess={preprocess}" for name in ("faint", "flat", "map")]
    ran = ipa("generate", *QUICK, *(word for spec in specs for word in ("--control", spec)))
    said = [line for line in ran.stderr.splitlines() if "nothing to follow" in line]
    assert len(said) == 2 and "flat.png is of one colour" in said[0], ran.stderr
    assert f"preprocess={preprocess} finds no lines in faint.png" in said[1]


def test_the_demo_models_own_puts_shapes_where_the_map_has_them(world):
    square = (20, 68, 60, 108)
    drawn = Image.new("RGB", (128, 128))
    ImageDraw.Draw(drawn).rectangle(square, outline="white", width=6)
    followed = [{"image": drawn}]
    inside = np.zeros((128, 128), dtype=bool)
    inside[square[1] + 6 : square[3] - 6, square[0] + 6 : square[2] - 6] = True
    with ipa_cli.open(control=["demo"], device="cpu", progress=False) as engine:
        asked = {"width": 128, "height": 128, "steps": 8, "scale": 0.0, "guidance_scale": 2.5}
        for seed in (1, 2):
            picture = np.asarray(engine.draw("a square", seed=seed, control=followed, **asked).image, dtype=int)
            ground = np.median(picture[:, 90:].reshape(-1, 3), axis=0)
            shape = abs(picture - ground).max(2) > 30
            assert shape[inside].mean() > 0.9 and shape[:56].mean() + shape[:, 80:].mean() < 0.05


def test_the_demo_models_own_is_one_without_files_to_choose_from(ipa, maps, monkeypatch):
    monkeypatch.setattr("ipa_cli.models.loader.load", lambda *_, **__: pytest.fail("weights are read"))
    ran = ipa("generate", *QUICK, "--control", "demo:other,image=map.png")
    assert ran.exit_code == 2 and "has no 'other'" in ran.stderr


@pytest.mark.slow
def test_a_file_of_the_first_code_draws_what_the_folder_draws(ipa, network, maps):
    path = controlnets.as_first_code(network, maps / "control.safetensors")
    torch.save(load_file(path), pickled := maps / "control.pth")
    for number, one in enumerate((network, path, pickled)):
        assert ipa("generate", *QUICK, "--control", f"{one},image=map.png", "--output", f"{number}.png").exit_code == 0
    assert (pixels("0.png") == pixels("1.png")).all() and (pixels("0.png") == pixels("2.png")).all()


@pytest.mark.slow
def test_a_small_one_without_attention_draws_too(ipa, maps):
    small = controlnets.save(DEMO, maps / "small", kind="small")
    for name, flags in (("a", ("--control", f"{small},image=map.png")), ("b", ())):
        assert ipa("generate", *QUICK, *flags, "--output", f"{name}.png").exit_code == 0
    assert (pixels("a.png") != pixels("b.png")).any()


@pytest.mark.slow
def test_edges_are_found_and_other_proportions_are_warned_of(ipa, network, maps):
    pytest.importorskip("cv2")
    ran = ipa("generate", *QUICK, "--control", f"{network},image=wide.png,preprocess=canny", "--output", "a.png")
    assert ran.exit_code == 0 and "wide.png is 128x64, the picture 64x64: it is stretched" in ran.stderr


@pytest.mark.parametrize(
    ("said", "words"),
    [
        ("", "has no map to follow"),
        (",image=gone.png", "gone.png"),
        (",image=map.png,scale=11", "expected a number from 0 to 10"),
        (",image=map.png,scale=nan", "expected a number"),
        (",image=map.png,start=2", "expected a number from 0 to 1"),
        (",image=map.png,start=0.6,end=0.4", "would act from 0.6 to 0.4"),
        (",image=map.png,start=0.6,end=0.9", "none of the 2 steps lies wholly between"),
        (",image=map.png,mode=canny", "takes one kind of maps"),
        (",image=map.png,preprocess=depth", "expected one of canny"),
        (",image=map.png,image=map.png", "has image twice"),
        (",picture=map.png", "unknown key 'picture'"),
        (",image=*.png", "stands for 2 pictures"),
    ],
)
def test_bad_input_is_one_line_before_weights_are_read(ipa, network, maps, monkeypatch, said, words):
    monkeypatch.setattr(Engine, "open", lambda *_, **__: pytest.fail("weights are read"))
    ran = ipa("generate", *QUICK, "--control", f"{network}{said}")
    assert ran.exit_code in (1, 2)
    first, *rest = ran.stderr.splitlines()
    assert words in first and len(rest) <= 1 and rest[0].startswith("hint:")


def test_canny_without_opencv_says_what_to_install(ipa, network, maps, monkeypatch):
    import importlib.util

    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *more: None if name == "cv2" else find(name, *more))
    ran = ipa("generate", *QUICK, "--control", f"{network},image=map.png,preprocess=canny")
    assert ran.exit_code == 1 and "opencv" in ran.stderr and 'pip install "ipa-cli[control]"' in ran.stderr


@pytest.mark.parametrize(("preprocess", "kind"), [("canny", 3), ("lineart_standard", 3), ("scribble_xdog", 2)])
def test_a_union_model_is_told_the_kind_of_a_map_that_is_made(maps, tmp_path, preprocess, kind):
    folder = controlnets.save(DEMO, tmp_path / "network", kind="union")
    spec = f"{folder},image={maps / 'map.png'},preprocess="
    settings = Settings(control=(controls.parse(spec + preprocess, "--control"),), prompt="a star")
    plan, loaded = make_plan(settings), load_references(settings, NullReporter())
    (control,) = make_request(settings, plan, loaded).controls
    assert control.kind == kind
    inverted = replace(settings, control=(controls.parse(spec + "invert", "--control"),))
    with pytest.raises(ipa_cli.UsageError, match="the map's is not said"):
        make_request(inverted, plan, loaded)


@pytest.mark.parametrize("backend", ["nexfort", "oneflow"])
def test_backends_that_take_no_residuals_say_so(network, maps, backend):
    settings = Settings(control=(controls.parse(f"{network},image=map.png", "--control"),), prompt="a star")
    plan, loaded = make_plan(settings), load_references(settings, NullReporter())
    with pytest.raises(ipa_cli.UsageError, match="takes no ControlNet"):
        make_request(replace(settings, backend=backend), plan, loaded)


def opened(network, maps, tmp_path, **more) -> Engine:
    spec = f"{network},image={maps / 'map.png'},scale=0.8"
    settings = Settings(
        prompt="a star",
        image=(str(DEMO / "reference.png"),),
        steps=4,
        width=64,
        height=64,
        seed=1,
        cache_dir=tmp_path,
        control=(controls.parse(spec, "--control"),),
    )
    settings = replace(settings, **more)
    return Engine.open(settings, make_plan(settings), NullReporter())


@pytest.fixture
def engine(network, maps, tmp_path):
    return opened(network, maps, tmp_path, backend="eager")


def request(engine, **changes):
    settings = replace(engine.settings, **changes)
    return make_request(settings, engine.plan, load_references(settings, NullReporter()))


def drawn(engine, asked) -> list[np.ndarray]:
    return [np.asarray(image, dtype=int) for image in engine.draw(asked).images.values()]


@pytest.mark.slow
def test_a_map_is_made_once_for_all_that_looks_at_it(engine, monkeypatch):
    made, make = [], control_map.make
    monkeypatch.setattr(control_map, "make", lambda *given: made.append(given[1:]) or make(*given))
    (followed,) = engine.settings.control
    asked = request(engine, control=(replace(followed, preprocess="canny"),))
    engine.encode([asked, replace(asked, prompt="a moon", controls=tuple(one.times(0.5) for one in asked.controls))])
    assert made == [((64, 64), "canny")]


@pytest.mark.slow
def test_pictures_drawn_at_once_follow_the_map_as_one_by_one(engine):
    alone, together = (drawn(engine, request(engine, num_images=3, batch_size=size)) for size in (1, 3))
    assert all(abs(one - other).max() <= 1 for one, other in zip(alone, together, strict=True))


@pytest.mark.slow
def test_a_scale_of_0_is_the_picture_without_and_the_window_leaves_the_other_steps_alone(engine):
    asked = request(engine)
    plain = drawn(engine, replace(asked, controls=()))[0]
    (control,) = asked.controls

    def with_(**changes):
        return drawn(engine, replace(asked, controls=(replace(control, **changes),)))[0]

    assert (with_(scale=0.0) == plain).all() and (with_() != plain).any()
    halves = [with_(end=0.5), with_(start=0.5)]
    assert (halves[0] != halves[1]).any() and all((half != with_()).any() for half in halves)
    graphs = engine.state.graphs
    with_(scale=1.3, end=0.75)
    assert engine.state.graphs == graphs  # nothing is made anew


@pytest.mark.slow
def test_steps_without_guidance_follow_the_map_too(engine):
    asked = request(engine, guidance_start=0.5)
    ready = engine.prepare(asked)
    assert len(ready.controls) == 2 and len(ready.facts["controls"]) == 2
    assert (drawn(engine, asked)[0] != drawn(engine, replace(asked, controls=()))[0]).any()


@pytest.mark.slow
def test_the_python_api_follows_maps_that_are_in_memory(network, maps):
    picture = Image.open("map.png").convert("RGB")
    size = {"width": 64, "height": 64, "steps": 2, "seed": 1}
    with ipa_cli.open(control=[str(network)], progress=False, backend="eager") as opened:
        plain = opened.draw("a star", **size)
        followed = opened.draw("a star", control=[{"image": picture, "scale": 0.8}], **size)
        named = opened.draw("a star", control=[{"image": "map.png", "scale": 0.8, "model": "outline"}], **size)
        for wrong, words in (
            ({"image": picture, "model": "other"}, "there is no model"),
            ({"image": picture, "strength": 1}, "unknown key 'strength'"),
            ({"scale": 0.5}, "no map to follow"),
            ({"image": picture, "scale": 20}, "expected a number"),
        ):
            with pytest.raises(ipa_cli.UsageError, match=words):
                opened.draw("a star", control=[wrong], **size)
    images = [np.asarray(one.image) for one in (plain, followed, named)]
    assert (images[0] != images[1]).any() and (images[1] == images[2]).all()


@pytest.mark.gpu
@pytest.mark.parametrize("backend", ["eager", "inductor"])
def test_on_a_gpu_nothing_is_captured_or_compiled_when_scale_window_or_map_change(network, maps, tmp_path, backend):
    engine = opened(network, maps, tmp_path, device="cuda", backend=backend)
    asked = request(engine)
    engine.prepare(asked)
    first = drawn(engine, asked)[0]
    captured = [ready.denoiser.captures for ready in engine._denoisers.opened]
    assert len(captured) == 2
    (control,) = asked.controls
    for changes in ({"scale": 0.3}, {"end": 0.5}, {"start": 0.5}):
        assert (drawn(engine, replace(asked, controls=(replace(control, **changes),)))[0] != first).any()
    other = (controls.parse(f"{network},image={maps / 'wide.png'},scale=0.8", "--control"),)
    assert (drawn(engine, request(engine, control=other))[0] != first).any()
    assert captured == [ready.denoiser.captures for ready in engine._denoisers.opened]
    assert (drawn(engine, asked)[0] == first).all()
    on_cpu = opened(network, maps, tmp_path, device="cpu", backend="eager", dtype="float16")
    assert abs(first - drawn(on_cpu, request(on_cpu))[0]).mean() < 2


@pytest.mark.slow
@pytest.mark.parametrize(("offload", "kind"), [("sequential", ""), ("sequential", "union"), ("model", "union")])
def test_networks_that_are_offloaded_draw_the_same_picture(maps, tmp_path, monkeypatch, offload, kind):
    """As `--offload sequential` and `model` have them, whose device is the CPU here."""
    pytest.importorskip("accelerate")
    folder = controlnets.save(DEMO, tmp_path / "network", kind=kind)
    more = ",mode=canny" if kind else ""
    spec = f"{folder},image={maps / 'map.png'}{more}"
    begun = {
        "device": "cpu",
        "init_image": str(maps / "map.png"),
        "strength": 1.0,
        "hires": "1.5",
        "hires_strength": 0.5,
    }
    asked = {"steps": 2, **begun, "control": (controls.parse(spec, "--control"),)}
    expected = opened(folder, maps, tmp_path, backend="eager", **asked)
    picture = drawn(expected, request(expected))[0]

    class Offloading(Engine):
        """One that takes the CPU for a GPU, as far as weights are concerned that wait in main memory."""

        def __init__(self, *arguments):
            super().__init__(*arguments)
            self.offload = self._access.offload = offload

    monkeypatch.setattr(sys.modules[__name__], "Engine", Offloading)
    offloaded = opened(folder, maps, tmp_path, backend="eager", **asked)
    assert offloaded.model.controls[0].conv_in.weight.is_meta == (offload == "sequential")
    assert (drawn(offloaded, request(offloaded))[0] == picture).all()
