"""SD 1.5 and Plus adapters against diffusers' own pipelines, in miniatures with random weights."""

import io
import shutil
from dataclasses import replace
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.numpy import save
from safetensors.torch import load_file

import ipa_cli
from ipa_cli.config import Settings
from ipa_cli.models.architectures import IP_ADAPTERS, SD15, SDXL
from ipa_cli.models.architectures.base import Architecture
from ipa_cli.models.configurations import cross_attention_layers
from ipa_cli.models.location import ModelError
from ipa_cli.models.plan import Plan
from ipa_cli.models.plan import make_plan as plan
from ipa_cli.models.schedulers import SCHEDULERS
from ipa_cli.models.weights import nested
from ipa_cli.unet.attention import layers
from tests.conftest import HUB_CACHE
from tests.hubs import Hub, serving
from tests.hubs import folder as folder_files
from tests.unets import adapter, plus_projection, save_adapter

pytestmark = pytest.mark.slow

DEMO = Path(ipa_cli.__file__).parent / "demo"
PRESETS = DEMO.parent / "presets"
PROMPT = "a large star in the middle"
STEPS, SIDE, SEED, GUIDANCE = 4, 64, 3, 4.0
IMAGE_DIM, HIDDEN_DIM = 256, 160  # of the demo's image encoder
UNET: dict[str, Any] = {
    "attention_head_dim": 2,
    "block_out_channels": [32, 64],
    "cross_attention_dim": 64,
    "down_block_types": ["CrossAttnDownBlock2D", "DownBlock2D"],
    "layers_per_block": 1,
    "norm_num_groups": 8,
    "sample_size": 8,
    "up_block_types": ["UpBlock2D", "CrossAttnUpBlock2D"],
}
# As old repositories have it: without `steps_offset` and `clip_sample` set right.
OLD_PNDM = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear", "skip_prk_steps": True}


def build(folder: Path) -> Path:
    """A folder of SD 1.5's layout with a base and a Plus adapter beside it; the VAE is the demo's."""
    from diffusers import AutoencoderKL, PNDMScheduler, UNet2DConditionModel
    from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

    torch.manual_seed(1)
    unet = UNet2DConditionModel(**UNET)
    vae = AutoencoderKL.from_pretrained(DEMO / "vae", torch_dtype=torch.float32)
    vae.register_to_config(scaling_factor=0.4)
    tokenizer = CLIPTokenizer.from_pretrained(DEMO / "tokenizer")
    text = CLIPTextConfig.from_pretrained(DEMO / "text_encoder", hidden_size=64)
    parts = {
        "unet": unet,
        "vae": vae,
        "tokenizer": tokenizer,
        "text_encoder": CLIPTextModel(text),
        "scheduler": PNDMScheduler(**OLD_PNDM),
    }
    for name, part in parts.items():
        part.save_pretrained(folder / name)
    listing = ", ".join(f'"{name}": ["x", "{type(part).__name__}"]' for name, part in parts.items())
    listing = listing.replace('["x", "CLIP', '["transformers", "CLIP').replace('["x"', '["diffusers"')
    (folder / "model_index.json").write_text(f'{{"_class_name": "StableDiffusionPipeline", {listing}}}')
    return write_adapters(folder.parent / "sd15-adapters", unet) and folder


def write_adapters(folder: Path, unet: Any) -> Path:
    """A base and a Plus adapter for `unet`, and the demo's image encoder."""
    shutil.copytree(DEMO / "ip_adapter" / "image_encoder", folder / "image_encoder")
    state = adapter(unet, image_dim=IMAGE_DIM)
    save_adapter(folder / "base.safetensors", state)
    projection = plus_projection(unet.config.cross_attention_dim, HIDDEN_DIM, latents=6)
    save_adapter(folder / "plus.safetensors", {**state, "image_proj": projection})
    return folder


@pytest.fixture(scope="module")
def sd15(tmp_path_factory) -> Path:
    return build(tmp_path_factory.mktemp("models") / "sd15")


@pytest.fixture(scope="module")
def sdxl_plus(tmp_path_factory) -> Path:
    """Adapters for the demo model, which has the shape of SDXL."""
    from diffusers import UNet2DConditionModel

    with torch.device("cpu"):
        unet = UNet2DConditionModel.from_config(UNet2DConditionModel.load_config(DEMO / "unet"))
    return write_adapters(tmp_path_factory.mktemp("sdxl") / "adapters", unet)


@pytest.fixture(scope="module")
def reference(tmp_path_factory) -> list[Path]:
    """Two square pictures of the size that the image encoder sees, so that nobody has to scale them."""
    folder = tmp_path_factory.mktemp("references")
    generator = np.random.default_rng(5)
    paths = [folder / "one.png", folder / "two.png"]
    for path in paths:
        coarse = Image.fromarray(generator.integers(0, 256, (4, 4, 3), dtype=np.uint8))
        coarse.resize((128, 128), Image.Resampling.BICUBIC).save(path)
    return paths


def theirs(kind: str, model: Path, adapters: Path, file: str, images: list[Path], scale: float, **changes) -> Any:
    """What diffusers draws; `scheduler` among the changes is a name of ours."""
    import diffusers

    pipeline = getattr(diffusers, kind).from_pretrained(model, torch_dtype=torch.float32)
    pipeline.load_ip_adapter(
        str(adapters.parent), subfolder=adapters.name, weight_name=file, image_encoder_folder="image_encoder"
    )
    pipeline.set_progress_bar_config(disable=True)
    scheduler = changes.pop("scheduler", None)
    if scheduler:
        kind, settings = SCHEDULERS[scheduler].class_name, SCHEDULERS[scheduler].settings
        pipeline.scheduler = getattr(diffusers, kind).from_config(pipeline.scheduler.config, **settings)
    pipeline.set_ip_adapter_scale(scale)
    opened = [Image.open(path).convert("RGB") for path in images]
    arguments = {
        "prompt": PROMPT,
        "ip_adapter_image": [opened] if len(opened) > 1 else opened[0],
        "num_inference_steps": STEPS,
        "guidance_scale": GUIDANCE,
        "height": SIDE,
        "width": SIDE,
        "generator": torch.Generator("cpu").manual_seed(SEED),
    }
    return np.asarray(pipeline(**arguments | changes).images[0], dtype=int)


def ours(ipa, model: object, adapters: Path | None, file: str, images: list[Path], scale: float, *flags: object) -> Any:
    size = ("--width", SIDE, "--height", SIDE, "--steps", STEPS, "--warmup", 0)
    settings = ("--prompt", PROMPT, "--seed", SEED, "--scale", scale, "--guidance-scale", GUIDANCE)
    pictures = [word for path in images for word in ("--image", path)]
    own = ("--ip-adapter", adapters / file) if adapters else ()
    chosen = ("--model", model, *own, *pictures, "--backend", "eager")
    ran = ipa("generate", *size, *settings, *chosen, *flags, "--json")
    (image,) = ran.data()["images"]
    with Image.open(image["path"]) as picture:
        return np.asarray(picture, dtype=int)


def sd15_pair(ipa, model: Path, file: str, images: list[Path], scale: float, flags: tuple = (), **changes) -> Any:
    """An SD 1.5 picture of ours and of diffusers'."""
    adapters = model.parent / "sd15-adapters"
    mine = ours(ipa, model, adapters, file, images, scale, *flags)
    return mine, theirs("StableDiffusionPipeline", model, adapters, file, images, scale, **changes)


# --- SD 1.5 ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("file", "scale", "flags", "changes"),
    [
        ("base.safetensors", 0.0, (), {}),
        ("base.safetensors", 0.6, (), {}),
        ("plus.safetensors", 0.6, (), {}),
        ("base.safetensors", 0.6, ("--negative-prompt", "a small circle"), {"negative_prompt": "a small circle"}),
        ("base.safetensors", 0.6, ("--guidance-scale", 1), {"guidance_scale": 1.0}),
        ("base.safetensors", 0.6, ("--width", 128), {"width": 128}),
    ],
)
def test_sd15_draws_what_diffusers_draws(ipa, sd15, reference, file, scale, flags, changes):
    mine, expected = sd15_pair(ipa, sd15, file, reference[:1], scale, flags, **changes)
    assert expected.std() > 5  # a picture, not one grey
    assert abs(mine - expected).max() <= 1


@pytest.mark.parametrize("name", ["euler", "ddim", "pndm", "unipc", "dpm++"])
def test_sd15_draws_with_each_scheduler_what_diffusers_draws(ipa, sd15, reference, name):
    flags = ("--scheduler", name)
    mine, expected = sd15_pair(ipa, sd15, "base.safetensors", reference[:1], 0.6, flags, scheduler=name)
    assert abs(mine - expected).max() <= 1


@pytest.mark.parametrize("file", ["base.safetensors", "plus.safetensors"])
def test_sd15_sees_several_references_as_diffusers_does(ipa, sd15, reference, file):
    mine, expected = sd15_pair(ipa, sd15, file, reference, 0.8)
    alone, _ = sd15_pair(ipa, sd15, file, reference[:1], 0.8)
    assert abs(mine - expected).max() <= 1
    assert abs(mine - alone).max() > 3


# --- Plus on SDXL ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("scale", [0.0, 0.6])
@pytest.mark.parametrize("count", [1, 2])
def test_a_plus_adapter_of_sdxl_draws_what_diffusers_draws(ipa, sdxl_plus, reference, scale, count):
    images = reference[:count]
    mine = ours(ipa, "demo", sdxl_plus, "plus.safetensors", images, scale)
    expected = theirs("StableDiffusionXLPipeline", DEMO, sdxl_plus, "plus.safetensors", images, scale)
    assert expected.std() > 5
    assert abs(mine - expected).max() <= 1


def test_a_plus_adapter_counts_by_its_scale(ipa, sdxl_plus, reference):
    one, other = (ours(ipa, "demo", sdxl_plus, "plus.safetensors", reference[:1], scale) for scale in (0.0, 0.6))
    assert abs(one - other).max() > 3


# --- where they come from -------------------------------------------------------------------------------------


def bare(folder: Path, preset: str) -> Path:
    """A model of the real shape that has its configurations alone: what is told about it was told by them."""
    return Path(shutil.copytree(PRESETS / preset, folder, ignore=shutil.ignore_patterns("ip_adapter")))


def headers(architecture: Architecture, projection: dict[str, tuple[int, ...]], layers: int) -> bytes:
    """An adapter file that has the right names and the widths that matter."""
    tensors = {f"image_proj.{key}": np.zeros(shape, np.float16) for key, shape in projection.items()}
    for layer in range(layers):
        for kind in "kv":
            tensors[f"ip_adapter.{2 * layer + 1}.to_{kind}_ip.weight"] = np.zeros(
                (1, architecture.cross_attention_dim), np.float16
            )
    return save(tensors)


BASE = {"proj.weight": (1, 1024), "norm.weight": (1,)}
BASE_BIG = {"proj.weight": (1, 1280), "norm.weight": (1,)}
PLUS = {"latents": (1, 1, 1), "proj_in.weight": (1, 1280), "proj_out.weight": (1, 1)}
FACE_ID = {"proj.0.weight": (1, 512), "proj.2.weight": (1, 1), "norm.weight": (1,)}


@pytest.fixture
def h94(world):
    """A hub with h94's adapters, as far as their headers and their image encoders' configurations go."""
    shutil.rmtree(HUB_CACHE, ignore_errors=True)
    files = {
        SDXL.ip_adapters.base: headers(SDXL, BASE_BIG, 70),
        SDXL.ip_adapters.plus: headers(SDXL, PLUS, 70),
        SDXL.ip_adapters.plus_face: headers(SDXL, PLUS, 70),
        SD15.ip_adapters.base: headers(SD15, BASE, 16),
        SD15.ip_adapters.plus: headers(SD15, PLUS, 16),
        SD15.ip_adapters.plus_face: headers(SD15, PLUS, 16),
        "models/ip-adapter_sd15_vit-G.safetensors": headers(SD15, BASE_BIG, 16),
        "models/ip-adapter-faceid_sd15.safetensors": headers(SD15, FACE_ID, 16),
    }
    for preset, folder in (("sd15", "models"), ("sdxl", "sdxl_models")):
        config = PRESETS / preset / "ip_adapter" / "image_encoder" / "config.json"
        files[f"{folder}/image_encoder/config.json"] = config.read_bytes()
    with serving(Hub({IP_ADAPTERS: files})) as hub:
        yield hub


def planned(world, model: str, file: str, **more) -> Plan:
    name = PurePosixPath(file)
    chosen = {"ip_adapter_subfolder": str(name.parent), "ip_adapter_weight_name": name.name, **more}
    folder = world.cwd / model
    model = str(folder if folder.exists() else bare(folder, model))
    return plan(Settings(model=model, ip_adapter=IP_ADAPTERS, image=("x.png",), **chosen))


@pytest.mark.parametrize(
    ("model", "file", "encoder"),
    [
        ("sd15", SD15.ip_adapters.base, "models/image_encoder"),
        ("sd15", SD15.ip_adapters.plus, "models/image_encoder"),
        ("sd15", SD15.ip_adapters.plus_face, "models/image_encoder"),
        ("sd15", "models/ip-adapter_sd15_vit-G.safetensors", "sdxl_models/image_encoder"),
        ("sdxl", SDXL.ip_adapters.base, "sdxl_models/image_encoder"),
        ("sdxl", SDXL.ip_adapters.plus, "models/image_encoder"),
        ("sdxl", SDXL.ip_adapters.plus_face, "models/image_encoder"),
    ],
)
def test_each_adapter_finds_its_image_encoder(world, h94, model, file, encoder):
    adapter = planned(world, model, file).adapter
    assert (adapter.file, adapter.encoder.part) == (file, encoder)


@pytest.mark.parametrize(("model", "architecture"), [("sd15", SD15), ("sdxl", SDXL)])
def test_the_usual_adapter_need_not_be_named(world, h94, model, architecture):
    settings = Settings(model=str(bare(world.cwd / model, model)), image=("x.png",))
    for chosen in (None, IP_ADAPTERS):
        adapter = plan(replace(settings, ip_adapter=chosen)).adapter
        assert adapter and adapter.file == architecture.ip_adapters.base
    adapter = plan(replace(settings, ip_adapter_weight_name=PurePosixPath(architecture.ip_adapters.plus).name)).adapter
    assert adapter and adapter.file == architecture.ip_adapters.plus


@pytest.mark.parametrize("kind", ["base", "plus", "plus_face"])
@pytest.mark.parametrize(("model", "of"), [("sdxl", SD15), ("sd15", SDXL)])
def test_an_adapter_of_the_other_architecture_is_refused_and_the_one_that_fits_named(world, h94, model, of, kind):
    with pytest.raises(ModelError, match=f"is made for {of.name}: ") as refused:
        planned(world, model, getattr(of.ip_adapters, kind))
    fits = PurePosixPath(getattr({"sdxl": SDXL, "sd15": SD15}[model].ip_adapters, kind))
    assert f"--ip-adapter {IP_ADAPTERS} --ip-adapter-subfolder {fits.parent}" in refused.value.hint
    assert refused.value.hint.endswith(f"--ip-adapter-weight-name {fits.name}")
    assert planned(world, model, str(fits)).adapter


def test_a_plus_adapter_with_the_wrong_image_encoder_is_refused_and_the_right_one_named(world, h94):
    del h94.repos[IP_ADAPTERS]["models/image_encoder/config.json"]
    with pytest.raises(ModelError, match=r"takes images of width 1280.*sdxl_models/image_encoder \(1664\)") as refused:
        planned(world, "sdxl", SDXL.ip_adapters.plus)
    assert refused.value.hint == f"--image-encoder {IP_ADAPTERS}:models/image_encoder"


def test_an_adapter_that_takes_faces_as_numbers_needs_no_image_encoder(world, h94):
    adapter = planned(world, "sd15", "models/ip-adapter-faceid_sd15.safetensors").adapter
    assert adapter and adapter.encoder is None and adapter.face and adapter.face.normed and not adapter.face.picture
    with pytest.raises(ModelError, match=r"is made for SD 1\.5: 16") as refused:
        planned(world, "sdxl", "models/ip-adapter-faceid_sd15.safetensors")
    assert refused.value.hint.endswith("h94/IP-Adapter-FaceID --ip-adapter-weight-name ip-adapter-faceid_sdxl.bin")


@pytest.mark.parametrize(
    ("model", "name", "picture", "shortcut", "normed"),
    [
        ("sdxl", "ip-adapter-faceid_sdxl.bin", False, False, True),
        ("sdxl", "ip-adapter-faceid-plusv2_sdxl.bin", True, True, True),
        ("sdxl", "ip-adapter-faceid-portrait_sdxl.bin", False, False, True),
        ("sdxl", "ip-adapter-faceid-portrait_sdxl_unnorm.bin", False, False, False),
        ("sd15", "ip-adapter-faceid_sd15.bin", False, False, True),
        ("sd15", "ip-adapter-faceid-plus_sd15.bin", True, False, True),
        ("sd15", "ip-adapter-faceid-plusv2_sd15.bin", True, True, True),
        ("sd15", "ip-adapter-faceid-portrait-v11_sd15.bin", False, False, True),
    ],
)
def test_a_pickle_of_the_hub_that_is_not_here_yet_is_known_by_its_name(
    world, h94, model, name, picture, shortcut, normed
):
    h94.repos["h94/IP-Adapter-FaceID"] = {name: b"not read"}
    folder = bare(world.cwd / model, model)
    adapter = plan(Settings(model=str(folder), ip_adapter="h94/IP-Adapter-FaceID", image=("x.png",))).adapter
    face = adapter.face
    assert (face.picture, face.shortcut, face.normed) == (picture, shortcut, normed)
    assert (str(adapter.encoder) == f"{IP_ADAPTERS}/models/image_encoder") if picture else adapter.encoder is None


def test_the_preset_has_the_layers_of_sd15():
    from diffusers import UNet2DConditionModel

    config = UNet2DConditionModel.load_config(PRESETS / "sd15" / "unet")
    with torch.device("meta"):
        unet = UNet2DConditionModel.from_config(config)
    assert cross_attention_layers(config) == len(layers(unet)) == 16
    assert sum(weight.numel() for weight in unet.parameters()) == 859_520_964


def test_the_preset_comes_from_the_hub_with_its_adapter_and_nothing_more(ipa, sd15, reference, h94):
    adapters = sd15.parent / "sd15-adapters"
    files = {f"models/{name}": data for name, data in folder_files(adapters).items()}
    files[SD15.ip_adapters.base] = files.pop("models/base.safetensors")
    extra = {"safety_checker/model.safetensors": b"", "v1-5-pruned.safetensors": b""}
    h94.repos = {SD15.repo: {**folder_files(sd15), **extra}, IP_ADAPTERS: files}
    mine = ours(ipa, "sd15", None, "", reference[:1], 0.6)
    assert not [sent for sent in h94.log if sent.file in extra]
    assert (mine == ours(ipa, sd15, adapters, "base.safetensors", reference[:1], 0.6)).all()


def test_a_pickle_from_the_hub_is_looked_at_before_the_model_is_fetched(ipa, sd15, reference, h94):
    encoder = folder_files(DEMO / "ip_adapter")
    buffer = io.BytesIO()
    torch.save(nested(load_file(DEMO / "ip_adapter" / "ip-adapter.safetensors")), buffer)
    files = {name: data for name, data in encoder.items() if name.startswith("image_encoder/")}
    h94.repos = {"someone/sd15": folder_files(sd15), "someone/pickle": {**files, "ip-adapter.bin": buffer.getvalue()}}
    chosen = ("--model", "someone/sd15", "--ip-adapter", "someone/pickle", "--image", reference[0])
    ran = ipa("generate", "--prompt", PROMPT, *chosen, "--json")
    assert "11 cross-attention layers of width 128, the SD 1.5 model has" in ran.error()["message"]
    assert not [sent for sent in h94.sent(".safetensors") if sent.repo == "someone/sd15"]


def test_dummy_weights_need_no_weights_of_sd15(ipa, sd15, world):
    own = Path(shutil.copytree(sd15, world.cwd / "own", ignore=shutil.ignore_patterns("*.safetensors", "tokenizer")))
    shutil.copytree(DEMO / "ip_adapter" / "image_encoder", own / "ip_adapter" / "image_encoder")
    size = ("--width", SIDE, "--height", SIDE, "--steps", 1, "--warmup", 0, "--seed", 1)
    first, second = (
        ipa("generate", *size, "--model", own, "--load-format", "dummy", "--scale", scale, "--json").data()["images"][0]
        for scale in (0.0, 1.0)
    )
    assert first["sha256"] != second["sha256"]
