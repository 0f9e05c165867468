"""Faces in reference pictures, found by InsightFace where it is installed, with models that are on disk already."""

from __future__ import annotations

import hashlib
import io
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, redirect_stdout
from dataclasses import dataclass, field
from functools import lru_cache
from importlib.util import find_spec
from pathlib import Path
from threading import Lock
from typing import TYPE_CHECKING, Any

from ipa_cli.errors import IpaError
from ipa_cli.images.reference import Reference
from ipa_cli.result import Reporter

if TYPE_CHECKING:
    from PIL.Image import Image

PACK = "buffalo_l"  # the models that FaceID adapters were trained with
LICENCE = "InsightFace's code is under the MIT licence, its models are for non-commercial research only"
GIVEN = "or give embeddings that are made elsewhere: --embeds face.npy"
# Sides of the picture that faces are looked for in: a face that fills its picture is found in a smaller one.
SIDES = tuple(range(640, 256, -64))
PICTURE = 224  # pixels a side of a face's picture, as FaceID-Plus adapters were trained with
# What InsightFace raises for models that are broken or missing, beside onnxruntime's own errors.
FORESEEN = (ImportError, AssertionError, RuntimeError, OSError, ValueError)
_ONE_AT_A_TIME = Lock()


@dataclass(frozen=True, eq=False)
class Face:
    """A face: its embedding as the recogniser gives it, (width,) float32, and its picture, turned upright and cut out.

    Both are biometric data: they stay in memory.
    """

    vector: Any = field(repr=False)
    picture: Image = field(repr=False)

    @property
    def sha256(self) -> str:
        """The digest of both."""
        return hashlib.sha256(self.vector.tobytes() + self.picture.tobytes()).hexdigest()


def folder() -> Path:
    """Where InsightFace keeps the models."""
    return Path("~/.insightface/models").expanduser() / PACK


def problem() -> IpaError | None:
    """What keeps faces from being found here, None where nothing does."""
    if find_spec("insightface") is None or find_spec("onnxruntime") is None:
        return IpaError(
            "FaceID adapters need InsightFace to find the face in a picture, and it is not installed",
            f'pip install "ipa-cli[face]", {GIVEN}',
        )
    try:
        there = any(folder().glob("*.onnx"))
    except OSError:
        there = False
    if not there:
        return IpaError(
            f"InsightFace's models are not in {folder()}, and nothing is downloaded unasked",
            f"insightface-cli model.download {PACK} (for non-commercial research only), {GIVEN}",
        )
    return None


def find(reference: Reference, number: int | None, reporter: Reporter) -> Face:
    """The face in a picture: the largest, or the one with this number from the left.

    Raises IpaError where InsightFace or its models are not here, and where there is no such face.
    """
    if (lacking := problem()) is not None:
        raise lacking
    if not _opened.cache_info().currsize:
        reporter.note(LICENCE)
    name = "the picture from stdin" if reference.source == "-" else reference.source
    with _ONE_AT_A_TIME, _silent():
        import numpy as np

        pixels = np.ascontiguousarray(np.asarray(reference.image.convert("RGB"))[..., ::-1])  # OpenCV has blue first
        found = sorted(_faces(pixels), key=lambda face: face.bbox[0])
        if not found:
            raise IpaError(f"there is no face in {name}", "use a picture with one face in it, upright and well lit")
        if number is not None and number > len(found):
            raise IpaError(
                f"{name} has {len(found)} face{'s' * (len(found) > 1)}, and number {number} is asked for",
                f"--face counts from the left: 1 to {len(found)}",
            )
        chosen = max(range(len(found)), key=lambda at: _area(found[at])) if number is None else number - 1
        face = _cut_out(pixels, found[chosen])
    if number is None and len(found) > 1:
        reporter.note(
            f"{name}: {len(found)} faces; the largest is taken, number {chosen + 1} from the left (--face chooses)"
        )
    return face


def stand_in(reference: Reference, number: int | None, reporter: Reporter) -> Face:
    """Anything in the place of a face, where only its shape counts: to compile or to measure."""
    import numpy as np

    return Face(np.ones(512, np.float32), reference.image.convert("RGB").resize((PICTURE, PICTURE)))


def _faces(pixels: Any) -> Sequence[Any]:
    app = _opened(folder())
    for side in SIDES:
        app.prepare(ctx_id=-1, det_size=(side, side))
        if found := app.get(pixels):
            return found  # type: ignore[no-any-return]
    return ()


def _area(face: Any) -> float:
    left, top, right, bottom = face.bbox[:4]
    return float((right - left) * (bottom - top))


def _cut_out(pixels: Any, face: Any) -> Face:
    import numpy as np
    from insightface.utils import face_align
    from PIL import Image

    if face.embedding is None or face.kps is None:
        raise IpaError(f"the models in {folder()} recognise no faces", f"insightface-cli model.download {PACK}")
    cut = face_align.norm_crop(pixels, landmark=face.kps, image_size=PICTURE)
    return Face(np.asarray(face.embedding, np.float32).ravel(), Image.fromarray(np.ascontiguousarray(cut[..., ::-1])))


@lru_cache(maxsize=1)
def _opened(models: Path) -> Any:
    try:
        from insightface.app import FaceAnalysis

        root, name = models.parents[1], models.name
        return FaceAnalysis(
            name=name,
            root=str(root),
            allowed_modules=["detection", "recognition"],
            providers=["CPUExecutionProvider"],
        )
    except Exception as error:
        if not (isinstance(error, FORESEEN) or type(error).__module__.startswith(("onnxruntime", "google.protobuf"))):
            raise
        reason = (str(error).splitlines() or ["a model is missing"])[0]
        raise IpaError(
            f"InsightFace cannot open the models in {models}: {reason[:200]}", f"insightface-cli model.download {PACK}"
        ) from error


@contextmanager
def _silent() -> Iterator[None]:
    """Keep what InsightFace prints away from stdout, which is for results, and warnings of what it is made with."""
    with redirect_stdout(io.StringIO()), warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        yield
