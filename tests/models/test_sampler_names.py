"""Samplers and schedules by the names that people type."""

import inspect
import re
from dataclasses import replace
from importlib.util import find_spec
from itertools import product

import pytest

from ipa_cli.config import Settings
from ipa_cli.errors import IpaError, UsageError
from ipa_cli.images import infotext
from ipa_cli.models import schedulers
from ipa_cli.models.plan import make_plan
from ipa_cli.models.schedulers import FOREIGN, SCHEDULERS, SCHEDULES, SIGMAS, SPACINGS, Sampling, choose, find
from ipa_cli.pipeline import sampling

TYPED = [
    ("euler", "euler", None),
    ("EulerDiscreteScheduler", "euler", None),
    ("Euler a", "euler-a", None),
    ("k_euler_a", "euler-a", None),
    ("euler_ancestral", "euler-a", None),
    ("sample_euler_ancestral", "euler-a", None),
    ("DPMSolverMultistepScheduler", "dpm++", None),
    ("DPM++ 2M", "dpm++", None),
    ("DPM++ 2M Karras", "dpm++", "karras"),
    ("dpm++ 2m karras", "dpm++", "karras"),
    ("dpmpp_2m", "dpm++", None),
    ("sample_dpmpp_2m", "dpm++", None),
    ("dpmpp_2m_k", "dpm++", "karras"),
    ("DPM++ 2M SDE Exponential", "dpm++-2m-sde", "exponential"),
    ("DPM++ 2M SDE Heun Karras", "dpm++-2m-sde-heun", "karras"),
    ("dpmpp_2m_sde_gpu", "dpm++-2m-sde", None),
    ("dpmpp_3m_k", "dpm++-3m", "karras"),
    ("DPM++ SDE Karras", "dpm++-sde", "karras"),
    ("sample_dpm_2_ancestral", "dpm2-a", None),
    ("kdpm_2_a", "dpm2-a", None),
    ("DPM2 a Karras", "dpm2-a", "karras"),
    ("heun_k", "heun", "karras"),
    ("PLMS", "pndm", None),
    ("UniPC", "unipc-bh1", None),  # as A1111 spells its own
    ("UniPC Karras", "unipc-bh1", "karras"),
    ("unipc", "unipc", None),
    ("uni_pc_bh2", "unipc-bh2", None),
    ("LCM", "lcm", None),
    ("Euler SGM Uniform", "euler", "trailing"),
]


@pytest.mark.parametrize(("typed", "name", "schedule"), TYPED)
def test_a_sampler_is_known_by_its_names_in_many_programs(typed, name, schedule):
    assert find(typed) == (name, schedule)
    assert choose(typed, installed=False) == Sampling(name, schedule)


def test_every_name_in_the_table_means_one_sampler():
    seen = {}
    for name in SCHEDULERS:
        for spelling in schedulers.spellings(name):
            assert seen.setdefault(spelling, name) == name and find(spelling) == (name, None)
        for schedule in SCHEDULERS[name].schedules:
            text = f"{SCHEDULERS[name].a1111} {SCHEDULES[schedule].a1111 or schedule}"
            assert find(text) == (name, schedule)
    assert not set(seen) & set(FOREIGN)


@pytest.mark.parametrize("typed", [*FOREIGN, "DPM++ 2S a Karras", "sample_dpm_fast", "dpm++ 3m sde exponential"])
def test_a_sampler_that_diffusers_does_not_have_is_refused_and_no_other_is_suggested(typed):
    with pytest.raises(UsageError, match="no scheduler of diffusers computes") as refused:
        choose(typed)
    assert "did you mean" not in refused.value.message and "ipa samplers" in refused.value.hint


@pytest.mark.parametrize(
    ("typed", "meant"),
    [
        ("DPM++ 2M Karas", "DPM++ 2M Karras"),
        ("eulr_ancestral", "euler_ancestral"),
        ("EulerDiscreteSheduler", "EulerDiscreteScheduler"),
        ("DPM++ 2M SDE Hune", "dpm++-2m-sde-heun"),
        ("dpmpp_4m", None),  # a digit makes another sampler
        ("DPM++ 2S a Karas", None),  # a slip of one that is not here
        ("restrat", None),
        ("xyz", None),
    ],
)
def test_a_slip_is_suggested_and_another_sampler_is_not(typed, meant):
    with pytest.raises(UsageError, match="unknown sampler") as refused:
        choose(typed)
    suggested = re.search("did you mean '(.*)'", refused.value.message)
    assert (suggested and suggested[1]) == meant


@pytest.mark.parametrize(
    ("asked", "words", "hint"),
    [
        (("karras",), "'karras' is a schedule, not a sampler", "--schedule karras"),
        (("ddim_uniform",), "'ddim_uniform' is a schedule, not a sampler", "--schedule leading"),
        (("lightning",), "unknown sampler 'lightning'", "--preset lightning"),
        (("DPM++ 2M Karras", "beta"), "names the schedule karras, and --schedule says beta", "leave one of them out"),
        (("euler-a", "karras"), "the sampler euler-a has no schedule 'karras'", "choose one of linspace, leading,"),
        (("Euler a Karras",), "the sampler euler-a has no schedule 'karras'", "choose one of"),
        (("lcm", "karras"), "the sampler lcm has no schedule 'karras'", "leave out --schedule, or another --sampler"),
        (("dpm++", "normal"), "the sampler dpm++ has no schedule 'normal'", "choose one of linspace"),
        (("euler", "polyexponential"), "unknown schedule 'polyexponential'", "choose one of karras"),
        (("euler", "karas"), "did you mean 'karras'?", "choose one of"),
        (("euler", None, 0.5), "the sampler euler has no eta", "--sampler ddim or tcd"),
        ((None, "karras", None, "EDMEulerScheduler"), "EDMEulerScheduler has no schedule", "leave out --schedule"),
        ((None, None, 0.1, "EulerDiscreteScheduler"), "the sampler euler has no eta", "leave it out"),
    ],
)
def test_what_cannot_be_together_is_refused_in_one_line(asked, words, hint):
    with pytest.raises(UsageError) as refused:
        choose(*asked)
    assert words in refused.value.message and hint in refused.value.hint
    assert "\n" not in refused.value.message + refused.value.hint


def test_a_package_that_is_not_installed_is_named(monkeypatch):
    monkeypatch.setattr(schedulers, "find_spec", lambda _: None)
    for asked, package in ((("lms",), "scipy"), (("DPM++ SDE",), "torchsde"), (("euler", "beta"), "scipy")):
        with pytest.raises(IpaError, match=f"needs {package}"):
            choose(*asked)


@pytest.mark.parametrize("name", SCHEDULERS)
def test_the_schedules_of_a_sampler_are_those_that_its_class_takes(name):
    import diffusers

    if SCHEDULERS[name].needs is not None and find_spec(SCHEDULERS[name].needs) is None:
        pytest.skip("needs another package")
    taken = inspect.signature(getattr(diffusers, SCHEDULERS[name].class_name).__init__).parameters
    schedules = set(SCHEDULERS[name].schedules)
    assert (set(SIGMAS) <= schedules) == ("use_karras_sigmas" in taken)
    if name not in ("lcm", "tcd"):  # they have steps of their own, and do not look at it
        assert (set(SPACINGS) <= schedules) == ("timestep_spacing" in taken)
    assert SCHEDULERS[name].settings.keys() <= taken.keys()
    step = inspect.signature(getattr(diffusers, SCHEDULERS[name].class_name).step).parameters
    assert SCHEDULERS[name].has_eta == ("eta" in step)


def test_every_schedule_goes_into_a1111s_text_and_comes_back():
    base = {"steps": 4, "guidance_scale": 2.0, "seed": 1, "width": 64, "height": 64}
    for name, schedule in product(SCHEDULERS, SCHEDULES):
        if schedule not in SCHEDULERS[name].schedules or SCHEDULES[schedule].a1111 is None:
            continue
        text = infotext.parameters_text({**base, "scheduler": name, "schedule": schedule})
        assert f"Sampler: {SCHEDULERS[name].a1111}, Schedule type: {SCHEDULES[schedule].a1111}," in text
        found = infotext.settings_of(infotext.parse_parameters(text))
        assert (found["scheduler"], found["schedule"]) == (name, schedule)


@pytest.mark.parametrize(
    ("sampler", "schedule", "values", "left_out"),
    [
        ("dpmpp_2m", "karras", {"scheduler": "dpm++", "schedule": "karras"}, []),
        ("euler", "normal", {"scheduler": "euler", "schedule": "normal"}, []),
        ("euler_ancestral", "karras", {"scheduler": "euler-a"}, ["schedule karras"]),
        ("dpmpp_2m", "normal", {"scheduler": "dpm++"}, ["schedule normal"]),
        ("euler", "beta", {"scheduler": "euler"}, ["schedule beta"]),  # ComfyUI's own
        ("deis", "karras", {}, ["sampler deis (choose one with --sampler)", "schedule karras"]),
    ],
)
def test_comfyuis_names_are_its_own(sampler, schedule, values, left_out):
    assert schedulers.of_program(sampler, schedule, comfyui=True) == (values, left_out)


def test_old_names_of_a1111_hold_the_schedule():
    text = "a fox\nSteps: 20, Sampler: DPM++ 2M SDE Karras, CFG scale: 7, Seed: 1, Size: 64x64"
    found = infotext.settings_of(infotext.parse_parameters(text))
    assert (found["scheduler"], found["schedule"]) == ("dpm++-2m-sde", "karras")
    assert "Sampler" not in infotext.unread(infotext.parse_parameters(text))


def test_eta_is_read_of_ddim_alone():
    text = "x\nSteps: 20, Sampler: {}, Eta DDIM: 0.5, CFG scale: 7, Seed: 1, Size: 64x64"
    assert infotext.settings_of(infotext.parse_parameters(text.format("DDIM")))["eta"] == 0.5
    assert "eta" not in infotext.settings_of(infotext.parse_parameters(text.format("PLMS")))


def test_the_command_lists_all_of_them_or_one(ipa):
    data = ipa("samplers", "--json").data()
    assert [one["name"] for one in data["samplers"]] == list(SCHEDULERS)
    assert [one["name"] for one in data["schedules"]] == list(SCHEDULES)
    shown = ipa("samplers").stdout
    for one in SCHEDULERS.values():
        assert one.a1111 in shown
    [found] = ipa("samplers", "DPM++ 2M Karras", "--json").data()["samplers"]
    assert (found["name"], found["diffusers"]) == ("dpm++", "DPMSolverMultistepScheduler")
    refused = ipa("samplers", "DPM++ 2S a")
    assert refused.exit_code == 2 and "no scheduler of diffusers" in refused.stderr


def test_both_names_of_the_flag_are_one_setting(ipa):
    for flag in ("--sampler", "--scheduler"):
        assert "unknown sampler 'eulr'" in ipa("generate", flag, "eulr").stderr


@pytest.mark.parametrize(
    ("own", "asked", "named"),
    [
        ({"timestep_spacing": "trailing"}, Sampling(), "trailing"),
        ({"timestep_spacing": "trailing"}, Sampling("dpm++"), "trailing"),
        ({"timestep_spacing": "trailing"}, Sampling("dpm++", "karras"), "karras"),
        ({"timestep_spacing": "trailing"}, Sampling("lcm"), None),
        ({"timestep_spacing": "trailing"}, Sampling("ddim", timesteps=(999, 499)), None),
        ({"timestep_spacing": "leading", "use_karras_sigmas": True}, Sampling(), "karras"),
        ({"timestep_spacing": "leading", "use_karras_sigmas": True}, Sampling("euler-a"), "leading"),
        ({}, Sampling(), None),
    ],
)
def test_a_picture_names_the_models_own_schedule_where_none_was_asked_for(own, asked, named):
    configs = {"scheduler": {"_class_name": "EulerDiscreteScheduler", **own}}
    assert sampling.schedule_name(replace(make_plan(Settings()), configs=configs), asked) == named
