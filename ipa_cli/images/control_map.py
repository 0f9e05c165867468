"""Maps that ControlNets follow: brought to the size of a picture, and made of one where that is asked for."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from ipa_cli.errors import IpaError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from PIL.Image import Image

    Pixels = NDArray[np.float32]  # (h, w, 3), 0 to 255

EDGES = (100, 200)  # canny's thresholds, as in diffusers' guide and A1111's extension
# Widths of Gaussians in pixels and thresholds, as in A1111's extension.
LINES, LINE, DARKEST = 6.0, 8, 16
FINE, COARSE, STROKE = 0.5, 5.0, 16
BLUR = 9.0
OF_LINES = ("canny", "lineart_standard", "scribble_xdog")  # white or grey on black
FAINT = 64  # half of what `_lines` makes of usual lines
INSTALL = 'pip install "ipa-cli[control]", or give a map that is made already'


def check(preprocess: str | None) -> None:
    """Raise IpaError where the package that makes such maps is missing."""
    import importlib.util

    if preprocess not in (None, "invert") and importlib.util.find_spec("cv2") is None:
        raise IpaError(f"preprocess={preprocess} needs opencv, which is not installed", INSTALL)


def is_empty(picture: Image) -> bool:
    """Whether it is of one colour."""
    return picture.convert("RGB").getcolors(1) is not None


def is_lineless(made: Image) -> bool:
    """Whether a map OF_LINES has none."""
    return not any(made.convert("L").histogram()[FAINT:])


def make(given: Image, size: tuple[int, int], preprocess: str | None) -> Image:
    """The map for a picture of this size: stretched as diffusers' `VaeImageProcessor` does, and only then made of it.

    Raises IpaError where opencv does not work.
    """
    from PIL import Image, ImageOps

    picture = given.convert("RGB").resize(size, Image.Resampling.LANCZOS)
    if preprocess is None:
        return picture
    if preprocess == "invert":
        return ImageOps.invert(picture)
    try:
        import cv2
    except ImportError as error:
        raise IpaError(f"opencv does not work: {error}", INSTALL) from error
    import numpy as np

    makers: dict[str, Callable[[Pixels], Any]] = {
        "canny": lambda pixels: cv2.Canny(pixels.astype(np.uint8), *EDGES),
        "lineart_standard": _lines,
        "scribble_xdog": _strokes,
        "blur_gaussian": lambda pixels: _blurred(pixels, BLUR),
    }
    made = makers[preprocess](np.asarray(picture, dtype=np.float32))
    return Image.fromarray(made.clip(0, 255).astype(np.uint8)).convert("RGB")


def _blurred(pixels: Pixels, sigma: float) -> Any:
    import cv2

    return cv2.GaussianBlur(pixels, (0, 0), sigma)


def _lines(pixels: Pixels) -> Any:
    """How much darker pixels are than what is around them in every channel, with usual lines in grey."""
    import numpy as np

    darker = (_blurred(pixels, LINES) - pixels).min(axis=2).clip(0, 255)
    lines = darker[darker > LINE]
    return darker * (127 / max(DARKEST, float(np.median(lines)) if lines.size else 0))


def _strokes(pixels: Pixels) -> Any:
    """White where a fine Gaussian is darker than a coarse one in every channel.

    After XDoG, https://doi.org/10.1016/j.cag.2012.03.004.
    """
    darker = (_blurred(pixels, COARSE) - _blurred(pixels, FINE)).min(axis=2)
    return (darker > STROKE) * 255
