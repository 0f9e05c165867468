"""Which graph of the cache serves a picture: real keys of a tiny UNet, nothing compiled."""

from dataclasses import replace

import pytest
import torch

from ipa_cli import backends, graphs, store
from ipa_cli.config import Settings
from ipa_cli.store import Entry, Miss, Store
from tests.unets import example, tiny

INDUCTOR = backends.get("inductor")


@pytest.fixture(scope="module")
def unet():
    return tiny()


@pytest.fixture
def cache(tmp_path):
    return Store(tmp_path / "cache")


def wanted(unet, options=None, size=(16, 16), masks=False):
    inputs = example(*unet, *size)
    if masks:
        mask = [[torch.ones(1, 1, 4, 1)] * inputs.context.scale.shape[1]]
        inputs = inputs._replace(context=inputs.context._replace(mask=mask))
    return graphs.ask(INDUCTOR, "inductor", "tiny", inputs, replace(Settings(), compile_options=options))


def keep(cache, unet, *way, **more):
    """A graph in the cache, as far as its key is concerned."""
    kept = wanted(unet, *way, **more)

    def fill(folder):
        (folder / "graph.json").write_text("{}")

    describe = {"model": "tiny", "options": dict(kept.options)}
    return store.build(cache, graphs.key(unet[0], kept), describe, fill).entry


def found(cache, unet, *way, **more):
    entry = graphs.find(cache, unet[0], wanted(unet, *way, **more))
    return entry.id if isinstance(entry, Entry) else None


def test_a_graph_compiled_another_way_serves_unless_a_way_was_asked_for(cache, unet):
    kept = keep(cache, unet, '{"phases": false}')
    assert found(cache, unet) == found(cache, unet, '{"phases": false}') == kept.id
    assert found(cache, unet, "fast") is None


def test_a_coarser_precision_serves_only_who_asked_for_it(cache, unet):
    coarse = keep(cache, unet, '{"precision": "fp8"}')
    assert found(cache, unet) is None
    assert found(cache, unet, '{"precision": "fp8"}') == coarse.id


def test_a_range_serves_the_sizes_within(cache, unet):
    kept = keep(cache, unet, '{"dynamic": [64, 256]}')
    assert found(cache, unet) == found(cache, unet, size=(32, 8)) == kept.id
    assert found(cache, unet, size=(33, 16)) is None


def test_masks_and_their_lack_want_graphs_of_their_own(cache, unet):
    plain, masked = (graphs.key(unet[0], wanted(unet, masks=masks)) for masks in (False, True))
    assert plain.factors.items() ^ masked.factors.items() == {("masks", True)}
    keep(cache, unet)
    missed = graphs.find(cache, unet[0], wanted(unet, masks=True))
    assert isinstance(missed, Miss) and missed.reasons == ("masks absent → true",)
    kept = keep(cache, unet, masks=True)
    assert found(cache, unet, masks=True) == kept.id != found(cache, unet)
