"""What of a batch is done: a line for each job as it ends, and from these `results.jsonl` in the order of the jobs.

The lines are in `journal/`, on disk in one file for each run. Buckets cannot append: there each file holds the jobs
that ended within some seconds, or within a hundredth of the time so far. A picture is in its place before its line is,
so a batch that is killed draws again only what has no line; the last line of a job counts.
"""

from __future__ import annotations

import json
import re
import secrets
import tempfile
import threading
import time
from array import array
from collections.abc import Iterator
from dataclasses import asdict, dataclass

from ipa_cli.batch.output import Output
from ipa_cli.errors import IpaError

FOLDER, RESULTS = "journal", "results.jsonl"
PENDING, DONE, FAILED = 0, 1, 2
_FILE = re.compile(r"pictures/(\d+/)?[^/.][^/]*")
_RUN = re.compile(FOLDER + r"/(\d{20})-", re.ASCII)
SECONDS = 1.0  # between two looks for lines to write
SECONDS_OF_A_FILE = 15.0  # at least, where files are written whole


@dataclass(frozen=True)
class Outcome:
    """How a job ended: with a picture at `file`, relative to the output, or with an error and what to do.

    `seconds` are the picture's share of the steps and the decoding of its batch: `steps_s` and `decode_s`.
    """

    job: int
    id: str
    status: str
    file: str | None = None
    sha256: str | None = None
    seed: int | None = None
    seconds: float | None = None
    error: str | None = None
    hint: str | None = None
    steps_s: float | None = None
    decode_s: float | None = None

    def line(self) -> bytes:
        return json.dumps(asdict(self), allow_nan=False).encode() + b"\n"


def parse(line: bytes, count: int) -> Outcome | None:
    """The outcome of a line, None for one that is not of a batch with so many jobs, or names a file elsewhere."""
    try:
        found = Outcome(**json.loads(line))
        found.line()  # what cannot be written again, such as NaN, is not from here
        known = type(found.job) is int and 1 <= found.job <= count and isinstance(found.id, str)
        said = found.file if found.status == "done" else found.error if found.status == "failed" else None
        return found if known and isinstance(said, str) and _FILE.fullmatch(found.file or "pictures/a") else None
    except (ValueError, TypeError, RecursionError):
        return None


def _run(before: list[str]) -> str:
    """The name of a run: it comes after those of all runs before it, also where the clock was set back since."""
    last = max((int(found[1]) for found in map(_RUN.match, before) if found), default=0)
    return f"{max(time.time_ns(), last + 1):020}-{secrets.token_hex(4)}"


class Journal:
    """The journal of a batch of `count` jobs: what earlier runs left, and what this one adds from any thread.

    Memory: a byte for each job, and while results are written 8 more.
    """

    def __init__(self, output: Output, count: int):
        self.count, self._output = count, output
        self._states = bytearray(count + 1)
        self._lines: list[bytes] = []
        self._lock, self._wake = threading.Lock(), threading.Event()
        self._run, self._files = _run(output.names(FOLDER)), 0
        self._failure: BaseException | None = None
        self._closing = False
        self._appends: bool | None = None  # until it is known
        for outcome in self._kept():
            self._states[outcome.job] = DONE if outcome.status == "done" else FAILED
        self._thread = threading.Thread(target=self._keep_writing, name="journal", daemon=True)
        self._thread.start()

    def state(self, number: int) -> int:
        """PENDING, DONE or FAILED, for the job with this number."""
        return self._states[number]

    def counted(self, state: int) -> int:
        """How many jobs are in a state."""
        return self._states.count(state) - (state == PENDING)  # there is no job 0

    def forget(self, number: int) -> None:
        """Let a job be drawn again."""
        self._states[number] = PENDING

    def add(self, outcome: Outcome) -> None:
        """Keep an outcome. Raises what a write before this one raised."""
        with self._lock:
            self._lines.append(outcome.line())
            self._states[outcome.job] = DONE if outcome.status == "done" else FAILED
        if self._failure is not None:
            raise self._failure

    def close(self) -> None:
        """Write what is left. Raises IpaError."""
        self._closing = True
        self._wake.set()
        self._thread.join()
        if self._failure is not None:
            raise self._failure

    def _keep_writing(self) -> None:
        began = last = time.monotonic()
        while self._failure is None:
            closing, now = self._closing, time.monotonic()
            if closing or self._appends is not False or now - last > max(SECONDS_OF_A_FILE, 0.01 * (now - began)):
                last = now
                self._write()
            if closing:
                return
            self._wake.wait(SECONDS)

    def _write(self) -> None:
        with self._lock:
            lines, self._lines = self._lines, []
        if not lines:
            return
        name, data = f"{FOLDER}/{self._run}", b"".join(lines)
        try:
            if self._appends is not False:
                self._appends = self._output.append(f"{name}.jsonl", data)
            if not self._appends:
                self._output.write(f"{name}-{self._files:06}.jsonl", data)
            self._files += 1
        except BaseException as error:
            self._failure = error

    def _kept(self) -> Iterator[Outcome]:
        for name in self._output.names(FOLDER):
            for line in self._output.lines(name) if name.endswith(".jsonl") else ():
                outcome = parse(line, self.count)
                if outcome is not None:
                    yield outcome

    def outcomes(self) -> Iterator[Outcome]:
        """The last outcome of each job that has one, in the order of the jobs; to be called once it is closed.

        Raises IpaError where they cannot be read, or there is no room to sort them.
        """
        try:
            yield from self._last()
        except OSError as error:
            raise IpaError(
                f"{tempfile.gettempdir()}: {error.strerror or error}",
                "free some space, or set TMPDIR to another folder",
            ) from error

    def _last(self) -> Iterator[Outcome]:
        places = array("q", bytes(8 * (self.count + 1)))
        with tempfile.TemporaryFile(prefix="ipa-batch-") as spooled:
            spooled.write(b"\n")  # so that no line is at 0
            for outcome in self._kept():
                places[outcome.job] = spooled.tell()
                spooled.write(outcome.line())
            for place in places:
                if place:
                    spooled.seek(place)
                    last = parse(spooled.readline(), self.count)
                    if last is not None:
                        yield last
