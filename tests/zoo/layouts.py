"""Models and adapters laid out as people have them, made from the miniature: small files copied, weights linked.

To add a layout, write a function that builds it in an empty folder and returns the flags that choose it, and put it
into `DRAWN` (with what else it takes) or `REFUSED` (with words of the refusal).
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np

from ipa_cli.models.plan import DEMO
from tests import checkpoints, faceid, loras

SMALL = 1 << 18  # files below are copied
STEMS = {"unet": "diffusion_pytorch_model", "vae": "diffusion_pytorch_model"}
Flags = tuple[object, ...]
Layout = Callable[[Path], Flags]


def linked(folder: Path, source: Path = DEMO) -> Path:
    """A copy of a folder whose larger files are links to the originals; returns it."""
    for file in (path for path in source.rglob("*") if path.is_file()):
        place = folder / file.relative_to(source)
        place.parent.mkdir(parents=True, exist_ok=True)
        if file.stat().st_size > SMALL:
            place.symlink_to(file.resolve())
        else:
            shutil.copyfile(file, place)
    return folder


def bare(folder: Path) -> Path:
    """A model without an adapter of its own."""
    shutil.rmtree(linked(folder) / "ip_adapter")
    return folder


def adapter(folder: Path) -> Path:
    """An adapter with its image encoder beside."""
    return linked(folder, DEMO / "ip_adapter")


def weights(model: Path) -> list[Path]:
    """The weight files of a model's own parts."""
    return [path for path in sorted(model.rglob("*.safetensors")) if path.parent.name != "ip_adapter"]


# --- folders of a model ---------------------------------------------------------------------------------------------


def plain(root: Path) -> Flags:
    return ("--model", linked(root / "model"))


def trailing_slash(root: Path) -> Flags:
    linked(root / "model")
    return ("--model", "model/")


def home(root: Path) -> Flags:
    linked(Path.home() / "models" / "mine")
    return ("--model", "~/models/mine")


def odd_names(root: Path) -> Flags:
    return ("--model", linked(root / "Meine Modelle – 模型" / "SDXL v1.0 (fp16)"))


def like_a_hub_id(root: Path) -> Flags:
    linked(root / "stabilityai" / "stable-diffusion-xl-base-1.0")
    return ("--model", "stabilityai/stable-diffusion-xl-base-1.0")


def linked_part(root: Path) -> Flags:
    model = linked(root / "model")
    (model / "vae").rename(root / "another vae")
    (model / "vae").symlink_to("../another vae")
    return ("--model", model)


def linked_parts(root: Path) -> Flags:
    (root / "model").mkdir()
    for part in linked(root / "store").iterdir():
        (root / "model" / part.name).symlink_to(part)
    return ("--model", root / "model")


def hub_snapshot(root: Path) -> Flags:
    """A folder of huggingface_hub's cache: every file a link to a blob without a suffix."""
    repo = root / "models--someone--mini"
    snapshot = linked(repo / "snapshots" / ("0" * 40))
    (repo / "blobs").mkdir()
    for number, file in enumerate(path for path in sorted(snapshot.rglob("*")) if path.is_file()):
        blob = repo / "blobs" / f"{number:064x}"
        file.replace(blob)
        file.symlink_to(os.path.relpath(blob, file.parent))
    return ("--model", snapshot)


def beside_everything(root: Path) -> Flags:
    """What stabilityai's repository holds beside diffusers' parts, and what file managers leave."""
    model = linked(root / "model")
    for part in ("vae_1_0", "vae_decoder", "vae_encoder"):
        shutil.copytree(model / "vae", model / part, symlinks=True)
    names = (
        *("sd_xl_base_1.0.safetensors", "sd_xl_base_1.0_0.9vae.safetensors", "LICENSE.md", "01.png", ".gitattributes"),
        *("unet/model.onnx", "unet/model.onnx_data", "unet/openvino_model.xml", "unet/openvino_model.bin"),
        *("unet/diffusion_flax_model.msgpack", "text_encoder/flax_model.msgpack", "text_encoder/model.onnx"),
        *("vae_decoder/model.onnx", ".DS_Store", "unet/.DS_Store", "unet/._diffusion_pytorch_model.safetensors"),
        *("ip_adapter/._ip-adapter.safetensors", "ip_adapter/.DS_Store", "._unet", "Thumbs.db", "unet/config.json.bak"),
    )
    for name in names:
        (model / name).write_bytes(b"nobody reads this")
    return ("--model", model)


def forbidden_neighbour(root: Path) -> Flags:
    model = linked(root / "model")
    (model / "lost+found").mkdir(mode=0o000)
    (root / "private").mkdir(mode=0o000)
    return ("--model", model)


def saved_pipeline(root: Path) -> Flags:
    """As `save_pretrained` writes a pipeline into which an adapter was loaded: the adapter itself is not there."""
    model = bare(root / "model")
    linked(model / "image_encoder", DEMO / "ip_adapter" / "image_encoder")
    (model / "feature_extractor").mkdir()
    shutil.copy(DEMO / "ip_adapter" / "image_encoder" / "preprocessor_config.json", model / "feature_extractor")
    return ("--model", model, "--ip-adapter", DEMO / "ip_adapter")


def fast_tokenizers(root: Path) -> Flags:
    """Tokenizers as transformers 5 saves them."""
    from transformers import CLIPTokenizer

    model = linked(root / "model")
    for part in ("tokenizer", "tokenizer_2"):
        made = CLIPTokenizer.from_pretrained(model / part)
        shutil.rmtree(model / part)
        made.save_pretrained(model / part)
    return ("--model", model)


# --- weights ----------------------------------------------------------------------------------------------------------


def half(file: Path, place: Path) -> None:
    from safetensors.torch import load_file, save_file

    save_file({name: tensor.half() for name, tensor in load_file(file).items()}, place)


def half_alone(root: Path) -> Flags:
    model = linked(root / "model")
    for file in weights(model):
        half(file, file.with_suffix(".fp16.safetensors"))
        file.unlink()
    return ("--model", model)


def half_unet(root: Path) -> Flags:
    model = linked(root / "model")
    file = model / "unet" / "diffusion_pytorch_model.safetensors"
    half(file, file.with_suffix(".fp16.safetensors"))
    file.unlink()
    return ("--model", model, "--variant", "fp16")


def pickles(root: Path) -> Flags:
    import torch
    from safetensors.torch import load_file

    model = linked(root / "model")
    for file in weights(model):
        torch.save(load_file(file), file.with_name(f"{STEMS.get(file.parent.name, 'pytorch_model')}.bin"))
        file.unlink()
    return ("--model", model)


def shards(root: Path) -> Flags:
    """Every part in two shards, and beside them an older set in three that are broken."""
    from safetensors.torch import load_file, save_file

    model = linked(root / "model")
    for file in weights(model):
        tensors, listed = load_file(file), {}
        for number in (1, 2):
            name = f"{file.stem}-0000{number}-of-00002.safetensors"
            part = dict(list(tensors.items())[number - 1 :: 2])
            save_file(part, file.with_name(name))
            listed |= dict.fromkeys(part, name)
        for number in (1, 2, 3):
            file.with_name(f"{file.stem}-0000{number}-of-00003.safetensors").write_bytes(b"old")
        file.with_name(f"{file.name}.index.json").write_text(json.dumps({"metadata": {}, "weight_map": listed}))
        file.unlink()
    return ("--model", model)


def one_file(root: Path) -> Flags:
    """A model as most are shared: one `.safetensors` file, in the names of SDXL's first code."""
    from safetensors.torch import save_file

    save_file(checkpoints.tensors(DEMO, "sdxl"), root / "model.safetensors")
    return ("--model", root / "model.safetensors", "--ip-adapter", DEMO / "ip_adapter")


# --- adapters ---------------------------------------------------------------------------------------------------------


def h94(root: Path) -> Flags:
    """h94/IP-Adapter as a folder: two families, several adapters each, an image encoder of its own for both."""
    for family in ("models", "sdxl_models"):
        folder = adapter(root / "IP-Adapter" / family)
        for name in ("ip-adapter_sdxl", "ip-adapter_sdxl_vit-h", "ip-adapter-plus_sdxl_vit-h"):
            shutil.copy(folder / "ip-adapter.safetensors", folder / f"{name}.safetensors")
            (folder / f"{name}.bin").write_bytes(b"not read")
        (folder / "ip-adapter.safetensors").unlink()
    chosen = ("--ip-adapter-subfolder", "sdxl_models", "--ip-adapter-weight-name", "ip-adapter_sdxl_vit-h.safetensors")
    return ("--model", bare(root / "model"), "--ip-adapter", root / "IP-Adapter", *chosen)


def comfyui(root: Path) -> Flags:
    """ComfyUI's folders, the image encoder with the configuration that it needs because it is the miniature's."""
    adapter(root / "ipadapter")
    (root / "ipadapter" / "image_encoder").rename(root / "clip vision")
    flags = ("--ip-adapter", root / "ipadapter" / "ip-adapter.safetensors", "--image-encoder", root / "clip vision")
    return ("--model", bare(root / "model"), *flags)


def trained(root: Path) -> Flags:
    """A checkpoint of IP-Adapter's own training, its UNet included."""
    from safetensors.torch import load_file, save_file

    folder = adapter(root / "checkpoint-5000")
    tensors = load_file(folder / "ip-adapter.safetensors")
    renamed = {
        name.replace("image_proj.", "image_proj_model.").replace("ip_adapter.", "adapter_modules."): tensor
        for name, tensor in tensors.items()
    }
    unet = load_file(DEMO / "unet" / "diffusion_pytorch_model.safetensors")
    save_file({**renamed, **{f"unet.{name}": unet[name] for name in list(unet)[:9]}}, folder / "model.safetensors")
    (folder / "ip-adapter.safetensors").unlink()
    return ("--model", bare(root / "model"), "--ip-adapter", folder)


def crowded(root: Path) -> Flags:
    """An adapter, named by its file, among many others."""
    folder = adapter(root / "downloads")
    for number in range(2000):
        (folder / f"{number}.safetensors").touch()
    return ("--model", bare(root / "model"), "--ip-adapter", folder / "ip-adapter.safetensors")


def face(root: Path) -> Flags:
    """h94/IP-Adapter-FaceID as a folder: pickles with the LoRA inside, and the same LoRA beside."""
    folder, unet = root / "IP-Adapter-FaceID", loras.demo_unet()
    for name in ("ip-adapter-faceid_sdxl", "ip-adapter-faceid-portrait_sdxl"):
        faceid.write(folder / f"{name}.bin", unet, lora="portrait" not in name)
    (folder / "ip-adapter-faceid_sdxl_lora.safetensors").write_bytes(b"not read")
    np.save(root / "face.npy", faceid.embedding())
    chosen = ("--ip-adapter", folder, "--ip-adapter-weight-name", "ip-adapter-faceid_sdxl.bin")
    return ("--model", bare(root / "model"), *chosen, "--embeds", root / "face.npy")


def face_of_comfyui(root: Path) -> Flags:
    """ComfyUI's folders, an adapter as `.safetensors`, and embeddings as its node saves them."""
    import torch

    file = faceid.write(root / "ipadapter" / "ip-adapter-faceid_sdxl.safetensors", loras.demo_unet())
    torch.save(torch.from_numpy(faceid.embedding()), root / "face.ipadpt")
    return ("--model", bare(root / "model"), "--ip-adapter", file, "--embeds", root / "face.ipadpt")


# --- what cannot be drawn with --------------------------------------------------------------------------------------


def from_windows(root: Path) -> Flags:
    """A zip made on Windows, unpacked where a backslash is a letter."""
    (root / "model").mkdir()
    for file in (path for path in DEMO.rglob("*") if path.is_file() and path.stat().st_size < SMALL):
        shutil.copyfile(file, root / "model" / str(file.relative_to(DEMO)).replace("/", "\\"))
    return ("--model", root / "model")


def one_part(root: Path) -> Flags:
    return ("--model", linked(root / "model") / "unet")


def flux(root: Path) -> Flags:
    (root / "model" / "transformer").mkdir(parents=True)
    (root / "model" / "model_index.json").write_text('{"_class_name": "FluxPipeline"}')
    return ("--model", root / "model")


def other_variant(root: Path) -> Flags:
    model = linked(root / "model")
    for file in weights(model):
        file.rename(file.with_suffix(".bf16.safetensors"))
    return ("--model", model)


def no_such_variant(root: Path) -> Flags:
    return ("--model", linked(root / "model"), "--variant", "fp17")


DRAWN: tuple[Layout, ...] = (
    *(plain, trailing_slash, home, odd_names, like_a_hub_id, linked_part, linked_parts, hub_snapshot),
    *(beside_everything, forbidden_neighbour, saved_pipeline, fast_tokenizers),
    *(half_alone, half_unet, pickles, shards, one_file, h94, comfyui, trained, crowded),
)
WITH_FACES = (face, face_of_comfyui)  # adapters of their own, which draw something else than the miniature's
WITHOUT_CONFIGURATIONS = (one_file,)
ROUNDED = (half_alone, half_unet)  # their pictures differ from the miniature's a little
REFUSED: dict[Layout, str] = {
    from_windows: "backslashes",
    one_part: "is no diffusers folder",
    flux: 'is a "FluxPipeline"',
    other_variant: "has no weights for",
    no_such_variant: "no weights of variant 'fp17'",
}
