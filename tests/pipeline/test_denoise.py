"""Our loop against diffusers' own pipeline, on the shipped miniature."""

import copy
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image, ImageDraw

import ipa_cli
from ipa_cli.config import Settings
from ipa_cli.engine import schedules
from ipa_cli.hardware.timing import StepClock
from ipa_cli.models.architectures import SDXL
from ipa_cli.models.plan import make_plan
from ipa_cli.models.schedulers import SCHEDULERS, Sampling
from ipa_cli.models.vae import channels_last, fp16
from ipa_cli.networks.autoencoder import AutoencoderKL
from ipa_cli.pipeline import sampler
from ipa_cli.pipeline.decoding import BrokenPicture, decode
from ipa_cli.pipeline.denoise import Conditions, Networks, denoise
from ipa_cli.pipeline.start import Start
from ipa_cli.pipeline.task import Request
from ipa_cli.result import NullReporter
from ipa_cli.unet.inputs import Context
from tests.seeds import after_noise
from tests.unet.test_weight_types import comfyui

pytestmark = pytest.mark.slow

DEMO = Path(ipa_cli.__file__).parent / "demo"
PROMPT = "a large star in the middle"
STEPS, SIDE, SEED = 4, 64, 3
TRAILING = {"timestep_spacing": "trailing"}


@pytest.fixture(scope="module")
def diffusers_pipeline():
    from diffusers import StableDiffusionXLPipeline

    pipeline = StableDiffusionXLPipeline.from_pretrained(DEMO)
    pipeline.load_ip_adapter(
        str(DEMO), subfolder="ip_adapter", weight_name="ip-adapter.safetensors", image_encoder_folder="image_encoder"
    )
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def theirs(pipeline, scale: float, **changes) -> np.ndarray:
    pipeline.set_ip_adapter_scale(scale)
    with Image.open(DEMO / "reference.png") as reference:
        arguments = {
            "prompt": PROMPT,
            "ip_adapter_image": reference.convert("RGB"),
            "num_inference_steps": STEPS,
            "guidance_scale": 5.0,
            "height": SIDE,
            "width": SIDE,
            "generator": torch.Generator("cpu").manual_seed(SEED),
        }
        return np.asarray(pipeline(**arguments | changes).images[0], dtype=int)


def ours(ipa, scale: float | None, *flags: object) -> np.ndarray:
    size = ("--width", SIDE, "--height", SIDE, "--steps", STEPS, "--warmup", 0)
    settings = ("--prompt", PROMPT, "--seed", SEED, "--guidance-scale", 5, "--backend", "eager")
    settings += () if scale is None else ("--scale", scale)
    (image,) = ipa("generate", *size, *settings, *flags, "--json").data()["images"]
    with Image.open(image["path"]) as picture:
        return np.asarray(picture, dtype=int)


@pytest.mark.parametrize("scale", [0.0, 0.4, 1.0])
def test_a_picture_is_the_one_diffusers_draws(ipa, diffusers_pipeline, scale):
    expected = theirs(diffusers_pipeline, scale)
    assert expected.std() > 5  # a picture, not one grey
    assert abs(ours(ipa, scale) - expected).max() <= 1


@pytest.mark.parametrize(
    ("flags", "changes"),
    [
        (("--guidance-scale", 1), {"guidance_scale": 1.0}),
        (("--negative-prompt", "a small circle"), {"negative_prompt": "a small circle"}),
        (("--width", 192, "--height", 64), {"width": 192, "height": 64}),
    ],
)
def test_settings_mean_what_they_mean_to_diffusers(ipa, diffusers_pipeline, flags, changes):
    assert abs(ours(ipa, 0.7, *flags) - theirs(diffusers_pipeline, 0.7, **changes)).max() <= 1


STYLE, LAYOUT = {"up": {"block_0": [0.0, 1.0, 0.0]}}, {"down": {"block_2": [0.0, 1.0]}}


@pytest.mark.parametrize(
    ("flags", "table"),
    [
        (("--ip-mode", "style"), STYLE),
        (("--ip-mode", "layout"), LAYOUT),
        (("--ip-mode", "style-layout"), STYLE | LAYOUT),
        (("--ip-layers", '{"down": 0.5, "mid": 0.3}'), {"down": 0.5, "mid": 0.3}),
    ],
)
def test_layers_are_instantstyles_in_diffusers(ipa, diffusers_pipeline, flags, table):
    expected = theirs(diffusers_pipeline, table)
    assert abs(ours(ipa, 1, *flags) - expected).max() <= 1
    assert abs(expected - theirs(diffusers_pipeline, 1.0)).max() > 1  # the layers matter


@pytest.mark.parametrize("mode", ["ease-in-out", "weak-output", "strong-style-transfer"])
def test_weight_types_of_comfyui_are_tables_of_layers(ipa, diffusers_pipeline, mode):
    each = iter(comfyui(mode, "sdxl"))  # the demo model has SDXL's blocks
    down = {f"block_{block}": [next(each), next(each)] for block in (1, 2)}
    middle = next(each)
    up = {f"block_{block}": [next(each) for _ in range(3)] for block in (0, 1)}
    expected = theirs(diffusers_pipeline, {"down": down, "mid": middle, "up": up})
    assert abs(ours(ipa, 1, "--ip-mode", mode) - expected).max() <= 1
    assert abs(expected - theirs(diffusers_pipeline, 1.0)).max() > 1


def test_a_negative_image_is_the_negative_half_of_diffusers_embeds(ipa, diffusers_pipeline, pictures):
    followed, avoided = (
        diffusers_pipeline.prepare_ip_adapter_image_embeds([[image]], None, "cpu", 1, True)[0]
        for image in opened(pictures[:2])
    )
    embeds = [torch.cat([avoided[1:], followed[1:]])]
    expected = theirs(diffusers_pipeline, 0.9, ip_adapter_image=None, ip_adapter_image_embeds=embeds)
    flags = ("--image", pictures[0], "--fit", "crop")
    assert abs(ours(ipa, 0.9, *flags, "--negative-image", pictures[1]) - expected).max() <= 1
    assert abs(ours(ipa, 0.9, *flags) - expected).max() > 1


def test_steps_outside_start_and_end_have_no_reference(ipa, diffusers_pipeline):
    def switch(pipeline, step: int, *_) -> dict:
        pipeline.set_ip_adapter_scale(0.8 if step == 0 else 0.0)  # set for the step that follows
        return {}

    expected = theirs(diffusers_pipeline, 0.0, callback_on_step_end=switch)
    assert abs(ours(ipa, 0.8, "--ip-start", 0.25, "--ip-end", 0.5) - expected).max() <= 1
    assert abs(ours(ipa, 0.8) - expected).max() > 1


@pytest.mark.parametrize(("start", "end", "guided"), [(0.25, 0.75, (1, 2)), (0, 0.5, (0, 1)), (0.5, 1, (2, 3))])
def test_steps_outside_the_guidance_interval_have_none(ipa, diffusers_pipeline, start, end, guided):
    """With a guidance scale of (nearly) 1 diffusers' steps come to the positive half alone."""
    none = 1 + 1e-9

    def switch(pipeline, step: int, *_) -> dict:
        pipeline._guidance_scale = 5.0 if step + 1 in guided else none  # for the step that follows
        return {}

    first = 5.0 if 0 in guided else none
    expected = theirs(diffusers_pipeline, 0.6, callback_on_step_end=switch, guidance_scale=first)
    assert abs(ours(ipa, 0.6, "--guidance-start", start, "--guidance-end", end) - expected).max() <= 1
    assert abs(ours(ipa, 0.6) - expected).max() > 1


@pytest.mark.parametrize("rescale", [0.7, 1.0])
def test_rescaled_guidance_is_diffusers(ipa, diffusers_pipeline, rescale):
    expected = theirs(diffusers_pipeline, 0.6, guidance_rescale=rescale, guidance_scale=9.0)
    flags = ("--guidance-scale", 9, "--guidance-rescale", rescale)
    assert abs(ours(ipa, 0.6, *flags) - expected).max() <= 1
    assert abs(ours(ipa, 0.6, *flags[:2]) - expected).max() > 1


@pytest.fixture
def pictures(world) -> list[Path]:
    """Three square reference pictures unlike each other, and one that is wide."""
    paths = [world.cwd / name for name in ("a.png", "b.png", "c.png", "wide.png")]
    for number, path in enumerate(paths):
        size = (160, 120) if path.stem == "wide" else (128, 128)
        drawn = Image.new("RGB", size, ("red", "navy", "green", "gold")[number])
        ImageDraw.Draw(drawn).ellipse((10 + 20 * number, 20, 80 + 20 * number, 100), fill="white")
        drawn.save(path)
    return paths


def opened(paths: list[Path]) -> list[Image.Image]:
    return [Image.open(path).convert("RGB") for path in paths]


def test_several_pictures_of_one_adapter(ipa, diffusers_pipeline, pictures):
    flags = [part for path in pictures[:3] for part in ("--image", path)]
    expected = theirs(diffusers_pipeline, 0.7, ip_adapter_image=[opened(pictures[:3])])
    plain = ours(ipa, 0.7, *flags)
    assert abs(plain - expected).max() <= 1
    assert (ours(ipa, 0.7, *flags, *["--image-weight", 1] * 3) == plain).all()
    weighted = [part for weight in (1, 0.2, 0) for part in ("--image-weight", weight)]
    assert abs(ours(ipa, 0.7, *flags, *weighted) - expected).max() > 1


def test_equal_weights_are_as_the_scale_times_them(ipa, pictures):
    flags = [part for path in pictures[:2] for part in ("--image", path)]
    halves = ours(ipa, 0.8, *flags, *["--image-weight", 0.5] * 2)
    assert abs(halves - ours(ipa, 0.4, *flags)).max() <= 1


def test_cropping_is_what_diffusers_does(ipa, diffusers_pipeline, pictures):
    wide = pictures[3]
    expected = theirs(diffusers_pipeline, 0.9, ip_adapter_image=opened([wide])[0])
    drawn = {fit: ours(ipa, 0.9, "--image", wide, "--fit", fit) for fit in ("crop", "pad", "stretch")}
    assert abs(drawn["crop"] - expected).max() <= 1
    assert (drawn["pad"] == ours(ipa, 0.9, "--image", wide)).all()
    for one, other in (("crop", "pad"), ("crop", "stretch"), ("pad", "stretch")):
        assert (drawn[one] != drawn[other]).any()


def test_embeddings_from_a_file_are_what_the_pictures_are(ipa, diffusers_pipeline, pictures, monkeypatch):
    done = ipa("embed", *pictures[:2], "--output", "two.safetensors", "--json").data()
    assert done["sources"] == [str(path) for path in pictures[:2]] and done["shape"][0] == 2
    from safetensors.torch import load_file
    from transformers import CLIPVisionModelWithProjection

    saved = load_file(done["path"])
    embeds = [torch.stack([saved["negative"], saved["positive"]])]
    expected = theirs(diffusers_pipeline, 0.7, ip_adapter_image=None, ip_adapter_image_embeds=embeds)
    flags = [part for path in pictures[:2] for part in ("--image", path)]
    assert abs(ours(ipa, 0.7, *flags) - expected).max() <= 1
    monkeypatch.setattr(CLIPVisionModelWithProjection, "__init__", None)  # no image encoder is built
    assert abs(ours(ipa, 0.7, "--embeds", "two.safetensors") - expected).max() <= 1
    assert abs(ours(ipa, 0.7, "--adapter", "own,embeds=two.safetensors,weight=1,weight=0") - expected).max() > 1


@pytest.fixture
def halves(world) -> list[Path]:
    """Masks of the left and the right half, larger than the picture."""
    paths = [world.cwd / "left.png", world.cwd / "right.png"]
    for number, path in enumerate(paths):
        mask = Image.new("L", (256, 256))
        mask.paste(255, (128 * number, 0, 128 * number + 128, 256))
        mask.save(path)
    return paths


def as_diffusers(masks: list[Path]) -> list[torch.Tensor]:
    from diffusers.image_processor import IPAdapterMaskProcessor

    return list(IPAdapterMaskProcessor().preprocess([Image.open(mask) for mask in masks], height=SIDE, width=SIDE))


def test_a_mask_for_each_picture(ipa, diffusers_pipeline, pictures, halves):
    flags = [part for path in pictures[:2] for part in ("--image", path)]
    flags += [part for path in halves for part in ("--mask", path)]
    masks = torch.stack(as_diffusers(halves), dim=1)
    expected = theirs(
        diffusers_pipeline,
        0.9,
        ip_adapter_image=[opened(pictures[:2])],
        cross_attention_kwargs={"ip_adapter_masks": [masks]},
    )
    assert abs(ours(ipa, 0.9, *flags) - expected).max() <= 1
    assert abs(ours(ipa, 0.9, *flags[:4]) - expected).max() > 1


def test_a_white_mask_hides_nothing(ipa, world, pictures):
    Image.new("L", (64, 64), 255).save(world.cwd / "white.png")
    flags = [part for path in pictures[:2] for part in ("--image", path)]
    assert abs(ours(ipa, 0.9, *flags, "--mask", "white.png") - ours(ipa, 0.9, *flags)).max() <= 1


@pytest.fixture(scope="module")
def two_adapters():
    from diffusers import StableDiffusionXLPipeline

    pipeline = StableDiffusionXLPipeline.from_pretrained(DEMO)
    pipeline.load_ip_adapter(
        str(DEMO),
        subfolder="ip_adapter",
        weight_name=["ip-adapter.safetensors"] * 2,
        image_encoder_folder="image_encoder",
    )
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def test_two_adapters_each_with_its_pictures_scale_and_layers(ipa, two_adapters, pictures):
    first, second = opened(pictures[:2]), opened(pictures[2:3])
    specs = (f"own,image={pictures[0]},image={pictures[1]},scale=0.5", f"image={pictures[2]},scale=1,mode=style")
    flags = [part for spec in specs for part in ("--adapter", spec)]
    expected = theirs(two_adapters, [0.5, STYLE], ip_adapter_image=[first, second])
    assert abs(ours(ipa, None, *flags) - expected).max() <= 1  # each has its own scale


def test_a_mask_for_each_adapter(ipa, two_adapters, pictures, halves):
    specs = [f"own,image={path},scale=0.8,mask={mask}" for path, mask in zip(pictures[:2], halves, strict=True)]
    flags = [part for spec in specs for part in ("--adapter", spec)]
    expected = theirs(
        two_adapters,
        [0.8, 0.8],
        ip_adapter_image=opened(pictures[:2]),
        cross_attention_kwargs={"ip_adapter_masks": [mask[None] for mask in as_diffusers(halves)]},
    )
    assert abs(ours(ipa, None, *flags) - expected).max() <= 1  # each has its own scale


@pytest.mark.parametrize("name", [name for name, one in SCHEDULERS.items() if one.needs is None])
def test_schedulers_draw_what_they_draw_in_diffusers(ipa, diffusers_pipeline, name):
    import diffusers

    before = diffusers_pipeline.scheduler
    diffusers_pipeline.scheduler = getattr(diffusers, SCHEDULERS[name].class_name).from_config(
        before.config, **SCHEDULERS[name].settings
    )
    try:
        expected = theirs(diffusers_pipeline, 0.6)
    finally:
        diffusers_pipeline.scheduler = before
    assert abs(ours(ipa, 0.6, "--scheduler", name) - expected).max() <= 1


AS_IN_DIFFUSERS = [
    (("--sampler", "DPM++ 2M Karras"), ("DPMSolverMultistep", {"use_karras_sigmas": True}), {}),
    (("--sampler", "euler_k"), ("EulerDiscrete", {"use_karras_sigmas": True, "timestep_spacing": "linspace"}), {}),
    (("--sampler", "Euler a", "--schedule", "sgm_uniform"), ("EulerAncestralDiscrete", TRAILING), {}),
    (
        ("--sampler", "DPM++ 2M SDE Exponential"),
        ("DPMSolverMultistep", {"algorithm_type": "sde-dpmsolver++", "use_exponential_sigmas": True}),
        {},
    ),
    (("--sampler", "ddim", "--eta", 1), ("DDIM", {}), {"eta": 1.0}),
    (("--preset", "tcd"), ("TCD", {}), {"eta": 0.3, "guidance_scale": 0.0}),
    (("--preset", "lightning"), ("EulerDiscrete", TRAILING), {"guidance_scale": 0.0}),
    (("--preset", "dmd2"), ("LCM", {}), {"timesteps": [999, 749, 499, 249], "guidance_scale": 0.0}),
]


@pytest.mark.parametrize(("flags", "made", "changes"), AS_IN_DIFFUSERS, ids=lambda given: str(given)[:40])
def test_samplers_with_their_schedules_draw_what_they_draw_in_diffusers(ipa, diffusers_pipeline, flags, made, changes):
    import diffusers

    before, (kind, settings) = diffusers_pipeline.scheduler, made
    diffusers_pipeline.scheduler = getattr(diffusers, f"{kind}Scheduler").from_config(before.config, **settings)
    try:
        expected = theirs(diffusers_pipeline, 0.6, **changes)
    finally:
        diffusers_pipeline.scheduler = before
    (image,) = ipa(
        *("generate", "--width", SIDE, "--height", SIDE, "--steps", STEPS, "--warmup", 0, "--prompt", PROMPT),
        *("--seed", SEED, "--backend", "eager", "--scale", 0.6, *flags, "--json"),
        *(() if "guidance_scale" in changes else ("--guidance-scale", 5)),
    ).data()["images"]
    with Image.open(image["path"]) as picture:
        assert abs(np.asarray(picture, dtype=int) - expected).max() <= 1


@pytest.mark.parametrize("name", [name for name, one in SCHEDULERS.items() if one.needs is None])
@pytest.mark.parametrize("skipped", [None, 2])
def test_no_step_waits_for_the_device(world, name, skipped):
    """The device "meta" has no numbers: whoever looks at one, for which a GPU must be waited for, fails."""

    def of(*shape: int) -> torch.Tensor:
        return torch.empty(*shape, device="meta")

    context = Context([of(2, 4, 2, 77, 8)], [[of(2, 4, 2, 4, 8)]], of(1, 1))
    conditions = Conditions(SDXL, context, of(4, 16), spans=((0.0, 0.5),))
    sampling = Sampling(name, start=skipped)
    request = Request("", "", (), 64, 64, 6, 5.0, sampling, (1, 2), batch_size=2)
    found = schedules.find(Settings(), make_plan(Settings()), sampling, 6, NullReporter())
    steps = sampler.of(found, sampling, 6, after_noise(1, 2))
    clock, start = StepClock(torch.device("meta")), Start(of(2, 4, 8, 8), ())
    if skipped is not None:  # a part of a picture is redrawn
        request = replace(request, init=SimpleNamespace(from_noise=False))
        start = replace(start, image=of(2, 4, 8, 8), mask=of(1, 1, 8, 8))
    latents = denoise(request, conditions, Networks(lambda given: given.sample * 2), steps, start, clock, int)
    assert latents.shape == (2, 4, 8, 8)


@pytest.mark.parametrize("scheduler", ["euler", "euler-a", "dpm++"])
def test_pictures_drawn_at_once_are_those_drawn_one_by_one(ipa, scheduler):
    size = ("--width", SIDE, "--height", 64, "--steps", STEPS, "--warmup", 0, "--backend", "eager")
    several = ("generate", *size, "--seed", SEED, "--num-images", 3, "--scheduler", scheduler, "--json")
    drawn = [ipa(*several, "--batch-size", count).data()["images"] for count in (1, 2, 8)]
    alone, *others = [[np.asarray(Image.open(image["path"]), dtype=int) for image in images] for images in drawn]
    for pictures in others:
        assert [abs(one - other).max() <= 1 for one, other in zip(alone, pictures, strict=True)] == [True] * 3
    assert abs(alone[0] - alone[1]).max() > 20
    assert [[image["seed"] for image in images] for images in drawn] == [[SEED, SEED + 1, SEED + 2]] * 3


@pytest.fixture
def large(diffusers_pipeline):
    """The miniature's VAE with numbers inside that fp16 cannot hold, and latents."""
    model = AutoencoderKL(dict(diffusers_pipeline.vae.config)).eval().requires_grad_(False)
    model.load_state_dict(diffusers_pipeline.vae.state_dict())
    for block in (model.decoder.conv_in, model.decoder.mid_block.resnets[0].conv2):
        block.weight *= 2e5
        block.bias *= 2e5
    latents = torch.randn(1, 4, 4, 4, generator=torch.Generator().manual_seed(0))
    return model, latents


@torch.no_grad()
def test_a_shrunk_vae_is_the_same_function_and_stays_within_fp16(large):
    model, latents = large
    expected = model.decode(latents)
    assert not torch.isfinite(copy.deepcopy(model).half().decode(latents.half())).all()
    fp16.shrink(model)
    assert (model.decode(latents) - expected).abs().max() < 1e-5 * expected.abs().max()
    found = model.half().decode(latents.half())
    assert (found - expected).norm() < 1e-2 * expected.norm()  # bf16 would be 3e-2 away


@torch.no_grad()
def test_a_vae_in_channels_last_is_the_same_function(large):
    model, latents = large
    pixels = torch.rand(1, 3, 64, 64, generator=torch.Generator().manual_seed(0)) * 2 - 1
    expected, mean = model.decode(latents), model.encode(pixels)[0]
    channels_last.convert(model)
    fast = {channels_last.GroupNorm, channels_last.RowwiseAttention}
    assert {type(module) for module in model.encoder.modules()} >= fast
    assert {type(module) for module in model.decoder.modules()} >= fast | {channels_last.SubpixelUpsample}
    assert (model.decode(latents) - expected).abs().max() < 1e-5 * expected.abs().max()
    assert (model.encode(pixels)[0] - mean).abs().max() < 1e-5 * mean.abs().max()


def test_channels_are_joined_to_groups_as_in_group_norm():
    generator = torch.Generator().manual_seed(0)
    states = torch.randn(1, 12, 5, 7, generator=generator) * torch.arange(12).view(-1, 1, 1) + 3
    scale, mean = (states.var((0, 2, 3), correction=0)).rsqrt(), states.mean((0, 2, 3))
    assert torch.isinf(scale[0])  # a channel of one value alone
    mean, scale = (values.view(-1, 1, 1) for values in channels_last.of_groups(mean, scale, 4, 1e-6))
    expected = torch.nn.functional.group_norm(states, 4, eps=1e-6)
    assert ((states - mean) * scale - expected).abs().max() < 1e-5


def test_what_leaves_the_range_of_fp16_is_decoded_in_fp32(large):
    model, latents = large
    said: list[str] = []
    expected = np.asarray(decode(model, latents, said.append)[0], dtype=int)
    assert not said
    assert expected.std() > 5
    found = np.asarray(decode(model.half(), latents.half(), said.append)[0], dtype=int)
    assert len(said) == 1
    assert abs(found - expected).max() <= 3
    assert model.dtype == torch.float16


def test_numbers_out_of_range_are_reported_not_drawn(large):
    with pytest.raises(BrokenPicture) as caught:
        decode(large[0], torch.full((1, 4, 8, 8), float("nan")), print)
    assert "--dtype" in caught.value.hint


@pytest.mark.parametrize("flag", ["--vae-tiling", "--vae-slicing"])
def test_tiles_and_slices_change_how_not_what(ipa, flag):
    assert abs(ours(ipa, 0.6, flag) - ours(ipa, 0.6)).max() <= 1


def test_half_precision_draws_nearly_the_same(ipa):
    assert abs(ours(ipa, 0.6, "--dtype", "bfloat16") - ours(ipa, 0.6)).mean() < 8
