"""The table of what our kernels are launched with."""

import pytest

from ipa_cli.backends.inductor import backend, tuning
from ipa_cli.errors import UsageError


def test_hopper_has_what_was_measured_on_it():
    assert tuning.chosen((9, 0)) == (
        tuning.CrossAttention(64, 128, 4),
        tuning.Geglu(128, 128, 64, 16, 8, 4, True),
        tuning.GateQuantize(8),
        tuning.NormQuantize(1, 1),
        True,
    )


@pytest.mark.parametrize(
    ("capability", "like"), [((8, 7), (8, 6)), ((12, 1), (12, 0)), ((10, 3), (10, 0)), ((9, 0), (9, 0))]
)
def test_an_unknown_capability_has_the_nearest_older_card_of_its_generation(capability, like):
    assert tuning.card(capability) is tuning.TABLE[like]


def test_a_new_generation_has_no_kernel_that_may_not_fit():
    new = tuning.chosen((13, 0))
    assert (new.geglu, new.hopper) == (None, False) and new.cross_attention == tuning.chosen((8, 6)).cross_attention


def test_before_ampere_no_kernel_of_ours_is_used():
    assert tuning.chosen((7, 5)) == (None,) * len(tuning.KINDS) + (False,)


def test_fp8_begins_with_ada_and_descriptors_with_hopper():
    for capability, card in tuning.TABLE.items():
        assert (card.gate_quantize != (None,)) == (capability >= backend.CAPABILITIES.fp8)
        assert card.hopper == card.decoder == (capability == (9, 0))
        assert capability >= (9, 0) or not any(one and one.descriptors for one in card.geglu)


def test_measured_choices_replace_those_of_the_table():
    found = tuning.chosen((8, 6), {"cross_attention": [64, 64, 4], "geglu": [128, 64, 32, 8, 4, 3, False]})
    assert found.cross_attention == (64, 64, 4) and found.geglu == (128, 64, 32, 8, 4, 3, False)
    assert tuning.chosen((8, 6), {"cross_attention": None}).cross_attention is None


def test_choices_of_another_card_are_refused():
    with pytest.raises(UsageError, match=r"geglu is not for compute capability 8\.6"):
        tuning.chosen((8, 6), {"geglu": [128, 128, 64, 16, 8, 4, True]})


@pytest.mark.parametrize(
    "given",
    [
        [],
        {"softmax": [1]},
        {"cross_attention": [64, 64]},
        {"cross_attention": [7, 7, 7]},
        {"geglu": "fast"},
        {"gate_quantize": {}},
        {"cross_attention": [64.0, 64, 4]},
        {"cross_attention": [[], 64, 4]},
    ],
)
def test_other_values_of_the_option_are_refused(given):
    with pytest.raises(UsageError, match="option tuning is"):
        backend.options({"tuning": given or {"": 0}})
