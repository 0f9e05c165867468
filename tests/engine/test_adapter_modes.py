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
from ipa_cli.pipeline.task import InMemory, load_references, make_request
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
