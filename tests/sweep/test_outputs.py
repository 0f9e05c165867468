"""The settings that the sheet and the page show for all pictures of a sweep."""

from ipa_cli.sweep import outputs


def test_settings_read_as_people_write_them_and_axes_are_in_the_grid_alone():
    map_ = {"source": "pose.png", "sha256": "0" * 64}
    followed = {"model": "me/canny", "image": map_, "scale": 0.7, "start": 0.0, "preprocess": None}
    plan = {"controls": [followed], "control_scales": [0.5, 1.0], "modes": ["full", "style"], "ip_mode": "full"}
    assert outputs.common_settings(plan) == {"controls": "model me/canny, image pose.png, scale 0.7, start 0.0"}
    assert outputs.common_settings({"lora_weights": [0.5], "modes": None, "ip_mode": "style"}) == {
        "lora_weights": "0.5",
        "ip_mode": "style",
    }


def test_a_description_changed_by_hand_is_shown_as_it_is():
    plan = {"scales": [0], "model": "demo", "mask": [0.5, None, {"a": 1}, 0.5], "dtype": None, "vae_tiling": False}
    assert outputs.common_settings({**plan, "modes": 3}) == {"model": "demo", "mask": "0.5; a 1", "modes": "3"}
