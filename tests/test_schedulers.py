"""Samplers: how often they call the UNet."""

import pytest

from ipa_cli import schedulers


@pytest.mark.parametrize(("name", "calls"), [("euler", 6), ("ddim", 6), ("dpm++", 6), ("pndm", 7), ("heun", 11)])
def test_the_calls_that_a_bar_counts_are_those_that_are_made(name, calls):
    from diffusers import PNDMScheduler

    scheduler = schedulers.create(name, PNDMScheduler(skip_prk_steps=True))
    assert schedulers.calls(scheduler, 6) == calls
    scheduler.set_timesteps(6)
    assert len(scheduler.timesteps) == calls  # asking changed nothing
