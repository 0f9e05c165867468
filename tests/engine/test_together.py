"""Requests that share the calls of the UNet: the pictures of each, in one call a step."""

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
