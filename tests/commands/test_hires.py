"""`--hires` through the program: what pictures record, drawing them again, sweeps, and what is refused."""

from __future__ import annotations

import json

import pytest
from PIL import Image

from ipa_cli.images import infotext
from ipa_cli.images.metadata import texts
from ipa_cli.models import loader

FAST = ("--steps", 4, "--warmup", 0, "--seed", 1, "--backend", "eager", "--prompt", "a star", "--size", "64x64")


@pytest.mark.slow
def test_a_picture_with_a_second_pass_is_drawn_again_from_what_it_records(ipa, world):
    asked = ("--hires", 1.5, "--hires-steps", 2, "--hires-strength", 0.6, "--hires-upscaler", "latent-bicubic")
    done = ipa("generate", *FAST, *asked, "-n", 2, "--output", "one-{index}.png", "--json").data()
    assert [(image["width"], image["height"]) for image in done["images"]] == [(96, 96)] * 2 and done["steps"] == 6
    again = ipa("generate", "--from", "one-1.png", "--warmup", 0, "--output", "two.png", "--json").data()
    assert again["images"][0]["sha256"] == done["images"][1]["sha256"]
    found = texts(world.cwd / "two.png")
    assert json.loads(found["ipa"])["hires_pass"] == {
        **{"size": "1.5", "width": 96, "height": 96, "strength": 0.6, "steps": 2, "upscaler": "latent-bicubic"}
    }
    read = infotext.parse_parameters(found["parameters"])
    assert (read["Size-1"], read["Hires upscale"], read["Hires steps"]) == ("64", "1.5", "2")
    assert (read["Hires upscaler"], read["Denoising strength"]) == ("Latent (bicubic)", "0.6")
    smaller = ipa(
        "generate", "--from", "two.png", "--hires", "80x80", "--warmup", 0, "-o", "three.png", "--json"
    ).data()
    assert smaller["images"][0]["width"] == 80


@pytest.mark.slow
def test_a_sweep_enlarges_every_point_and_another_second_pass_is_another_sweep(ipa, world):
    sweep = ("sweep-scale", *FAST, "--scales", "0,1", "--output", "sweep", "--hires", 1.25)
    ipa(*sweep, "--hires-upscaler", "nearest", "--json").data()
    for name in world.cwd.glob("sweep/pictures/*.png"):
        with Image.open(name) as picture:
            assert picture.size == (80, 80)
    assert "hires" in ipa(*sweep, "--resume", "--json").error()["message"]


def test_settings_of_files_and_programs_may_be_numbers(ipa, world):
    (world.cwd / "ipa.toml").write_text("hires = 1.5\nhires_steps = 8\n")
    shown = ipa("config", "show", "--json").data()["settings"]
    assert shown["hires"]["value"] == "1.5" and shown["hires_steps"]["value"] == 8


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (("--hires", "big"), "expected a factor such as 1.5"),
        (("--hires", "0.5"), "a factor from 1 to 4"),
        (("--hires", "100x100"), "multiple of 8"),
        (("--hires", "nan"), "a factor from 1 to 4"),
        (("--hires", 2, "--hires-upscaler", "esrgan"), "expected one of latent"),
        (("--hires", 2, "--hires-strength", 1.5), "from 0 to 1"),
        (("--hires", 2, "--hires-strength", 0.1), "leaves none of 4 steps"),
        (("--hires", "32x32"), "from 64"),
    ],
)
def test_bad_input_is_refused_before_a_model_is_loaded(ipa, world, monkeypatch, flags, said):
    monkeypatch.setattr(loader, "load", None)
    ran = ipa("generate", *FAST, *flags, "--json")
    assert ran.exit_code == 2 and said in ran.error()["message"]
    assert world.files() == []


@pytest.mark.parametrize("flags", [("--hires-steps", 5), ("--hires-strength", 0.5), ("--hires-upscaler", "lanczos")])
def test_each_setting_without_a_second_pass_is_reported(ipa, monkeypatch, flags):
    monkeypatch.setattr(loader, "load", None)
    ran = ipa("generate", *FAST, *flags, "--ip-start", 0.9, "--ip-end", 0.95)
    assert "no effect without --hires" in ran.stderr


A1111 = "a star\nSteps: 20, Sampler: Euler, CFG scale: 7, Seed: 3, Size: 512x768, Denoising strength: 0.7, "


@pytest.mark.parametrize(
    ("written", "values", "unread"),
    [
        (
            "Hires upscale: 2, Hires upscaler: Latent",
            {"hires": "2", "hires_upscaler": "latent", "hires_strength": 0.7},
            set(),
        ),
        (
            "Hires resize: 1024x0, Hires steps: 10, Hires upscaler: R-ESRGAN 4x+",
            {"hires": "1024x1536", "hires_steps": 10, "hires_upscaler": "lanczos", "hires_strength": 0.7},
            {"Hires upscaler"},
        ),
        ("Hires upscale: 9, Hires upscaler: Latent", {}, {"Denoising strength", "Hires upscale", "Hires upscaler"}),
        (
            "Hires upscale: 1.5, Hires sampler: DPM++ 2M",
            {"hires": "1.5", "hires_upscaler": "latent", "hires_strength": 0.7},
            {"Hires sampler"},
        ),
    ],
)
def test_hires_fix_of_pictures_of_a1111_is_read(written, values, unread):
    parsed = infotext.parse_parameters(A1111 + written)
    found = infotext.settings_of(parsed)
    assert {name: value for name, value in found.items() if name.startswith("hires")} == values
    assert "strength" not in found and set(infotext.unread(parsed)) == unread
