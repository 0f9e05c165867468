"""What a picture says of how it was drawn."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from fastapi import APIRouter, Request, Response
from starlette.concurrency import run_in_threadpool

from ipa_cli.config.privacy import public, public_text
from ipa_cli.config.requests import PLAIN_SETTINGS
from ipa_cli.engine.recorded import read
from ipa_cli.errors import IpaError
from ipa_cli.serve import answers

router = APIRouter(prefix="/v1/pictures", tags=["pictures"])
NAME = Path("the picture")  # in messages
A_FILE = {"requestBody": {"required": True, "content": {"image/*": {"schema": {"type": "string", "format": "binary"}}}}}


@router.post("/settings", openapi_extra=A_FILE)
async def settings(http: Request) -> Response:
    """The settings in a picture that `ipa` or another program drew, as far as a request may set them; null without any.

    The body is the file: PNG, JPEG, WebP or AVIF. `why` says what is missing, `left_out` are settings that a request
    may not set, `references` the reference pictures.
    """
    try:
        recorded = await run_in_threadpool(read, NAME, await http.body())
    except IpaError as failure:
        return answers.ok({"settings": None, "why": public_text(failure.message)})
    values: dict[str, Any] = {
        name: value
        for name, value in recorded.values.items()
        if name in PLAIN_SETTINGS and value is not None and name not in ("num_images", "batch_size")
    }
    return answers.ok(
        public(
            {
                "settings": values,
                "why": None,
                "model": recorded.values.get("model"),
                "left_out": list(recorded.left_out),
                "references": [{"source": source, "sha256": digest} for source, digest in recorded.references],
            }
        )
    )
