"""Embeddings of faces read from a file: of `ipa embed`, or as diffusers, ComfyUI and InsightFace have them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ipa_cli.errors import IpaError
from ipa_cli.models import weights

if TYPE_CHECKING:
    from ipa_cli.models.ip_adapter.face import FaceInput

# A file's names for embeddings of faces, and for hidden states of an image encoder, the negative half first.
FACES, STATES = "id_embeds", "clip_embeds"
MOST_NORMED = 2.0  # InsightFace's embeddings have lengths of 10 and more before they are normed
# What files begin with: numpy's, and torch's as a zip or bare. Names tell nothing: ".ipadpt" is a pickle of torch.
NPY, PICKLES = b"\x93NUMPY", (b"PK\x03\x04", b"\x80\x02")
HEADER = 8  # bytes before the JSON of a safetensors file: its length, which may look like the beginning of a pickle


def arrays(path: Path, data: bytes) -> dict[str, Any]:
    """The arrays in a safetensors or npy file, or in a pickle of a tensor, float32 by name; one alone is `FACES`.

    Raises IpaError for a file that is broken, or holds anything else.
    """
    if data.startswith(NPY):
        return {FACES: _npy(path, data)}
    if data.startswith(PICKLES) and data[HEADER : HEADER + 1] != b"{":
        return {FACES: weights.pickled_tensor(path, data).float().numpy()}
    try:
        tensors, _ = weights.of_bytes(path.with_suffix(".safetensors"), data)
    except weights.WeightsError as error:
        raise IpaError(
            f"{path} is no whole file of embeddings: neither safetensors, npy nor a pickle of torch",
            "save a face's embedding with numpy.save, or give the face's picture with --image",
        ) from error
    found = {name: tensor.float().numpy() for name, tensor in tensors.items()}
    return {FACES: next(iter(found.values()))} if len(found) == 1 else found


def taken(path: Path, found: Mapping[str, Any], face: FaceInput, normed: bool | None) -> tuple[Any, Any, Any]:
    """The embeddings of faces (faces, width), and the negative and the positive half of their pictures' states.

    `normed` says what they are, None where nothing does. The halves are None for an adapter that takes no pictures.
    Raises IpaError for arrays of other shapes, and for embeddings that are not of the adapter's kind.
    """
    if FACES not in found or (face.picture and STATES not in found):
        what = "a face" if not face.picture or FACES not in found else "the face's picture"
        raise IpaError(f"{path} holds no embedding of {what}: {', '.join(sorted(found))[:120]}", _hint(face))
    faces = _normed(path, _faces(path, found[FACES], face.width), face, normed)
    if not face.picture:
        return faces, None, None
    states = found[STATES]
    if states.ndim != 4 or states.shape[:2] != (2, len(faces)):
        raise IpaError(
            f"{path} has {STATES} of shape {states.shape} for {len(faces)} faces",
            "as diffusers' prepare_ip_adapter_image_embeds gives them: (2, faces, sequence, width)",
        )
    return faces, states[0], states[1]


def in_its_length(faces: Any, face: FaceInput) -> Any:
    """Embeddings (faces, width) as a recogniser gives them, at the length that an adapter takes."""
    import numpy as np

    return faces / np.linalg.norm(faces, axis=-1, keepdims=True) if face.normed else faces


def _normed(path: Path, faces: Any, face: FaceInput, normed: bool | None) -> Any:
    import numpy as np

    lengths = np.linalg.norm(faces, axis=-1)
    if not lengths.all():
        raise IpaError(f"{path} has an embedding that is 0 everywhere", "encode a picture with a face in it")
    if normed is False:
        return in_its_length(faces, face)
    longest = float(lengths.max())
    if face.normed and longest > MOST_NORMED:
        raise IpaError(
            f"{path} has embeddings of length {longest:.3g}, the adapter takes normed ones, of length 1",
            "use InsightFace's normed_embedding, or divide them by their length",
        )
    if not face.normed and longest <= MOST_NORMED:
        raise IpaError(
            f"{path} has normed embeddings, of length {longest:.3g}, and the adapter takes them as they come out",
            "use InsightFace's embedding in place of its normed_embedding",
        )
    return faces


def _faces(path: Path, faces: Any, width: int) -> Any:
    """(faces, width) of what InsightFace has as (width,), diffusers as (2, faces, width), the first half zeros."""
    shape = faces.shape
    if faces.ndim == 1:
        faces = faces[None]
    elif faces.ndim in (3, 4):
        if len(faces) == 2 and not faces[0].any():
            faces = faces[1:]
        faces = faces.reshape(-1, faces.shape[-1]) if len(faces) == 1 else faces
    if faces.ndim != 2 or not len(faces) or faces.shape[1] != width:
        raise IpaError(
            f"{path} has embeddings of shape {shape}, a FaceID adapter takes (faces, {width})",
            "give a face recogniser's, such as InsightFace's normed_embedding",
        )
    return faces


def _hint(face: FaceInput) -> str:
    if face.picture:
        return f"a .safetensors file has {FACES} and {STATES}, as `ipa embed face.png` writes it"
    return "a .safetensors or .npy file has one array (faces, 512), as `ipa embed face.png` writes it"


def _npy(path: Path, data: bytes) -> Any:
    import io

    import numpy as np

    try:
        found = np.load(io.BytesIO(data), allow_pickle=False)
    except (ValueError, EOFError, OSError, SyntaxError) as error:  # its header is Python's
        reason = (str(error).splitlines() or ["it is empty"])[0]
        raise IpaError(f"{path} is no whole .npy file: {reason}", "save it with numpy.save") from error
    if not isinstance(found, np.ndarray) or found.dtype.kind != "f":
        raise IpaError(f"{path} holds no floating-point numbers", "save float32 numbers with numpy.save")
    return found.astype(np.float32)
