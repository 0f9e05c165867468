"""What the sheet and the page say of all pictures of a sweep."""

from ipa_cli.sweep import views


def test_a_description_that_somebody_has_changed_is_shown_as_it_is():
    plan = {"scales": [0], "model": "demo", "mask": [0.5, None, {"a": 1}, 0.5], "dtype": None, "vae_tiling": False}
    assert views._for_people(plan) == {"model": "demo", "mask": "0.5, {'a': 1}"}
