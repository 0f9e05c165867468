"""Maps that ControlNets follow: brought to the size of a picture, and made of one where that is asked for."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ipa_cli.errors import IpaError

if TYPE_CHECKING:
    from PIL.Image import Image

EDGES = (100, 200)  # canny's thresholds, as in diffusers' guide and A1111's extension
INSTALL = 'pip install "ipa-cli[control]", or give a map that is made already'


def check(preprocess: str | None) -> None:
    """Raise IpaError where the package that makes such maps is missing."""
    import importlib.util

    if preprocess is not None and importlib.util.find_spec("cv2") is None:
        raise IpaError(f"preprocess={preprocess} needs opencv, which is not installed", INSTALL)


def make(given: Image, size: tuple[int, int], preprocess: str | None) -> Image:
    """The map for a picture of this size: stretched as diffusers' `VaeImageProcessor` does; edges are found after that.

    Raises IpaError where opencv does not work.
    """
    from PIL import Image

    picture = given.convert("RGB").resize(size, Image.Resampling.LANCZOS)
    return picture if preprocess is None else _edges(picture)


def _edges(picture: Image) -> Image:
    import numpy as np
    from PIL import Image

    try:
        import cv2
    except ImportError as error:
        raise IpaError(f"opencv does not work: {error}", INSTALL) from error
    return Image.fromarray(cv2.Canny(np.asarray(picture), *EDGES)).convert("RGB")
