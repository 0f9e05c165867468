"""Files of weights that somebody else made: broken headers, and whole files whose tensors do not belong there."""

from __future__ import annotations

import json
import math
import struct
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from functools import cache
from pathlib import Path
from random import Random
from typing import Any, NamedTuple

from tests import checkpoints
from tests.hostile.case import DRAW, WORDS, Attack, replace
from tests.hostile.mutation import damaged
from tests.zoo.layouts import DEMO, linked

ADAPTER = "ip_adapter/ip-adapter.safetensors"
UNET, VAE = (f"{part}/diffusion_pytorch_model.safetensors" for part in ("unet", "vae"))
ENCODERS = tuple(f"{part}/model.safetensors" for part in ("text_encoder", "text_encoder_2", "ip_adapter/image_encoder"))
BYTES = {
    "BOOL": 1, "U8": 1, "I8": 1, "F8_E4M3": 1, "F8_E5M2": 1, "F8_E8M0": 1, "I16": 2, "U16": 2, "F16": 2, "BF16": 2,
    "I32": 4, "U32": 4, "F32": 4, "I64": 8, "U64": 8, "F64": 8, "C64": 8,
}  # fmt: skip
NUMBERS = (float("nan"), float("inf"), -float("inf"), 65504.0, 6e-8, 0.0, -1.0)


class Stored(NamedTuple):
    """A tensor as a safetensors file holds it."""

    dtype: str
    shape: tuple[int, ...]
    data: bytes


Tensors = dict[str, Stored]


@cache
def content(name: str) -> bytes:
    return (DEMO / name).read_bytes()


@cache
def in_one_file() -> bytes:
    """The miniature as one file."""
    from safetensors.torch import save

    return save(checkpoints.tensors(DEMO, "sdxl"))


@cache
def encoded() -> bytes:
    """Embeddings of two pictures, as `ipa embed` writes them."""
    width = json.loads((DEMO / "ip_adapter/image_encoder/config.json").read_text())["projection_dim"]
    said = {"format": "ipa image embeddings 1", "file": "ip-adapter.safetensors"}
    values = Stored("F32", (2, width), struct.pack(f"<{2 * width}f", *[0.01] * 2 * width))
    return written({"positive": values, "negative": values}, {"ipa": json.dumps(said)})


def read(data: bytes) -> tuple[Tensors, dict[str, str]]:
    """The tensors and the metadata of a whole file."""
    (length,) = struct.unpack("<Q", data[:8])
    said, body = json.loads(data[8 : 8 + length]), data[8 + length :]
    metadata = said.pop("__metadata__", {})
    return {
        name: Stored(one["dtype"], tuple(one["shape"]), body[slice(*one["data_offsets"])]) for name, one in said.items()
    }, metadata


def written(tensors: Tensors, metadata: dict[str, str]) -> bytes:
    """A whole file of these tensors."""
    header: dict[str, Any] = {"__metadata__": metadata} if metadata else {}
    at = 0
    for name, one in tensors.items():
        header[name] = {"dtype": one.dtype, "shape": one.shape, "data_offsets": [at, at + len(one.data)]}
        at += len(one.data)
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    return struct.pack("<Q", len(text)) + text + b"".join(one.data for one in tensors.values())


def filled(dtype: str, shape: tuple[int, ...], data: bytes) -> Stored:
    """A tensor of this kind and shape, its bytes repeated or cut."""
    size = math.prod(shape) * BYTES[dtype]
    return Stored(dtype, shape, (data * (size // max(len(data), 1) + 1))[:size] if data else bytes(size))


# --- what is done to the tensors of a whole file ---------------------------------------------------------------------


def other_dtype(tensors: Tensors, name: str, random: Random) -> None:
    """Its bytes are numbers of another kind: any bits, so not-a-numbers and infinities too."""
    tensors[name] = filled(random.choice(list(BYTES)), tensors[name].shape, tensors[name].data)


def other_shape(tensors: Tensors, name: str, random: Random) -> None:
    """Transposed, flat, with more or fewer dimensions, one longer, half as long, or empty."""
    dtype, shape, data = tensors[name]
    first, rest = shape[:1], shape[1:]
    longer, half = (tuple(change(side) for side in first) + rest for change in (lambda n: n + 1, lambda n: n // 2))
    shapes = (shape[::-1], (math.prod(shape),), (1, *shape), rest, longer, half, (0, *rest), (), (*shape, 1, 1, 1))
    tensors[name] = filled(dtype, random.choice(shapes), data)


def other_numbers(tensors: Tensors, name: str, random: Random) -> None:
    """All of its numbers, or the first, are one that spoils every sum; or its bits are random."""
    dtype, shape, data = tensors[name]
    kind = {"F16": "<e", "F32": "<f", "F64": "<d"}.get(dtype)
    if kind is None or random.random() < 0.2:
        tensors[name] = Stored(dtype, shape, random.randbytes(len(data)))
        return
    one = struct.pack(kind, random.choice(NUMBERS))
    whole = random.random() < 0.5
    tensors[name] = Stored(
        dtype, shape, one * (len(data) // len(one)) if whole else one[: len(data)] + data[len(one) :]
    )


def gone(tensors: Tensors, name: str, random: Random) -> None:
    del tensors[name]


def renamed(tensors: Tensors, name: str, random: Random) -> None:
    """Known by another name, such as a module's attribute or what a path would be."""
    names = ("", "../x", f"{name}.__class__", f".{name}", f"{name}.0", name.upper(), "weight", "x" * 5000, "ü\ud800")
    tensors[random.choice(names)] = tensors.pop(name)


def exchanged(tensors: Tensors, name: str, random: Random) -> None:
    """In the place of another."""
    other = random.choice(list(tensors))
    tensors[name], tensors[other] = tensors[other], tensors[name]


def crowded(tensors: Tensors, name: str, random: Random) -> None:
    """Among thousands that nothing asks for."""
    tensors |= {f"{name}.{number}": Stored("F16", (1,), b"\0\0") for number in range(random.choice((100, 20_000)))}


CHANGES: tuple[Callable[[Tensors, str, Random], None], ...] = (
    *(other_dtype, other_shape, other_numbers, other_numbers, gone, renamed, exchanged, crowded),
)


def tensors(random: Random) -> Attack:
    """A whole file with a few tensors that do not belong there, in every place that takes weights."""
    place = random.choice((UNET, VAE, ADAPTER, *ENCODERS, "--vae", "--ip-adapter", "--embeds", "one file"))
    lone = {"--vae": VAE, "--ip-adapter": ADAPTER}
    match place:
        case "one file":
            data = in_one_file()
        case "--embeds":
            data = encoded()
        case _:
            data = content(lone.get(place, place))
    found, metadata = read(data)
    done = []
    for _ in range(random.choice((1, 1, 2, 5))):
        if found:
            change, name = random.choice(CHANGES), random.choice(list(found))
            change(found, name, random)
            done.append(f"{name[:40]} {change.__name__}")
    data = written(found, metadata)

    def prepare(folder: Path) -> None:
        if place in (*lone, "--embeds", "one file"):
            name = "ip-adapter.safetensors" if place == "--ip-adapter" else "one.safetensors"
            (folder / name).write_bytes(data)
        else:
            linked(folder / "model")
            replace(folder / "model" / place, data)

    def configured(folder: Path) -> AbstractContextManager[None]:
        return checkpoints.presets(folder / "presets", "sdxl", DEMO) if place == "one file" else nullcontext()

    encoder = ("--image-encoder", str(DEMO / "ip_adapter/image_encoder"))
    typed = {
        "--vae": ("--vae", "one.safetensors"),
        "--ip-adapter": ("--ip-adapter", "ip-adapter.safetensors", *encoder),
        "--embeds": ("--embeds", "one.safetensors"),
        "one file": ("--model", "one.safetensors", "--ip-adapter", str(DEMO / "ip_adapter")),
    }.get(place, ("--model", "model"))
    draw = WORDS if place == "--embeds" else DRAW
    return Attack(f"{place}: {'; '.join(done)}", (*draw, *typed), prepare, within=configured)


def header(random: Random) -> Attack:
    """The header of a safetensors file says something else, or the file is cut."""
    file = random.choice((UNET, VAE, ADAPTER))
    whole = content(file)
    (length,) = struct.unpack("<Q", whole[:8])
    said = json.loads(whole[8 : 8 + length])
    if random.random() < 0.5:
        name = random.choice([key for key in said if key != "__metadata__"])
        field: Any = random.choice(("dtype", "shape", "data_offsets"))
        said[name][field] = random.choice(
            ("F64", "F128", [], [1], [2**62, 2**62], [-1], [0, 2**63], [5, 1], None, {}, "x" * 1000)
        )
        text = json.dumps(said).encode()
        data = (
            struct.pack("<Q", random.choice((len(text), len(text), 2**63, 0, len(text) - 1)))
            + text
            + whole[8 + length :]
        )
    else:
        data = damaged(whole[: 8 + length], random) + whole[8 + length : random.choice((None, -1, 8 + length + 100))]
    lone = random.random() < 0.3

    def prepare(folder: Path) -> None:
        if lone:
            (folder / "one.safetensors").write_bytes(data)
        else:
            linked(folder / "model")
            replace(folder / "model" / file, data)

    typed = random.choice(("--model", "--ip-adapter", "--vae", "--embeds", "--image-encoder")) if lone else "--model"
    return Attack(f"header of {file}", (*DRAW, typed, "one.safetensors" if lone else "model"), prepare)


KINDS = {"headers": header, "tensors": tensors}
