"""`--preset exact|balanced|fast`: which settings it stands for, what counts more, and that pictures record it."""

from __future__ import annotations

from dataclasses import replace

import pytest
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from ipa_cli.batch import jobs, order
from ipa_cli.client import payload
from ipa_cli.config import FIELDS, Settings, resolve
from ipa_cli.config.presets import FEW_STEP, SPEED
from ipa_cli.config.sources import Layer, Source
from ipa_cli.engine import keywords
from ipa_cli.engine.generated import AS_NAMED
from ipa_cli.images.metadata import read_settings

FAST, BALANCED = SPEED["fast"]["step_cache"], SPEED["balanced"]["step_cache"]


def test_all_name_the_same_settings_and_exact_is_the_default():
    assert len({tuple(one) for one in SPEED.values()}) == 1
    assert all(FIELDS[name].default == value for name, value in SPEED["exact"].items())
    assert not set(SPEED) & set(FEW_STEP) and len({tuple(one.values()) for one in SPEED.values()}) == len(SPEED)
    for one in SPEED.values():
        assert all(FIELDS[name].metadata["check"](value) is None for name, value in one.items())


@pytest.mark.parametrize(
    ("flags", "environ", "expected", "source"),
    [
        ({"preset": "fast"}, {}, FAST, "--preset"),
        ({"preset": "fast", "step_cache": "deep:2"}, {}, "deep:2", "--step-cache"),
        ({"preset": "fast"}, {"IPA_STEP_CACHE": "deep:2"}, FAST, "--preset"),
        ({"step_cache": "deep:2"}, {"IPA_PRESET": "fast"}, "deep:2", "--step-cache"),
        ({}, {"IPA_PRESET": "fast"}, FAST, "IPA_PRESET"),
        ({}, {"IPA_PRESET": "fast", "IPA_STEP_CACHE": "deep:2"}, "deep:2", "IPA_STEP_CACHE"),
        ({"preset": "exact"}, {"IPA_PRESET": "fast"}, "none", "--preset"),
        ({"preset": "lcm"}, {"IPA_PRESET": "fast"}, "none", "default"),
    ],
)
def test_a_setting_beside_the_preset_or_from_a_stronger_place_counts_more(world, flags, environ, expected, source):
    found = resolve(flags, environ=environ)
    assert (found.settings.step_cache, str(found.sources["step_cache"])) == (expected, source)


def test_files_have_presets_too(world):
    (world.cwd / "ipa.toml").write_text('preset = "fast"\n')
    assert resolve({}).settings.step_cache == FAST
    (world.cwd / "ipa.toml").write_text('preset = "fast"\nstep_cache = "deep:2"\n')
    assert resolve({}).settings.step_cache == "deep:2"
    assert resolve({"preset": "balanced"}).settings.step_cache == BALANCED


def test_a_picture_is_drawn_again_as_it_was_unless_a_flag_says_another_preset(world):
    picture = Layer(Source("picture", "picture a.png"), {"preset": "fast", "step_cache": "none"})
    assert resolve({}, picture=picture).settings.step_cache == "none"
    assert resolve({"preset": "balanced"}, picture=picture).settings.step_cache == BALANCED
    fast = Layer(picture.source, {"preset": "fast", "step_cache": FAST})
    assert resolve({}, picture=fast).settings.step_cache == FAST
    assert resolve({"preset": "lcm"}, picture=fast).settings.step_cache == "none"


def test_requests_and_jobs_take_the_preset_that_they_name_in_place_of_the_engines(world):
    opened = replace(Settings(), preset="fast", step_cache=FAST)

    def asked(**given):
        return keywords.of_request(opened, given)[0].step_cache

    assert asked() == FAST and asked(preset="balanced") == BALANCED and asked(preset="exact") == "none"
    assert asked(preset="balanced", step_cache="deep:2") == "deep:2" and asked(preset="lcm") == "none"
    job = jobs.Job(1, "a", {"preset": "balanced"})
    assert order.settings_of(job, opened).step_cache == BALANCED


def test_a_server_is_sent_what_was_given_beside_a_preset():
    settings = replace(Settings(), preset="fast", step_cache="none", seed=1)
    body = payload._body(settings, payload.Carried({}, payload.Files()), AS_NAMED)
    assert (body["preset"], body["step_cache"]) == ("fast", "none")
    again = {name: body[name] for name in ("preset", "step_cache")}
    assert keywords.of_request(Settings(), again)[0].step_cache == "none"


@pytest.mark.slow
def test_a_picture_records_its_preset_and_from_draws_it_again(ipa, world):
    flags = ("--prompt", "a star", "--size", "64x64", "--steps", 5, "--seed", 3, "--backend", "eager", "--warmup", 0)
    for name, more in (("fast", ("--preset", "fast")), ("plain", ("--step-cache", FAST)), ("exact", ())):
        assert ipa("generate", *flags, *more, "--output", f"{name}.png").exit_code == 0

    def pixels(name):
        return Image.open(world.cwd / f"{name}.png").tobytes()

    recorded = read_settings(world.cwd / "fast.png")["settings"]
    assert (recorded["preset"], recorded["step_cache"]) == ("fast", FAST)
    assert pixels("fast") == pixels("plain") != pixels("exact")
    assert ipa("generate", "--from", "fast.png", "--output", "again.png").exit_code == 0
    assert (world.cwd / "again.png").read_bytes() == (world.cwd / "fast.png").read_bytes()
    with Image.open("fast.png") as picture:
        text = PngInfo()
        text.add_text("parameters", picture.info["parameters"])
        picture.save("text.png", pnginfo=text)
    assert ipa("generate", "--from", "text.png", "--output", "of-text.png").exit_code == 0
    assert pixels("of-text") == pixels("fast")
    assert ipa("generate", "--from", "fast.png", "--preset", "exact", "--output", "final.png").exit_code == 0
    assert pixels("final") == pixels("exact")


def test_a_preset_that_does_not_go_with_the_sampler_says_how_to_leave_out_its_part(ipa):
    ran = ipa("generate", "--json", "--preset", "fast", "--scheduler", "euler-a", "--prompt", "x")
    said = ran.error()["message"]
    assert ran.exit_code == 2 and "which --preset fast stands for, does not go with --scheduler euler-a" in said
    assert "--step-cache none" in ran.error()["hint"]
