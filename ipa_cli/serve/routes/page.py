"""The page at `/`, that of the API at `/docs`, and their files: nothing in them is secret, so they need no token."""

from __future__ import annotations

import hashlib
from functools import partial
from pathlib import Path

from fastapi import APIRouter, Request, Response

STATIC = Path(__file__).parents[1] / "static"
MEDIA_TYPES = {
    ".html": "text/html; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".svg": "image/svg+xml",
}
POLICY = "; ".join(
    [
        "default-src 'self'",
        "img-src 'self' blob: data:",
        "object-src 'none'",
        "base-uri 'none'",
        "form-action 'none'",
        "frame-ancestors 'none'",
    ]
)
HEADERS = {
    "Content-Security-Policy": POLICY,
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-cache",  # asked for again, answered 304: a server that was updated has its own page at once
}
PAGES = {"/": "index.html", "/docs": "docs.html"}
FILES = {
    **PAGES,
    **{f"/static/{path.name}": path.name for path in sorted(STATIC.iterdir()) if path.suffix in MEDIA_TYPES},
}
PATHS = tuple(FILES)

router = APIRouter(include_in_schema=False)


async def _answer(data: bytes, media_type: str, http: Request) -> Response:
    headers = {**HEADERS, "ETag": f'"{hashlib.sha256(data).hexdigest()[:32]}"'}
    if http.headers.get("if-none-match") == headers["ETag"]:
        return Response(status_code=304, headers=headers)
    return Response(data, media_type=media_type, headers=headers)


for path, name in FILES.items():
    file = STATIC / name
    router.add_route(path, partial(_answer, file.read_bytes(), MEDIA_TYPES[file.suffix]), ["GET"])
