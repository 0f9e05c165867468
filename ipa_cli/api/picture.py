"""A drawn picture: it shows itself in a notebook, and carries its settings into every file."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ipa_cli.images import encode, filenames

if TYPE_CHECKING:
    from PIL.Image import Image


@dataclass(frozen=True, eq=False)
class Picture:
    """A picture and how it was drawn: `settings` are what its file carries, `timings` are in seconds."""

    image: Image = field(repr=False)
    prompt: str
    seed: int
    scale: float
    settings: Mapping[str, Any] = field(repr=False)
    timings: Mapping[str, float] = field(repr=False)

    @property
    def size(self) -> tuple[int, int]:
        """Width and height in pixels."""
        return self.image.size

    def save(self, path: str | Path, *, force: bool = False, quality: int | None = None) -> Path:
        """Write it with its settings, so that `ipa generate --from` draws it again; returns where it is.

        `path` is what `--output` takes: a file (.png, .jpg, .webp, .avif), a folder, or a template such as
        "{prompt}-{seed}.png". An existing file is kept and a number added to the new name, unless `force`. `quality`,
        1 to 100, is that of a format that loses something. Raises UsageError for another suffix, IpaError where it
        cannot be written.
        """
        names = [one["source"] or "own" for used in self.settings["adapters"][:1] for one in used["images"]]
        plain = {"seed": self.seed, "scale": self.scale, "index": 0, "prompt": self.prompt}
        fields = {**plain, "image": filenames.stem(names)}
        (target,) = filenames.plan_paths(str(path), [fields], force)
        encode.check(filenames.FORMATS[target.suffix.lower()], quality, (self.prompt,))
        return encode.save(target, self.image, self.settings, force, quality).path

    def _repr_png_(self) -> bytes:
        return encode.encode(self.image, self.settings)
