"""What a batch costs beside drawing: time for a job and memory of the driver, with an engine that draws nothing.

    python -m benchmarks.batch --jobs 100000                   in this process
    python -m benchmarks.batch --jobs 100000 --ray local       by two actors of a Ray cluster
    python -m benchmarks.batch --plot FILE A.json B.json

Everything else is real: jobs are read, checked, ordered and made ready, pictures (8 pixels a side) compressed, written
and synced, the journal kept, results and pages written. The last lines are a table.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import platform
import sys
import tempfile
import time
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

sys.path[0] = str(Path(__file__).resolve().parent.parent)

from benchmarks.results import file  # noqa: E402

POINTS = 100


class FakeEngine:
    """Draws the same grey picture for every request, at once."""

    def __init__(self, settings: Any, plan: Any, reporter: Any):
        from PIL import Image

        self.settings, self.plan, self.reporter = settings, plan, reporter
        self.dtype, self.device = "torch.float32", SimpleNamespace(type="cpu")
        self._picture = Image.new("RGB", (8, 8), "grey")

    def begin(self, requests: Any) -> list[Any]:
        from ipa_cli.engine.drawing import Drawing

        ready = SimpleNamespace(backend="fake", entry=None)
        return [
            SimpleNamespace(ready=ready, drawing=lambda: Drawing({0: self._picture}, 1, 0.0, 0.0)) for _ in requests
        ]

    def close(self) -> None:
        pass


def measure(count: int, ray: str | None, actors: int) -> dict[str, Any]:
    import psutil

    from ipa_cli.batch import description, on_ray, run, source
    from ipa_cli.batch.worker import Worker
    from ipa_cli.config import Settings
    from ipa_cli.output import Terminal

    process, points = psutil.Process(), []

    def sampled(draw: Any, task: Any, jobs: Any, done: Any, reporter: Any) -> None:
        began, ended = time.perf_counter(), 0

        def heard(outcome: Any) -> None:
            nonlocal ended
            done(outcome)
            ended += 1
            if ended % max(1, count // POINTS) == 0:
                points.append([ended, time.perf_counter() - began, process.memory_info().rss])
                print(f"{ended} {points[-1][1]:.1f} s {points[-1][2] / 2**20:.0f} MiB", file=sys.stderr, flush=True)

        draw(task, jobs, heard, reporter)

    def here(task: Any, jobs: Any, done: Any, reporter: Any) -> None:
        Worker(task, reporter, opened=FakeEngine).draw(jobs, done)

    draw = here
    if ray is not None:
        draw = partial(on_ray.draw, on_ray.Cluster(ray, actors, 256, "benchmarks.batch:FakeEngine"))
    with tempfile.TemporaryDirectory(prefix="ipa-bench-batch-") as folder:
        file = Path(folder, "jobs.jsonl")
        with file.open("w") as lines:
            for n in range(count):
                sides = (64, 128)[n % 2]
                lines.write(json.dumps({"id": f"job-{n}", "prompt": f"a star {n}", "seed": n, "width": sides}) + "\n")
        settings = Settings(device="cpu", backend="eager", steps=1)
        found = source.find(str(file), [], None, print)
        asked = description.Asked(settings, found, str(Path(folder, "out")))
        began = time.perf_counter()
        run.run(asked, Terminal(), False, partial(sampled, draw))
        total = time.perf_counter() - began
    return {
        "way": f"Ray, {actors} actors" if ray else "one process",
        "jobs": count,
        "total_s": total,
        "points": points,
        "machine": f"{os.cpu_count()} cores, Python {platform.python_version()}",
    }


def table(found: list[dict[str, Any]]) -> str:
    rows = ["way            jobs   total s  ms a job: first, last tenth   RSS MiB: at 1 %, 50 %, 100 %"]
    for one in found:
        points = one["points"]
        tenth = max(1, len(points) // 10)

        def pace(first: list[Any], last: list[Any]) -> float:
            return 1000 * (last[1] - first[1]) / max(1, last[0] - first[0])

        memory = [points[at][2] / 2**20 for at in (0, len(points) // 2, -1)]
        rows.append(
            f"{one['way']:14} {one['jobs']:6} {one['total_s']:8.1f}  {pace(points[0], points[tenth]):8.2f} "
            f"{pace(points[-1 - tenth], points[-1]):8.2f}   {'  '.join(f'{value:7.0f}' for value in memory)}"
        )
    return "\n".join(rows)


def plot(found: list[dict[str, Any]], path: Path) -> None:
    """Memory of the driver and time for a job over jobs done, drawn with Pillow."""
    from PIL import Image, ImageDraw

    from ipa_cli.images.drawing import BACKGROUND, LINE, MUTED, TEXT, write

    width, height, left, colours = 900, 360, 70, ("#1f6feb", "#d1570a", "#1a7f37")
    sheet = Image.new("RGB", (width, height), BACKGROUND)
    pen = ImageDraw.Draw(sheet)
    most = max(one["jobs"] for one in found)

    def curve(top: int, values: list[tuple[float, float]], highest: float, colour: str) -> None:
        places = [(left + x / most * (width - left - 30), top + 110 - y / highest * 100) for x, y in values]
        pen.line(places, fill=colour, width=2)

    panels: list[tuple[str, Any]] = [
        ("memory of the driver, MiB", lambda a, b: b[2] / 2**20),
        ("ms a job", lambda a, b: 1000 * (b[1] - a[1]) / max(1, b[0] - a[0])),
    ]
    for top, (title, value) in zip((40, 200), panels, strict=True):
        curves = []
        for one in found:
            step = max(1, len(one["points"]) // 20)
            some = one["points"][::step]
            curves.append([(b[0], value(a, b)) for a, b in itertools.pairwise(some)])
        highest = 1.2 * max(y for each in curves for _, y in each)
        write(pen, (left, top - 26), title, 14, TEXT)
        for share in (0, 0.5, 1):
            y = top + 110 - share * 100
            pen.line((left, y, width - 30, y), fill=LINE)
            write(pen, (8, y - 8), f"{share * highest:.3g}", 12, MUTED)
        for each, colour in zip(curves, colours, strict=False):
            curve(top, each, highest, colour)
    write(pen, (left, 322), f"0 to {most} jobs", 12, MUTED)
    for number, (one, colour) in enumerate(zip(found, colours, strict=False)):
        write(pen, (left + 180 + 200 * number, 322), one["way"], 13, colour)
    sheet.save(path)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--jobs", type=int, default=100_000)
    parser.add_argument("--ray", metavar="ADDRESS")
    parser.add_argument("--actors", type=int, default=2)
    parser.add_argument("--output", type=file)
    parser.add_argument("--plot", type=file)
    parser.add_argument("measured", nargs="*", type=Path)
    given = parser.parse_args()
    if given.plot:
        every = [json.loads(path.read_text()) for path in given.measured]
        plot(every, given.plot)
    else:
        every = [measure(given.jobs, given.ray, given.actors)]
        if given.output:
            given.output.write_text(json.dumps(every[0]))
    print(table(every))
