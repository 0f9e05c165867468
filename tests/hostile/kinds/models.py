"""Model folders, adapters, weights and embeddings that somebody else made."""

from __future__ import annotations

import json
import pickle
import struct
from functools import cache
from pathlib import Path
from random import Random
from typing import Any

from tests.hostile.case import CANARY, SMALL, Attack
from tests.hostile.configurations import CONFIGURATIONS, REFUSED
from tests.hostile.mutation import damaged, json_damaged
from tests.zoo.layouts import DEMO, linked

DRAW = ("generate", *SMALL, "--prompt", "a star", "--image", str(DEMO / "reference.png"), "--json")
ADAPTER = "ip_adapter/ip-adapter.safetensors"
WEIGHTS = ("unet/diffusion_pytorch_model.safetensors", "vae/diffusion_pytorch_model.safetensors", ADAPTER)


@cache
def content(name: str) -> bytes:
    return (DEMO / name).read_bytes()


def _replace(path: Path, data: bytes) -> None:
    path.unlink(missing_ok=True)  # the file may be a link to the package's own
    path.write_bytes(data)


def configuration(random: Random) -> Attack:
    """One value of one configuration is another; or one of the list's own cases."""
    if random.random() < 0.3:
        case = random.choice(REFUSED)
        return Attack(case.name, (*DRAW, "--model", "model"), lambda folder: case.do(linked(folder / "model")))
    file = random.choice(CONFIGURATIONS)
    text = json_damaged(content(file).decode(), random)

    def prepare(folder: Path) -> None:
        linked(folder / "model")
        _replace(folder / "model" / file, text.encode("utf-8", "replace"))

    return Attack(f"{file}: {text[:40]}", (*DRAW, "--model", "model"), prepare)


def header(random: Random) -> Attack:
    """The header of a safetensors file says something else, or the file is cut."""
    file = random.choice(WEIGHTS)
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
            _replace(folder / "model" / file, data)

    typed = random.choice(("--model", "--ip-adapter", "--vae", "--embeds", "--image-encoder")) if lone else "--model"
    return Attack(f"header of {file}", (*DRAW, typed, "one.safetensors" if lone else "model"), prepare)


class _Payload:
    """What a pickle may hold: running code when it is opened."""

    def __reduce__(self) -> Any:
        return (exec, (f"import os; open(os.environ['{CANARY}'], 'a').write('ran')",))


def pickled(random: Random) -> Attack:
    """Pickles wherever weights may stand."""
    suffix = random.choice((".bin", ".pt", ".ckpt", ".pth", ".safetensors"))
    value: Any = random.choice((_Payload(), {"image_proj": _Payload()}, {"state_dict": {"a": _Payload()}}))
    data = pickle.dumps(value, protocol=random.choice((0, 2, 4)))
    if random.random() < 0.5:
        import io
        import zipfile

        buffer = io.BytesIO()
        with zipfile.ZipFile(buffer, "w") as archive:
            archive.writestr("archive/data.pkl", data)
            archive.writestr("archive/version", "3\n")
        data = buffer.getvalue()
    flag = random.choice(("--model", "--ip-adapter", "--vae", "--embeds", "--image-encoder", "folder"))

    def prepare(folder: Path) -> None:
        if flag == "folder":
            linked(folder / "model")
            target = folder / "model/unet/diffusion_pytorch_model.safetensors"
            target.unlink()
            target.with_suffix(".bin").write_bytes(data)
        (folder / f"w{suffix}").write_bytes(data)

    typed = ("--model", "model") if flag == "folder" else (flag, f"w{suffix}")
    return Attack(f"pickle as {flag} {suffix}", (*DRAW, *typed), prepare)


KINDS = {"model configurations": configuration, "weights": header, "pickles": pickled}
