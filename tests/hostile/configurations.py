"""Hostile files of a model: what to do to a good model's folder, one change each. The list is made to grow.

`REFUSED` must end in one line, before anything large is read or allocated; `DROPPED` must draw as if it were not there.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

HUGE = 10**9
UNET, VAE, TEXT, TEXT_2 = (f"{part}/config.json" for part in ("unet", "vae", "text_encoder", "text_encoder_2"))
VISION = "ip_adapter/image_encoder/config.json"
SCHEDULER, INDEX = "scheduler/scheduler_config.json", "model_index.json"
WEIGHTS = "unet/diffusion_pytorch_model.safetensors"
TEXT_WEIGHTS, VISION_WEIGHTS = (f"{part}/model.safetensors" for part in ("text_encoder", "ip_adapter/image_encoder"))
ADAPTER = "ip_adapter/ip-adapter.safetensors"
CONFIGURATIONS = (UNET, VAE, TEXT, TEXT_2, VISION, SCHEDULER, INDEX)


@dataclass(frozen=True)
class Case:
    """A name for people, and what is done to the folder of a good model."""

    name: str
    do: Callable[[Path], object]


def says(file: str, **fields: Any) -> Case:
    """A JSON file that says something else."""

    def do(folder: Path) -> None:
        path = folder / file
        path.write_text(json.dumps({**json.loads(path.read_text()), **fields}))

    return Case(f"{file}: {json.dumps(fields)[:60]}", do)


def silent(file: str, key: str) -> Case:
    """A JSON file that does not say something."""

    def do(folder: Path) -> None:
        path = folder / file
        path.write_text(json.dumps({k: v for k, v in json.loads(path.read_text()).items() if k != key}))

    return Case(f"{file} without {key}", do)


def holds(file: str, content: bytes, name: str = "") -> Case:
    """A file with this content."""
    return Case(f"{file} = {name or content[:30]!r}", lambda folder: (folder / file).write_bytes(content))


def becomes(file: str, kind: str) -> Case:
    """Another kind of thing in place of a file."""

    def do(folder: Path) -> None:
        path = folder / file
        path.unlink()
        if kind == "pipe":
            os.mkfifo(path)
        elif kind == "folder":
            path.mkdir()
        elif kind == "loop":
            path.symlink_to(path.name)
        elif kind.startswith("/"):
            path.symlink_to(kind)
        else:
            assert kind == "nothing"

    return Case(f"{file} is {kind}", do)


def tensors(file: str, change: Callable[[dict[str, Any]], object], name: str) -> Case:
    """Weights with other tensors."""

    def do(folder: Path) -> None:
        from safetensors.numpy import load_file, save_file

        found = load_file(folder / file)
        change(found)
        (folder / file).unlink()
        save_file(found, folder / file)

    return Case(f"{file}: {name}", do)


def cast(kind: str) -> Callable[[dict[str, Any]], object]:
    """Makes numbers of another kind of every tensor."""
    return lambda found: found.update({name: tensor.astype(kind) for name, tensor in found.items()})


def vocabulary(change: Callable[[dict[str, Any]], object], name: str) -> Case:
    """Another vocabulary."""

    def do(folder: Path) -> None:
        path = folder / "tokenizer" / "vocab.json"
        ids = json.loads(path.read_text())
        change(ids)
        path.write_text(json.dumps(ids))

    return Case(f"vocab.json: {name}", do)


def _wrong(file: str, fields: Mapping[str, tuple[Any, ...]]) -> list[Case]:
    return [says(file, **{key: value}) for key, values in fields.items() for value in values]


_ODD = (HUGE, 10**400, -1, 0, 1.5, "64", None, True, [], {}, float("nan"), float("inf"))
_DEEP = b'{"a":' * 100_000 + b"1" + b"}" * 100_000
_LISTS = b'{"block_out_channels":' + b"[" * 900 + b"]" * 900 + b"}"


def _zeros(*shape: int) -> Any:
    import numpy as np

    return np.zeros(shape, np.float32)


REFUSED: tuple[Case, ...] = (
    # --- not JSON, or not an object
    *(holds(file, _DEEP, "deep objects") for file in CONFIGURATIONS),
    *(holds(file, b"[" * 100_000, "deep lists") for file in CONFIGURATIONS),
    *(
        holds(file, content)
        for file in (UNET, VISION)
        for content in (b"", b"[]", b"7", b"\xff\xfe", b"{", b'{"a":1}{')
    ),
    holds(UNET, b'{"a": "' + b"x" * (1 << 21) + b'"}', "two megabytes"),
    holds(UNET, b'{"in_channels": ' + b"9" * 5000 + b"}", "a number of 5000 digits"),
    holds(UNET, _LISTS, "lists 900 deep"),
    # --- no files at all
    *(
        becomes(file, kind)
        for file in (UNET, TEXT, VISION)
        for kind in ("pipe", "folder", "loop", "/dev/zero", "nothing")
    ),
    *(becomes(SCHEDULER, kind) for kind in ("pipe", "/dev/full")),
    *(becomes(f"tokenizer/{name}", kind) for name in ("vocab.json", "merges.txt") for kind in ("pipe", "/dev/zero")),
    *(becomes(WEIGHTS, kind) for kind in ("pipe", "folder", "loop", "/dev/zero", "nothing")),
    # --- the UNet
    *_wrong(UNET, dict.fromkeys(("in_channels", "cross_attention_dim", "layers_per_block"), _ODD)),
    *_wrong(UNET, {"block_out_channels": (*_ODD, [HUGE] * 3, [64, 80], [64, 80, "96"], [64, 80, 97], [64] * 100_000)}),
    *_wrong(
        UNET, {"down_block_types": (7, [], ["os.system"] * 3, ["DownBlock2D"] * 2, "DownBlock2D", [["DownBlock2D"]])}
    ),
    *_wrong(UNET, {"up_block_types": (None, ["UpBlock2D"] * 2, ["CrossAttnUpBlock2D"] * 3 + ["__class__"])}),
    *_wrong(UNET, {"transformer_layers_per_block": (HUGE, [1, 1], [[[1]]] * 3, "1", [64, 64, [64] * 16])}),
    *_wrong(UNET, {"attention_head_dim": (0, 7, [4, 5], [4, 5, 7], HUGE), "norm_num_groups": (0, 7, None, HUGE)}),
    *_wrong(UNET, {"sample_size": (HUGE, "32", -8, [32, 32]), "norm_eps": (0, -1, float("nan"), "1e-5")}),
    *_wrong(UNET, {"act_fn": ("os.system", 7), "mid_block_type": ("UNetMidBlock2DSimpleCrossAttn", 7)}),
    *_wrong(UNET, {"num_attention_heads": (2, [4, 5, 6], HUGE)}),
    *_wrong(UNET, {"time_cond_proj_dim": (256,), "attention_type": ("gated",), "conv_in_kernel": (HUGE, 5)}),
    *_wrong(UNET, {"encoder_hid_dim": (4096,), "dual_cross_attention": (True,), "time_embedding_dim": (HUGE,)}),
    *_wrong(UNET, {"addition_time_embed_dim": (None, HUGE, 31), "projection_class_embeddings_input_dim": (None, 2816)}),
    *_wrong(UNET, {"_class_name": ("FluxTransformer2DModel", "DiffusionPipeline", 7, None, ["UNet2DConditionModel"])}),
    *(silent(UNET, key) for key in ("block_out_channels", "down_block_types", "up_block_types", "cross_attention_dim")),
    says(UNET, quantization_config={"quant_method": "bitsandbytes"}),
    # --- the VAE
    *_wrong(VAE, {"latent_channels": (16, HUGE, "4"), "block_out_channels": ([16, 32, 64], [HUGE] * 4, None)}),
    *_wrong(VAE, {"scaling_factor": (0, float("nan"), "1", HUGE), "shift_factor": (0.1,), "in_channels": (4,)}),
    *_wrong(VAE, {"_class_name": ("AutoencoderTiny", "AsymmetricAutoencoderKL", 7), "down_block_types": (["x"] * 4,)}),
    silent(VAE, "up_block_types"),
    # --- text and image encoders
    *_wrong(TEXT, {"hidden_size": (HUGE, 0, "64", 63, None), "num_hidden_layers": (HUGE, 0, -1, 2.0)}),
    *_wrong(
        TEXT, {"vocab_size": (HUGE, 10, "755"), "max_position_embeddings": (HUGE, 1, 78), "num_attention_heads": (7,)}
    ),
    *_wrong(TEXT, {"hidden_act": ("os.system", {"a": 1}), "model_type": ("t5", 7), "layer_norm_eps": (float("nan"),)}),
    *_wrong(TEXT, {"eos_token_id": (None,)}),
    *_wrong(
        TEXT_2, {"projection_dim": (HUGE, 64), "eos_token_id": ([1], -1, HUGE), "text_config": ({"hidden_size": 7},)}
    ),
    says(TEXT, quantization_config={"quant_method": "awq"}),
    *_wrong(VISION, {"hidden_size": (HUGE, None), "projection_dim": (64, "128"), "num_channels": (1, HUGE)}),
    *_wrong(
        VISION, {"image_size": (HUGE, 0, "128"), "patch_size": (0, 256, 1), "model_type": ("siglip_vision_model",)}
    ),
    silent(VISION, "num_attention_heads"),
    # --- the scheduler
    *_wrong(
        SCHEDULER, {"_class_name": ("DiffusionPipeline", "FlowMatchEulerDiscreteScheduler", "__doc__", "", 7, [], None)}
    ),
    *_wrong(SCHEDULER, {"num_train_timesteps": (HUGE, 0, "1000"), "beta_start": (float("nan"), -1, "0", None)}),
    *_wrong(SCHEDULER, {"beta_schedule": ("os.system", 7), "prediction_type": ("flow_prediction", 7)}),
    *_wrong(
        SCHEDULER, {"trained_betas": ([0.1], [0.1] * 50_000, "x"), "use_beta_sigmas": (True,), "steps_offset": (HUGE,)}
    ),
    says(SCHEDULER, use_karras_sigmas=True, use_exponential_sigmas=True),
    says(SCHEDULER, _class_name="DPMSolverMultistepScheduler", algorithm_type="dpmsolver", final_sigmas_type="zero"),
    # --- the tokenizer
    vocabulary(lambda ids: ids.update(a="1"), "a word for a number"),
    vocabulary(lambda ids: ids.update(a=-1), "a negative number"),
    vocabulary(lambda ids: ids.update(a=HUGE), "a number beyond the text encoder"),
    vocabulary(lambda ids: ids.update(a=True), "true for a number"),
    vocabulary(lambda ids: ids.update({"\ud800": 1}), "half a character"),
    vocabulary(lambda ids: ids.clear(), "nothing"),
    vocabulary(lambda ids: ids.pop("<|endoftext|>"), "no end of text"),
    holds("tokenizer/vocab.json", b"[]"),
    holds("tokenizer/vocab.json", _DEEP, "deep objects"),
    holds("tokenizer/merges.txt", b"#version: 0.2\nnowhere tobefound\n"),
    holds("tokenizer/merges.txt", b"#version: 0.2\na b c\n"),
    holds("tokenizer/merges.txt", b"\xff\xfe\x00"),
    becomes("tokenizer/merges.txt", "nothing"),
    says("tokenizer/special_tokens_map.json", pad_token="<|nowhere|>"),
    says("tokenizer/special_tokens_map.json", eos_token={"content": "\ud800"}),
    holds("tokenizer/added_tokens.json", b'{"<cat>": 1000000000}'),
    holds("tokenizer/added_tokens.json", b'{"<cat>": "755"}'),
    holds("tokenizer/added_tokens.json", b'{"<cat>": 755}'),  # its text encoder ends before
    holds("tokenizer/added_tokens.json", _DEEP, "deep objects"),
    # --- weights of another shape
    tensors(WEIGHTS, lambda found: found.update({"conv_in.weight": _zeros(64, 9, 3, 3)}), "another shape"),
    tensors(WEIGHTS, lambda found: found.update({"conv_in.bias": _zeros()}), "a number for a list"),
    tensors(WEIGHTS, lambda found: found.pop("conv_out.bias"), "one is missing"),
    *(
        tensors(file, cast(kind), f"all {kind}")
        for file in (WEIGHTS, TEXT_WEIGHTS, VISION_WEIGHTS, ADAPTER)
        for kind in ("int32", "bool")
    ),
    tensors(WEIGHTS, lambda found: found.clear() or found.update(x=_zeros(1)), "none that is wanted"),
    says(VAE, block_out_channels=[16, 32, 64, 128]),
    says(TEXT, intermediate_size=128),
    says(VISION, num_hidden_layers=5),
)

_CODE: dict[str, Any] = {
    "attn_implementation": "evil/kernels",
    "_attn_implementation": "evil/kernels",
    "_attn_implementation_internal": "evil/kernels",
    "experts_implementation": "evil/kernels",
    "auto_map": {"AutoModel": "evil/code--model.Model"},
    "trust_remote_code": True,
    "torch_dtype": "float64",
    "dtype": "os.system",
    "use_pretrained_backbone": True,
    "backbone": "evil/backbone",
    "_commit_hash": "../..",
    "_name_or_path": "/etc",
    "custom_pipelines": {"x": "evil/code"},
    "gradient_checkpointing": True,
    "id2label": {"0": "x"},
    "num_labels": HUGE,
    "architectures": ["os.system"],
    "transformers_weights": "../../model.safetensors",
}
DROPPED: tuple[Case, ...] = (
    *(says(file, **_CODE) for file in (UNET, VAE, TEXT, TEXT_2, VISION, SCHEDULER)),
    says(INDEX, _class_name="os.system", unet=["evil", "Model"], custom={"a": HUGE}, scheduler=None),
    says(
        "tokenizer/tokenizer_config.json", auto_map={"AutoTokenizer": ["evil/code--t.T", None]}, model_max_length=HUGE
    ),
    says("tokenizer/tokenizer_config.json", tokenizer_class="os.system", chat_template="{{ 7 * 7 }}", add_bos_token=7),
    holds("tokenizer/tokenizer.json", _DEEP, "deep objects"),
    holds("ip_adapter/image_encoder/preprocessor_config.json", _DEEP, "deep objects"),
    holds("scheduler/extra.json", _DEEP, "deep objects"),
    Case("a pipe beside the weights", lambda folder: os.mkfifo(folder / "unet" / "pipe.safetensors")),
    Case("no model's own reference", lambda folder: shutil.rmtree(folder / "feature_extractor", ignore_errors=True)),
)
