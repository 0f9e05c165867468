"""How references act: ComfyUI's weight types in one graph, several as one, a negative one, one for each picture."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image

from ipa_cli.config import Settings
from ipa_cli.config.modes import MODES
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


def request(engine, *colours, size=(48, 48), **changes):
    """A request whose references are plain pictures."""
    pictures = [reference.of_image(Image.new("RGB", size, colour)) for colour in colours]
    settings = replace(engine.settings, image=tuple(one.source for one in pictures), **changes)
    named = {(one.source, False): one for one in pictures}
    return make_request(settings, engine.plan, load_references(settings, NullReporter(), InMemory(named)))


def pixels(engine, asked) -> np.ndarray:
    return np.asarray(engine.draw(asked).images[0], dtype=int)


def noise(engine, asked) -> torch.Tensor:
    """What the UNet predicts for the two halves."""
    torch.manual_seed(0)
    inputs = engine.example_inputs(asked)
    sample = torch.randn(1, *inputs.sample.shape[1:]).expand_as(inputs.sample)
    with torch.no_grad():
        return engine.model.unet(replace(inputs, sample=sample))


def test_every_mode_is_a_picture_of_its_own_in_one_graph(engine):
    modes = [mode for mode in MODES if mode not in ("linear", "style-transfer", "composition", "style-and-composition")]
    drawn = {pixels(engine, request(engine, "red", scale=1.0, ip_mode=mode)).tobytes() for mode in modes}
    assert len(drawn) == len(modes) and len(engine.state.graphs) == 1
    for name, same in (("full", "linear"), ("style", "style-transfer"), ("style-layout", "style-and-composition")):
        one, other = (pixels(engine, request(engine, "red", scale=1.0, ip_mode=mode)) for mode in (name, same))
        assert (one == other).all()


def test_precise_style_puts_the_composition_into_the_negative_half(engine):
    def halves(**changes):
        return noise(engine, request(engine, "red", scale=0.8, **changes))

    precise, style, layout = (halves(ip_mode=mode) for mode in ("style-transfer-precise", "style", "layout"))
    assert torch.equal(precise[1], style[1])  # the positive half sees the style alone
    assert (precise[0] - style[0]).abs().max() > 1e-3 and (precise[0] - layout[0]).abs().max() > 1e-3
    # The negative half of ComfyUI: the reference where the composition is, its own embeds where the style is.
    asked = request(engine, "red", scale=0.8, ip_mode="style-layout")
    inputs = engine.example_inputs(asked)
    image = [[pair.clone() for pair in row] for row in inputs.context.image]
    image[0][3][:, 0] = image[0][3][:, 1]  # layer 3 is down_blocks.2.attentions.1
    with torch.no_grad():
        torch.manual_seed(0)
        sample = torch.randn(1, *inputs.sample.shape[1:]).expand_as(inputs.sample)
        mixed = engine.model.unet(replace(inputs, sample=sample, context=inputs.context._replace(image=image, mask=())))
    assert torch.equal(precise[0], mixed[0])


def test_without_guidance_a_precise_type_leaves_the_moved_layers_out(engine):
    one, other = (
        request(engine, "red", ip_mode=mode, guidance_scale=1.0) for mode in ("style-transfer-precise", "style")
    )
    assert torch.equal(noise(engine, one), noise(engine, other))


@pytest.mark.parametrize("combine", ["average", "norm-average", "add", "subtract"])
def test_combined_references_have_the_tokens_of_one_and_use_its_graph(engine, combine):
    alone, mixed = request(engine, "red"), request(engine, "red", "blue", image_combine=combine)
    assert [[pair.shape for pair in row] for row in engine.example_inputs(mixed).context.image] == [
        [pair.shape for pair in row] for row in engine.example_inputs(alone).context.image
    ]
    opened = engine.prepare(alone)
    assert engine.prepare(mixed) is opened
    weighted = request(engine, "red", "blue", image_combine=combine, image_weight=(1.0, 0.1))
    drawn = [pixels(engine, one).tobytes() for one in (alone, mixed, weighted, request(engine, "red", "blue"))]
    assert len(set(drawn)) == 4


def test_combined_embeddings_are_made_of_those_of_each_reference(engine):
    ((_, red),), ((_, blue),) = (engine.embed(request(engine, colour)) for colour in ("red", "blue"))
    [(_, average)] = engine.embed(request(engine, "red", "blue", image_combine="average"))
    [(_, less)] = engine.embed(request(engine, "red", "blue", image_combine="subtract", image_weight=(1.0, 0.5)))
    torch.testing.assert_close(average, (red + blue) / 2, atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(less, red - 0.5 * blue, atol=1e-5, rtol=1e-4)


def test_a_negative_image_is_what_the_negative_half_sees(engine, monkeypatch):
    def asked(**changes):
        made = request(engine, "red", "lime", **changes)
        (prompt,) = made.image_prompts
        return replace(
            made, image_prompts=(replace(prompt, negative=reference.of_image(Image.new("RGB", (48, 48), "blue"))),)
        )

    ((_, blue),) = engine.embed(request(engine, "blue"))
    ((negative, positive),) = engine.embed(asked())
    ((zeros, same),) = engine.embed(request(engine, "red", "lime"))
    torch.testing.assert_close(negative, blue.expand_as(positive), atol=1e-5, rtol=1e-4)
    assert torch.equal(positive, same) and not torch.equal(negative, zeros)
    kept_off, plain = noise(engine, asked()), noise(engine, request(engine, "red", "lime"))
    assert torch.equal(kept_off[1], plain[1]) and not torch.equal(kept_off[0], plain[0])
    assert engine.prepare(asked()) is engine.prepare(request(engine, "red", "lime"))
    without = [
        pixels(engine, one) for one in (asked(guidance_scale=1.0), request(engine, "red", "lime", guidance_scale=1.0))
    ]
    assert (without[0] == without[1]).all()


def test_tiles_act_in_their_places(engine):
    wide = reference.of_image(_halves((96, 48), "red", "blue"))
    settings = replace(engine.settings, image=(wide.source,), fit="tiles", scale=1.0)
    loaded = load_references(settings, NullReporter(), InMemory({(wide.source, False): wide}))
    tiled = make_request(settings, engine.plan, loaded)
    context = engine.example_inputs(tiled).context
    assert len(context.image) == 2
    # The same as two adapters' references with masks of their own, each a tile: one adapter with a mask for each.
    sides = [reference.of_image(Image.new("RGB", (48, 48), colour)) for colour in ("red", "blue")]
    masks = [
        reference.of_image(_halves((64, 64), *shades), as_mask=True)
        for shades in (("white", "black"), ("black", "white"))
    ]
    settings = replace(
        engine.settings, image=tuple(one.source for one in sides), mask=tuple(one.source for one in masks), scale=1.0
    )
    named = {(one.source, as_mask): one for many, as_mask in ((sides, False), (masks, True)) for one in many}
    apart = make_request(settings, engine.plan, load_references(settings, NullReporter(), InMemory(named)))
    assert abs(pixels(engine, tiled) - pixels(engine, apart)).max() <= 2
    assert engine.prepare(tiled) is engine.prepare(apart)


def _halves(size: tuple[int, int], left: str, right: str) -> Image.Image:
    picture = Image.new("RGB", size, left)
    picture.paste(right, (size[0] // 2, 0, *size))
    return picture


def test_each_row_of_tiles_has_those_of_all_references(engine):
    pairs = (("red", "blue"), ("lime", "white"))
    pictures = [reference.of_image(_halves((96, 48), *pair)) for pair in pairs]
    settings = replace(engine.settings, image=tuple(one.source for one in pictures), fit="tiles")
    named = {(one.source, False): one for one in pictures}
    [(_, tiled)] = engine.embed(
        make_request(settings, engine.plan, load_references(settings, NullReporter(), InMemory(named)))
    )
    plain = [engine.embed(request(engine, colour))[0][1] for colour in ("red", "lime", "blue", "white")]
    torch.testing.assert_close(tiled, torch.cat(plain), atol=0.05, rtol=0.05)  # tiles' inner edges are resampled


COLOURS = ("red", "lime", "blue")


@pytest.mark.parametrize("changes", [{}, {"guidance_scale": 1.0}, {"guidance_end": 0.5}, {"fit": "tiles"}])
def test_each_picture_of_a_batch_has_its_own_reference(engine, changes, monkeypatch):
    calls = []
    forward = engine.model.unet.forward
    monkeypatch.setattr(
        engine.model.unet, "forward", lambda inputs: calls.append(len(inputs.sample)) or forward(inputs)
    )
    asked = request(engine, *COLOURS, image_per_picture=True, batch_size=3, scale=1.0, **changes)
    drawn = engine.draw(asked)
    assert len(calls) == asked.steps and asked.seeds == (7, 7, 7)
    for number, colour in enumerate(COLOURS):
        alone = pixels(engine, request(engine, colour, scale=1.0, **changes))
        assert abs(np.asarray(drawn.images[number], dtype=int) - alone).max() <= 1
    assert abs(np.asarray(drawn.images[0], dtype=int) - np.asarray(drawn.images[2], dtype=int)).max() > 10


def test_batches_go_across_references_in_one_graph(engine):
    asked = request(engine, *COLOURS, image_per_picture=True, num_images=2, batch_size=4, scale=1.0)
    assert asked.seeds == (7, 8) * 3 and asked.batches == [[0, 1, 2, 3], [4, 5, 5, 5]]
    ready = engine.prepare(asked)
    drawn = engine.draw(asked)
    assert engine.prepare(asked) is ready and len(drawn.images) == 6
    for number in (1, 4):
        alone = asked.of_picture(number)
        assert alone.seeds == (asked.seeds[number],) and len(alone.references) == 1
        assert alone.references[0] is asked.references[number // 2]
        at_once, one = (np.asarray(image, dtype=int) for image in (drawn.images[number], engine.draw(alone).images[0]))
        assert abs(at_once - one).max() <= 1
