"""One engine for many requests: what it keeps, what it encodes and compiles again, and what other threads see of it."""

from __future__ import annotations

import gc
import threading
import time
from dataclasses import replace
from itertools import cycle, islice

import numpy as np
import pytest
import torch
from PIL import Image

from ipa_cli import cache
from ipa_cli.config import Settings
from ipa_cli.engine import encodings, graphs
from ipa_cli.engine.content import LRU, of_conditions, of_images, of_text
from ipa_cli.engine.denoisers import SHAPES
from ipa_cli.engine.engine import Engine
from ipa_cli.images import reference
from ipa_cli.models.plan import make_plan
from ipa_cli.pipeline.references import InMemory, load_references
from ipa_cli.pipeline.task import make_request
from ipa_cli.result import NullReporter

pytestmark = pytest.mark.slow
BASE = Settings(prompt="a star", width=64, height=64, steps=2, seed=7, device="cpu", backend="eager", warmup=0)


@pytest.fixture(scope="module")
def engine(tmp_path_factory):
    settings = replace(BASE, cache_dir=tmp_path_factory.mktemp("cache"))
    return Engine.open(settings, make_plan(settings), NullReporter())


@pytest.fixture
def calls(engine):
    """How often each kind of module was called."""
    counted = {"text": 0, "image": 0, "unet": 0}
    modules = {
        "text": engine.model.text_encoders[0],
        "image": engine.model.image_encoders[0],
        "unet": engine.model.unet,
    }

    def count(name):
        return lambda *_: counted.update({name: counted[name] + 1})

    hooks = [module.register_forward_hook(count(name)) for name, module in modules.items()]
    engine.forget()
    yield counted
    for hook in hooks:
        hook.remove()


def request(engine, picture: Image.Image | None = None, **changes):
    """A request by settings, whose reference is the model's own or `picture`."""
    loaded = {} if picture is None else {("picture", False): reference.of_image(picture)}
    settings = replace(engine.settings, image=tuple(name for name, _ in loaded), **changes)
    return make_request(settings, engine.plan, load_references(settings, NullReporter(), InMemory(loaded)))


def pixels(engine, asked) -> np.ndarray:
    return np.asarray(engine.draw(asked).images[0], dtype=int)


def plain(colour: str) -> Image.Image:
    return Image.new("RGB", (48, 48), colour)


def test_a_request_calls_each_encoder_once_and_the_unet_once_a_step(engine, calls):
    engine.draw(request(engine, negative_prompt="grey"))
    assert calls == {"text": 1, "image": 1, "unet": 2}


def test_equal_content_is_encoded_once(engine, calls):
    engine.draw(request(engine, plain("red")))
    before = dict(calls)
    engine.draw(request(engine, plain("red"), seed=8, steps=3, width=96, scheduler="euler-a"))
    assert (calls["text"], calls["image"]) == (before["text"], before["image"])
    engine.draw(request(engine, plain("blue")))
    assert (calls["text"], calls["image"]) == (before["text"], before["image"] + 1)
    engine.draw(request(engine, plain("blue"), prompt="a circle"))
    assert (calls["text"], calls["image"]) == (before["text"] + 1, before["image"] + 1)
    engine.draw(request(engine, plain("blue"), prompt="a circle", fit="stretch"))
    assert calls["image"] == before["image"] + 2


def test_a_changed_scale_encodes_nothing_and_opens_nothing(engine, calls):
    weak = pixels(engine, request(engine, scale=0.1))
    before, graphs = dict(calls), engine.state.graphs
    strong = pixels(engine, request(engine, scale=1.0))
    late = pixels(engine, request(engine, scale=1.0, ip_start=0.5))
    styled = pixels(engine, request(engine, scale=1.0, ip_mode="style"))
    assert (weak != strong).any() and (strong != late).any() and (strong != styled).any()
    assert (calls["text"], calls["image"]) == (before["text"], before["image"])
    assert engine.state.graphs == graphs and len(graphs) == 1
    assert (pixels(engine, request(engine, scale=0.1)) == weak).all()


def test_a_batch_is_drawn_in_one_call_a_step(engine, calls):
    one_by_one = engine.draw(request(engine, num_images=3)).images
    assert calls["unet"] == 6
    at_once = engine.draw(request(engine, num_images=3, batch_size=2)).images
    assert calls["unet"] == 10
    for number in range(3):
        assert abs(np.asarray(one_by_one[number], int) - np.asarray(at_once[number], int)).max() <= 1


def test_steps_without_guidance_take_half_the_batch(engine, monkeypatch):
    batches = []
    hook = engine.model.unet.register_forward_pre_hook(lambda _, args: batches.append(args[0].sample.shape[0]))
    try:
        in_part = request(engine, steps=5, guidance_start=0.2, guidance_end=0.8, num_images=2, batch_size=2)
        ready = engine.prepare(in_part)
        assert ready.facts["unguided"]["origin"] == "uncompiled" and not batches
        engine.draw(in_part)
        assert batches == [2, 4, 4, 4, 2]
        del batches[:]
        engine.time_step(in_part)
        assert batches == [4, 2]  # both are warm then
        del batches[:]
        engine.draw(request(engine, steps=2, guidance_scale=1.0, guidance_start=0.5))
        assert batches == [1, 1]
    finally:
        hook.remove()
    made = []
    monkeypatch.setattr(graphs, "prepare", lambda unet, wanted, *_: made.append(wanted.example.sample.shape[0]))
    engine.compile(in_part, {})
    assert made == [4, 2]
    engine.compile(replace(in_part, guidance_start=0.0, guidance_end=1.0), {})
    assert made == [4, 2, 4]


def test_a_guidance_interval_goes_with_batches_masks_and_windows_of_adapters(engine):
    mask = Image.new("L", (64, 64))
    mask.paste(255, (0, 0, 32, 64))
    asked = request(engine, plain("red"), steps=4, num_images=3, guidance_start=0.25, guidance_end=0.75, ip_end=0.5)
    (prompt,) = asked.image_prompts
    asked = replace(asked, image_prompts=(replace(prompt, masks=(reference.of_image(mask, as_mask=True),)),))
    one_by_one, at_once = engine.draw(asked).images, engine.draw(replace(asked, batch_size=2)).images
    for number in range(3):
        assert abs(np.asarray(one_by_one[number], int) - np.asarray(at_once[number], int)).max() <= 1
    without = replace(asked, guidance_start=0.0, guidance_end=1.0)
    assert (pixels(engine, asked) != pixels(engine, without)).any()
    assert (pixels(engine, asked) == np.asarray(one_by_one[0], int)).all()


def test_weights_and_masks_are_content_and_scales_are_not(engine):
    plain_request = request(engine, plain("red"))
    (prompt,) = plain_request.image_prompts
    mask = reference.of_image(Image.new("L", (64, 64), 255), as_mask=True)
    heavier, masked, stronger = (
        replace(plain_request, image_prompts=(replace(prompt, **changes),))
        for changes in ({"weights": (0.5,)}, {"masks": (mask,)}, {"scale": 0.1, "start": 0.5, "mode": "style"})
    )
    assert of_conditions(stronger) == of_conditions(plain_request)
    assert len({of_conditions(one) for one in (plain_request, heavier, masked)}) == 3
    assert of_images(heavier) == of_images(masked) == of_images(plain_request)
    # A mask has the size of the picture.
    assert of_conditions(replace(masked, width=96)) != of_conditions(masked)
    assert of_conditions(replace(plain_request, width=96)) == of_conditions(plain_request)
    # Without guidance there is no negative half.
    without = replace(plain_request, guidance_scale=1.0)
    assert of_text(without) == of_text(replace(without, negative_prompt="grey")) != of_text(plain_request)


def mixed(engine, count: int):
    """Requests that differ in everything that a request can say."""
    kinds = zip(
        cycle(("red", "blue", None)),
        cycle(("a star", "a circle", "a square", "a line", "a dot")),
        cycle(((64, 64), (96, 64))),
        cycle((1.0, 5.0)),
        cycle((None, "euler-a", "ddim", "dpm++")),
        cycle((0.0, 0.5, 1.0)),
        cycle((1, 2, 1)),
    )
    for seed, (colour, prompt, (width, height), guidance, scheduler, scale, several) in enumerate(islice(kinds, count)):
        picture = None if colour is None else plain(colour)
        yield request(
            engine,
            picture,
            prompt=prompt,
            width=width,
            height=height,
            guidance_scale=guidance,
            scheduler=scheduler,
            scale=scale,
            seed=seed,
            num_images=several,
            batch_size=several,
            steps=1 if scheduler != "dpm++" else 2,
        )


def live_bytes() -> int:
    gc.collect()
    storages = {
        tensor.untyped_storage().data_ptr(): tensor.untyped_storage().nbytes()
        for tensor in gc.get_objects()
        if type(tensor) in (torch.Tensor, torch.nn.Parameter) and tensor.device.type == "cpu"
    }
    return sum(storages.values())


def test_fifty_mixed_requests_keep_memory_and_caches_flat(engine, monkeypatch):
    engine.forget()
    monkeypatch.setattr(engine._encodings, "_texts", LRU(3))
    monkeypatch.setattr(engine._encodings, "_images", LRU(2))
    held = []
    for asked in mixed(engine, 50):
        engine.draw(asked)
        held.append(live_bytes())
    found = engine._encodings
    assert (len(found._texts), len(found._images)) == (3, 2) and len(found._conditions) == encodings.CONDITIONED
    assert len(engine._denoisers._ready) <= 2 * 2 * 2 and len(engine.state.graphs) == 1
    assert max(held[30:]) <= max(held[:20])


def test_graphs_of_more_shapes_than_are_kept_give_way(engine):
    for width in range(64, 64 + 8 * (SHAPES + 4), 8):
        engine.draw(replace(request(engine), width=width, height=64, steps=1))
    assert len(engine._denoisers._ready) == SHAPES and len(engine.state.graphs) == 1


def test_what_was_drawn_before_does_not_show(engine):
    asked = request(engine, plain("red"), scale=0.7)
    engine.forget()
    alone = pixels(engine, asked)
    for other in mixed(engine, 6):
        engine.draw(other)
    assert (pixels(engine, asked) == alone).all()


def test_another_thread_reads_the_state_while_one_draws(engine):
    seen, done = set(), threading.Event()

    def watch():
        while not done.is_set():
            state = engine.state
            assert 0 <= state.step <= state.steps
            seen.add((state.doing, state.step))
            assert engine.memory()["peak_gib"] > 0
            time.sleep(0.001)  # or it takes the processor from those that draw

    before = engine.state.drawn
    watcher = threading.Thread(target=watch)
    watcher.start()
    drawers = [
        threading.Thread(target=engine.draw, args=(request(engine, steps=8, seed=seed, width=128, height=128),))
        for seed in (1, 2)
    ]
    for drawer in drawers:
        drawer.start()
    for drawer in drawers:
        drawer.join()
    done.set()
    watcher.join()
    assert {doing for doing, _ in seen} >= {"drawing"} and len({step for doing, step in seen if doing == "drawing"}) > 3
    assert (engine.state.doing, engine.state.drawn) == ("idle", before + 2)


def test_threads_that_draw_at_once_get_the_pictures_they_asked_for(engine):
    asked = [request(engine, plain(colour), seed=seed) for seed, colour in enumerate(("red", "blue", "green"))]
    alone = [pixels(engine, one) for one in asked]
    found: dict[int, np.ndarray] = {}
    threads = [
        threading.Thread(target=lambda n=n: found.update({n: pixels(engine, asked[n])})) for n in range(len(asked))
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert all((found[number] == alone[number]).all() for number in range(len(asked)))


def test_a_failed_drawing_leaves_the_engine_usable(engine, monkeypatch):
    asked = request(engine)
    expected = pixels(engine, asked)

    def fail(*_, **__):
        raise torch.cuda.OutOfMemoryError("CUDA out of memory")

    with monkeypatch.context() as broken:
        broken.setattr(torch.cuda, "mem_get_info", lambda device: (2**30, 8 * 2**30))
        broken.setattr(engine.model.vae, "decode", fail)
        with pytest.raises(Exception, match=r"out of GPU memory on cpu: 1\.0 of 8\.0 GiB are free"):
            engine.draw(asked)
    assert engine.state.doing == "idle"
    assert (pixels(engine, asked) == expected).all()


def test_without_a_reference_an_engine_with_an_adapter_draws_from_the_text_alone(engine):
    asked = replace(request(engine), image_prompts=())
    settings = replace(BASE, ip_adapter="none", cache_dir=engine.settings.cache_dir)
    bare = Engine.open(settings, make_plan(settings), NullReporter())
    assert (pixels(engine, asked) == pixels(bare, asked)).all()


def test_dropped_encoders_leave_what_was_encoded(tmp_path):
    settings = replace(BASE, cache_dir=tmp_path)
    engine = Engine.open(settings, make_plan(settings), NullReporter())
    text_encoder, adapters = engine.model.text_encoders[0], engine.model.adapters
    asked = request(engine)
    engine.encode([asked], drop_encoders=True)
    assert {weight.device.type for module in (text_encoder, adapters) for weight in module.parameters()} == {"meta"}
    assert not engine.state.encoders
    engine.draw(asked)
    engine.draw(replace(asked, seeds=(8,), steps=3, width=96))
    with pytest.raises(RuntimeError, match="the encoders were dropped"):
        engine.draw(replace(asked, prompt="a circle"))
    engine.close()
    assert engine.state.graphs == ()


@pytest.mark.compiles
def test_one_compiled_graph_serves_every_scale_and_size_of_its_range(compiled, world, monkeypatch):
    opened = []
    monkeypatch.setattr(cache, "open_graph", lambda *given, real=cache.open_graph: opened.append(given) or real(*given))
    settings = replace(
        BASE,
        model=str(compiled.model),
        load_format="dummy",
        cache_dir=compiled.cache,
        backend="inductor",
        compile=False,
        dtype="float32",
    )
    engine = Engine.open(settings, make_plan(settings), NullReporter())
    sizes = ((64, 64), (128, 64), (64, 64))
    asked = [
        request(engine, width=width, height=height, scale=scale) for width, height in sizes for scale in (0.0, 1.0)
    ]
    pictures = [pixels(engine, one) for one in asked]
    assert len(opened) == 1 and [graph["id"] for graph in engine.state.graphs] == [compiled.graph["id"]]
    assert (pictures[0] != pictures[1]).any() and (pictures[0] == pictures[4]).all()


def test_several_prompts_are_encoded_before_the_encoders_go(tmp_path, monkeypatch):
    monkeypatch.setattr(encodings, "ENCODED", 1)
    settings = replace(BASE, cache_dir=tmp_path)
    engine = Engine.open(settings, make_plan(settings), NullReporter())
    asked = [replace(request(engine), prompt=prompt) for prompt in ("a star", "a circle", "a square")]
    engine.encode(asked, drop_encoders=True)
    pictures = [pixels(engine, one) for one in (*asked, *asked)]
    assert all((first == second).all() for first, second in zip(pictures[:3], pictures[3:], strict=True))
    assert (pictures[0] != pictures[1]).any()


@pytest.mark.gpu
def test_both_kinds_of_steps_replay_a_cuda_graph_of_their_own(tmp_path):
    settings = replace(BASE, device="cuda", cache_dir=tmp_path, steps=5, guidance_start=0.2, guidance_end=0.8)
    drawing = Engine.open(settings, make_plan(settings), NullReporter())
    asked = request(drawing, plain("red"))
    ready = drawing.prepare(asked)
    drawing.time_step(asked)
    captured = [one.denoiser.captures for one in (ready, ready.unguided)]
    first = pixels(drawing, asked)
    strong = pixels(drawing, request(drawing, plain("red"), scale=1.0))
    assert captured == [one.denoiser.captures for one in (ready, ready.unguided)]
    assert (first == pixels(drawing, asked)).all() and (first != strong).any()
    on_cpu = Engine.open(replace(settings, device="cpu", dtype="float16"), drawing.plan, NullReporter())
    assert abs(first - pixels(on_cpu, request(on_cpu, plain("red")))).mean() < 2


@pytest.mark.gpu
def test_another_gpu_than_the_first_draws_the_same_by_cuda_graphs_and_takes_nothing_of_the_first(tmp_path):
    if torch.cuda.device_count() < 2:
        pytest.skip("needs two GPUs")
    settings, held = replace(BASE, cache_dir=tmp_path), torch.cuda.memory_allocated(0)
    pictures = []
    for device in ("cuda:1", "cuda:0"):
        drawing = Engine.open(replace(settings, device=device), make_plan(settings), NullReporter())
        pictures += [pixels(drawing, request(drawing, plain("red"), width=width)) for width in (64, 96, 64)]
        assert drawing._denoisers.opened[0].denoiser.captures == 2 and torch.cuda.current_device() == 0
        if device == "cuda:1":
            assert torch.cuda.memory_allocated(0) <= held and torch.cuda.memory_allocated(1) > 0
    assert (pictures[0] == pictures[2]).all()
    for second, first in zip(pictures[:3], pictures[3:], strict=True):
        assert (second == first).all()
