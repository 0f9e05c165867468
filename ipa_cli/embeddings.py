"""Image embeddings read from a file: checked before anything is loaded."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

from . import weights
from .errors import IpaError

if TYPE_CHECKING:
    from .adapters import AdapterPlan

FORMAT = "ipa image embeddings 1"
MAX_BYTES = 1 << 30


@dataclass(frozen=True)
class Embeds:
    """Embeddings read from a file: float32 arrays (images, …), and what was encoded."""

    source: str
    sha256: str
    positive: Any
    negative: Any


def read(name: str, adapter: AdapterPlan) -> Embeds:
    """Read and check embeddings for `adapter`. Raises IpaError when they are broken or were made for another."""
    import numpy as np
    from safetensors import safe_open
    from safetensors.numpy import load

    path = Path(name).expanduser()
    if path.suffix != ".safetensors":
        encoded = f"{path.stem}.safetensors"
        raise IpaError(
            f"{path} is no file of embeddings", f"ipa embed {name} --output {encoded}, then --embeds {encoded}"
        )
    again = f"make them anew: ipa embed cat.png --output {path.name}"
    if not path.is_file():
        raise IpaError(f"there is no file {path}", "`ipa embed` makes one")
    if path.stat().st_size > MAX_BYTES:
        raise IpaError(f"{path} is larger than {MAX_BYTES >> 20} MiB", again)
    shapes = weights.header(path)
    with safe_open(path, framework="np") as file:
        metadata = _said((file.metadata() or {}).get("ipa", "{}"))
    if metadata.get("format") != FORMAT or set(shapes) != {"positive", "negative"}:
        raise IpaError(f"{path} holds no image embeddings of ipa", again)
    made_for, here = metadata.get("file", ""), PurePosixPath(adapter.file).name
    if made_for != here:
        raise IpaError(f"{path} was made for the adapter {made_for}, not for {here}", again)
    shape = shapes["positive"]
    wanted = adapter.encoder_config.get("projection_dim" if len(shape) == 2 else "hidden_size")
    if shape != shapes["negative"] or len(shape) not in (2, 3) or not shape[0] or shape[-1] != wanted:
        raise IpaError(f"{path} has embeddings of shape {shape}, the adapter takes width {wanted}", again)
    data = path.read_bytes()
    tensors = load(data)
    for values in tensors.values():
        if values.dtype != np.float32 or not np.isfinite(values).all():
            raise IpaError(f"{path} has numbers that are not finite, or not float32", again)
    return Embeds(name, hashlib.sha256(data).hexdigest(), tensors["positive"], tensors["negative"])


def _said(text: str) -> dict[str, Any]:
    """What `ipa embed` wrote beside the tensors; nothing where another program wrote it."""
    try:
        said = json.loads(text)
    except (ValueError, RecursionError):
        return {}
    return said if isinstance(said, dict) else {}
