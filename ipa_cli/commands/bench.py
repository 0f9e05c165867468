"""`ipa bench`: the backends side by side, measured on this machine."""

from __future__ import annotations

import time
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ipa_cli import config
from ipa_cli.commands import options
from ipa_cli.config.units import parse_picture_size, parse_range
from ipa_cli.errors import Interrupted, IpaError, UsageError
from ipa_cli.result import Result, Table

if TYPE_CHECKING:
    from ipa_cli.bench.comparison import Regression
    from ipa_cli.bench.results import BenchResults
    from ipa_cli.config import Settings
    from ipa_cli.config.sources import Resolved

SETTINGS = ("steps", "guidance_scale", "seed", "model", "load_format", "ip_adapter", "device", "dtype")


def _flag(*declarations: str, help: str, **more: Any) -> Any:
    return options.flag(*declarations, help=help, panel="Bench", **more)


@options.with_settings(*SETTINGS)
def bench(
    context: typer.Context,
    backends: Annotated[
        list[str] | None,
        _flag(
            "--backends",
            "-b",
            help="what to measure, such as eager,inductor:precision=fp8; options as in compile",
            metavar="LIST",
            autocompletion=options.completion(options.backends),
        ),
    ] = None,
    python: Annotated[
        list[str] | None,
        _flag("--python", help="another Python for a backend: nexfort=/path/to/environment", metavar="BACKEND=PATH"),
    ] = None,
    size: Annotated[
        str | None,
        _flag("--size", help="width x height, such as 1024x768", metavar="WxH", autocompletion=options.SIZES),
    ] = None,
    batch: Annotated[
        int | None, _flag("--batch", min=1, max=64, help="number of pictures drawn at once [default: 1]", metavar="N")
    ] = None,
    dynamic: Annotated[
        str | None,
        _flag(
            "--dynamic",
            help="compile one graph for all sides in a range, such as 256..1536",
            metavar="RANGE",
            autocompletion=options.RANGES,
        ),
    ] = None,
    runs: Annotated[
        int | None, _flag("--runs", min=1, max=100, help="number of processes per backend [default: 3]", metavar="N")
    ] = None,
    budget: Annotated[
        float | None,
        _flag("--budget", min=1, help="stop after so many seconds, with what is measured by then", metavar="SECONDS"),
    ] = None,
    compare: Annotated[
        Path | None,
        _flag(
            "--compare",
            help="an earlier bench's results.json; the exit status is 1 if something became slower",
            metavar="FILE",
        ),
    ] = None,
    folder: Annotated[
        Path | None,
        _flag("--output", "-o", help="folder for data, table and chart; a new one unless given", metavar="FOLDER"),
    ] = None,
    resume: Annotated[
        bool, _flag("--resume", help="continue the bench in --output that ended early, with its own flags")
    ] = False,
    force: options.Force = False,
    tune: Annotated[
        bool, _flag("--tune", help="only measure what inductor's kernels do best with on this GPU, and keep it")
    ] = False,
    markdown: Annotated[bool, _flag("--markdown", help="print the table as Markdown")] = False,
) -> Result:
    """Measure backends: speed, memory, warm-up, and how much each differs from uncompiled drawing.

    On a GPU it draws 100 steps with a full SDXL of random weights, elsewhere with the demo model. Every run is a
    process of its own: the first run of a backend compiles the graph, the others load it from the cache.
    """
    from ipa_cli.bench import comparison, files, machine, results_file, run, specs
    from ipa_cli.engine.store import temporary_files

    if tune:
        given = (backends, python, size, batch, dynamic, runs, budget, compare, folder, resume, force, markdown)
        return _tune(context, any(given))
    options.check_on_disk(folder, "a bench", "--output bench")
    if resume and folder is None:
        raise UsageError("--resume continues the bench in a folder", "name the folder with --output")
    kept = files.earlier_request(folder, bool(backends)) if resume and folder is not None else None
    if kept is not None:
        backends, batch, runs = backends or list(kept.backends), batch or kept.batch, runs or kept.runs
        dynamic = dynamic or kept.dynamic
    settings, on_gpu = _drawn(options.settings(context, kept.layer if kept is not None else None), size)
    usual = ["eager:cuda_graph=false,eager,inductor" if on_gpu else "eager,inductor"]
    usual += [text.rpartition("=")[0] for text in python or ()]
    measured = specs.with_pythons(specs.parse_specs(backends or list(dict.fromkeys(usual))), python or ())
    measured = measured if dynamic is None else specs.with_range(measured, parse_range(dynamic))

    before = None if compare is None else results_file.read(compare)
    workload = run.Workload(settings, batch or 1)
    asked = run.describe(workload, measured)
    if before is not None and (differences := comparison.workload_differences(asked, before)):
        raise IpaError(
            f"{compare} measured another workload: {', '.join(differences)}", "measure the same, or leave out --compare"
        )
    folder = folder or Path(f"ipa-bench-{time.strftime('%Y%m%d-%H%M%S')}")
    earlier = files.unfinished(folder, asked, machine.describe(), measured) if resume else None
    files.prepare(folder, replacing=force or resume)
    with temporary_files(settings):
        done = run.bench(workload, measured, run.Limits(runs or 3, budget), folder, context.obj, earlier)

    slower = [] if before is None else comparison.regressions(done, before)
    compared = None if before is None else _compared(done, before, slower)
    data = {**results_file.to_data(done), "folder": str(folder.absolute()), "compared": compared}
    verdict = () if compared is None else _verdict(compared, slower)
    return Result("bench", data, (*_blocks(done, folder, markdown), *verdict), _failure(done, slower), (folder,))


def _drawn(resolved: Resolved, size: str | None) -> tuple[Settings, bool]:
    """The settings of what every backend draws, where nothing says otherwise for this machine; whether on its GPU."""
    from ipa_cli.hardware import probe

    settings, sources, here = resolved.settings, resolved.sources, probe.machine()
    on_gpu = settings.device != "cpu" and here.gpu is not None and here.cuda is not None
    if sources["model"].kind == sources["load_format"].kind == "default" and on_gpu:
        settings = replace(settings, model="sdxl", load_format="dummy")
    if size is not None:
        width, height = parse_picture_size(size)
        for name, value in (("width", width), ("height", height)):
            config.checked(name, value, "--size")
        settings = replace(settings, width=width, height=height)
    steps = 100 if settings.steps is None and on_gpu else settings.steps
    return replace(settings, steps=steps, seed=0 if settings.seed is None else settings.seed), on_gpu


def _tune(context: typer.Context, more: bool) -> Result:
    """`--tune`, with nothing but settings beside it."""
    from ipa_cli.backends import PREFERRED
    from ipa_cli.bench import tune

    if more:
        raise UsageError("--tune measures kernels and draws nothing", "give no other flag of ipa bench beside --tune")
    found, file = tune.tune(options.settings(context).settings, PREFERRED, context.obj)
    changed = ", ".join(found["tuning"])
    said = f"faster than the table: {changed}; `ipa compile` makes graphs with it" if changed else "the table is best"
    return Result("bench", {**found, "file": str(file)}, (tune.table(found), said, f"kept in {file}"), paths=(file,))


def _failure(done: BenchResults, slower: list[Regression]) -> IpaError | None:
    if done.stopped == "interrupted":
        return Interrupted("interrupted", "the same command with --resume measures the rest")
    if not any(backend.runs for backend in done.backends):
        return IpaError("nothing was measured", "the data says why for each backend; ipa doctor checks this machine")
    return IpaError(f"slower than before: {slower[0]}", "measure again on an idle machine") if slower else None


def _compared(done: BenchResults, before: dict[str, Any], slower: list[Regression]) -> dict[str, Any]:
    from ipa_cli.bench import comparison

    return {
        "with": before["date"],
        "changed": comparison.environment_differences(done, before),
        "uncompared": comparison.uncompared(done, before),
        "slower": [asdict(each) for each in slower],
    }


def _blocks(done: BenchResults, folder: Path, markdown: bool) -> tuple[str | Table, ...]:
    from ipa_cli.bench import table

    if markdown:
        return (table.markdown(done).rstrip(),)
    files = f"{folder}: results.json, table.md, chart.png"
    return (table.heading(done), table.make(done), *table.notes(done), files)


def _verdict(compared: dict[str, Any], slower: list[Regression]) -> tuple[str, ...]:
    """The outcome of a comparison, in lines."""
    changed = f" ({', '.join(compared['changed'])})" if compared["changed"] else ""
    first = f"slower than on {compared['with']}" if slower else f"nothing is slower than on {compared['with']}"
    alone = [f"measured in only one of the two: {', '.join(compared['uncompared'])}"] if compared["uncompared"] else []
    return (f"{first}{changed}", *(f"  {each}" for each in slower), *alone)
