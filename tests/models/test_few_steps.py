"""Models for a few steps: recognised by name, and drawn with what their authors give."""

import re
from dataclasses import replace
from types import SimpleNamespace

import pytest

from ipa_cli.config import Settings
from ipa_cli.config.loras import LoraConfig
from ipa_cli.config.presets import FEW_STEP, SPEED
from ipa_cli.errors import UsageError
from ipa_cli.models import few_steps, schedulers
from ipa_cli.models.few_steps import TABLE, recognize
from ipa_cli.models.plan import make_plan
from ipa_cli.models.schedulers import Sampling
from ipa_cli.pipeline import sampling

FILES = [
    ("latent-consistency/lcm-lora-sdxl/pytorch_lora_weights.safetensors", "lcm", 4),
    ("latent-consistency/lcm-lora-sdxl", "lcm", 4),
    ("h1t/TCD-SDXL-LoRA", "tcd", 4),
    ("stabilityai/sdxl-turbo", "turbo", 1),
    ("models/sd_xl_turbo_1.0_fp16.safetensors", "turbo", 1),
    ("ByteDance/SDXL-Lightning/sdxl_lightning_2step_lora.safetensors", "lightning", 2),
    ("C:\\loras\\sdxl_lightning_8step_lora.safetensors", "lightning", 8),
    ("dreamshaperXL_lightningDPMSDE.safetensors", "lightning", 4),
    ("ByteDance/Hyper-SD/Hyper-SDXL-8steps-lora.safetensors", "hyper-sd", 8),
    ("ByteDance/Hyper-SD/Hyper-SD15-1step-lora.safetensors", "hyper-sd", 1),
    ("ByteDance/Hyper-SD/Hyper-SDXL-12steps-CFG-lora.safetensors", "hyper-sd-cfg", 12),
    ("Hyper-SDXL-1step-Unet-Comfyui.fp16.safetensors", "hyper-sd-unet", 1),
    ("tianweiy/DMD2/dmd2_sdxl_4step_lora_fp16.safetensors", "dmd2", 4),
]
OTHERS = [
    *("stabilityai/stable-diffusion-xl-base-1.0", "sd_xl_base_1.0.safetensors", "demo", "style.safetensors"),
    *(
        "lightning-bolts.safetensors",
        "turbo_engines/style",
        "lightning/models/sdxl/base.safetensors",
        "calcmodel.safetensors",
        "",
        "/",
    ),
]


@pytest.mark.parametrize(("name", "kind", "steps"), FILES)
def test_a_file_says_by_its_name_what_it_is(name, kind, steps):
    found = recognize([name])
    assert (found.name, found.steps) == (kind, steps)


@pytest.mark.parametrize("name", OTHERS)
def test_other_names_say_nothing(name):
    assert recognize([name]) is None


def test_a_lora_tells_more_than_the_model_and_a_scheduler_than_nothing():
    assert recognize(["dmd2_sdxl_4step_lora.safetensors", "sdxl-turbo"]).name == "dmd2"
    assert recognize(["style.safetensors", "sdxl-turbo"]).name == "turbo"
    assert recognize(["my-model"], "LCMScheduler").name == "lcm"
    assert recognize(["my-model"], "EulerDiscreteScheduler") is None


def test_every_row_can_be_drawn_and_every_preset_has_one():
    assert list(dict.fromkeys(one.name for one in TABLE)) == list(FEW_STEP[1:])
    for one in TABLE:
        chosen = schedulers.choose(one.scheduler, one.schedule, one.eta)
        assert chosen.scheduler == one.scheduler and (one.timesteps is None or len(one.timesteps) == one.steps)


def chosen(model: str = "demo", **settings) -> sampling.Chosen:
    asked = Settings(**settings)
    return sampling.choose(asked, replace(make_plan(Settings()), name=model), ())


LIGHTNING = Sampling("euler", "trailing")


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({"model": "sdxl-turbo", "preset": "few-step"}, (Sampling("euler-a", "trailing"), 1, 0)),
        ({"preset": "lightning"}, (LIGHTNING, 4, 0)),
        ({"model": "sdxl_lightning_8step", "preset": "lightning"}, (LIGHTNING, 8, 0)),
        ({"preset": "lightning", "steps": 1}, (replace(LIGHTNING, prediction_type="sample"), 1, 0)),
        ({"preset": "lightning", "steps": 6, "guidance_scale": 1.5}, (LIGHTNING, 6, 1.5)),
        ({"preset": "lightning", "scheduler": "DPM++ 2M Karras"}, (Sampling("dpm++", "karras"), 4, 0)),
        ({"preset": "hyper-sd", "steps": 1}, (Sampling("tcd", None, 1.0), 1, 0)),
        ({"preset": "hyper-sd-cfg"}, (Sampling("ddim", "trailing"), 8, 5)),
        ({"preset": "tcd", "eta": 0.1}, (Sampling("tcd", None, 0.1), 4, 0)),
        ({"preset": "dmd2"}, (Sampling("lcm", timesteps=(999, 749, 499, 249)), 4, 0)),
        ({"preset": "dmd2", "steps": 8}, (Sampling("lcm"), 8, 0)),
    ],
    ids=str,
)
def test_a_preset_fills_in_what_the_user_left_open(settings, expected):
    found = chosen(**settings)
    wanted, steps, guidance = expected
    assert (found.sampling, found.steps, found.guidance_scale) == (wanted, steps, guidance)


def test_without_a_preset_the_models_own_settings_count():
    plan, found = make_plan(Settings()), chosen(model="sdxl-turbo")
    assert found.sampling == Sampling() and found.preset is None
    assert (found.steps, found.guidance_scale) == (plan.defaults["steps"], plan.defaults["guidance_scale"])


def test_a_lora_that_is_asked_for_counts():
    lora = (LoraConfig("ByteDance/Hyper-SD", "Hyper-SDXL-2steps-lora.safetensors"),)
    found = chosen(lora=lora, preset="few-step")
    assert (found.sampling, found.steps, found.preset) == (Sampling("ddim", "trailing"), 2, "hyper-sd")


def test_where_nothing_says_what_it_is_the_kind_is_asked_for():
    with pytest.raises(UsageError, match="neither model nor LoRA") as refused:
        chosen(preset="few-step")
    assert all(name in refused.value.hint for name in FEW_STEP[1:])
    with pytest.raises(UsageError, match="the sampler lcm has no schedule 'karras'"):
        chosen(preset="lcm", schedule="karras")


@pytest.mark.parametrize(
    ("model", "steps", "guidance", "warned"),
    [
        ("sdxl-turbo", 30, 7.0, True),
        ("sdxl-turbo", 4, 5.0, True),
        ("sdxl-turbo", 4, 1.5, False),
        ("dreamshaperXL-lightning", 30, 1.0, True),
        ("Hyper-SDXL-8steps-CFG", 8, 5.0, False),
        ("Hyper-SDXL-8steps-CFG", 30, 5.0, True),
        ("sdxl-base", 30, 7.0, False),
    ],
)
def test_settings_with_which_such_a_model_draws_badly_give_a_warning(model, steps, guidance, warned):
    said = few_steps.advice(recognize([model]), steps, guidance)
    assert (said is not None) == warned and (said is None or re.search("--preset few-step sets them", said))


@pytest.mark.parametrize(
    ("model", "warned"),
    [
        *(("demo", True), ("sdxl", True), ("stabilityai/stable-diffusion-xl-base-1.0", True)),
        *(("C:\\models\\sd_xl_base_1.0.safetensors", True), ("models/v1-5-pruned-emaonly.safetensors", True)),
        *(("my-merge.safetensors", False), ("sdxl/my-merge", False), ("demo/unet.safetensors", False)),
        *(("stabilityai/sdxl-turbo", False), ("sd_xl_base_1.0_lightning.safetensors", False)),
    ],
)
def test_a_preset_for_distilled_models_warns_with_a_base_model_alone(model, warned):
    said: list[str] = []
    reporter = SimpleNamespace(warn=said.append)
    plan = replace(make_plan(Settings()), name=model)
    sampling.advise(Settings(preset="lightning"), plan, (), reporter)
    assert [one.startswith("--preset lightning is for models distilled") for one in said] == [True] * warned
    said.clear()
    lora = LoraConfig("mine.safetensors")
    sampling.advise(Settings(preset="lightning", lora=(lora,)), plan, (), reporter)
    assert said == []


def test_a_model_for_few_steps_is_drawn_with_its_preset(ipa, world):
    """Its folder is called what it is; the picture records what came out, and is drawn again from it."""
    from tests.tiny_model import write

    write(world.cwd / "sdxl-turbo")
    flags = ("--model", "./sdxl-turbo", "--load-format", "dummy", "--ip-adapter", "none", "--prompt", "x")
    flags = (*flags, "--size", "64x64", "--seed", 1, "--warmup", 0)
    warned = ipa("generate", *flags, "--steps", 13, "--output", "a.png")
    assert warned.exit_code == 0 and "a model for few steps (turbo) wants 1 step and no guidance" in warned.stderr
    drawn = ipa("generate", *flags, "--preset", "few-step", "--output", "b.png", "--json")
    assert drawn.exit_code == 0 and "few steps" not in drawn.stderr, drawn.stderr
    assert drawn.data()["steps"] == 1
    from ipa_cli.images.metadata import read_settings, texts

    recorded = read_settings(world.cwd / "b.png")
    assert (recorded["scheduler"], recorded["schedule"], recorded["guidance_scale"]) == ("euler-a", "trailing", 0)
    assert recorded["settings"]["preset"] == "turbo"
    assert "Sampler: Euler a, Schedule type: SGM Uniform" in texts(world.cwd / "b.png")["parameters"]
    assert ipa("generate", "--from", "b.png", "--output", "c.png").exit_code == 0
    assert (world.cwd / "c.png").read_bytes() == (world.cwd / "b.png").read_bytes()


def test_a_preset_for_any_model_takes_the_place_of_none_of_its_settings_and_warns_as_without_one():
    plan, said = replace(make_plan(Settings()), name="sdxl-turbo"), []
    reporter = SimpleNamespace(warn=said.append)
    for preset in SPEED:
        found = chosen(model="sdxl-turbo", preset=preset)
        assert replace(found, preset=None) == chosen(model="sdxl-turbo") and found.preset == preset
        sampling.advise(Settings(preset=preset), plan, (), reporter)
    assert len(said) == len(SPEED)
