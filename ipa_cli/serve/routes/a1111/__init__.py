"""The API of A1111's web UI, as far as its clients draw with it.

Source of names and shapes: AUTOMATIC1111/stable-diffusion-webui, modules/api, and Mikubill/sd-webui-controlnet.
"""

from __future__ import annotations

from fastapi import APIRouter

from ipa_cli.serve.routes.a1111 import draw, listing, options, progress

router = APIRouter(tags=["a1111"])
for module in (draw, progress, options, listing):
    router.include_router(module.router)
