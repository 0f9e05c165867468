"""FaceID adapters through the program: faces in pictures and files, what pictures record, and what is refused."""

from __future__ import annotations

import io
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image, ImageDraw
from safetensors.numpy import load_file, save_file

import ipa_cli
from ipa_cli.config import Settings
from ipa_cli.engine.engine import Engine
from ipa_cli.errors import IpaError, UsageError
from ipa_cli.images import faces
from ipa_cli.images.metadata import read_settings
from ipa_cli.models.plan import make_plan
from ipa_cli.pipeline.references import load_references
from ipa_cli.pipeline.task import make_request
from ipa_cli.result import NullReporter
from ipa_cli.serve import drawing
from ipa_cli.serve.asked import Asked
from ipa_cli.serve.limits import Limits
from ipa_cli.unet.inputs import tensors
from tests import faceid, insightface, loras

DEMO = Path(ipa_cli.__file__).parent / "demo"
ENCODER = DEMO / "ip_adapter" / "image_encoder"
FAST = ("--size", "64x64", "--steps", 1, "--warmup", 0, "--seed", 1, "--backend", "eager", "--prompt", "a star")


@pytest.fixture(scope="module")
def adapters(tmp_path_factory) -> dict[str, Path]:
    folder, unet = tmp_path_factory.mktemp("adapters"), loras.demo_unet()
    width = load_file(ENCODER / "model.safetensors")["vision_model.embeddings.class_embedding"].shape[0]
    portrait = folder / "ip-adapter-faceid-portrait_sdxl_unnorm.bin"
    return {
        "plain": faceid.write(folder / "ip-adapter-faceid_sdxl.bin", unet),
        "plus": faceid.write(folder / "ip-adapter-faceid-plusv2_sdxl.bin", unet, states=width),
        "unnormed": faceid.write(portrait, unet, unnormed=True, lora=False),
    }


@pytest.fixture
def recogniser(world, tmp_path, monkeypatch):
    with monkeypatch.context() as patched:
        insightface.install(tmp_path, Path.home(), patched)
        yield
    faces._opened.cache_clear()
    for name in [name for name in sys.modules if name.split(".")[0] in ("insightface", "onnxruntime")]:
        del sys.modules[name]


def picture(path: Path, *spans: tuple[int, int]) -> Path:
    """A picture of faces, each from one column to another."""
    drawn = Image.new("RGB", (200, 100), "white")
    for left, right in spans:
        ImageDraw.Draw(drawn).rectangle((left, 20, right, 80), fill="red", outline=(255, 40, 40))
    drawn.save(path)
    return path


def pixels(world, name: str) -> bytes:
    with Image.open(world.cwd / name) as opened:
        return opened.tobytes()


def plus(adapters) -> tuple[object, ...]:
    return ("--ip-adapter", adapters["plus"], "--image-encoder", ENCODER)


@pytest.mark.slow
def test_the_largest_face_of_a_picture_is_followed_and_another_on_request(ipa, world, adapters, recogniser):
    picture(world.cwd / "two.png", (10, 40), (60, 150))
    flags = (*FAST, "--ip-adapter", adapters["plain"], "--image", "two.png")
    ran = ipa("generate", *flags, "-o", "a.png")
    assert ran.exit_code == 0, ran.stderr
    assert "2 faces; the largest is taken, number 2 from the left" in ran.stderr
    assert ran.stderr.count("non-commercial research only") == 1 and "det-size" not in ran.stdout + ran.stderr
    ran = ipa("generate", *flags, "--face", 2, "-o", "b.png")
    assert "faces" not in ran.stderr and "non-commercial" not in ran.stderr  # that is said once
    assert pixels(world, "a.png") == pixels(world, "b.png")
    # One JSON object, whatever InsightFace prints.
    assert ipa("generate", *flags, "--face", 1, "-o", "c.png", "--json").data()
    assert pixels(world, "c.png") != pixels(world, "a.png")

    recorded = read_settings(world.cwd / "c.png")
    assert recorded["settings"]["face"] == 1 and recorded["settings"]["lora"] == []
    (lora,) = recorded["loras"]
    assert lora["inside_adapter"] and lora["name"] == "ip-adapter-faceid_sdxl" and lora["weight"] == 1
    with Image.open(world.cwd / "c.png") as opened:
        assert "<lora:" not in opened.text["parameters"] and len(opened.text["ipa"]) < 6000  # and no embedding
    ran = ipa("generate", "--from", "c.png", "--ip-adapter", adapters["plain"], "-o", "again.png")
    assert ran.exit_code == 0, ran.stderr
    assert pixels(world, "again.png") == pixels(world, "c.png")


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["plain", "plus", "unnormed"])
def test_embeddings_in_a_file_draw_what_their_picture_draws(ipa, world, adapters, recogniser, kind):
    picture(world.cwd / "face.png", (5, 195))  # so large that it is found in a smaller one alone
    flags = plus(adapters) if kind == "plus" else ("--ip-adapter", adapters[kind])
    ran = ipa("embed", "face.png", *flags, "-o", "face.safetensors", "--json")
    assert ran.data()["shape"] == [1, 512], ran.stderr
    written = load_file(world.cwd / "face.safetensors")
    assert (world.cwd / "face.safetensors").stat().st_mode & 0o777 == 0o600
    assert set(written) == {"id_embeds", *(["clip_embeds"] if kind == "plus" else [])}
    assert ipa("generate", *FAST, *flags, "--image", "face.png", "-o", "a.png").exit_code == 0
    ran = ipa("generate", *FAST, *flags, "--embeds", "face.safetensors", "-o", "b.png")
    assert ran.exit_code == 0 and pixels(world, "a.png") == pixels(world, "b.png")


@pytest.fixture
def nothing_loaded(monkeypatch):
    def opened(*_: object, **__: object) -> None:
        raise AssertionError("weights would be read")

    monkeypatch.setattr(Engine, "open", opened)


def refused(ran, words: str, hint: str = "") -> None:
    error = ran.error()
    assert ran.exit_code in (1, 2) and words in error["message"] and hint in error["hint"] and error["hint"]
    assert "\n" not in error["message"] + error["hint"]


@pytest.mark.usefixtures("nothing_loaded")
def test_a_picture_without_the_face_asked_for_is_refused(ipa, world, adapters, recogniser):
    def generate(name: str, *flags: object):
        return ipa("generate", *FAST, "--ip-adapter", adapters["plain"], "--image", name, *flags, "--json")

    picture(world.cwd / "none.png")
    picture(world.cwd / "two.png", (10, 40), (60, 150))
    refused(generate("none.png"), "there is no face in none.png")
    refused(generate("two.png", "--face", 3), "two.png has 2 faces, and number 3 is asked for", "1 to 2")
    refused(generate("two.png", "--fit", "tiles"), "has no tiles")
    refused(generate("two.png", "--face-shortcut", 0.5), "no picture to weigh")
    refused(generate("two.png", "--negative-image", "none.png"), "sees no picture")


@pytest.mark.usefixtures("nothing_loaded")
def test_without_insightface_or_its_models_a_line_says_what_to_do(ipa, world, adapters, tmp_path, monkeypatch):
    picture(world.cwd / "face.png", (10, 40))
    flags = ("generate", *FAST, "--ip-adapter", adapters["plain"], "--json")
    monkeypatch.setattr(faces, "find_spec", lambda name: None)
    refused(ipa(*flags, "--image", "face.png"), "InsightFace", 'pip install "ipa-cli[face]"')
    checks = {check["name"]: check for check in ipa("doctor", "--json").data()["checks"]}
    assert checks["faces"]["status"] == "skipped" and "ipa-cli[face]" in checks["faces"]["advice"]
    monkeypatch.undo()


@pytest.mark.usefixtures("nothing_loaded")
def test_models_are_not_downloaded_unasked(ipa, world, adapters, tmp_path, monkeypatch):
    insightface.install(tmp_path, Path.home(), monkeypatch, models=False)
    picture(world.cwd / "face.png", (10, 40))
    ran = ipa("generate", *FAST, "--ip-adapter", adapters["plain"], "--image", "face.png", "--json")
    refused(ran, "nothing is downloaded unasked", "insightface-cli model.download buffalo_l")


@pytest.mark.usefixtures("nothing_loaded")
def test_embeddings_that_do_not_fit_are_refused_before_weights_are_read(ipa, world, adapters):
    normed, raw = faceid.embedding(), faceid.embedding(normed=False)

    def given(kind: str, array: object = None, **tensors: np.ndarray):
        path = world.cwd / ("face.npy" if array is not None else "face.safetensors")
        np.save(path, array, allow_pickle=True) if array is not None else save_file(tensors, path)
        flags = plus(adapters) if kind == "plus" else ("--ip-adapter", adapters[kind])
        return ipa("generate", *FAST, *flags, "--embeds", path.name, "--json")

    refused(given("plain", normed[:, :256]), "of shape (1, 256)")
    refused(given("plain", raw), "the adapter takes normed ones", "normed_embedding")
    refused(given("unnormed", normed), "takes them as they come out", "embedding")
    refused(given("plain", np.zeros((1, 512), np.float32)), "0 everywhere")
    refused(given("plain", normed * np.float32("nan")), "not finite")
    refused(given("plain", np.array([{"a": 1}], dtype=object)), "no whole .npy file")
    refused(given("plain", np.ones((1, 512), int)), "no floating-point numbers")
    refused(given("plain", positive=normed, negative=normed), "no embedding of a face: negative, positive")
    refused(given("plus", id_embeds=normed), "no embedding of the face's picture")
    refused(given("plus", id_embeds=normed, clip_embeds=normed), "clip_embeds of shape (1, 512)")
    refused(given("plus", id_embeds=normed, clip_embeds=np.ones((2, 1, 5, 7), np.float32)), "of width 7")
    Image.new("RGB", (8, 8)).save(world.cwd / "cat.png")
    flags = ("--ip-adapter", adapters["plain"], "--embeds", "cat.png", "--json")
    refused(ipa("generate", *FAST, *flags), "cat.png is no whole file of embeddings", "--image")
    np.save(world.cwd / "face.npy", normed)
    refused(ipa("generate", *FAST, "--embeds", "face.npy", "--json"), "which only FaceID adapters take", "--ip-adapter")
    torch.save({"a": normed}, world.cwd / "face.ipadpt")
    refused(ipa("generate", *FAST, "--ip-adapter", adapters["plain"], "--embeds", "face.ipadpt", "--json"), "pickle")
    (world.cwd / "face.npy").write_bytes(b"\x93NUMPY\x01\x00")
    refused(ipa("generate", *FAST, "--ip-adapter", adapters["plain"], "--embeds", "face.npy", "--json"), "no whole")


@pytest.mark.usefixtures("nothing_loaded")
def test_settings_of_faces_without_a_use_are_refused(ipa, world, adapters):
    np.save(world.cwd / "face.npy", faceid.embedding())
    flags = ("generate", *FAST, "--ip-adapter", adapters["plain"], "--json")
    refused(ipa(*flags), "follows a face, and has neither picture nor embeddings", "--image")
    refused(ipa(*flags, "--embeds", "face.npy", "--face", 2), "embeddings are given")
    refused(ipa(*flags, "--embeds", "face.npy", "--negative-image", DEMO / "reference.png"), "and no negative one")
    noted = ipa(*flags, "--embeds", "face.npy", "--sharpening", 0.5, "--fit", "crop")
    assert "--fit, --sharpening have no effect with a FaceID adapter, which sees no picture" in noted.stderr
    reference = DEMO / "reference.png"
    refused(ipa("generate", *FAST, "--image", reference, "--face", 2, "--json"), "--face is for FaceID adapters")
    refused(ipa("generate", *FAST, "--image", reference, "--ip-lora", 0, "--json"), "--ip-lora is for FaceID adapters")
    for key, words in (("lora=0.5", "lora is for FaceID adapters"), ("face=1.5", "expected a whole number")):
        refused(ipa("generate", *FAST, "--adapter", f"own,image={reference},{key}", "--json"), words)


def test_the_lora_inside_and_the_same_beside_are_not_added_twice(ipa, world, adapters, nothing_loaded):
    from ipa_cli.models.lora import targets

    modules = [module for part, module in targets.of_plan(make_plan(Settings())).shapes if part == "unet"]
    names = [module.removesuffix(".to_q") for module in modules if module.endswith(".to_q")]
    separate = faceid.lora_of(adapters["plain"], names)
    save_file({name: tensor.numpy() for name, tensor in separate.items()}, world.cwd / "faceid_sdxl_lora.safetensors")
    np.save(world.cwd / "face.npy", faceid.embedding())
    flags = ("--ip-adapter", adapters["plain"], "--embeds", "face.npy", "--lora", "faceid_sdxl_lora.safetensors")
    refused(ipa("generate", *FAST, *flags, "--json"), "inside the adapter ip-adapter-faceid_sdxl too", "--ip-lora 0")
    with pytest.raises(AssertionError, match="weights would be read"):
        raise_from(ipa("generate", *FAST, *flags, "--ip-lora", 0, "--json"))


def raise_from(ran) -> None:
    """What a traceback of a bug says, as an error."""
    raise AssertionError(ran.stdout + ran.stderr)


@pytest.mark.slow
def test_a_sweep_has_a_row_for_each_face(ipa, world, adapters):
    for number in (1, 2):
        np.save(world.cwd / f"{number}.npy", faceid.embedding(number))
    flags = ("--size", "64x64", "--steps", 1, "--seed", 1, "--prompt", "a star", "--ip-adapter", adapters["plain"])
    embeds = ("--embeds", "1.npy", "--embeds", "2.npy")
    ran = ipa("sweep-scale", *flags, *embeds, "--scales", "0.3,1", "--output", "sweep", "--json")
    assert ran.data()["drawn"] == 4, ran.stderr
    assert len({path.read_bytes() for path in (world.cwd / "sweep").rglob("*.png")}) >= 4


@pytest.mark.slow
def test_settings_files_and_specifications_say_what_flags_say(ipa, world, adapters):
    np.save(world.cwd / "face.npy", faceid.embedding())
    flags = ("generate", *FAST, "--guidance-scale", 5)
    given = ("--embeds", "face.npy", "--ip-adapter", adapters["plain"], "--scale", 0.5)
    assert ipa(*flags, *given, "--ip-lora", 0.5, "-o", "flag.png").exit_code == 0
    spec = f"{adapters['plain']},embeds=face.npy,scale=0.5,lora=0.5"
    assert ipa(*flags, "--adapter", spec, "-o", "a.png").exit_code == 0
    (world.cwd / "ipa.toml").write_text("ip_lora = 0.5\n")
    assert ipa(*flags, *given, "-o", "file.png").exit_code == 0
    assert pixels(world, "flag.png") == pixels(world, "a.png") == pixels(world, "file.png")
    (world.cwd / "ipa.toml").unlink()
    assert ipa("generate", "--from", "a.png", "-o", "again.png").exit_code == 0
    assert pixels(world, "again.png") == pixels(world, "a.png")


def test_a_request_brings_its_face_and_its_settings(world, adapters):
    settings = Settings(ip_adapter=str(adapters["plain"]), load_format="auto")
    plan = make_plan(settings, references_later=True)

    def asked(values: dict[str, object], files: dict[str, bytes]):
        given = Asked({"prompt": "a star", **values}, files)
        return drawing.make(given, settings, plan, Limits(), NullReporter(), allow_fetch=False)[1]

    np.save(world.cwd / "face.npy", faceid.embedding())
    data = (world.cwd / "face.npy").read_bytes()
    request = asked({"embeds": "face.npy", "ip_lora": 0.5}, {"face.npy": data})
    assert [lora.weight for lora in request.loras] == [0.5]
    assert request.image_prompts[0].embeds.positive.shape == (1, 512)
    assert asked({"embeds": "face.npy", "ip_lora": 0}, {"face.npy": data}).loras == ()
    with pytest.raises(IpaError, match="of shape"):
        asked({"embeds": "face.npy"}, {"face.npy": npy(faceid.embedding()[:, :8])})
    with pytest.raises(UsageError, match="follows a face"):
        asked({}, {})


def npy(array: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, array)
    return buffer.getvalue()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("flags", "count"),
    [
        (("--guidance-scale", 1, "--image-weight", 1, "--image-weight", 0.3), 1),
        (("--guidance-end", 0.5, "--steps", 2, "--image-combine", "average"), 1),
        (("-n", 2, "--batch-size", 2, "--image-per-picture"), 4),
    ],
)
def test_every_way_of_drawing_takes_faces_with_their_pictures(ipa, world, adapters, recogniser, flags, count):
    picture(world.cwd / "a.png", (10, 60))
    picture(world.cwd / "b.png", (20, 90))
    given = (*plus(adapters), "--image", "a.png", "--image", "b.png")
    assert len(ipa("generate", *FAST, *given, *flags, "--json").data()["images"]) == count


@pytest.mark.slow
def test_one_graph_serves_every_face_lora_and_base_adapters(world, adapters):
    """The shapes of the inputs, which a graph is known by, are those of a base adapter."""

    def shapes(**changes: object) -> list[tuple[int, ...]]:
        settings = replace(SETTINGS, **changes)
        request = make_request(settings, engine.plan, load_references(settings, NullReporter()))
        return [tuple(tensor.shape) for tensor in tensors(engine.example_inputs(request))]

    np.save(world.cwd / "face.npy", faceid.embedding())
    SETTINGS = Settings(prompt="a star", seed=1, width=64, height=64, steps=1, device="cpu", backend="eager")
    engine = Engine.open(SETTINGS, make_plan(SETTINGS), NullReporter())
    base = shapes()
    faces_given = replace(SETTINGS, ip_adapter=str(adapters["plain"]), embeds="face.npy")
    engine = Engine.open(faces_given, make_plan(faces_given), NullReporter())
    given = {"ip_adapter": faces_given.ip_adapter, "embeds": "face.npy"}
    assert shapes(**given) == shapes(**given, ip_lora=0.3) == shapes(**given, scale=0.2) == base
