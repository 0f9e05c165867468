"""Prompts for parts of the picture: what their shares are, where they act, and that nothing is compiled for them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image

from ipa_cli.config import Settings
from ipa_cli.engine import graphs
from ipa_cli.engine.engine import Engine
from ipa_cli.engine.together import alike
from ipa_cli.errors import IpaError
from ipa_cli.images import reference
from ipa_cli.models.plan import make_plan
from ipa_cli.pipeline import regions
from ipa_cli.pipeline.references import InMemory, load_references
from ipa_cli.pipeline.regions import Region
from ipa_cli.pipeline.task import make_request
from ipa_cli.result import NullReporter
from ipa_cli.unet import attention
from ipa_cli.unet.inputs import Context
from ipa_cli.unet.model import Attention

SIDE = 64
BASE = Settings(
    prompt="a yellow circle", width=SIDE, height=SIDE, steps=3, seed=7, device="cpu", backend="eager", warmup=0,
    guidance_scale=4.0, scale=0.0,
)  # fmt: skip


@pytest.fixture(scope="module")
def engine(tmp_path_factory):
    settings = replace(BASE, cache_dir=tmp_path_factory.mktemp("cache"))
    return Engine.open(settings, make_plan(settings), NullReporter())


def area(left: int = 0, top: int = 0, right: int = SIDE, bottom: int = SIDE, level: int = 255) -> Image.Image:
    mask = Image.new("L", (SIDE, SIDE))
    mask.paste(level, (left, top, right, bottom))
    return mask


def region(mask: Image.Image, prompt: str = "a red star", **more) -> Region:
    return Region(reference.of_image(mask, as_mask=True), prompt, **more)


def request(engine, own: Sequence[Region] = (), **changes):
    settings = replace(engine.settings, **changes)
    made = make_request(settings, engine.plan, load_references(settings, NullReporter(), InMemory()))
    return replace(made, regions=tuple(own))


def pixels(engine, own: Sequence[Region] = (), **changes) -> np.ndarray:
    return np.asarray(engine.draw(request(engine, own, **changes)).images[0], dtype=int)


@pytest.mark.slow
def test_a_region_over_the_whole_picture_is_its_prompt_whatever_else_is_said(engine):
    expected = pixels(engine, prompt="a red star")
    assert abs(pixels(engine, [region(area())]) - expected).max() <= 1
    assert abs(pixels(engine, [region(area(), weight=3.0)], batch_size=2, num_images=2) - expected).max() <= 1
    assert abs(pixels(engine) - expected).max() > 20
    plain = pixels(engine, prompt="a red star", negative_prompt="blur")
    assert abs(pixels(engine, [region(area(), negative="blur")]) - plain).max() <= 1


@pytest.mark.slow
def test_without_guidance_and_in_halves_without_it_regions_act_too(engine):
    for changes in ({"guidance_scale": 1.0}, {"guidance_end": 0.5}):
        expected = pixels(engine, prompt="a red star", **changes)
        assert abs(pixels(engine, [region(area())], **changes) - expected).max() <= 1


@pytest.mark.slow
def test_another_prompt_of_a_region_changes_its_own_part_more_than_the_others_does(engine):
    def drawn(*colours: str) -> np.ndarray:
        own = [
            region(half, f"a large {colour} star in the middle") for half, colour in zip(halves, colours, strict=True)
        ]
        return pixels(engine, own, prompt="a large red star in the middle", width=2 * SIDE, height=2 * SIDE, steps=6)

    halves = area(0, 0, SIDE // 2), area(SIDE // 2)
    first = drawn("red", "red")
    left, right = abs(drawn("blue", "red") - first), abs(drawn("red", "blue") - first)
    of_left, of_right = (change[:, :SIDE].mean() / change[:, SIDE:].mean() for change in (left, right))
    assert of_left > 1.3 * of_right > 0


def test_attention_sees_the_prompt_of_a_region_within_its_mask_alone():
    torch.manual_seed(1)
    attn = Attention(width=16, context=8, heads=2)
    states, text = torch.randn(2, 64, 16), torch.randn(2, 2, 2, 77, 8)
    share = torch.zeros(1, 1, 64, 1)
    share[:, :, :24] = 1

    def seen(region: torch.Tensor) -> torch.Tensor:
        context = Context([text], [], torch.ones(0, 1), (), [[region]], [[1 - share], [share]])
        return attention.CrossAttention(0)(attn, states, encoder_hidden_states=context)

    one, other, plain = seen(text * 2), seen(text * 3), seen(text)
    assert torch.equal(one[:, 24:], other[:, 24:]) and torch.equal(one[:, 24:], plain[:, 24:])
    assert ((one - other)[:, :24].abs().amax(-1) > 1e-3).all()


@pytest.mark.slow
def test_long_prompts_of_regions_and_a_second_pass_are_drawn(engine):
    long = ", ".join(["a very red star"] * 30)
    drawn = engine.draw(request(engine, [region(area(0, 0, 32), long)], hires="1.5"))
    assert drawn.images[0].size == (96, 96)


@pytest.mark.slow
def test_one_graph_serves_all_masks_and_prompts_of_as_many_regions(engine, monkeypatch):
    two = [region(area(0, 0, 32)), region(area(32), "a blue heart")]
    engine.draw(request(engine, two))
    made = []
    real = graphs.prepare_asked
    monkeypatch.setattr(graphs, "prepare_asked", lambda *given: made.append(given) or real(*given))
    other = [region(area(8, 8, 40, 40), "a green square", weight=0.5), region(area(level=90), "a dot", negative="x")]
    engine.draw(request(engine, other))
    engine.draw(request(engine, other[::-1], prompt="two stars"))
    assert not made
    engine.draw(request(engine, [*two, two[0]]))
    assert len(made) == 1  # another number of them


def test_shares_sum_to_one_and_overlapping_regions_share_by_weight():
    left, all_over = region(area(0, 0, 32)), region(area(), weight=3.0)
    found = regions.shares([left, all_over], SIDE, SIDE)
    assert torch.allclose(found.sum(0), torch.ones(SIDE, SIDE))
    assert found[:, 0, 0].tolist() == pytest.approx([0, 0.25, 0.75]) and found[:, 0, -1].tolist() == [0, 0, 1]
    weak = regions.shares([region(area(0, 0, 32), weight=0.6)], SIDE, SIDE)
    assert weak[:, 0, 0].tolist() == pytest.approx([0.4, 0.6]) and weak[:, 0, -1].tolist() == [1, 0]
    grey = regions.shares([region(area(level=51))], SIDE, SIDE)
    assert grey[:, 0, 0].tolist() == pytest.approx([0.8, 0.2])


def test_layers_see_the_mean_of_the_pixels_of_a_mask():
    shares = regions.shares([region(area(0, 0, 24))], SIDE, SIDE)
    found = regions.of_layers(shares, [(2, 1), (8, 8)], torch.device("cpu"), torch.half)
    assert [one.shape for one in found[1]] == [(1, 1, 2, 1), (1, 1, 64, 1)] and found[1][0].dtype == torch.half
    assert found[1][0].flatten().tolist() == [0.75, 0] and found[0][0].flatten().tolist() == [0.25, 1]


def test_the_pooled_embedding_counts_prompts_by_their_areas():
    shares = regions.shares([region(area(0, 0, 16))], SIDE, SIDE)
    assert regions.pooled([torch.zeros(2, 3), torch.ones(2, 3)], shares).tolist() == [[0.25] * 3] * 2
    assert regions.pooled([None, None], shares) is None


def test_requests_with_regions_are_drawn_apart(engine):
    one = request(engine, [region(area())])
    assert not alike(one, one) and not alike(one, request(engine))


@pytest.mark.parametrize(
    ("mask", "said"),
    [(area(0, 0, 0, 0), "black everywhere"), (Image.new("L", (64, 32), 255), "64x32, the picture 64x64")],
)
def test_a_mask_that_cannot_be_followed_is_refused(mask, said):
    with pytest.raises(IpaError, match=said):
        regions.check([region(mask)], SIDE, SIDE)


@pytest.mark.gpu
@pytest.mark.parametrize("backend", ["eager", "inductor"])
def test_a_gpu_draws_regions_as_a_cpu_does_and_captures_nothing_for_others(tmp_path, backend):
    settings = replace(BASE, cache_dir=tmp_path, dtype="float16")
    on_cpu = Engine.open(settings, make_plan(settings), NullReporter())
    drawing = Engine.open(replace(settings, device="cuda", backend=backend), on_cpu.plan, NullReporter())
    own = [region(area(0, 0, 32)), region(area(24), "a blue heart", weight=2.0)]
    ready = drawing.prepare(request(drawing, own))
    pixels(drawing, own)
    captured = ready.denoiser.captures
    for each in (own, own[::-1], [region(area(10, 10, 50, 50)), own[1]]):
        assert abs(pixels(drawing, each) - pixels(on_cpu, each)).mean() < 4
    assert ready.denoiser.captures == captured
