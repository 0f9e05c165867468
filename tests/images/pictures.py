"""Small pictures and their bytes."""

import io
import struct
import zlib
from pathlib import Path

import pytest
from PIL import Image

from ipa_cli.errors import IpaError
from ipa_cli.images.reference import load

# Left half red, right half blue; wide enough that lossy formats keep the halves apart.
HALVES = Image.new("RGB", (64, 32), "red")
HALVES.paste("blue", (32, 0, 64, 32))


def encoded(image: Image.Image = HALVES, kind: str = "PNG", **options) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def saved(path: Path, image: Image.Image = HALVES, **options) -> str:
    image.save(path, **options)
    return str(path)


def refused(reference: str, message: str) -> IpaError:
    with pytest.raises(IpaError) as caught:
        load(reference)
    assert message in caught.value.message
    assert "\n" not in caught.value.message and caught.value.hint
    return caught.value


def png_claiming(width: int, height: int) -> bytes:
    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b"")
