"""`ipa sweep-scale`: the same pictures at many scales, side by side."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ipa_cli import config
from ipa_cli.commands import options
from ipa_cli.config.modes import MODES
from ipa_cli.config.requests import ONE_PICTURE
from ipa_cli.config.setting import OUTPUT
from ipa_cli.config.units import plural
from ipa_cli.errors import IpaError
from ipa_cli.result import Reporter, Result, Table

if TYPE_CHECKING:
    from ipa_cli.batch.journal import Outcome
    from ipa_cli.config import Settings
    from ipa_cli.sweep.difference import Change
    from ipa_cli.sweep.elsewhere import Callbacks, Elsewhere, PointJob
    from ipa_cli.sweep.run import SweepResult

FROZEN_HINT = "try --backend eager --force, or scales that are further apart"
RETRY_HINT = "--resume tries the failed pictures again"
DEFAULT_FOLDER = Path("ipa-sweep")
# Not those that are varied, and those of single pictures.
SETTINGS = tuple(
    name
    for name in options.HERE
    if name
    not in (
        *("prompt", "image", "image_weight", "embeds", "scale", "ip_mode", "height", "width", "seed"),
        *("num_images", "batch_size", "output", "preview", "image_per_picture"),
    )
)


def _axis(*declarations: str, help: str, **more: Any) -> Any:
    return options.flag(*declarations, help=help, panel="What is varied", **more)


def _output(*declarations: str, help: str, **more: Any) -> Any:
    return options.flag(*declarations, help=help, panel=OUTPUT, **more)


@options.with_settings(*SETTINGS, ip_layers="scales by layer as JSON, in diffusers' form; each scale multiplies them")
def sweep_scale(
    context: typer.Context,
    scales: Annotated[
        str | None, _axis("--scales", help="scales, such as 0,0.25,0.5,0.75,1 (the default)", metavar="LIST")
    ] = None,
    first: Annotated[float | None, _axis("--from", help="or a range: its first scale", metavar="NUMBER")] = None,
    last: Annotated[float | None, _axis("--to", help="last scale of the range", metavar="NUMBER")] = None,
    number: Annotated[int | None, _axis("--num", help="number of scales in the range", metavar="N")] = None,
    image: Annotated[
        list[str] | None, _axis("--image", "-i", help="reference image or folder; one row each", metavar="IMAGE")
    ] = None,
    encoded: Annotated[
        list[str] | None,
        _axis("--embeds", help="image embeddings from `ipa embed`, in place of --image; one row each", metavar="FILE"),
    ] = None,
    prompts: Annotated[
        list[str] | None, _axis("--prompt", "-p", help="what to draw; repeatable", metavar="PROMPT")
    ] = None,
    sizes: Annotated[
        list[str] | None,
        _axis(
            "--size", help="width x height, such as 1024x768; repeatable", metavar="WxH", autocompletion=options.SIZES
        ),
    ] = None,
    modes: Annotated[
        list[str] | None,
        _axis(
            "--ip-mode",
            help="layers that the reference acts on, see `ipa generate --help`; repeatable, one row each",
            metavar="MODE",
            autocompletion=options.completion(lambda: MODES),
        ),
    ] = None,
    lora_weights: Annotated[
        str | None,
        _axis("--lora-weights", help="factors of all LoRAs' weights, such as 0,0.5,1; one row each", metavar="LIST"),
    ] = None,
    control_scales: Annotated[
        str | None,
        _axis(
            "--control-scales",
            help="factors of all ControlNets' scales, such as 0,0.5,1; one row each",
            metavar="LIST",
        ),
    ] = None,
    seeds: Annotated[list[int] | None, _axis("--seed", help="seed; repeatable", metavar="N")] = None,
    ray: options.Ray = None,
    actors: options.Actors = None,
    folder: Annotated[
        Path,
        _output("--output", "-o", help=f"folder for all results [default: {DEFAULT_FOLDER}]", metavar="FOLDER"),
    ] = DEFAULT_FOLDER,
    resume: Annotated[bool, _output("--resume", help="continue a sweep that was stopped")] = False,
    force: Annotated[bool, _output("--force", "-f", help="replace the sweep in the folder")] = False,
) -> Result:
    """Draw the same pictures at many scales, side by side; here, or on a Ray cluster."""
    from ipa_cli.engine.store import temporary_files
    from ipa_cli.pipeline.prompts import typed
    from ipa_cli.sweep import plan, run
    from ipa_cli.system.inputs import check_stdin

    options.check_on_disk(folder, "a sweep", "--output sweep")
    given = context.params
    pictures = (*(image or ()), *(given["mask"] or ()), *map(given.get, ONE_PICTURE))
    check_stdin((*(prompts or ()), *pictures, *(encoded or ())))
    plan.check_seeds(seeds or ())
    axes = run.Axes(
        plan.make_scales(scales, first, last, number),
        tuple(typed(prompts or ())),
        tuple(map(plan.parse_size, sizes or ())),
        tuple(seeds or ()),
        tuple(encoded or ()),
        plan.make_lora_weights(lora_weights),
        tuple(config.checked("ip_mode", mode, "--ip-mode") for mode in modes or ()),
        plan.make_control_scales(control_scales),
    )
    if modes:
        context.params["ip_mode"] = modes[0]
    if encoded:
        context.params["embeds"] = encoded[0]
    settings = options.settings(context).settings
    with temporary_files(settings):
        place, live = config.expanded(folder), context.obj.live
        done = run.sweep_scale(
            settings, axes, place, context.obj, resume, force, live, _elsewhere(ray, actors, settings.gpus)
        )
    return Result("sweep-scale", _data(done), _blocks(done), _failure(done), (done.folder,))


def _elsewhere(ray: str | None, actors: int | None, gpus: int) -> Elsewhere | None:
    """What draws the points as jobs of a batch on a cluster; None where this process does. Raises UsageError."""
    options.check_ray(ray, actors, gpus)
    if ray is None:
        return None
    from ipa_cli.batch import on_ray
    from ipa_cli.batch.jobs import Job
    from ipa_cli.batch.task import Task

    cluster = on_ray.Cluster(ray, actors)

    def draw(
        settings: Settings, folder: Path, points: Iterator[PointJob], callbacks: Callbacks, reporter: Reporter
    ) -> None:
        jobs = (Job(one.number, one.name, one.values, one.name) for one in points)
        task = Task(settings, str(folder.absolute()), seed=0)

        def done(one: Outcome) -> None:
            callbacks.done(one.job, one.sha256, one.error)

        on_ray.draw(cluster, task, jobs, done, reporter, callbacks.drawn_by)

    return draw


def _data(done: SweepResult) -> dict[str, Any]:
    folder = done.folder.absolute()
    return {
        "folder": str(folder),
        "page": str(folder / "index.html"),
        "plan": dict(done.plan),
        "points": [
            {
                "row": outcome.point.row.number,
                "scale": outcome.point.scale,
                "path": str(folder / outcome.point.file) if outcome.error is None else None,
                "sha256": outcome.sha256,
                "error": outcome.error,
            }
            for _, outcome in sorted(done.outcomes.items())
        ],
        "changes": [
            {"row": c.row, "from": c.before, "to": c.after, "mean_difference": c.mean, "share_changed": c.share}
            for c in done.changes
        ],
        "frozen": [{"row": same.row, "scales": list(same.scales)} for same in done.frozen],
        "failed": len(done.failed),
        "drawn": done.stats.drawn if done.stats else 0,
        "recompiles": done.stats.recompiles if done.stats else 0,
        "graphs": [dict(graph) for graph in done.stats.graphs] if done.stats else [],
        "timings": dict(done.stats.timings) if done.stats else {},
    }


def _blocks(done: SweepResult) -> tuple[str | Table, ...]:
    lines = [f"{done.folder / 'index.html'}  {done.sweep.summary}"]
    if done.stats is None:
        lines.append("all pictures exist already")
    else:
        stats, seconds = done.stats, done.stats.timings["drawing_s"]
        there = len(done.outcomes) - stats.drawn
        recompiles = "" if stats.recompiles is None else f"; recompiles between points: {stats.recompiles}"
        lines.append(f"drawn {stats.drawn} in {seconds:.1f} s{f', {there} existed' if there else ''}{recompiles}")
        if stats.graphs:
            whys = zip(done.plan["backend"], stats.graphs, strict=True)  # both by size
            lines += dict.fromkeys(f"{backend}: {graph['why']}" for backend, graph in whys)
    blocks: list[str | Table] = [*lines]
    if done.changes:
        blocks.append(_table(done.changes))
    blocks += [f"FROZEN {same}" for same in done.frozen]
    if done.frozen:
        blocks.append(f"the scale has no effect: {FROZEN_HINT}")
    blocks += [f"FAILED {outcome.point.file}: {outcome.error}" for outcome in done.failed]
    if done.failed:
        blocks.append(RETRY_HINT)
    return tuple(blocks)


def _failure(done: SweepResult) -> IpaError | None:
    """Pictures that failed, else scales that gave the same picture."""
    if done.failed:
        first = done.failed[0]
        message = f"{len(done.failed)} of {plural(len(done.outcomes), 'picture')} failed, the first {first.point.file}"
        return IpaError(f"{message}: {first.error}", RETRY_HINT)
    return IpaError(f"the scale has no effect: {done.frozen[0]}", FROZEN_HINT) if done.frozen else None


def _table(changes: Sequence[Change]) -> Table:
    """How much neighbouring scales differ, over all rows."""
    from ipa_cli.sweep.plan import format_scale

    pairs: dict[tuple[float, float], list[Change]] = {}
    for change in changes:
        pairs.setdefault((change.before, change.after), []).append(change)
    rows = tuple(
        (
            f"{format_scale(before)} → {format_scale(after)}",
            _between([change.mean for change in found], "{:.2f}"),
            _between([100 * change.share for change in found], "{:.1f} %"),
        )
        for (before, after), found in sorted(pairs.items())
    )
    return Table(("scale", "mean difference of 255", "pixels changed"), rows)


def _between(values: Sequence[float], form: str) -> str:
    low, high = form.format(min(values)), form.format(max(values))
    return low if low == high else f"{low} to {high}"
