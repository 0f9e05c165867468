"""Pictures as `data:` addresses, so that the page of a sweep needs no file beside it."""

from __future__ import annotations

import base64
import io
import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from ipa_cli.sweep.journal import PICTURES, Outcome

if TYPE_CHECKING:
    from PIL.Image import Image

MAX_BYTES = 24 << 20  # of PNG files embedded as they are; larger sweeps are shown as previews
PREVIEW_SIDE = 1024
PREVIEW_PIXELS = 250_000_000  # of all previews together: about as many bytes as MAX_BYTES


def embedder(folder: Path, outcomes: Mapping[int, Outcome]) -> tuple[Callable[[Outcome], str], str]:
    """How to embed a picture, and a sentence that says so: the file itself, or a smaller WebP in large sweeps."""
    files = [folder / outcome.point.file for outcome in outcomes.values() if outcome.error is None]
    if sum(file.stat().st_size for file in files) <= MAX_BYTES:

        def original(outcome: Outcome) -> str:
            return data_uri("png", (folder / outcome.point.file).read_bytes())

        return original, f"The pictures are in this page as they are in {PICTURES}/."

    side = max(64, min(PREVIEW_SIDE, math.isqrt(PREVIEW_PIXELS // len(files))))

    def preview(outcome: Outcome) -> str:
        from PIL import Image

        with Image.open(folder / outcome.point.file, formats=["PNG"]) as picture:
            return thumbnail(picture, side)

    return preview, f"This page shows previews of at most {side} pixels; the pictures themselves are in {PICTURES}/."


def thumbnail(picture: Image, side: int) -> str:
    """`picture` as WebP, scaled down to at most `side` pixels."""
    small = picture.convert("RGB")
    small.thumbnail((side, side))
    buffer = io.BytesIO()
    small.save(buffer, "WEBP", quality=85, method=4)
    return data_uri("webp", buffer.getvalue())


def data_uri(kind: str, data: bytes) -> str:
    """Base64 of `data`, of the media type image/`kind`."""
    return f"data:image/{kind};base64,{base64.b64encode(data).decode()}"
