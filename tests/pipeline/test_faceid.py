"""Pictures with FaceID adapters against diffusers' own, from the same files, in float32."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.numpy import save_file

import ipa_cli
from tests import faceid
from tests.models.test_sd15 import build

pytest.importorskip("peft")
pytestmark = pytest.mark.slow
DEMO = Path(ipa_cli.__file__).parent / "demo"
ENCODER = DEMO / "ip_adapter" / "image_encoder"
PROMPT, STEPS, SIDE, SEED, GUIDANCE = "a large star in the middle", 2, 64, 3, 5.0
PIPELINES = {"sdxl": "StableDiffusionXLPipeline", "sd15": "StableDiffusionPipeline"}
KINDS = {
    "faceid": {},
    "faceid-plus": {"states": True},
    "faceid-plusv2": {"states": True},
    "faceid-portrait": {"tokens": 16, "lora": False},
    "faceid-portrait-unnorm": {"unnormed": True, "lora": False},
}


@pytest.fixture(scope="module")
def models(tmp_path_factory) -> dict[str, Path]:
    return {"sdxl": DEMO, "sd15": build(tmp_path_factory.mktemp("models") / "sd15")}


@pytest.fixture(scope="module")
def pipelines(models) -> dict[str, Any]:
    import diffusers

    found = {kind: getattr(diffusers, name).from_pretrained(models[kind]) for kind, name in PIPELINES.items()}
    for pipeline in found.values():
        pipeline.set_progress_bar_config(disable=True)
    return found


def width_of_states() -> int:
    import json

    return json.loads((ENCODER / "config.json").read_text())["hidden_size"]


def written(folder: Path, kind: str, family: str, unet: Any, ending: str = "bin") -> Path:
    options: dict[str, Any] = dict(KINDS[kind])
    if options.pop("states", False):
        options["states"] = width_of_states()
    return faceid.write(folder / f"ip-adapter-{kind}_{family}.{ending}", unet, **options)


def theirs(pipeline: Any, file: Path, scale: float, embeds: torch.Tensor, lora: float = 1.0, **plus: Any) -> np.ndarray:
    pipeline.load_ip_adapter(str(file.parent), subfolder="", weight_name=file.name, image_encoder_folder=None)
    try:
        pipeline.set_ip_adapter_scale(scale)
        if lora != 1:
            pipeline.set_adapters(["faceid_0"], [lora])
        for name, value in plus.items():
            setattr(pipeline.unet.encoder_hid_proj.image_projection_layers[0], name, value)
        made = pipeline(
            PROMPT,
            ip_adapter_image_embeds=[embeds],
            num_inference_steps=STEPS,
            guidance_scale=GUIDANCE,
            height=SIDE,
            width=SIDE,
            generator=torch.Generator("cpu").manual_seed(SEED),
        )
        return np.asarray(made.images[0], dtype=int)
    finally:
        if getattr(pipeline.unet, "peft_config", None):
            pipeline.unload_lora_weights()
        pipeline.unload_ip_adapter()


def ours(ipa, model: Path, file: Path, scale: float, *flags: object) -> np.ndarray:
    size = ("--width", SIDE, "--height", SIDE, "--steps", STEPS, "--warmup", 0, "--backend", "eager")
    chosen = ("--model", model, "--ip-adapter", file, "--prompt", PROMPT, "--seed", SEED, "--scale", scale)
    ran = ipa("generate", *size, *chosen, "--guidance-scale", GUIDANCE, *flags, "--json")
    (image,) = ran.data()["images"]
    with Image.open(image["path"]) as picture:
        return np.asarray(picture, dtype=int)


def with_zeros(faces: np.ndarray) -> torch.Tensor:
    """(2, faces, …) as diffusers' guide makes it: the negative half is zero."""
    positive = torch.from_numpy(faces)[None]
    return torch.cat([torch.zeros_like(positive), positive])


@pytest.mark.parametrize("family", PIPELINES)
@pytest.mark.parametrize("kind", ["faceid", "faceid-portrait", "faceid-portrait-unnorm"])
def test_a_face_draws_what_it_draws_in_diffusers(ipa, world, models, pipelines, family, kind):
    pipeline, unnormed = pipelines[family], kind.endswith("unnorm")
    file = written(world.cwd, kind, family, pipeline.unet)
    faces = faceid.embedding(1, count=2 if kind == "faceid-portrait" else 1, normed=not unnormed)
    np.save(world.cwd / "face.npy", faces)
    drawn = []
    for scale in (0.4, 1.0):
        expected = theirs(pipeline, file, scale, with_zeros(faces[:, None] if unnormed else faces))
        drawn.append(ours(ipa, models[family], file, scale, "--embeds", "face.npy"))
        assert abs(drawn[-1] - expected).max() <= 1
    assert abs(drawn[0] - drawn[1]).max() > 4  # the face matters


@pytest.mark.parametrize("family", PIPELINES)
@pytest.mark.parametrize("kind", ["faceid-plus", "faceid-plusv2"])
def test_a_face_and_its_picture_draw_what_they_draw_in_diffusers(ipa, world, models, pipelines, family, kind):
    if (family, kind) == ("sdxl", "faceid-plus"):
        pytest.skip("all of SDXL's are v2")
    pipeline = pipelines[family]
    file = written(world.cwd, kind, family, pipeline.unet)
    faces = faceid.embedding(2)
    states = np.random.default_rng(3).standard_normal((2, 1, 17, width_of_states())).astype(np.float32)
    save_file({"id_embeds": faces, "clip_embeds": states}, world.cwd / "face.safetensors")
    flags = ("--embeds", "face.safetensors", "--image-encoder", ENCODER)
    clip, v2 = torch.from_numpy(states), kind == "faceid-plusv2"
    drawn = []
    for scale in (0.4, 1.0):
        expected = theirs(pipeline, file, scale, with_zeros(faces), clip_embeds=clip, shortcut=v2)
        drawn.append(ours(ipa, models[family], file, scale, *flags))
        assert abs(drawn[-1] - expected).max() <= 1
    expected = theirs(pipeline, file, 1.0, with_zeros(faces), clip_embeds=clip, shortcut=True, shortcut_scale=0.3)
    weak = ours(ipa, models[family], file, 1.0, *flags, "--face-shortcut", 0.3)
    assert abs(weak - expected).max() <= 1 < abs(weak - drawn[-1]).max()


@pytest.mark.parametrize("ending", ["bin", "safetensors"])
def test_the_lora_inside_acts_at_its_weight(ipa, world, models, pipelines, ending):
    pipeline = pipelines["sdxl"]
    file = written(world.cwd, "faceid", "sdxl", pipeline.unet, ending)
    np.save(world.cwd / "face.npy", faceid.embedding(1))
    drawn = {}
    for weight in (0.5, 1.0):
        drawn[weight] = ours(ipa, DEMO, file, 0.7, "--embeds", "face.npy", "--ip-lora", weight)
        if ending == "bin":
            expected = theirs(pipeline, file, 0.7, with_zeros(faceid.embedding(1)), lora=weight)
            assert abs(drawn[weight] - expected).max() <= 1
    without = ours(ipa, DEMO, file, 0.7, "--embeds", "face.npy", "--ip-lora", 0)
    assert abs(without - drawn[0.5]).max() > 8 and abs(drawn[0.5] - drawn[1.0]).max() > 8


def test_a_safetensors_file_whose_length_looks_like_a_pickle_is_read_as_what_it_is():
    import torch
    from safetensors.torch import save

    from ipa_cli.pipeline import face_embeds

    written = (save({"id_embeds": torch.zeros(1, 512)}, {"from": "y" * length}) for length in range(300, 700))
    data = next(data for data in written if data.startswith(b"\x80\x02"))
    assert face_embeds.arrays(Path("face.safetensors"), data)[face_embeds.FACES].shape == (1, 512)
