"""Models in one file: told apart by their headers, loaded offline, and the same as their diffusers folders."""

import json
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

from ipa_cli.config import Settings
from ipa_cli.models import diffusers_schedulers, loader, reader, single_file, vocabulary
from ipa_cli.models.architectures import SD15, SDXL
from ipa_cli.models.hub import HubError
from ipa_cli.models.location import ModelError, read_json
from ipa_cli.models.plan import DEMO
from ipa_cli.models.plan import make_plan as plan
from ipa_cli.models.prompts import chunks
from ipa_cli.models.prompts.syntax import LITERAL, parse
from ipa_cli.models.weights import WeightsError
from ipa_cli.networks.autoencoder import AutoencoderKL
from ipa_cli.networks.clip import TextEncoder
from ipa_cli.result import NullReporter
from ipa_cli.unet.model import UNet
from tests import checkpoints
from tests.checkpoints import TEXT, TEXT_2, UNET, VAE
from tests.hubs import Hub, serving

CPU = torch.device("cpu")
SMALL = ("--width", 64, "--height", 64, "--steps", 2, "--warmup", 0, "--seed", 7, "--prompt", "a star")
ALIKE = ("--scale", 0.8, "--guidance-scale", 5)  # for which the demo has defaults of its own
REFERENCE = ("--image", DEMO / "reference.png", "--ip-adapter", DEMO / "ip_adapter")
Tensors = dict[str, torch.Tensor]


@pytest.fixture(scope="module")
def sdxl() -> Tensors:
    """The demo, in the names of SDXL's first code."""
    return checkpoints.tensors(DEMO, "sdxl")


@pytest.fixture(scope="module")
def sd15_folder(tmp_path_factory) -> Path:
    from tests.models.test_sd15 import build

    return build(tmp_path_factory.mktemp("single") / "sd15")


@pytest.fixture
def miniature(tmp_path) -> Iterator[Callable[[str, Path], None]]:
    """Lets the models of an architecture have the configurations and the tokenizer of a miniature in a folder."""
    with ExitStack() as stack:
        yield lambda kind, folder: stack.enter_context(checkpoints.presets(tmp_path / "presets", kind, folder))


def load(model: Path, dtype: torch.dtype = torch.float32) -> loader.Model:
    planned = plan(Settings(model=str(model), ip_adapter="none", prompt="x"))
    return loader.load(planned, CPU, CPU, dtype, NullReporter(), False)


def assert_same(ours: loader.Model, theirs: loader.Model) -> None:
    pairs = zip(
        (ours.unet, ours.vae, *ours.text_encoders), (theirs.unet, theirs.vae, *theirs.text_encoders), strict=True
    )
    for one, other in pairs:
        state = other.state_dict()
        assert one.state_dict().keys() == state.keys()
        for name, tensor in one.state_dict().items():
            assert tensor.dtype == state[name].dtype and torch.equal(tensor, state[name]), name


def saved(folder: Path, tensors: Tensors, metadata: dict[str, str] | None = None) -> Path:
    save_file({name: tensor.clone() for name, tensor in tensors.items()}, folder / "model.safetensors", metadata)
    return folder / "model.safetensors"


# --- what is loaded ------------------------------------------------------------------------------------------------


@pytest.fixture
def demo(world, sdxl, miniature) -> Path:
    miniature("sdxl", DEMO)
    return saved(world.cwd, sdxl)


@pytest.mark.slow
def test_a_file_of_sdxl_draws_as_its_folder_does(ipa, demo):
    def pixels(model: Path) -> np.ndarray:
        (image,) = ipa("generate", *SMALL, *ALIKE, *REFERENCE, "--model", model, "--json").data()["images"]
        with Image.open(image["path"]) as picture:
            return np.asarray(picture)

    assert (pixels(demo) == pixels(DEMO)).all()


@pytest.mark.slow
def test_a_file_made_for_inpainting_has_nine_channels_and_draws_with_a_mask(ipa, world, sdxl, miniature):
    miniature("sdxl", DEMO)
    first = sdxl[f"{UNET}input_blocks.0.0.weight"]
    wide = torch.cat([first, torch.zeros_like(first), torch.zeros_like(first[:, :1])], dim=1)
    path = saved(world.cwd, sdxl | {f"{UNET}input_blocks.0.0.weight": wide})
    assert load(path).unet.conv_in.in_channels == 9
    given = Image.new("RGB", (64, 64), "teal")
    given.save(world.cwd / "given.png")
    mask = Image.new("L", (64, 64))
    mask.paste(255, (32, 0, 64, 64))
    mask.save(world.cwd / "mask.png")
    flags = ("--init-image", "given.png", "--inpaint-mask", "mask.png", "--strength", 1)
    (image,) = ipa("generate", *SMALL, *ALIKE, *REFERENCE, "--model", path, *flags, "--json").data()["images"]
    with Image.open(image["path"]) as picture:
        drawn = np.asarray(picture)
    assert (drawn[:, :32] == np.asarray(given)[:, :32]).all() and drawn[:, 32:].std() > 5


@pytest.mark.slow
def test_a_file_is_taken_by_every_command(ipa, demo):
    of_model = ("--model", demo, "--ip-adapter", DEMO / "ip_adapter")
    checks = {check["name"]: check for check in ipa("doctor", *of_model, "--json").data()["checks"]}
    assert checks["model and adapter"]["status"] == "ok"
    assert ipa("embed", DEMO / "reference.png", *of_model, "--output", "e.safetensors", "--json").data()["shape"]
    size = ("--size", "64x64", "--steps", 1, "--seed", 7, "--prompt", "a star", "--scales", "0,0.8")
    assert ipa("sweep-scale", *size, *REFERENCE, "--model", demo, "--json").data()["drawn"] == 2


@pytest.mark.slow
def test_a_variant_and_a_revision_are_not_used_with_a_file_and_that_is_a_warning(ipa, demo):
    asked = (*SMALL, "--prompt", "a star", "--variant", "fp16", "--revision", "main")
    warnings = ipa("generate", *asked, "--model", demo).stderr
    assert "warning: variant fp16 is not used" in warnings and "warning: revision main is not used" in warnings
    folder = ipa("generate", *asked[:-4], "--revision", "main", "--model", DEMO).stderr
    assert "revision main is not used" in folder and "variant" not in folder


@pytest.mark.slow
def test_every_tensor_of_sdxl_is_that_of_its_folder(demo):
    assert_same(load(demo), load(DEMO))


@pytest.mark.slow
def test_a_projection_of_texts_that_is_stored_as_a_layer_is_the_same(world, sdxl, demo):
    name = f"{TEXT_2}text_projection"
    assert_same(load(saved(world.cwd, without(sdxl, name) | {f"{name}.weight": sdxl[name].T.contiguous()})), load(DEMO))


@pytest.mark.slow
@pytest.mark.parametrize("old", [False, True], ids=["", "old"])
def test_every_tensor_of_sd15_is_that_of_its_folder(world, miniature, sd15_folder, old):
    miniature("sd15", sd15_folder)
    tensors = checkpoints.tensors(sd15_folder, "sd15")
    if old:  # files of before a new transformers put "text_model." into the names
        tensors = {name.replace("text_model.", ""): tensor for name, tensor in tensors.items()}
    assert_same(load(saved(world.cwd, tensors)), load(sd15_folder))


@pytest.mark.slow
@pytest.mark.parametrize("stored", [torch.float16, torch.bfloat16, torch.float8_e4m3fn, "mixed"], ids=str)
def test_numbers_of_any_kind_become_those_that_are_drawn_with(world, sdxl, demo, stored):
    halves = iter([torch.float16, torch.bfloat16, torch.float32] * len(sdxl))
    tensors = {name: tensor.to(next(halves) if stored == "mixed" else stored) for name, tensor in sdxl.items()}
    loaded = load(saved(world.cwd, tensors))
    weight = tensors[f"{UNET}input_blocks.0.0.weight"]
    assert loaded.unet.conv_in.weight.dtype == torch.float32
    assert torch.equal(loaded.unet.conv_in.weight, weight.float())


@pytest.mark.slow
def test_what_is_not_of_the_model_is_not_read(world, sdxl, demo, monkeypatch):
    more = {f"model_ema.{name.replace('.', '')}": tensor for name, tensor in sdxl.items() if name.startswith(UNET)}
    more |= {"conditioner.embedders.1.model.logit_scale": torch.tensor(1.0), "alphas_cumprod": torch.ones(1000)}
    asked: list[str] = []
    read = loader.weights.read
    monkeypatch.setattr(loader.weights, "read", lambda path, names, *to: asked.extend(names) or read(path, names, *to))
    path = saved(world.cwd, sdxl | more)
    load(path)
    assert sorted(asked) == sorted({*sdxl, "conditioner.embedders.1.model.logit_scale"})
    _, checkpoint = single_file.read_checkpoint(path)
    assert checkpoint.notes == ("the EMA weights in model.safetensors are not read: it holds the usual ones too",)


def test_a_part_is_read_from_among_the_others(demo, sdxl):
    _, checkpoint = single_file.read_checkpoint(demo)
    sources = [checkpoint.source(part) for part in checkpoint.parts]
    for (_, names), answer in zip(sources, reader.start(sources, CPU), strict=True):
        found = answer.result(60)
        assert found.keys() == names and all(torch.equal(found[name], sdxl[name]) for name in names)


@pytest.mark.slow
@pytest.mark.parametrize(("kind", "count"), [("sdxl", 2513), ("sd15", 1130)])
def test_every_tensor_of_the_full_size_has_a_name_that_diffusers_knows(kind, count):
    """The miniature has no more levels and layers than it needs; these are those of the published models."""
    from diffusers.loaders.single_file_utils import infer_diffusers_model_type

    architecture = {"sdxl": SDXL, "sd15": SD15}[kind]
    prefixes = architecture.checkpoint_prefixes

    def made(part):
        config = read_json(single_file.configurations(architecture), f"{part}/config.json")
        if part in architecture.text_encoders:
            return TextEncoder(config, architecture.text_encoders[part])
        return (UNet if part == "unet" else AutoencoderKL)(config)

    modules = {part: loader._empty(made, part) for part in prefixes}
    tensors = checkpoints.renamed({part: module.state_dict() for part, module in modules.items()}, kind, layers=2)
    assert len(tensors) == count  # as in the published files, but for CLIP's position_ids and logit_scale
    assert infer_diffusers_model_type(tensors) == {"sdxl": "xl_base", "sd15": "v1"}[kind]
    for part, module in modules.items():
        state = {name: tensor for name, tensor in tensors.items() if name.startswith(prefixes[part])}
        nowhere = single_file.Checkpoint(Path("x"), {})
        assert single_file.converted(architecture, nowhere, part, module, state).keys() == module.state_dict().keys()


# --- how it is drawn with ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("marks", "metadata", "changes"),
    [
        ((), {}, {}),
        ((), {"modelspec.prediction_type": "epsilon"}, {}),
        (("v_pred",), {}, {"prediction_type": "v_prediction"}),
        ((), {"modelspec.prediction_type": "v"}, {"prediction_type": "v_prediction"}),
        (
            ("v_pred", "ztsnr"),
            {},
            {"prediction_type": "v_prediction", "rescale_betas_zero_snr": True, "timestep_spacing": "trailing"},
        ),
    ],
)
def test_a_model_that_predicts_v_is_drawn_with_so(world, marks, metadata, changes):
    path = saved(world.cwd, outline("sdxl") | {mark: torch.empty(0) for mark in marks}, metadata)
    architecture, checkpoint = single_file.read_checkpoint(path)
    assert checkpoint.scheduler == changes and bool(checkpoint.notes) == bool(changes)
    own = plan(Settings(model=str(path))).configs["scheduler"]
    usual = diffusers_schedulers.of_model(own, architecture).config
    config = diffusers_schedulers.of_model(own, architecture, checkpoint.scheduler).config
    changed = {key: value for key, value in config.items() if usual.get(key) != value}
    assert {key: value for key, value in changed.items() if not key.startswith("_")} == changes


@pytest.mark.parametrize("kind", ["sdxl", "sd15"])
def test_the_usual_sizes_are_those_of_the_architecture(world, kind):
    side = {"sdxl": 1024, "sd15": 512}[kind]
    path = saved(world.cwd, outline(kind))
    planned = plan(Settings(model=str(path), ip_adapter="none", prompt="x"))
    assert (planned.architecture.preset, planned.defaults["width"], planned.defaults["height"]) == (kind, side, side)


def test_the_usual_adapter_is_taken_with_a_file_too(world):
    path = saved(world.cwd, outline("sdxl"))
    with pytest.raises(HubError, match="h94/IP-Adapter"):  # nobody answers for it here
        plan(Settings(model=str(path), image=("x.png",)))


# The second fills up with "!", and has that mean nothing else, as in SDXL's diffusers folder.
@pytest.mark.parametrize(("part", "padding", "exclamation"), [("tokenizer", 49407, 256), ("tokenizer_2", 0, 0)])
def test_prompts_become_the_tokens_of_clip(part, padding, exclamation):
    tokenizer = vocabulary.tokenizer(vocabulary.of_package(SDXL.tokenizers[part]))
    (chunk,), _ = chunks.chunked(parse("a photo of a cat", LITERAL), tokenizer, {})
    ids = list(chunk.ids)
    assert ids[:10] == [49406, 320, 1125, 539, 320, 2368, 49407, padding, padding, padding] and len(ids) == 77
    assert tokenizer.ids("It's a CAFÉ!") == [585, 568, 320, 15304, exclamation]


def test_the_vocabulary_is_that_of_the_merges():
    folder = single_file.PRESETS / "tokenizer"
    words = json.loads((folder / "vocab.json").read_text(encoding="utf-8"))
    first, *merges = (folder / "merges.txt").read_text(encoding="utf-8").splitlines()
    assert first == "#version: 0.2" and sorted(words.values()) == list(range(49408))
    assert [words[merge.replace(" ", "")] for merge in merges] == list(range(512, 49406))


# --- what is refused -----------------------------------------------------------------------------------------------

ONE = torch.zeros(1)


def outline(kind: str, *, channels: int = 4, shorter: int = 0) -> Tensors:
    """As much of a full-size checkpoint as its header is asked about; each tensor takes a byte or so of memory."""
    config = json.loads((single_file.PRESETS / kind / "unet" / "config.json").read_text())
    shapes = {"input_blocks.0.0.weight": (320, channels, 3, 3)}
    places = [name for name in range(1, 3 * len(config["block_out_channels"])) if name % 3]
    places = [f"input_blocks.{number}." for number in places] + ["middle_block."]
    for place, (width, depth) in zip(places, single_file._usual_blocks(config), strict=True):
        shapes[f"{place}0.out_layers.3.weight"] = (width, 0)
        shapes |= {f"{place}1.transformer_blocks.{n}.norm1.weight": (0,) for n in range(depth - shorter)}
    found = {UNET + name: torch.zeros(shape, dtype=torch.uint8) for name, shape in shapes.items()}
    found |= {f"{TEXT[kind]}text_model.x": ONE, f"{VAE}decoder.conv_in.weight": ONE}
    return found | ({f"{TEXT_2}x": ONE} if kind == "sdxl" else {})


@pytest.mark.parametrize(("kind", "channels"), [("sdxl", 4), ("sdxl", 9), ("sd15", 9)])
def test_a_header_tells_what_is_made_for_inpainting(tmp_path, kind, channels):
    found, checkpoint = single_file.read_checkpoint(saved(tmp_path, outline(kind, channels=channels)))
    assert found.preset == kind and checkpoint.unet == ({} if channels == 4 else {"in_channels": 9})


def without(tensors: Tensors, *prefixes: str) -> Tensors:
    return {name: tensor for name, tensor in tensors.items() if not name.startswith(prefixes)}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("tensors", "kind"),
    [
        ({"lora_unet_input_blocks_1_0_in_layers_2.lora_down.weight": ONE}, "a LoRA"),
        ({"unet.down_blocks.0.attentions.0.to_q.lora_A.weight": ONE}, "a LoRA"),
        ({"lora_te_x.hada_w1_a": ONE}, "a LoRA"),
        ({"control_model.input_hint_block.0.weight": ONE, f"{UNET}input_blocks.0.0.weight": ONE}, "a ControlNet"),
        ({"controlnet_cond_embedding.conv_in.weight": ONE}, "a ControlNet"),
        ({"down_blocks.0.motion_modules.0.norm.bias": ONE}, "a motion module"),
        ({"image_proj.proj.weight": ONE, "ip_adapter.1.to_k_ip.weight": ONE}, "an IP-Adapter"),
        (outline("sdxl") | {f"{UNET}out.2.weight.absmax": ONE}, "quantised by bitsandbytes"),
        (outline("sdxl") | {f"{UNET}scaled_fp8": ONE}, "in fp8 with scales"),
        (outline("sdxl") | {"edm_mean": ONE}, "Playground 2.5"),
        (outline("sdxl") | {"edm_vpred.sigma_max": ONE}, "a CosXL model"),
        ({f"{UNET}joint_blocks.0.x": ONE}, "an SD 3 model"),
        ({"double_blocks.0.img_attn.norm.key_norm.scale": ONE}, "a model of FLUX's kind"),
        ({f"{UNET}input_blocks.0.0.weight": ONE, "cond_stage_model.model.ln_final.bias": ONE}, "an SD 2 model"),
        ({f"{UNET}input_blocks.0.0.weight": ONE, "conditioner.embedders.0.model.ln_final.bias": ONE}, "the SDXL ref"),
        ({"model_ema.diffusion_modelinput_blocks00weight": ONE}, "the EMA weights of a training alone"),
        ({"input_blocks.0.0.weight": ONE}, "a UNet alone"),
        (without(outline("sdxl"), "conditioner."), "a UNet alone"),
        (without(outline("sdxl"), TEXT_2), "is an SDXL model without its text_encoder_2"),
        (without(outline("sdxl"), TEXT["sdxl"]), "is an SDXL model without its text_encoder"),
        (outline("sd15") | {f"{UNET}time_embed.cond_proj.weight": ONE}, "a guidance scale embedding"),
        ({"conditioner.embedders.0.open_clip.model.visual.x": ONE}, "a model of videos"),
        ({"lllite_unet_x.down.0.weight": ONE}, "a ControlNet-LLLite"),
        ({"adapter.body.0.resnets.0.block1.weight": ONE}, "a T2I-Adapter"),
        ({"transformer_blocks.0.attn.add_k_proj.weight": ONE}, "a transformer"),
        ({f"{UNET}patchify_proj.weight": ONE}, "a model of another architecture"),
        ({"down_blocks.0.resnets.0.conv1.weight": ONE}, "the UNet of a diffusers folder"),
        ({"decoder.conv_in.weight": ONE}, "a VAE alone"),
        ({"vision_model.x": ONE}, "an image encoder"),
        ({"text_model.x": ONE}, "a text encoder"),
        ({"emb_params": ONE}, "an embedding"),
        ({"clip_g": ONE, "clip_l": ONE}, "an embedding"),
        ({"x": ONE}, "is not a model of SDXL or SD 1.5"),
        (outline("sdxl", channels=5), "an SDXL model for depth (5 channels)"),
        (outline("sd15", channels=8), "an SD 1.5 model for editing by instructions (8 channels)"),
        (outline("sdxl", shorter=1), "SSD-1B"),
        (outline("sdxl") | {f"{UNET}middle_block.0.out_layers.3.weight": torch.tensor(1.0)}, "SSD-1B"),
        (outline("sdxl") | {str(number): torch.empty(0) for number in range(10_000)}, "tensors, more than any"),
        ({f"{UNET}input_blocks.0.0.weight": ONE, f"{TEXT['sd15']}x": ONE}, "other inputs"),
        (without(outline("sdxl"), VAE), "comes without a VAE"),
    ],
)
def test_a_file_of_another_kind_is_called_by_its_name(world, tensors, kind):
    path = saved(world.cwd, tensors)
    with pytest.raises(ModelError) as refused:
        plan(Settings(model=str(path), ip_adapter="none", prompt="x"))
    assert kind in refused.value.message and str(path) in refused.value.message
    assert refused.value.hint and "\n" not in refused.value.message + refused.value.hint


@pytest.mark.parametrize(
    ("name", "content", "kind"),
    [
        ("model.gguf", b"GGUF", "a GGUF file"),
        ("model.ckpt", b"\x80\x04", "is a pickle"),
        ("model.safetensors", None, "there is no file"),
    ],
)
def test_a_file_of_another_format_is_called_by_its_name(ipa, world, name, content, kind):
    if content is not None:
        (world.cwd / name).write_bytes(content)
    assert kind in ipa("generate", *SMALL, "--model", name, "--json").error()["message"]


@pytest.mark.parametrize("on_hub", [False, True], ids=["folder", "hub"])
def test_a_place_that_holds_one_file_models_says_how_to_name_one(world, on_hub):
    names = ["a model.safetensors", "other.ckpt"]
    (world.cwd / "models").mkdir()
    for name in names:
        (world.cwd / "models" / name).touch()
    with (
        serving(Hub({"someone/models": dict.fromkeys(names, b"")})),
        pytest.raises(ModelError, match=r"no model_index\.json") as refused,
    ):
        plan(Settings(model="someone/models" if on_hub else "models", ip_adapter="none", prompt="x"))
    path = f"'{world.cwd}/models/a model.safetensors'"
    usual = """"$(hf download someone/models 'a model.safetensors')\""""
    assert refused.value.hint == f"name a file in it: --model {usual if on_hub else path}"


@pytest.mark.slow
@pytest.mark.parametrize("kind", [torch.int8, torch.bool, torch.complex64], ids=str)
def test_weights_that_are_not_floating_point_numbers_are_refused(world, sdxl, demo, kind):
    name = f"{VAE}decoder.conv_in.bias"
    with pytest.raises(ModelError, match=r"decoder\.conv_in\.bias holds .*, not floating-point"):
        load(saved(world.cwd, sdxl | {name: sdxl[name].to(kind)}))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "shape"),
    [
        (f"{UNET}input_blocks.0.0.bias", None),
        (f"{UNET}input_blocks.0.0.bias", (3, 3)),
        (f"{UNET}label_emb.0.2.bias", None),
        (f"{VAE}decoder.conv_in.bias", None),
        (f"{VAE}decoder.mid.attn_1.q.weight", (64, 64, 0, 1)),
        (f"{TEXT['sdxl']}text_model.final_layer_norm.bias", (3,)),
        (f"{TEXT_2}transformer.resblocks.0.attn.in_proj_weight", (192,)),
        (f"{TEXT_2}transformer.resblocks.0.attn.in_proj_weight", (190, 64)),
        (f"{TEXT_2}text_projection", ()),
    ],
)
def test_a_tensor_that_does_not_fit_is_reported(world, sdxl, demo, name, shape):
    assert name in sdxl
    changed = without(sdxl, name) | ({} if shape is None else {name: torch.zeros(shape)})
    with pytest.raises(ModelError, match="does not fit"):
        load(saved(world.cwd, changed))


def header(entries: object) -> bytes:
    text = entries if isinstance(entries, bytes) else json.dumps(entries).encode()
    return len(text).to_bytes(8, "little") + text


@pytest.mark.parametrize(
    "content",
    [
        b"",
        (1 << 62).to_bytes(8, "little") + b"{}",
        (200 << 20).to_bytes(8, "little") + b" " * 100,
        header(b"[" * 100_000),
        header({"x": {"dtype": "F32", "shape": [1], "data_offsets": [0, 8]}}) + bytes(8),
        header({"x": {"dtype": "F99", "shape": [1], "data_offsets": [0, 4]}}) + bytes(4),
        header({"x": {"dtype": "F32", "shape": [-1], "data_offsets": [0, 4]}}) + bytes(4),
        header({"x": {"dtype": "F32", "shape": [1 << 40, 1 << 40], "data_offsets": [0, 4]}}) + bytes(4),
        header({n: {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]} for n in "xy"}) + bytes(4),
        header(
            b'{"x":{"dtype":"F32","shape":[1],"data_offsets":[0,4]},"x":{"dtype":"F32","shape":[1],"data_offsets":[4,8]}}'
        )
        + bytes(8),
    ],
    ids=["empty", "huge", "larger", "deep", "offsets", "dtype", "negative", "overflow", "overlapping", "twice"],
)
def test_a_hostile_header_is_refused(world, content):
    (world.cwd / "model.safetensors").write_bytes(content)
    with pytest.raises(WeightsError, match=r"is not a whole \.safetensors file") as refused:
        single_file.read_checkpoint(world.cwd / "model.safetensors")
    assert "\n" not in refused.value.message
