"""Image embeddings read from a file: checked before anything is loaded."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

from ipa_cli.errors import IpaError
from ipa_cli.images.decode import SUFFIXES
from ipa_cli.models import broken
from ipa_cli.pipeline import face_embeds
from ipa_cli.system import inputs

if TYPE_CHECKING:
    from ipa_cli.models.ip_adapter.plan import AdapterPlan

FORMAT = "ipa image embeddings 1"
MAX_BYTES = 1 << 30


@dataclass(frozen=True)
class Embeds:
    """Embeddings read from a file: float32 arrays (images, …), and what was encoded.

    `faces` are those of a face recogniser (images, width) beside the others, for FaceID-Plus.
    """

    source: str
    sha256: str
    positive: Any
    negative: Any
    faces: Any = None


def read(name: str, adapter: AdapterPlan, data: bytes | None = None) -> Embeds:
    """Read and check embeddings for `adapter`; `data` is the file, where it is in memory.

    Raises IpaError when they are broken or were made for another.
    """
    import numpy as np
    from safetensors import SafetensorError
    from safetensors.numpy import load

    path = Path(name)
    again = f"make them anew: ipa embed cat.png --output {path.name}"
    data = inputs.read(name, MAX_BYTES, "a file of embeddings") if data is None else data
    if adapter.face is not None:
        return _of_faces(name, path, data, adapter)
    assert adapter.encoder is not None, "only faces are seen without an image encoder"
    try:
        tensors = load(data)
    except (SafetensorError, KeyError) as error:  # KeyError: numbers that numpy has not
        if data.startswith((face_embeds.NPY, *face_embeds.PICKLES)):
            raise IpaError(
                f"{path} is an array or a pickle, which only FaceID adapters take: {adapter.file} is none",
                "name one with --ip-adapter, or make a file for this one: ipa embed cat.png --output cat.safetensors",
            ) from error
        why, _ = broken.safetensors(data, error)
        if path.suffix.lower() in SUFFIXES:
            encoded = f"{path.stem}.safetensors"
            why, again = "it is a picture", f"ipa embed {name} --output {encoded}, then --embeds {encoded}"
        said = "stdin" if name == inputs.STDIN else path
        raise IpaError(f"{said} is no whole file of embeddings: {why}", again) from error
    metadata = _said(data)
    if metadata.get("format") != FORMAT or set(tensors) != {"positive", "negative"}:
        raise IpaError(f"{path} holds no image embeddings of ipa", again)
    made_for, here = metadata.get("file", ""), PurePosixPath(adapter.file).name
    if made_for != here:
        raise IpaError(f"{path} was made for the adapter {made_for}, not for {here}", again)
    shape = tensors["positive"].shape
    wanted = adapter.encoder.config.get("projection_dim" if len(shape) == 2 else "hidden_size")
    if shape != tensors["negative"].shape or len(shape) not in (2, 3) or not shape[0] or shape[-1] != wanted:
        raise IpaError(f"{path} has embeddings of shape {shape}, the adapter takes width {wanted}", again)
    for values in tensors.values():
        if values.dtype != np.float32 or not np.isfinite(values).all():
            raise IpaError(f"{path} has numbers that are not finite, or not float32", again)
    return Embeds(name, hashlib.sha256(data).hexdigest(), tensors["positive"], tensors["negative"])


def _of_faces(name: str, path: Path, data: bytes, adapter: AdapterPlan) -> Embeds:
    import numpy as np

    assert adapter.face is not None
    found = face_embeds.arrays(path, data)
    for array in found.values():
        if not np.isfinite(array).all():
            raise IpaError(f"{path} has numbers that are not finite", "encode the picture anew")
    faces, negative, positive = face_embeds.taken(path, found, adapter.face, _said(data).get("normed"))
    digest = hashlib.sha256(data).hexdigest()
    if positive is None:
        faces = faces[:, None] if adapter.face.sequence else faces
        return Embeds(name, digest, faces, np.zeros_like(faces))
    width = adapter.encoder.config["hidden_size"] if adapter.encoder else positive.shape[-1]
    if positive.shape[-1] != width:
        raise IpaError(
            f"{path} has {face_embeds.STATES} of width {positive.shape[-1]}, the adapter takes {width}",
            "encode the picture anew, with the adapter's image encoder",
        )
    return Embeds(name, digest, positive, negative, faces)


def _said(data: bytes) -> dict[str, Any]:
    """What `ipa embed` wrote beside the tensors of a safetensors file; nothing where another program wrote it."""
    length = int.from_bytes(data[:8], "little")
    try:  # what is no safetensors file says nothing either
        said = json.loads(json.loads(data[8 : 8 + length])["__metadata__"]["ipa"])
    except (ValueError, RecursionError, KeyError):
        return {}
    return said if isinstance(said, dict) else {}
