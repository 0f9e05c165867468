"""`ipa compile`: compile once, so that later processes only load the graph."""

from __future__ import annotations

from dataclasses import asdict
from typing import Annotated

import typer

from ipa_cli import config
from ipa_cli.commands import options
from ipa_cli.config import units
from ipa_cli.config.setting import PICTURE
from ipa_cli.config.units import parse_picture_size, parse_range
from ipa_cli.result import Result, Table

SETTINGS = (
    *("image", "image_combine", "image_per_picture", "fit", "mask", "adapter", "lora"),
    *("guidance_scale", "preset", "guidance_start", "guidance_end", "batch_size", "hires", "region"),
    *options.OF_MODEL,
    *("backend", "compile_options", "device", "gpus", "dtype", "precision", "cache_dir", "cache_max_size"),
    *("cache_remote", "cache_push", "cache_signing_key"),
)
Size = Annotated[
    list[str] | None,
    options.flag(
        "--size",
        help="width x height to compile for, such as 1024x768; repeatable",
        panel=PICTURE,
        metavar="WxH",
        autocompletion=options.SIZES,
    ),
]
Dynamic = Annotated[
    str | None,
    options.flag(
        "--dynamic",
        help="compile one graph for all sides in a range, such as 256..1536",
        panel=PICTURE,
        metavar="RANGE",
        autocompletion=options.RANGES,
    ),
]


@options.with_settings(*SETTINGS)
def compile(context: typer.Context, size: Size = None, dynamic: Dynamic = None) -> Result:
    """Compile a model for picture sizes, once.

    The graphs are kept in the cache for all later processes; those already there are not compiled again. The shape
    256x256-b2 means 256x256 pixels and batch 2: two pictures, or one with guidance. With guidance in part of the
    steps (--guidance-start, --guidance-end) both graphs are compiled; with --hires those of both sizes. On a GPU the
    decoder gets a graph for each size too.
    """
    from ipa_cli.engine import compile as compiling
    from ipa_cli.engine.store import temporary_files

    resolved = options.settings(context).settings
    sizes = [parse_picture_size(text) for text in size or ()]
    for width, height in sizes:
        config.checked("width", width, "--size")
        config.checked("height", height, "--size")
    span = None if dynamic is None else parse_range(dynamic)
    with temporary_files(resolved):
        done = compiling.compile(resolved, sizes, span, context.obj, shows_bars=context.obj.live)
    rows = tuple(
        (
            graph.id,
            graph.shape,
            "in the cache" if graph.origin == "cache" else f"compiled in {graph.compile_s:.1f} s",
            f"{graph.open_s:.2f} s",
            units.size(graph.size),
        )
        for graph in done.graphs
    )
    title = f"{done.graphs[0].model} on {done.device} ({done.dtype}, {done.graphs[0].backend})"
    columns = ("graph", "shape", "state", "loads in", "size")
    return Result("compile", asdict(done), (title, Table(columns, rows)))
