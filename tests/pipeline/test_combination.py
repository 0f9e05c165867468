"""Several references as one, against ComfyUI's formulas written out in numpy."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch

from ipa_cli.config.modes import COMBINES
from ipa_cli.pipeline.combination import combined

RANDOM = np.random.default_rng(0)
FORMULAS = {
    "average": lambda one, two, three: (one + two + three) / 3,
    "norm-average": lambda one, two, three: (one + two + three) / np.sqrt(one**2 + two**2 + three**2) / 3,
    "add": lambda one, two, three: one + two + three,
    "subtract": lambda one, two, three: one - (two + three) / 2,
}


def prompt(combine: str, *weights: float) -> SimpleNamespace:
    return SimpleNamespace(combine=combine, weights=weights, combined=combine != "concat" and len(weights) > 1)


@pytest.mark.parametrize("shape", [(3, 8), (3, 5, 8)])
@pytest.mark.parametrize("combine", FORMULAS)
def test_embeddings_become_one_by_comfyuis_formula(combine, shape):
    embeds, empty = RANDOM.normal(size=(2, *shape)).astype(np.float32)
    negative, positive = combined(prompt(combine, 1, 0.5, 2), torch.from_numpy(empty), torch.from_numpy(embeds))
    expected = FORMULAS[combine](embeds[0], 0.5 * embeds[1], 2 * embeds[2])
    np.testing.assert_allclose(positive.numpy(), expected[None], rtol=1e-5, atol=1e-6)
    assert torch.equal(negative, torch.from_numpy(empty[:1]))


def test_tiles_are_combined_one_by_one():
    embeds = torch.arange(12.0).reshape(6, 2)  # of each of three tiles both images
    _, positive = combined(prompt("add", 1, 1), embeds, embeds)
    assert positive.tolist() == [[2.0, 4.0], [10.0, 12.0], [18.0, 20.0]]


@pytest.mark.parametrize("combine", COMBINES)
def test_one_image_and_concatenated_ones_stay_as_they_are(combine):
    embeds = torch.randn(1 if combine != "concat" else 3, 4)
    asked = prompt(combine, *[0.5] * len(embeds))
    assert combined(asked, embeds, embeds) == (embeds, embeds)


def test_a_number_that_is_zero_in_every_image_stays_zero():
    _, positive = combined(prompt("norm-average", 1, 1), torch.zeros(2, 1), torch.tensor([[0.0], [0.0]]))
    assert positive.tolist() == [[0.0]]
