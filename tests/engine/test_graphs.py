"""Which graph of the cache serves a picture: real keys of a tiny UNet, nothing compiled."""

from dataclasses import replace

import pytest
import torch

from ipa_cli import backends, cache
from ipa_cli.cache import Entry, Miss, Store
from ipa_cli.config import Settings
from ipa_cli.engine import graphs
from ipa_cli.engine.ready import Ready
from ipa_cli.errors import IpaError
from ipa_cli.result import NullReporter
from tests.unets import example, tiny

INDUCTOR = backends.get("inductor")


@pytest.fixture(scope="module")
def unet():
    return tiny()


@pytest.fixture
def store(tmp_path):
    return Store(tmp_path / "cache")


def wanted(unet, options=None, size=(16, 16), masks=False, chunks=1):
    inputs = example(*unet, *size)
    text = [torch.cat([one] * chunks, 3) for one in inputs.context.text]
    inputs = replace(inputs, context=inputs.context._replace(text=text))
    if masks:
        mask = [[torch.ones(1, 1, 4, 1)] * inputs.context.scale.shape[1]]
        inputs = replace(inputs, context=inputs.context._replace(mask=mask))
    return graphs.ask(INDUCTOR, "inductor", "tiny", inputs, replace(Settings(), compile_options=options))


def keep(store, unet, *way, **more):
    """A graph in the cache, as far as its key is concerned."""
    kept = wanted(unet, *way, **more)

    def fill(folder):
        (folder / "graph.json").write_text("{}")

    describe = {"model": "tiny", "options": dict(kept.options)}
    return cache.build(store, graphs.key(unet[0], kept), describe, fill).entry


def found(store, unet, *way, **more):
    entry = graphs.find(store, unet[0], wanted(unet, *way, **more))
    return entry.id if isinstance(entry, Entry) else None


def test_a_graph_compiled_another_way_serves_unless_a_way_was_asked_for(store, unet):
    kept = keep(store, unet, '{"fuse_upsample": false}')
    assert found(store, unet) == found(store, unet, '{"fuse_upsample": false}') == kept.id
    assert found(store, unet, "fast") is None


def test_a_coarser_precision_serves_only_who_asked_for_it(store, unet):
    coarse = keep(store, unet, '{"precision": "fp8"}')
    assert found(store, unet) is None
    assert found(store, unet, '{"precision": "fp8"}') == coarse.id


def test_a_tuned_gpu_wants_graphs_with_its_choices_and_an_untuned_one_takes_any(store, unet, monkeypatch):
    plain = keep(store, unet)
    kept = {"tuning": {"cross_attention": [64, 64, 4]}}
    monkeypatch.setattr("ipa_cli.engine.tuned.kept", lambda settings, backend: kept)
    assert found(store, unet) is None
    own = keep(store, unet)
    assert found(store, unet) == own.id != plain.id
    monkeypatch.setattr("ipa_cli.engine.tuned.kept", lambda settings, backend: None)
    assert found(store, unet) == plain.id


def test_a_range_serves_the_sizes_within(store, unet):
    kept = keep(store, unet, '{"dynamic": [64, 256]}')
    assert found(store, unet) == found(store, unet, size=(32, 8)) == kept.id
    assert found(store, unet, size=(33, 16)) is None


def test_a_longer_prompt_wants_a_graph_of_its_own_or_one_for_a_range(store, unet):
    short = keep(store, unet)
    tokens = wanted(unet).text_tokens
    assert found(store, unet) == short.id and found(store, unet, chunks=2) is None
    ranged = keep(store, unet, f'{{"text": [{tokens}, {2 * tokens}]}}')
    assert found(store, unet, chunks=2) == ranged.id and found(store, unet, chunks=3) is None
    assert found(store, unet, f'{{"text": [{tokens}, {3 * tokens}]}}') is None


def test_masks_and_their_lack_want_graphs_of_their_own(store, unet):
    plain, masked = (graphs.key(unet[0], wanted(unet, masks=masks)) for masks in (False, True))
    assert plain.factors.items() ^ masked.factors.items() == {("masks", True)}
    keep(store, unet)
    missed = graphs.find(store, unet[0], wanted(unet, masks=True))
    assert isinstance(missed, Miss) and missed.reasons == ("masks none → yes",)
    kept = keep(store, unet, masks=True)
    assert found(store, unet, masks=True) == kept.id != found(store, unet)


ODD = {
    "no options": {"model": "tiny"},
    "options that are a list": {"options": [1]},
    "unknown options": {"options": {"speed": 9}},
    "a span of text": {"options": {"dynamic": "64..256"}},
    "a span of one": {"options": {"dynamic": [64]}},
    "kernels that are a number": {"options": {"kernels": 5}},
    "a preset": {"options": {"preset": "max"}},
}


@pytest.mark.slow
@pytest.mark.parametrize("describe", ODD.values(), ids=ODD)
def test_a_graph_with_odd_options_is_passed_over(store, unet, describe):
    """Everything else of the backend goes on working."""
    odd = wanted(unet, '{"fuse_upsample": false}')
    cache.build(store, graphs.key(unet[0], odd), describe, lambda folder: (folder / "graph.json").touch())
    assert found(store, unet) is None
    good = keep(store, unet, '{"dynamic": [64, 256]}')
    assert found(store, unet) == good.id
    with pytest.raises(cache.Refused, match="how it was compiled"):
        graphs.prepare(unet[0], odd, store, True, NullReporter())


PLANS = {
    "no JSON": "{",
    "a list": "[]",
    "nothing": "{}",
    "no table of regions": '{"sample": [2, 4, 16, 16], "dynamic": null, "regions": 5}',
    "a region of text": '{"sample": [2, 4, 16, 16], "dynamic": null, "regions": ["a"]}',
    "a sample of text": '{"sample": ["2", 4, 16, 16], "dynamic": null, "regions": []}',
    "an unknown part": '{"sample": [2, 4, 16, 16], "dynamic": null, "regions": '
    '[{"name": "a", "parts": ["nose"], "weight_layouts": [], "inputs": []}]}',
}


@pytest.mark.parametrize("plan", PLANS.values(), ids=PLANS)
def test_a_graph_with_an_odd_plan_is_reported(store, unet, plan):
    want = wanted(unet)

    def fill(folder):
        (folder / "graph.json").write_text(plan)

    cache.build(store, graphs.key(unet[0], want), {"options": dict(want.options)}, fill)
    with pytest.raises(IpaError, match="the graph is"):
        graphs.prepare(unet[0], want, store, True, NullReporter())


def test_what_is_open_already_serves_again_and_is_not_opened(store, unet, monkeypatch):
    kept = keep(store, unet, '{"dynamic": [64, 256]}')
    other = keep(store, unet, size=(8, 8))
    want = wanted(unet, size=(32, 8))
    opened = [Ready(lambda inputs: inputs.sample, "inductor", "cache", "", entry) for entry in (other, kept)]
    monkeypatch.setattr(graphs, "_open", lambda *_: pytest.fail("it was opened"))
    assert graphs.prepare(unet[0], want, store, False, NullReporter(), opened) is opened[1]
    monkeypatch.setattr(graphs, "_open", lambda *_: "anew")
    assert graphs.prepare(unet[0], want, store, False, NullReporter(), opened[:1]) == "anew"


def test_one_uncompiled_unet_serves_all_shapes(store, unet):
    want = replace(wanted(unet), backend="eager", options=backends.get("eager").options(None))
    first = graphs.prepare(unet[0], want, store, False, NullReporter())
    assert graphs.prepare(unet[0], want, store, False, NullReporter(), [first]) is first
    assert graphs.choose(unet[0], want.example, "tiny", Settings(), store, NullReporter(), [first]) is first


def test_one_that_may_not_be_loaded_serves_only_where_no_other_does(store, unet):
    ours = keep(store, unet, '{"fuse_upsample": false}')
    foreign = keep(store, unet, '{"dynamic": [64, 256]}')
    larger = keep(store, unet, '{"dynamic": [64, 512]}')
    for entry in (foreign, ours):
        (entry.folder / "proof.json").unlink()
    assert found(store, unet) == larger.id
    (larger.folder / "proof.json").unlink()
    assert found(store, unet) in (ours.id, foreign.id, larger.id)
    with pytest.raises(cache.Refused, match="made elsewhere"):
        graphs.prepare(unet[0], wanted(unet), store, False, NullReporter())


def test_sizes_in_a_key_are_pixels_whatever_the_latents_are(unet):
    asked = wanted(unet, '{"dynamic": [128, 256]}')
    other = replace(asked, latent_factor=4)
    assert (asked.size, other.size) == ((128, 128), (64, 64))
    assert asked.compile_options["dynamic"] == [128, 256]
    assert other.compile_options["dynamic"] == [256, 512]  # 32 to 64 latent pixels, of which backends count eight each
    fixed = replace(wanted(unet), latent_factor=4)
    assert graphs.key(unet[0], fixed).factors["width"] == 64


def test_with_two_passes_a_graph_that_covers_both_sizes_comes_first(store, unet):
    both, own = keep(store, unet, '{"dynamic": [64, 256]}'), keep(store, unet)
    keep(store, unet, '{"dynamic": [64, 128]}')
    asked = wanted(unet)
    assert graphs.find(store, unet[0], asked).id == own.id
    assert graphs.find(store, unet[0], replace(asked, other_size=(192, 192))).id == both.id
    assert graphs.find(store, unet[0], replace(asked, other_size=(512, 512))).id == own.id


def test_each_number_of_regions_wants_a_graph_of_its_own(unet):
    asked = wanted(unet)

    def factors(count):
        context = asked.example.context._replace(regions=[asked.example.context.text] * count)
        return graphs.key(unet[0], replace(asked, example=replace(asked.example, context=context))).factors.items()

    assert factors(0) ^ factors(1) == {("regions", 1)} and factors(1) ^ factors(2) == {("regions", 1), ("regions", 2)}
