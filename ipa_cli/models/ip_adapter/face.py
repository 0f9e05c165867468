"""FaceID adapters: what they take of a face recogniser, told by their tensors' shapes and their file's name."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import PurePosixPath

from ipa_cli.models.architectures.base import Architecture

Shapes = Mapping[str, tuple[int, ...]]
REPO = "h94/IP-Adapter-FaceID"  # on the hub
WIDTH = 512  # of InsightFace's embeddings
# As h94's and others' files are called: v2 differs from v1, and unnormed embeddings from normed ones, in nothing else.
_V2 = re.compile(r"plus[-_. ]?v2", re.IGNORECASE)
_UNNORMED = re.compile(r"unnorm", re.IGNORECASE)
_NAMED = re.compile(r"face[-_. ]?id", re.IGNORECASE)


@dataclass(frozen=True)
class FaceInput:
    """What a FaceID adapter takes of a face.

    normed: embeddings of length 1 (InsightFace's `normed_embedding`), or as they come out (`embedding`). picture:
    FaceID-Plus, which takes hidden states of the face's picture too. shortcut: v2 of that, see `FacePictures`.
    """

    width: int = WIDTH
    normed: bool = True
    picture: bool = False
    shortcut: bool = False
    sequence: bool = False  # a sequence of one embedding, for a projection that takes hidden states

    def __str__(self) -> str:
        return f"FaceID-Plus{' v2' * self.shortcut}" if self.picture else "FaceID"


def of_shapes(name: str, shapes: Shapes, architecture: Architecture) -> FaceInput | None:
    """What the adapter in file `name` takes of a face; None for one that takes none."""
    first = shapes.get("image_proj.proj.0.weight")
    if first and "image_proj.proj.3.weight" not in shapes:
        picture = any(key.startswith("image_proj.perceiver_resampler.") for key in shapes)
        return FaceInput(first[-1], picture=picture, shortcut=picture and _is_v2(name, architecture))
    given = shapes.get("image_proj.proj_in.weight")
    if given and given[-1] == WIDTH and _UNNORMED.search(PurePosixPath(name).name):
        return FaceInput(normed=False, sequence=True)
    return None


def of_name(name: str, architecture: Architecture) -> FaceInput | None:
    """The same told by a file's name alone, for a pickle that is not here yet; `check_fetched` looks at it then."""
    file = PurePosixPath(name).name
    if not _NAMED.search(file):
        return None
    if _UNNORMED.search(file):
        return FaceInput(normed=False, sequence=True)
    picture = "plus" in file.lower()
    return FaceInput(picture=picture, shortcut=picture and _is_v2(file, architecture))


def _is_v2(name: str, architecture: Architecture) -> bool:
    return architecture.ip_adapters.face_plus_is_v2 or bool(_V2.search(PurePosixPath(name).name))


def counterpart(face: FaceInput, architecture: Architecture) -> str:
    """The flags that choose the adapter of `REPO` of the same kind that fits `architecture`."""
    kind = ("-plusv2" if face.shortcut or architecture.ip_adapters.face_plus_is_v2 else "-plus") * face.picture
    return f"--ip-adapter {REPO} --ip-adapter-weight-name ip-adapter-faceid{kind}_{architecture.preset}.bin"
