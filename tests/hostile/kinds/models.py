"""Configurations of models and pickles that somebody else made."""

from __future__ import annotations

import pickle
from pathlib import Path
from random import Random
from typing import Any

from tests.hostile.case import CANARY, DRAW, Attack, replace
from tests.hostile.configurations import CONFIGURATIONS, REFUSED
from tests.hostile.mutation import json_damaged
from tests.zoo.layouts import DEMO, linked


def configuration(random: Random) -> Attack:
    """One value of one configuration is another; or one of the list's own cases."""
    if random.random() < 0.3:
        case = random.choice(REFUSED)
        return Attack(case.name, (*DRAW, "--model", "model"), lambda folder: case.do(linked(folder / "model")))
    file = random.choice(CONFIGURATIONS)
    text = json_damaged((DEMO / file).read_text(), random)

    def prepare(folder: Path) -> None:
        linked(folder / "model")
        replace(folder / "model" / file, text.encode("utf-8", "replace"))

    return Attack(f"{file}: {text[:40]}", (*DRAW, "--model", "model"), prepare)


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


KINDS = {"model configurations": configuration, "pickles": pickled}
