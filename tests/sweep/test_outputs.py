"""The settings that the sheet and the page show for all pictures of a sweep."""

from ipa_cli.sweep import outputs


def test_a_description_changed_by_hand_is_shown_as_it_is():
    plan = {"scales": [0], "model": "demo", "mask": [0.5, None, {"a": 1}, 0.5], "dtype": None, "vae_tiling": False}
    assert outputs.common_settings(plan) == {"model": "demo", "mask": "0.5, {'a': 1}"}
