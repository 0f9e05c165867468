"""`ipa embed`: encode reference pictures once, for `--embeds`."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from ipa_cli import config
from ipa_cli.commands import options
from ipa_cli.result import Result

SETTINGS = (
    *("fit", "sharpening", "face", "image_combine", "image_weight", "negative_image"),
    *("model", "revision", "ip_adapter", "ip_adapter_subfolder", "ip_adapter_weight_name", "image_encoder"),
    *("device", "dtype"),
)


@options.with_settings(*SETTINGS)
def embed(
    context: typer.Context,
    image: Annotated[
        list[str],
        typer.Argument(metavar="IMAGE...", help="Reference images: files, folders or URLs.", show_default=False),
    ],
    file: Annotated[
        Path, options.flag("--output", "-o", help="file to write [default: embeds.safetensors]", metavar="FILE")
    ] = Path("embeds.safetensors"),
    force: options.Force = False,
) -> Result:
    """Encode reference pictures to a file, for drawing with --embeds without the image encoder."""
    from ipa_cli.engine import embed as encoding

    options.check_on_disk(file, "image embeddings", "--output cat.safetensors")
    settings = options.settings(context).settings
    done = encoding.embed(settings, config.expanded(file), force, context.obj, context.obj.live)
    count = len(done.sources)
    line = f"{done.path}  {count} picture{'s' * (count > 1)} for {done.adapter}"
    return Result("embed", {**asdict(done), "path": str(done.path.absolute())}, (line,), paths=(done.path,))
