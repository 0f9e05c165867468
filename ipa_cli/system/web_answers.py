"""Answers of a web server, which alone decides how long they are: no more is read than anything here asks for."""

from __future__ import annotations

from typing import Any

MOST_BYTES = 16 << 20  # of one answer; parts of files are fetched by up to 8 MiB


def limited() -> dict[str, Any]:
    """Options of a client session of aiohttp whose answers are read up to `MOST_BYTES`, and never decompressed.

    fsspec reads an answer to a request for a part of a file to its end, whatever was asked for.
    """
    import aiohttp

    class Limited(aiohttp.ClientResponse):
        async def read(self) -> bytes:
            found = bytearray()
            async for part in self.content.iter_any():
                found += part
                if len(found) > MOST_BYTES:
                    self.close()
                    raise aiohttp.ClientPayloadError(f"it sends more than {MOST_BYTES} bytes at once")
            return bytes(found)

    return {"response_class": Limited, "auto_decompress": False, "headers": {"Accept-Encoding": "identity"}}
