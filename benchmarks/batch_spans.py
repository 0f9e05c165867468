"""What the pictures of a batch take beside the steps: spans of each thread, and a GPU's idle time and small kernels.

Used by `benchmarks/throughput.py --profile`. Batches are drawn by the `Worker` of `ipa batch` in this process: the
first ones warm up, the next are timed on the processor, and the last are seen by the profiler as well.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from ipa_cli.batch import worker
from ipa_cli.batch.jobs import Job
from ipa_cli.batch.prepared import Preparation
from ipa_cli.batch.task import Task
from ipa_cli.config import Settings
from ipa_cli.engine.encodings import Encodings
from ipa_cli.engine.engine import Engine
from ipa_cli.hardware.timing import StepClock
from ipa_cli.result import NullReporter

WARM, TIMED, SEEN = 2, 4, 3  # batches
OF_GRAPH = 64  # kernels with one launch in common, from which on it is a graph's
SPANS = {  # what is timed, by thread
    "main: begin, all of it": (Engine, "begin"),
    "main:   encoding": (Encodings, "of_several"),
    "main:   finding graphs": (Engine, "_prepared"),
    "main:   steps": (Engine, "_denoise"),
    "main:     waiting for the GPU": (StepClock, "mark"),
    "main: what drew it": (worker, "drawn_by"),
    "reader: making a job ready": (Preparation, "one"),
    "writers: all of it": (worker.Worker, "_keep"),
    "writers:   record": (worker, "record"),
    "writers:   compressing": (worker.encode, "encode"),
}


def measure(engine: Engine, settings: Settings, out: Path) -> Iterator[dict[str, Any]]:
    """Milliseconds a picture of each span, then what the profiler saw, of `batch_size` pictures a batch.

    The engine is closed in the end.
    """
    import torch

    size, spans, cuda = settings.batch_size, dict[str, list[float]](), torch.cuda.is_available()
    seen = torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CUDA])
    found: dict[str, Any] = {}
    batches, began, outcomes = 0, 0.0, list[Any]()

    def begun(engine: Any, requests: Sequence[Any]) -> Any:
        nonlocal batches, began
        if batches in (WARM, WARM + TIMED):
            torch.cuda.synchronize() if cuda else None
        if batches == WARM:
            began = time.perf_counter()
            spans.update({name: [0.0, 0.0] for name in SPANS})
        if batches == WARM + TIMED:
            found["ms_a_picture"] = round(1e3 * (time.perf_counter() - began) / TIMED / size, 2)
            found["spans"] = {
                name: [round(1e3 * one / TIMED / size, 2) for one in both] for name, both in spans.items()
            }
            seen.start() if cuda else None
        batches += 1
        return begin(engine, requests)

    jobs = [
        Job(n + 1, f"job-{n}", {"prompt": f"a planet {n}", "seed": n, "image": (str(out / f"{n % 8}.png"),)})
        for n in range(size * (WARM + TIMED + SEEN))
    ]
    with ExitStack() as undo:
        drawer = worker.Worker(Task(settings, str(out / "profiled"), 0), NullReporter(), lambda *_: engine)
        undo.callback(drawer.close)
        for name, (owner, attribute) in SPANS.items():
            undo.enter_context(_timed(owner, attribute, spans, name))
        begin, Engine.begin = Engine.begin, begun  # type: ignore[method-assign]
        try:
            drawer.draw(jobs, outcomes.append)
        finally:
            Engine.begin = begin  # type: ignore[method-assign]
        failed = [one.error for one in outcomes if one.status != "done"]
        if failed:
            raise RuntimeError(f"{len(failed)} pictures failed: {failed[0]}")
        yield found
        if cuda:
            torch.cuda.synchronize()
            seen.stop()
            yield _of_gpu(seen.profiler.kineto_results.events(), size)


@contextmanager
def _timed(owner: Any, name: str, spans: dict[str, list[float]], key: str) -> Any:
    """Add seconds by the clock, and of the thread's processor time, to `spans[key]` while that is there."""
    real = getattr(owner, name)

    def timed(*given: Any, **named: Any) -> Any:
        wall, cpu = time.perf_counter(), time.thread_time()
        try:
            return real(*given, **named)
        finally:
            if key in spans:
                spans[key][0] += time.perf_counter() - wall
                spans[key][1] += time.thread_time() - cpu

    setattr(owner, name, timed)
    try:
        yield
    finally:
        setattr(owner, name, real)


def _of_gpu(events: Sequence[Any], size: int) -> dict[str, Any]:
    """Idle time and kernels outside of graphs, between the first and the last kernel of the steps that were seen."""
    import torch

    cuda = torch.autograd.DeviceType.CUDA
    every = sorted(
        (one.start_ns(), one.start_ns() + one.duration_ns(), one.name(), one.correlation_id(), one.device_resource_id())
        for one in events
        if one.device_type() == cuda and one.duration_ns() > 0 and "ontext" not in one.name()[:9]
    )
    launched = Counter(of for *_, of, _ in every)
    inside = [launched[of] >= OF_GRAPH for *_, of, _ in every]
    steps = [at for at, graph in enumerate(inside) if graph]
    first, last = steps[0], steps[-1]
    pictures, until, gaps, outside = (
        (SEEN - 1) * size,
        every[first][1],
        list[tuple[int, str, str]](),
        dict[str, list[int]](),
    )
    for at in range(first + 1, last + 1):
        start, end, name, *_ = every[at]
        if start > until:
            gaps.append((start - until, every[at - 1][2], name))
        until = max(until, end)
        if not inside[at]:
            own = outside.setdefault(name, [0, 0])
            own[0], own[1] = own[0] + 1, own[1] + end - start
    streams = {stream: sum(end - start for start, end, *_, own in every if own == stream) for *_, stream in every}
    long = [one for one in gaps if one[0] > 50_000]
    return {
        "idle_ms_a_picture": round(sum(gap for gap, *_ in gaps) / 1e6 / pictures, 2),
        "idle_in_gaps_over_50_us": round(sum(gap for gap, *_ in long) / 1e6 / pictures, 2),
        "outside_ms_a_picture": round(sum(ns for _, ns in outside.values()) / 1e6 / pictures, 2),
        "outside_a_picture": round(sum(count for count, _ in outside.values()) / pictures, 1),
        "streams_ms": {str(stream): round(ns / 1e6, 1) for stream, ns in streams.items()},
        "gaps": [
            (round(ns / 1e6, 3), before[:60], after[:60]) for ns, before, after in sorted(long, reverse=True)[:12]
        ],
        "outside": [
            (name[:100], round(count / pictures, 1), round(ns / 1e6 / pictures, 3))
            for name, (count, ns) in sorted(outside.items(), key=lambda one: -one[1][1])[:16]
        ],
    }


def lines(found: dict[str, Any]) -> list[str]:
    """What was measured, for people."""
    if "spans" in found:
        said = [f"a picture, of batches drawn one after the other: {found['ms_a_picture']} ms"]
        said += ["  ms a picture by the clock, and of processor time:"]
        return said + [f"    {name:34} {wall:8.2f} {cpu:8.2f}" for name, (wall, cpu) in found["spans"].items()]
    said = [
        f"  GPU idle {found['idle_ms_a_picture']} ms a picture ({found['idle_in_gaps_over_50_us']} in long gaps); "
        f"outside of graphs {found['outside_a_picture']} kernels, {found['outside_ms_a_picture']} ms a picture; "
        f"ms by stream {found['streams_ms']}"
    ]
    said += [f"    gap {ms:8.3f} ms between {before} and {after}" for ms, before, after in found["gaps"]]
    return said + [f"    {count:7.1f} {ms:8.3f} ms a picture: {name}" for name, count, ms in found["outside"]]
