"""A LoRA file: read whole, and checked against the model before anything is changed."""

from __future__ import annotations

import hashlib
import json
import math
import re
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ipa_cli.config.checks import short
from ipa_cli.models import kinds, weights
from ipa_cli.models.location import ModelError, folder_location, read_json
from ipa_cli.models.lora import family, names
from ipa_cli.models.lora.change import KINDS, Change, fits, rank
from ipa_cli.models.lora.targets import UNET, Targets
from ipa_cli.system import inputs

if TYPE_CHECKING:
    from torch import Tensor

MOST_BYTES = 4 << 30
OTHER_FILE = "use another file, or another copy of it"
PEFT_STEM, PEFT_CONFIG = "adapter_model", "adapter_config.json"  # a file of PEFT, and what lies beside it
PEFT_METADATA = "lora_adapter_metadata"  # where diffusers writes the same

# The ends of names, and which tensor of a change they mark; the first that fits counts.
_DOWN_UP = (
    *((f".lora.{part}.weight", part) for part in ("down", "up")),
    *((f".lora_linear_layer.{part}.weight", part) for part in ("down", "up")),
    *((f".lora_{part}.weight", part) for part in ("down", "up", "mid")),
    (".lora_A.weight", "down"),
    (".lora_B.weight", "up"),
    *((f".{part}.weight", part) for part in ("down", "up")),  # of attention processors, "….processor.to_q_lora"
)
_ENDS: tuple[tuple[str, str], ...] = (
    *_DOWN_UP,
    *((f".{name}", name) for kind in ("LoHa", "LoKr") for name in sorted(set().union(*KINDS[kind]))),
    (".alpha", "alpha"),
    (".dora_scale", "magnitude"),
    (".lora_magnitude_vector", "magnitude"),
    (".lora_magnitude_vector.weight", "magnitude"),
)
# Changes of other kinds, which cannot be left out without drawing something else.
_REFUSED = (
    (r"\.(diff|diff_b|set_weight)$", "whole weights or biases"),
    (r"\.(a1|a2|b1|b2|bm1|bm2)\.weight$", "GLoRA"),
    (r"\.oft_(blocks|diag|R)", "OFT"),
    (r"\.(w_norm|b_norm)$", "norms"),
    (r"\.(on_input)$|\.ia3_", "IA3"),
    (r"\.lora_(up|B)\.bias$|\.lora_bias$", "biases"),
    (r"\.(scale_weight|scale_input|weight_scale)$", "weights by scaled fp8 numbers"),
)


@dataclass(frozen=True)
class LoraFile:
    """What a file adds to a model: `changes` by part ("unet", "text_encoder", …) and module.

    `unused` are tensors that belong to no weight of a model, such as embeddings; `data_sha256` is the digest that
    A1111's web UI knows it by, of a `.safetensors` file without its header.
    """

    name: str
    sha256: str
    data_sha256: str = field(compare=False)
    changes: Mapping[str, Mapping[str, Change]] = field(compare=False, repr=False)
    unused: tuple[str, ...] = field(default=(), compare=False)
    trigger: str = field(default="", compare=False)  # words of a prompt that it was trained with, as its metadata says


def read(path: Path, targets: Targets, architecture: str) -> LoraFile:
    """Read a LoRA for a model of this architecture with these targets.

    Raises ModelError for one that was made for other models, of an unknown kind, or with matrices that do not fit,
    WeightsError for a broken file, IpaError where it cannot be read.
    """
    beside = path.with_name(PEFT_CONFIG)
    stamps = weights.stamp(path), weights.stamp(beside) if path.stem == PEFT_STEM else None
    return _read(path, stamps, targets, architecture)


@lru_cache(maxsize=4)
def _read(path: Path, stamps: tuple[object, object], targets: Targets, architecture: str) -> LoraFile:
    if weights.is_safetensors(path):  # a whole model takes long to read
        _check_kind(path, weights.header(path))
    data = inputs.read_bytes(path, MOST_BYTES, "a LoRA")
    header = 0 if weights.is_pickle(path) else 8 + int.from_bytes(data[:8], "little")
    with ThreadPoolExecutor(2) as pool:  # meanwhile: hashing 200 MB takes as long as all else
        digests = [pool.submit(hashlib.sha256, part) for part in (data, memoryview(data)[header:])]
        tensors, metadata = weights.of_bytes(path, data)
        tensors = {name.removeprefix("state_dict."): tensor for name, tensor in tensors.items()}  # of a checkpoint
        if stamps[1] is not None:  # PEFT's configuration, which is beside its files
            said = read_json(folder_location(path.parent), PEFT_CONFIG)
            metadata = {**metadata, PEFT_METADATA: json.dumps(said)}
        changes, unused = changes_of(path, tensors, metadata, targets, architecture)
        whole, body = (digest.result().hexdigest() for digest in digests)
    return LoraFile(path.stem, whole, body, changes, unused, short(metadata.get("modelspec.trigger_phrase", "")))


def changes_of(
    path: Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, str], targets: Targets, architecture: str
) -> tuple[dict[str, dict[str, Change]], tuple[str, ...]]:
    """What a file's tensors change by part and module, and the names of those that change nothing."""
    _check_kind(path, tensors)
    parsed, unused = _sorted(path, tensors, metadata, targets, architecture)
    scales = _of_peft(metadata)
    changes: dict[str, dict[str, Change]] = {}
    for (part, module), found in parsed.items():
        change = _change(path, f"{part}.{module}", found, scales.get(part, {}), targets.shapes[part, module])
        changes.setdefault(part, {})[module] = change
    if not changes:
        what = "it has no lora_down and lora_up, lora_A and lora_B, or the like"
        raise ModelError(f"{path} holds no LoRA: {what}", OTHER_FILE)
    return changes, unused


def _check_kind(path: Path, tensors: Iterable[str]) -> None:
    """Raise ModelError for a file that holds something else than a LoRA, if that is known."""
    if (kind := kinds.kind_of(tensors)) not in (None, kinds.LORA):
        raise ModelError(f"{path} holds no LoRA: it is {kind.words}", kind.advice("name a LoRA with --lora"))


def _sorted(
    path: Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, str], targets: Targets, architecture: str
) -> tuple[dict[tuple[str, str], dict[str, Tensor]], tuple[str, ...]]:
    """The tensors of a file by the weight they change, and the names of those that change none."""
    found: dict[tuple[str, str], dict[str, Tensor]] = {}
    unused, unknown = [], []
    for name, tensor in tensors.items():
        if kind := next((kind for pattern, kind in _REFUSED if re.search(pattern, name)), None):
            raise ModelError(f"{path} changes {kind}, which is not supported: {name[:120]}", OTHER_FILE)
        plain = names.without_adapter(name)
        end = next(((end, part) for end, part in _ENDS if plain.endswith(end)), None)
        if end is None:
            unused.append(name)
            continue
        target = targets.named.get(names.usual(plain.removesuffix(end[0])))
        if target is None:
            unknown.append(name)
        elif end[1] in found.setdefault(target, {}):
            raise ModelError(f"{path} has {end[1]} of {'.'.join(target)} twice, by two names", OTHER_FILE)
        else:
            found[target][end[1]] = tensor
    made_for = family.of({name: tuple(tensor.shape) for name, tensor in tensors.items()}, metadata)
    misfit = unknown or any(_misfit(parts, targets.shapes[target]) for target, parts in found.items())
    if misfit and made_for not in (None, architecture):
        raise ModelError(
            f"{path} is a LoRA for {made_for}, and the model is {architecture}", f"use one for {architecture}"
        )
    if unknown:
        more = f" and {len(unknown) - 1} more" if len(unknown) > 1 else ""
        raise ModelError(
            f"{path} changes what this model has not: {unknown[0][:120]}{more}", f"use a LoRA for {architecture}"
        )
    return found, tuple(unused)


def _misfit(parts: Mapping[str, Tensor], shape: tuple[int, ...]) -> bool:
    """Whether the two matrices of a LoRA have other sizes than the weight."""
    down, up = parts.get("down"), parts.get("up")
    if down is None or up is None or down.ndim < 2 or up.ndim < 2:
        return False
    return (up.shape[0], down.shape[1]) != shape[:2]


def _change(
    path: Path, module: str, found: dict[str, Tensor], of_peft: Mapping[str, Any], shape: tuple[int, ...]
) -> Change:
    """The change of one weight. Raises ModelError for one that is not whole, not finite or does not fit."""
    alpha, magnitude = found.pop("alpha", None), found.pop("magnitude", None)
    names_found = found.keys()
    kind = next(
        (kind for kind, (needed, more) in KINDS.items() if needed <= names_found <= needed | more and found), None
    )
    if kind is None:
        raise ModelError(
            f"{path} is not whole: of {module} it has {', '.join(sorted(names_found)) or 'no matrices'}", OTHER_FILE
        )
    tensors = [*found.values(), *(one for one in (alpha, magnitude) if one is not None)]
    for tensor in tensors:
        if not (tensor.is_floating_point() or tensor is alpha):
            raise ModelError(f"{path}: {module} holds {str(tensor.dtype)[6:]}, not floating-point numbers", OTHER_FILE)
        if not tensor.numel():
            raise ModelError(f"{path} is empty: {module} has rank 0", OTHER_FILE)
        if not _is_finite(tensor):
            raise ModelError(f"{path} is broken: {module} has NaN or infinity in it", OTHER_FILE)
    if alpha is not None and alpha.numel() != 1:
        raise ModelError(f"{path}: alpha of {module} is not one number", OTHER_FILE)
    if magnitude is not None and magnitude.numel() not in shape[:2]:
        raise ModelError(f"{path} does not fit: {magnitude.numel()} magnitudes of {module}, {shape}", OTHER_FILE)
    shapes = tuple((name, tuple(tensor.shape)) for name, tensor in found.items())
    if not fits(kind, shapes, shape):
        said = ", ".join(f"{name} {one}" for name, one in shapes)
        raise ModelError(f"{path} does not fit: {module} is {shape}, its {kind} has {said}", OTHER_FILE)
    scale = _scale(None if alpha is None else float(alpha), rank(kind, found), module.partition(".")[2], of_peft)
    return Change(kind, found, scale, magnitude)


def _is_finite(tensor: Tensor) -> bool:
    """Whether no number is NaN or infinite: either shows as the smallest or largest, which is found fast."""
    import torch

    ends = torch.aminmax(tensor if tensor.dtype.itemsize > 1 else tensor.float())
    return math.isfinite(ends.min) and math.isfinite(ends.max)


def _scale(alpha: float | None, rank: int | None, module: str, of_peft: Mapping[str, Any]) -> float:
    """What multiplies the product of the matrices: alpha divided by the rank; 1 where no alpha is said."""
    if rank is None:  # LyCORIS ignores the alpha of whole matrices, PEFT does not
        rank = of_peft.get("r")
    if alpha is None and of_peft:
        own = of_peft.get("alpha_pattern") or {}
        patterns = (value for key, value in own.items() if f".{module}".endswith(f".{key.lstrip('^')}"))
        alpha = next(patterns, of_peft.get("lora_alpha", of_peft.get("alpha")))
    if alpha is None or rank is None:
        return 1.0
    return alpha / (math.sqrt(rank) if of_peft.get("use_rslora") else rank)


def _of_peft(metadata: Mapping[str, str]) -> dict[str, dict[str, Any]]:
    """The fields of PEFT's `LoraConfig` by part, as diffusers writes them since 0.34; nothing of what is no such."""
    try:
        said = json.loads(metadata.get(PEFT_METADATA, "{}"))
    except (ValueError, RecursionError):
        return {}
    found: dict[str, dict[str, Any]] = {}
    for key, value in said.items() if isinstance(said, dict) else ():
        part, _, name = key.rpartition(".")
        if name in _PEFT and _PEFT[name](value):
            found.setdefault(part or UNET, {})[name] = value
    return found


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and math.isfinite(value)


_PEFT: Mapping[str, Callable[[Any], bool]] = {
    **dict.fromkeys(("lora_alpha", "alpha"), _is_number),  # "alpha" is that of LoHa and LoKr
    "r": lambda value: isinstance(value, int) and value > 0,
    "alpha_pattern": lambda value: isinstance(value, dict) and all(map(_is_number, value.values())),
    "use_rslora": lambda value: isinstance(value, bool),
}
