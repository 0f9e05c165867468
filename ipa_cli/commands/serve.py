"""`ipa serve`: a resident engine behind HTTP."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer

from ipa_cli.commands import options
from ipa_cli.config import checked
from ipa_cli.config.servers import own_folder
from ipa_cli.config.units import parse_picture_size, parse_size
from ipa_cli.errors import IpaError, UsageError
from ipa_cli.result import Result

OF_A_REQUEST = ("prompt", "seed", "num_images", "output", "preview")
SETTINGS = tuple(name for name in options.HERE if name not in OF_A_REQUEST)


@options.with_settings(*SETTINGS)
def serve(
    context: typer.Context,
    host: Annotated[str, options.flag("--host", help="address to listen on [default: 127.0.0.1]")] = "127.0.0.1",
    port: Annotated[
        int, options.flag("--port", help="port to listen on; 0 is any free one [default: 8188]", min=0, max=65535)
    ] = 8188,
    token_file: Annotated[
        Path | None,
        options.flag("--token-file", help="file with the token that requests must carry; - is stdin", metavar="FILE"),
    ] = None,
    warm: Annotated[
        str | None,
        options.flag(
            "--warm", help="sizes whose graphs are opened first", metavar="WxH,…", autocompletion=options.SIZES
        ),
    ] = None,
    devices: Annotated[
        str | None, options.flag("--devices", help="an engine on each, such as cuda:0,cuda:1", metavar="LIST")
    ] = None,
    max_queue: Annotated[
        int, options.flag("--max-queue", help="requests that may wait [default: 64]", metavar="N", min=1)
    ] = 64,
    max_pixels: Annotated[
        int, options.flag("--max-pixels", help="pixels of a picture [default: 4194304]", metavar="N", min=64)
    ] = 2048 * 2048,
    max_steps: Annotated[
        int, options.flag("--max-steps", help="steps of a picture [default: 150]", metavar="N", min=1)
    ] = 150,
    max_pictures: Annotated[
        int, options.flag("--max-pictures", help="pictures of a request [default: 16]", metavar="N", min=1)
    ] = 16,
    max_upload: Annotated[
        str, options.flag("--max-upload", help="size of a request [default: 64MB]", metavar="SIZE")
    ] = "64MB",
    upload_timeout: Annotated[
        int, options.flag("--upload-timeout", help="seconds in which a request must arrive [default: 600]", min=1)
    ] = 600,
    allow_fetch: Annotated[
        bool, options.flag("--allow-fetch", help="download references from addresses that requests name")
    ] = False,
    allow_origin: Annotated[
        list[str] | None,
        options.flag("--allow-origin", help="another site whose pages may ask; repeatable", metavar="URL"),
    ] = None,
) -> Result:
    """Keep a model loaded, and draw for others over HTTP."""
    from ipa_cli.hardware import packages

    if missing := packages.missing_to_serve():
        raise IpaError(f"a server needs {', '.join(missing)}", 'pip install "ipa-cli[serve]"')
    from ipa_cli.engine.store import temporary_files
    from ipa_cli.serve.limits import Limits
    from ipa_cli.serve.run import Address, serve

    try:
        upload = parse_size(max_upload)
        if upload == 0:
            raise ValueError("0 bytes are too few for any request")
    except ValueError as error:
        raise UsageError(f"--max-upload: {error}", "such as 64MB") from None
    token = None if token_file is None else _token(token_file)
    settings = replace(options.settings(context).settings, server=None, server_token_file=None)
    runtime = own_folder()  # before temporary files are redirected, and it may be among them
    with temporary_files(settings):
        serve(
            settings,
            context.obj,
            Address(host, port, token, tuple(map(_origin, allow_origin or ()))),
            Limits(max_queue, max_pixels, max_steps, max_pictures, upload, upload_timeout),
            [_size(size) for size in warm.split(",")] if warm else (),
            devices.split(",") if devices else (),
            allow_fetch,
            runtime,
        )
    return Result("serve", {})


def _size(text: str) -> tuple[int, int]:
    width, height = parse_picture_size(text)
    return checked("width", width, "--warm"), checked("height", height, "--warm")


def _origin(address: str) -> str:
    """An address as browsers send it in the header Origin. Raises UsageError for one that none would send."""
    origin = address.lower().removesuffix("/")
    if not re.fullmatch(r"https?://[^/?#@*\s]+", origin):
        raise UsageError(f"--allow-origin {address}: expected a site", "such as https://pictures.example")
    return origin


def _token(path: Path) -> str:
    """The token in a file, without the end of its line. Raises UsageError for one that anybody could guess."""
    from ipa_cli.system.inputs import read

    token = read(str(path), 4096, "a token").decode("utf-8", "replace").strip()
    if not token.isascii() or not token.isprintable():
        raise UsageError(f"{path} holds no token", "it is one line of ASCII: openssl rand -hex 32 > FILE makes one")
    if len(token) < 16:
        name = "stdin" if str(path) == "-" else path
        raise UsageError(f"the token in {name} has {len(token)} characters", "openssl rand -hex 32 > FILE makes one")
    return token
