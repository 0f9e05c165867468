"""A picture to begin with: what is encoded of it, how often, and that no other graph is made for it."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image, ImageDraw

from ipa_cli import cache
from ipa_cli.config import Settings
from ipa_cli.engine import graphs
from ipa_cli.engine.engine import Engine
from ipa_cli.engine.together import alike
from ipa_cli.images import reference
from ipa_cli.models.plan import make_plan
from ipa_cli.pipeline import start
from ipa_cli.pipeline.references import InMemory, load_references
from ipa_cli.pipeline.task import make_request
from ipa_cli.result import NullReporter

pytestmark = pytest.mark.slow
BASE = Settings(prompt="a star", width=64, height=64, steps=4, seed=7, device="cpu", backend="eager", warmup=0)


@pytest.fixture(scope="module")
def engine(tmp_path_factory):
    settings = replace(BASE, cache_dir=tmp_path_factory.mktemp("cache"))
    return Engine.open(settings, make_plan(settings), NullReporter())


@pytest.fixture
def encoded(engine, monkeypatch):
    """The sizes of the pictures that the VAE encodes."""
    sizes, kind = [], type(engine.model.vae)

    def encode(vae, pixels, real=kind.encode):
        sizes.append(tuple(pixels.shape[2:]))
        return real(vae, pixels)

    monkeypatch.setattr(kind, "encode", encode)
    engine.forget()
    return sizes


def picture(colour: str = "navy") -> Image.Image:
    made = Image.new("RGB", (64, 64), colour)
    ImageDraw.Draw(made).ellipse((10, 10, 50, 40), fill="gold")
    return made


def half() -> Image.Image:
    mask = Image.new("L", (64, 64))
    mask.paste(255, (32, 0, 64, 64))
    return mask


def request(engine, image: Image.Image | None = None, mask: Image.Image | None = None, **changes):
    pictures = {} if image is None else {("init", False): reference.of_image(image)}
    pictures |= {} if mask is None else {("area", True): reference.of_image(mask, as_mask=True)}
    names = {"init_image": None if image is None else "init", "inpaint_mask": None if mask is None else "area"}
    settings = replace(engine.settings, **names, **changes)
    return make_request(settings, engine.plan, load_references(settings, NullReporter(), InMemory(pictures)))


def pixels(engine, asked) -> np.ndarray:
    return np.asarray(engine.draw(asked).images[0], dtype=int)


def test_a_picture_is_encoded_once_for_all_strengths_and_seeds(engine, encoded):
    weak = pixels(engine, request(engine, picture(), strength=0.5))
    strong = pixels(engine, request(engine, picture(), strength=1.0, seed=8, num_images=2, batch_size=2))
    assert (weak != strong).any() and encoded == [(64, 64)]
    pixels(engine, request(engine, picture("red")))
    assert encoded == [(64, 64)] * 2
    pixels(engine, request(engine, picture("red"), half()))
    assert len(encoded) == 3  # another, with a mask


def test_steps_are_as_many_as_the_strength_leaves(engine):
    assert engine.draw(request(engine, picture(), strength=0.5)).steps == 2
    assert engine.draw(request(engine, picture(), strength=1.0)).steps == 4
    assert engine.draw(request(engine, picture(), strength=0.5, scheduler="heun")).steps == 3
    assert engine.draw(request(engine)).steps == 4


def test_no_graph_is_opened_for_a_picture_a_strength_or_a_mask(engine, monkeypatch):
    engine.draw(request(engine))
    before = engine.state.graphs
    assert len(before) == 1
    monkeypatch.setattr(graphs, "prepare", None)
    for strength in (0.25, 0.6, 1.0):
        engine.draw(request(engine, picture(), strength=strength))
        engine.draw(request(engine, picture(), half(), strength=strength))
    engine.draw(request(engine, picture(), half(), mask_blur=4.0))
    assert engine.state.graphs == before


def test_requests_share_calls_where_they_begin_with_the_same_picture(engine):
    one, two = (request(engine, picture(), strength=0.5, seed=seed) for seed in (1, 2))
    other, masked = request(engine, picture("red"), strength=0.5), request(engine, picture(), half(), strength=0.5)
    assert alike(one, two) and not alike(one, other) and not alike(one, masked) and not alike(one, request(engine))
    assert not alike(one, request(engine, picture(), strength=0.75))
    together = [np.asarray(drawing.images[0], dtype=int) for drawing in engine.draw_together([one, two])]
    for drawn, each in zip(together, (one, two), strict=True):
        assert abs(drawn - pixels(engine, each)).max() <= 1


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_pixels_are_those_computed_in_float32_then_rounded(dtype):
    levels = np.random.default_rng(0).permutation(np.arange(768, dtype=np.uint16) % 256).reshape(16, 16, 3)
    found = start.pixels_of(Image.fromarray(levels.astype(np.uint8)), torch.device("cpu"), dtype)
    expected = torch.from_numpy(levels.astype(np.float32) / 255).permute(2, 0, 1)[None] * 2 - 1
    assert found.dtype == dtype and torch.equal(found, expected.to(dtype))


def test_an_encoder_out_of_the_range_of_fp16_encodes_in_float32(engine):
    class Vae:
        dtype, quant_conv = torch.float16, None

        def __init__(self):
            self.encoder = torch.nn.Linear(1, 1).half()

        def encode(self, given):
            mean = self.encoder(given.reshape(-1, 1)[:1]) * 0 + (float("inf") if given.dtype == torch.float16 else 1.0)
            return mean, mean

    vae = Vae()
    found, _ = start.moments(vae, torch.ones(1, 3, 8, 8), wide=False)
    assert found.dtype == torch.float32 and found.item() == 1
    assert vae.encoder.weight.dtype == torch.float16


@pytest.mark.compiles
def test_one_compiled_graph_serves_pictures_to_begin_with(compiled, world, monkeypatch):
    settings = replace(BASE, model=str(compiled.model), load_format="dummy", backend="inductor", guidance_scale=5.0)
    settings = replace(settings, cache_dir=compiled.cache, image=("reference.png",), dtype="float32", compile=False)
    picture().save(world.cwd / "reference.png")
    opened = []
    monkeypatch.setattr(cache, "open_graph", lambda *given, real=cache.open_graph: opened.append(given) or real(*given))
    engine = Engine.open(settings, make_plan(settings), NullReporter())
    drawn = [engine.draw(request(engine))]
    drawn += [engine.draw(request(engine, picture(), strength=strength)) for strength in (0.25, 0.6, 1.0)]
    drawn += [engine.draw(request(engine, picture(), half(), strength=0.5))]
    assert len(opened) == 1 and [graph["id"] for graph in engine.state.graphs] == [compiled.graph["id"]]
    assert [one.steps for one in drawn] == [4, 1, 2, 4, 2]


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_a_gpu_draws_over_a_picture_what_a_cpu_does_and_captures_nothing_for_it(tmp_path, dtype):
    settings = replace(BASE, cache_dir=tmp_path, guidance_scale=5.0, dtype=dtype)
    on_cpu = Engine.open(settings, make_plan(settings), NullReporter())
    drawing = Engine.open(replace(settings, device="cuda"), on_cpu.plan, NullReporter())
    ready = drawing.prepare(request(drawing))
    drawing.draw(request(drawing))
    captured = ready.denoiser.captures
    for changes in ({"strength": 0.5}, {"strength": 1.0}, {"mask": half(), "strength": 0.5}, {"mask": half()}):
        drawn, expected = (pixels(one, request(one, picture(), **changes)) for one in (drawing, on_cpu))
        assert abs(drawn - expected).mean() < 4
    assert ready.denoiser.captures == captured


@pytest.mark.gpu
@pytest.mark.parametrize("offload", ["model", "sequential"])
def test_offloaded_weights_encode_a_picture_too(tmp_path, offload):
    settings = replace(BASE, device="cuda", cache_dir=tmp_path)
    whole = Engine.open(settings, make_plan(settings), NullReporter())
    drawing = Engine.open(replace(settings, offload=offload), whole.plan, NullReporter())
    for asked in ({"strength": 0.5}, {"mask": half(), "mask_blur": 2.0}):
        drawn, expected = (pixels(one, request(one, picture(), **asked)) for one in (drawing, whole))
        assert abs(drawn - expected).mean() < 2
        assert (drawn == pixels(drawing, request(drawing, picture(), **asked))).all()
