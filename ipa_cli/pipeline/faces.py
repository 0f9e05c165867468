"""What a FaceID adapter sees of its references: a face in each."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from ipa_cli.config import FIELDS, AdapterConfig, Settings
from ipa_cli.config.modes import TILES
from ipa_cli.errors import UsageError
from ipa_cli.images.faces import Face
from ipa_cli.images.reference import Reference
from ipa_cli.models.ip_adapter.face import FaceInput
from ipa_cli.result import Reporter

if TYPE_CHECKING:
    from ipa_cli.models.ip_adapter.plan import AdapterPlan

FindFace = Callable[[Reference, int | None, Reporter], Face]
GIVEN = "--image face.png, or --embeds face.safetensors"


def check_given(adapter: AdapterPlan) -> None:
    """Raise UsageError for a FaceID adapter without references: a model's own picture shows no face."""
    if adapter.face is not None:
        raise UsageError(f"a {adapter.face} adapter follows a face, and has neither picture nor embeddings", GIVEN)


@dataclass(frozen=True)
class Faces:
    """What a FaceID adapter sees: the face of each reference, none where embeddings are given, and `FacePictures`'s
    shortcut."""

    adapter: FaceInput | None = None
    found: tuple[Face, ...] = ()
    shortcut: float | None = None

    def at(self, number: int) -> Faces:
        """What it sees of one of its references."""
        return replace(self, found=self.found[number : number + 1])


def of_references(
    references: Sequence[Reference], config: AdapterConfig, adapter: AdapterPlan, find: FindFace, reporter: Reporter
) -> Faces:
    """The faces in references; for any other than a FaceID adapter nothing.

    Raises UsageError for settings of faces that the adapter has no use for, and what `find` does.
    """
    face = adapter.face
    if face is None:
        return Faces()
    if config.shortcut is not None and not face.picture:
        raise UsageError(
            f"--face-shortcut {config.shortcut:g}: a {face} adapter has no picture to weigh", "leave it out"
        )
    _check_modes(face, config)
    if config.face is not None and not references:
        raise UsageError(f"--face {config.face} chooses a face in a picture, and embeddings are given", "leave it out")
    shortcut = 1.0 if config.shortcut is None and face.shortcut else config.shortcut
    return Faces(face, tuple(find(one, config.face, reporter) for one in references), shortcut)


def _check_modes(face: FaceInput, config: AdapterConfig) -> None:
    if config.fit == TILES:
        raise UsageError(f"--fit tiles: a {face} adapter follows a face, which has no tiles", "leave it out")
    if config.negative_image is not None and not face.picture:
        raise UsageError(f"--negative-image: a {face} adapter sees no picture, and no negative one", "leave it out")


def check_used(settings: Settings, adapters: Sequence[AdapterPlan]) -> None:
    """Raise UsageError for settings of faces where no adapter follows any."""
    names = ("face", "face_shortcut", "ip_lora")
    given = [name for name in names if getattr(settings, name) != FIELDS[name].default]
    flag = f"--{given[0].replace('_', '-')}" if given else None
    if flag is not None and adapters and not any(one.face for one in adapters):
        raise UsageError(f"{flag} is for FaceID adapters, and none is used", f"leave out {flag}")
    for config, adapter in zip(settings.adapter, adapters, strict=False):
        key = next((key for key in ("face", "shortcut", "lora") if key in config.stated), None)
        if key is not None and adapter.face is None:
            raise UsageError(f"{key} is for FaceID adapters, and {config.source or 'own'} is none", f"leave out {key}=")
