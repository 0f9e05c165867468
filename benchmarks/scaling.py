"""What several GPUs give `ipa batch`: a table and a plot of what `benchmarks/throughput.py` measured.

    python benchmarks/scaling.py OUT/throughput.jsonl --plot FILE

Efficiency is pictures a second over those of one GPU in the same run times the number of GPUs. The table is Markdown.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import sys
import threading
from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

_WAY = re.compile(
    r"(?P<precision>half|fp8)(-by-(?P<size>\d+))?(-(?P<how>on|ray)-(?P<gpus>[1-9]\d*))?(?P<killed>-killed)?"
)
WORKERS = ("ipa_cli.batch.process", "MapWorker")  # in the command lines of processes of --devices, and of actors
PAUSE = 0.5  # seconds between two looks at a batch


@dataclass(frozen=True)
class Way:
    """How a batch is drawn; `how` is on (--devices), ray, or nothing for the one process of `ipa batch`."""

    name: str
    precision: str
    size: int
    how: str
    gpus: int
    killed: bool

    @property
    def drawing(self) -> tuple[str, ...]:
        """Flags on which graphs depend."""
        flags = ("--precision", "fp8") if self.precision == "fp8" else ()
        return (*flags, "--batch-size", str(self.size)) if self.size > 1 else flags

    def places(self, device: str) -> tuple[str, ...]:
        """Flags that say where it is drawn; `device` is cuda or cpu."""
        if self.how == "on":
            devices = [device if device == "cpu" else f"{device}:{number}" for number in range(self.gpus)]
            return ("--devices", ",".join(devices))
        ray = ("--ray", "local", "--actors", str(self.gpus)) if self.how == "ray" else ()
        return (*ray, "--device", "cpu") if device == "cpu" else ray


def way_of(name: str) -> Way:
    """The way of a name such as fp8-by-8-on-2-killed. Raises SystemExit."""
    said = _WAY.fullmatch(name)
    if said is None:
        raise SystemExit(f"{name} is no way: PRECISION[-by-PICTURES][-on-GPUS | -ray-GPUS][-killed]")
    size, gpus = (int(said[part] or 1) for part in ("size", "gpus"))
    return Way(name, said["precision"], size, said["how"] or "", gpus, bool(said["killed"]))


class Watch:
    """Looks at a batch that runs: memory of its driver, and, when `kill_at` pictures are there, the end of a worker."""

    def __init__(self, pictures: Path, kill_at: int | None):
        self._pictures, self._kill_at = pictures, kill_at
        self._seen: list[tuple[int, int]] = []  # pictures, and bytes of the driver
        self._killed: dict[str, Any] = {}
        self._over = threading.Event()
        self._thread: threading.Thread | None = None

    def __enter__(self) -> Watch:
        return self

    def __exit__(self, *_: Any) -> None:
        self._over.set()
        if self._thread is not None:
            self._thread.join()

    def begin(self, pid: int) -> None:
        """Watch the batch that process `pid` drives."""
        self._thread = threading.Thread(target=self._look, args=(pid,), daemon=True)
        self._thread.start()

    def found(self, count: int) -> dict[str, Any]:
        """Memory of the driver in MiB when a tenth, a half and all of `count` pictures were there; who was killed."""
        memory = [
            next((bytes / 2**20 for drawn, bytes in self._seen if drawn >= share * count), None) for share in (0.1, 0.5)
        ]
        last = self._seen[-1][1] / 2**20 if self._seen else None
        return {"driver_mib": [value for value in (*memory, last) if value is not None], **self._killed}

    def _look(self, pid: int) -> None:
        import psutil

        with suppress(psutil.Error):
            driver = psutil.Process(pid)
            while not self._over.wait(PAUSE):
                drawn = _count(self._pictures)
                memory = driver.memory_info().rss
                if not memory:
                    return  # it has ended
                self._seen.append((drawn, memory))
                if self._kill_at is not None and drawn >= self._kill_at and not self._killed:
                    self._killed = {"killed_at": drawn, "killed": _kill_worker(driver)}


def _count(folder: Path) -> int:
    with suppress(FileNotFoundError), os.scandir(folder) as entries:
        return sum(entry.name.endswith(".png") for entry in entries)
    return 0


def _kill_worker(driver: Any) -> str | None:
    """End the first process that draws for `driver`, as a lost machine does; its name."""
    for one in driver.children(recursive=True):
        command = " ".join(one.cmdline())
        name = next((name for name in WORKERS if name in command), None)
        if name is not None:
            one.kill()
            return name
    return None


def end(pid: int) -> None:
    """End a process and all that it has started, in whatever group."""
    import psutil

    with suppress(psutil.Error):
        first = psutil.Process(pid)
        for one in (*first.children(recursive=True), first):
            with suppress(psutil.Error):
                one.kill()


def with_efficiency(measured: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """The same with `efficiency`, where one GPU was measured in the same way, or in one process."""
    ones: dict[tuple[str, int, str], float] = {}
    for one in measured:
        way = way_of(one["way"])
        if way.gpus == 1 and not way.killed and "pictures_per_s" in one:
            ones[way.precision, way.size, way.how] = one["pictures_per_s"]
    found = []
    for one in measured:
        way = way_of(one["way"])
        alone = next((ones[key] for how in (way.how, "on", "") if (key := (way.precision, way.size, how)) in ones), 0.0)
        more = {"efficiency": one["pictures_per_s"] / alone / way.gpus} if alone and "pictures_per_s" in one else {}
        found.append({**one, **more})
    return found


def table(measured: Iterable[dict[str, Any]]) -> str:
    """Rows of Markdown."""
    rows = [
        "| | GPUs | pictures/s | efficiency | memory of the driver after a tenth, half, all | jobs done once | whole |",
        "|---|---|---|---|---|---|---|",
    ]
    for one in measured:
        way = way_of(one["way"])
        by = {"on": "`--devices`", "ray": "`--ray`"}.get(way.how, "one process")
        what = f"{way.precision}, {way.size} at once, {by}{', a process killed' if way.killed else ''}"
        speed = f"{one['pictures_per_s']:.2f}" if "pictures_per_s" in one else one.get("failed", "")
        share = f"{one['efficiency']:.3f}" if "efficiency" in one else ""
        memory = ", ".join(f"{value:.0f}" for value in one.get("driver_mib", ()))
        done = f"{one['done']} of {one['jobs']}" if "done" in one else ""
        rows.append(
            f"| {what} | {way.gpus} | {speed} | {share} | {memory} MiB | {done} | {one.get('whole_s', 0):.0f} s |"
        )
    return "\n".join(rows)


def plot(measured: Iterable[dict[str, Any]], path: Path) -> None:
    """Pictures a second over GPUs, beside the same number of times what one GPU draws; drawn with Pillow."""
    from PIL import Image, ImageDraw

    from ipa_cli.images.drawing import BACKGROUND, LINE, MUTED, TEXT, write

    curves: dict[str, list[tuple[int, float]]] = {}
    for one in measured:
        way = way_of(one["way"])
        if "pictures_per_s" in one and not way.killed:
            by = {"on": "--devices", "ray": "--ray"}.get(way.how, "one process")
            curves.setdefault(f"{way.precision}, {by}", []).append((way.gpus, one["pictures_per_s"]))
    most = max(gpus for each in curves.values() for gpus, _ in each)
    highest = 1.1 * max(most * speed / gpus for each in curves.values() for gpus, speed in each)
    width, height, left, bottom, colours = 640, 400, 60, 340, ("#1f6feb", "#d1570a", "#1a7f37", "#8250df")
    sheet = Image.new("RGB", (width, height), BACKGROUND)
    pen = ImageDraw.Draw(sheet)

    def place(gpus: float, speed: float) -> tuple[float, float]:
        return left + gpus / most * (width - left - 40), bottom - speed / highest * (bottom - 40)

    write(pen, (left, 10), "pictures a second over GPUs; thin: what one GPU draws, times their number", 14, TEXT)
    for share in (0, 0.5, 1):
        _, y = place(0, share * highest)
        pen.line((left, y, width - 40, y), fill=LINE)
        write(pen, (8, y - 8), f"{share * highest:.3g}", 12, MUTED)
    for gpus in range(1, most + 1):
        write(pen, (place(gpus, 0)[0] - 4, bottom + 6), str(gpus), 12, MUTED)
    for number, (name, each) in enumerate(curves.items()):
        colour = colours[number % len(colours)]
        points = sorted(each)
        if points[0][0] == 1:
            pen.line([place(0, 0), place(most, most * points[0][1])], fill=colour, width=1)
        pen.line([place(*point) for point in points], fill=colour, width=3)
        for point in points:
            x, y = place(*point)
            pen.ellipse((x - 4, y - 4, x + 4, y + 4), fill=colour)
        write(pen, (left + 150 * (number % 4), height - 30), name, 13, colour)
    sheet.save(path)


def main() -> None:
    from benchmarks.results import file

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("measured", type=Path, nargs="+")
    parser.add_argument("--plot", type=file)
    given = parser.parse_args()
    lines = [json.loads(line) for path in given.measured for line in path.open()]
    measured = with_efficiency([line for line in lines if _WAY.fullmatch(line["way"])])
    if given.plot is not None:
        plot(measured, given.plot)
    print(table(measured))


if __name__ == "__main__":
    sys.path[0] = str(Path(__file__).resolve().parent.parent)
    main()
