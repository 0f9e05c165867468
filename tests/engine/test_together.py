"""Requests that share the calls of the UNet: the pictures of each, in one call a step."""

from collections import Counter
from contextlib import contextmanager
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from ipa_cli.config import Settings
from ipa_cli.engine.engine import Engine
from ipa_cli.engine.together import alike
from ipa_cli.images import reference
from ipa_cli.models.plan import make_plan
from ipa_cli.pipeline.references import InMemory, load_references
from ipa_cli.pipeline.task import make_request
from ipa_cli.result import NullReporter
from ipa_cli.unet import attention, inputs

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def engine():
    settings = Settings(backend="eager", device="cpu", width=64, height=64, steps=3, seed=0)
    return Engine.open(settings, make_plan(settings), NullReporter())


def request(engine, colour="red", **changes):
    picture = reference.of_image(Image.new("RGB", (32, 32), colour))
    asked = replace(engine.settings, image=(picture.source,), **changes)
    return make_request(
        asked, engine.plan, load_references(asked, NullReporter(), InMemory({(picture.source, False): picture}))
    )


def pixels(drawing):
    [image] = drawing.images.values()
    return np.asarray(image, dtype=int)


@pytest.mark.parametrize("changes", [{}, {"guidance_scale": 1.0}, {"guidance_end": 0.5, "steps": 4}])
def test_each_of_several_requests_gets_its_own_picture(engine, changes, monkeypatch):
    calls = []
    forward = engine.model.unet.forward
    monkeypatch.setattr(
        engine.model.unet, "forward", lambda inputs: calls.append(len(inputs.sample)) or forward(inputs)
    )
    asked = [
        request(engine, "red", prompt="a star", seed=1, **changes),
        request(engine, "blue", prompt="two circles", seed=2, **changes),
        request(engine, "lime", prompt="a heart", negative_prompt="dark", seed=3, **changes),
    ]
    assert all(alike(asked[0], other) for other in asked)
    drawn = engine.draw_together(asked)
    assert len(calls) == asked[0].steps and set(calls) <= {3, 6}
    for one, each in zip(drawn, asked, strict=True):
        assert abs(pixels(one) - pixels(engine.draw(each))).max() <= 1
    assert abs(pixels(drawn[0]) - pixels(drawn[1])).max() > 10


def test_a_batch_is_encoded_by_one_call_of_each_encoder_and_projected_once(engine, monkeypatch):
    from torch.utils._python_dispatch import TorchDispatchMode

    class Counting(TorchDispatchMode):
        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            ops[func.overloadpacket.__name__] += 1
            return func(*args, **(kwargs or {}))

    calls = {}
    model = engine.model
    for number, encoder in enumerate((*model.text_encoders, *model.image_encoders)):

        def counted(given, *others, _number=number, _forward=encoder.forward):
            calls[_number].append(len(given))
            return _forward(given, *others)

        monkeypatch.setattr(encoder, "forward", counted)
    project = attention.project
    monkeypatch.setattr(attention, "project", lambda *given: calls["kv"].append(len(given[2])) or project(*given))

    per_size = {}
    for size in (2, 6):
        engine.forget()
        calls.update({number: [] for number in (0, 1, 2, "kv")})
        ops = Counter()
        colours = ["red", "blue", "lime"]
        asked = [
            request(engine, colours[n % 3], prompt=f"a star {n}", negative_prompt="dark", guidance_scale=5.0)
            for n in range(size)
        ]
        with Counting():
            assert engine._encodings.of_several(asked).context.text[0].shape[1] == 2 * size
        assert calls == {0: [size + 1], 1: [size + 1], 2: [min(size, 3)], "kv": [2 * size]}  # "dark" is encoded once
        per_size[size] = ops
    copies, products = (
        [sum(ops[name] for name in names) for ops in per_size.values()]
        for names in (("cat", "stack"), ("mm", "addmm", "bmm"))
    )
    assert copies[1] - copies[0] <= 4 * 4 + 2, (
        per_size
    )  # of the halves of four prompts and one reference, not of layers
    assert products[1] - products[0] <= 4 + 1, per_size  # of the pooled prompt and the embeds, a row each


def test_a_picture_is_the_same_whichever_requests_it_was_encoded_with(engine):
    asked = [request(engine, colour, prompt=f"a {colour} star") for colour in ("red", "blue", "lime")]
    engine.forget()
    alone = pixels(engine.draw(asked[1]))
    engine.forget()
    engine._encodings.of_several(asked)
    assert np.array_equal(pixels(engine.draw(asked[1])), alone)


@pytest.fixture
def side(engine, monkeypatch):
    """What is asked of the side stream."""
    asked = []

    class Seen:
        def wait_for_current(self):
            asked.append("wait")

        @contextmanager
        def running(self):
            asked.append("work")
            yield

        def record(self, tensors):
            asked.append({one.untyped_storage().data_ptr() for one in tensors})

    monkeypatch.setattr(engine._encodings, "_side", Seen())
    engine.forget()
    return asked


def test_what_is_begun_is_encoded_on_the_side_stream_and_all_of_it_recorded(engine, side, monkeypatch):
    seen = []
    began = engine._begin
    monkeypatch.setattr(engine, "_begin", lambda first, each, *given: seen.append(each) or began(first, each, *given))
    several = [request(engine, prompt=f"a star {n}", guidance_scale=5.0, guidance_end=0.5) for n in range(2)]
    engine.begin(several)
    engine.begin(several[:1])
    del side[:], seen[:]
    engine.begin(several)
    engine.begin(several[:1])
    assert [one for one in side if isinstance(one, str)] == ["work", "work"]
    for recorded, [conditions] in zip((one for one in side if not isinstance(one, str)), seen, strict=True):
        used = [tensor for half in (conditions, conditions.unguided) for tensor in inputs.tensors(half.context)]
        assert {one.untyped_storage().data_ptr() for one in used} <= recorded


@pytest.mark.parametrize(
    "change",
    [
        lambda engine, asked: engine.draw(asked),
        lambda engine, asked: engine.encode([asked]),
        lambda engine, asked: engine._access.publish(graphs=({},)),
        lambda engine, asked: engine._encodings.of_several([asked]),
    ],
    ids=["drawn", "encoded", "a graph opened", "encoded in turn"],
)
def test_encoding_waits_for_what_was_changed_or_made_in_turn(engine, side, change):
    asked = request(engine, prompt="a star")
    engine._encodings.of_several([asked], overlap=True)
    engine._encodings.of_several([asked], overlap=True)
    assert side.pop() and side.pop() == "work" and side.count("work") == 1
    del side[:]
    change(engine, asked)
    engine._encodings.of_several([asked], overlap=True)
    assert "wait" in side[: side.index("work")]


@pytest.mark.parametrize("changed", ["offload", "loras"])
def test_what_moves_or_changes_weights_is_encoded_on_the_current_stream(engine, side, changed, monkeypatch):
    if changed == "offload":
        monkeypatch.setattr(engine._access, "offload", "model")
        monkeypatch.setattr(engine._encodings, "_of_several", lambda requests: None)
    else:
        monkeypatch.setattr(engine._encodings._loras, "differ", lambda loras: True)
    engine._encodings.of_several([request(engine, prompt="a star")], overlap=True)
    assert side[-1:] == ["wait"] and "work" not in side


def test_a_batch_that_cannot_be_encoded_leaves_nothing_behind(engine, side, monkeypatch):
    asked = [request(engine, prompt=f"a star {n}") for n in range(2)]
    expected = [pixels(one) for one in engine.draw_together(asked)]
    engine.forget()
    with monkeypatch.context() as broken:
        broken.setattr(engine.model.image_encoders[0], "forward", lambda pixels: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            engine.begin(asked)
    assert engine.state.doing == "idle"
    for one, picture in zip(engine.draw_together(asked), expected, strict=True):
        assert np.array_equal(pixels(one), picture)


def test_references_that_are_weighed_differently_share_the_calls(engine):
    plain = request(engine, "red", prompt="a star")
    weighed = replace(plain, image_prompts=tuple(replace(one, weights=(0.5,)) for one in plain.image_prompts))
    drawn = engine.draw_together([plain, weighed])
    for one, each in zip(drawn, (plain, weighed), strict=True):
        assert abs(pixels(one) - pixels(engine.draw(each))).max() <= 1
    assert abs(pixels(drawn[0]) - pixels(drawn[1])).max() > 10


@pytest.mark.parametrize(
    "changes",
    [
        *({"width": 128}, {"steps": 4}, {"guidance_scale": 2.0}, {"scale": 0.1}, {"ip_mode": "style"}),
        *({"ip_end": 0.5}, {"num_images": 2}, {"scheduler": "euler-a"}),
    ],
)
def test_requests_that_differ_in_more_are_drawn_apart(engine, changes):
    assert not alike(request(engine), request(engine, **changes))


def test_a_longer_prompt_is_drawn_apart(engine):
    asked = [request(engine, prompt="a star"), request(engine, prompt=" ".join(["star"] * 100))]
    drawn = engine.draw_together(asked)
    for one, each in zip(drawn, asked, strict=True):
        assert np.array_equal(pixels(one), pixels(engine.draw(each)))


def test_what_is_begun_says_which_graph_draws_it(engine):
    asked = [request(engine, prompt=f"a star {n}", seed=n) for n in range(2)]
    begun = engine.begin(asked)
    assert [one.ready.backend for one in begun] == ["eager"] * 2
    for one, drawing in zip(begun, engine.draw_together(asked), strict=True):
        found = one.drawing()
        assert np.array_equal(pixels(found), pixels(drawing)) and found.steps == 3
        assert found.steps_s > 0 and found.decode_s > 0


@pytest.mark.gpu
def test_on_a_gpu_nothing_waits_for_the_pictures_begun_before():
    import torch

    settings = Settings(backend="eager", device="cuda", width=64, height=64, steps=3, seed=0, guidance_scale=8.0)
    engine = Engine.open(settings, make_plan(settings), NullReporter())
    expected = [pixels(engine.draw(request(engine, "red", prompt=f"a star {n}", seed=n))) for n in range(4)]
    engine.forget()
    torch.cuda.set_sync_debug_mode("error")
    try:
        begun = [engine.begin([request(engine, "red", prompt=f"a star {n}", seed=n)]) for n in range(4)]
    finally:
        torch.cuda.set_sync_debug_mode("default")
    for one, picture in zip(begun, expected, strict=True):
        assert np.array_equal(pixels(one[0].drawing()), picture)


@pytest.mark.gpu
@pytest.mark.parametrize("together", [1, 2])
def test_on_a_gpu_what_is_encoded_beside_stays_until_it_is_drawn(together):
    settings = Settings(backend="eager", device="cuda", width=64, height=64, steps=8, seed=0, guidance_scale=8.0)
    engine = Engine.open(settings, make_plan(settings), NullReporter())
    colours = ["red", "blue", "lime"]
    each = [
        [request(engine, colours[n % 3], prompt=f"a star {n}, {part}", seed=n) for part in range(together)]
        for n in range(24)
    ]
    expected = [[pixels(one) for one in engine.draw_together(asked)] for asked in each]
    for _ in range(3):
        engine.forget()
        begun = [engine.begin(asked) for asked in each]
        for found, pictures in zip(begun, expected, strict=True):
            for one, picture in zip(found, pictures, strict=True):
                assert np.array_equal(pixels(one.drawing()), picture)
