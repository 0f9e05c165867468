"""The times of several denoisers that serve one request."""

import pytest

from ipa_cli.engine.ready import Ready


def ready(compile_s: float) -> Ready:
    return Ready(lambda inputs: inputs, "inductor", "compiled", "", open_s=1, compile_s=compile_s)


@pytest.mark.parametrize("way", [Ready.beside, Ready.before])
def test_the_times_of_another_graph_are_added_and_those_of_the_same_are_not(way):
    own = ready(30)
    assert way(own, ready(20)).compile_s == 50 and way(own, ready(20)).open_s == 2
    assert way(own, own).compile_s == 30


def test_a_controlnet_that_follows_two_maps_counts_once():
    control = ready(20)
    both = ready(30).with_controls([control, control])
    assert both.controls == (control, control) and (both.compile_s, both.open_s) == (50, 2)
