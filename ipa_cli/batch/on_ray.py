"""Jobs drawn on a Ray cluster: Ray Data hands them, some at a time, to actors that each hold an engine.

The jobs are spooled into the output, where every node can read them, and streamed from there, so that the driver holds
none. Actors write their pictures themselves and return what is known of them, since a lost node takes its objects
along; what was given to it is then drawn again, by another actor, to the same files.
"""

from __future__ import annotations

import importlib
import itertools
import json
import logging
import os
import secrets
import shutil
import signal
import socket
import tempfile
import traceback
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from ipa_cli.batch import jobs as formats
from ipa_cli.batch import output as outputs
from ipa_cli.batch import task as tasks
from ipa_cli.batch.jobs import Job
from ipa_cli.batch.journal import Outcome
from ipa_cli.batch.output import Folder, Output
from ipa_cli.batch.task import Bug, Task
from ipa_cli.batch.worker import Worker
from ipa_cli.cache.locks import hold_lock_file, is_lock_file_held
from ipa_cli.config.privacy import public_text
from ipa_cli.errors import RESUME_HINT, IpaError
from ipa_cli.result import NullReporter, Reporter

SPOOL = ".spool-"  # how the names of folders begin in which jobs lie for the nodes
SPOOLED = 1000  # jobs in a file that Ray Data reads
TOGETHER = 16  # jobs that an actor gets at once, at most, and that are drawn again when it is lost
TURNS = 8  # times that an actor gets some, at least: fewer jobs at once where there are few, so that all end together
CALLS = 2  # that an actor answers beside each other: one draws, while the pictures of the one before it are written
CPUS = 0.5  # that an actor counts as: two on a node with two leave one to read jobs
LOCAL = "local"
TEMP_DIR, LOCK = "/tmp", ".ipa.lock"  # where Ray has its own by default: sockets in it need short names


@dataclass(frozen=True)
class Cluster:
    """Which cluster, and how many actors; None is one for each GPU, without any one for each node."""

    address: str
    actors: int | None = None
    together: int = TOGETHER
    opened: str | None = None  # "module:function" in place of `Engine.open`, for measuring without a model


class Drawer:
    """The actor: an engine, opened at the first job, and kept."""

    def __init__(self, task: str, folder: str, opened: str | None):
        with suppress(OSError):  # relative paths are as they were typed, where the folder is there
            os.chdir(folder)
        more = {}
        if opened is not None:
            module, _, name = opened.partition(":")
            more["opened"] = getattr(importlib.import_module(module), name)
        self._warnings = deque[str]()
        self._worker = Worker(tasks.of_json(task), _Keeping(self._warnings), **more)

    def __call__(self, batch: Any) -> dict[str, list[str]]:
        """The outcomes of some jobs, before them warnings, and what drew each size of theirs: lines of JSON."""
        found: list[Outcome] = []
        try:
            sizes = self._worker.draw(map(formats.of_json, batch["text"]), found.append)
        except IpaError as error:
            raise Unusable(json.dumps([error.message, error.hint])) from None
        except Exception:
            raise Bug(traceback.format_exc()) from None
        said = [{"size": size, **facts} for size, facts in sizes.items()]
        return {"line": [json.dumps(one) for one in (*self._warned(), *said, *map(asdict, found))]}

    def _warned(self) -> Iterator[dict[str, str]]:
        with suppress(IndexError):
            while True:
                yield {"warning": self._warnings.popleft()}


class Unusable(Exception):
    """Nothing more can be drawn; its text is JSON of a message and a hint, as the error crosses processes as text."""


class _Keeping(NullReporter):
    def __init__(self, into: deque[str]):
        self._into = into

    def warn(self, text: str) -> None:
        self._into.append(text)


def draw(
    cluster: Cluster,
    task: Task,
    jobs: Iterator[Job],
    done: Callable[[Outcome], None],
    reporter: Reporter,
    drawn_by: Callable[[tuple[int, int], dict[str, Any]], None] = lambda size, facts: None,
) -> None:
    """Draw all jobs on a cluster; `drawn_by` is called with what drew a size, before the outcomes of its first jobs.

    Raises IpaError where there is no cluster, and what `Worker.draw` does.
    """
    output = outputs.of(task.output)
    with ExitStack() as lasting:
        ray = _connected(cluster.address, lasting)
        if isinstance(output, Folder):  # which is locked: these are of drivers that were killed
            for left in output.path.glob(f"{SPOOL}*"):
                output.remove(left.name)
        spool = f"{SPOOL}{secrets.token_hex(4)}"
        lasting.callback(output.remove, spool)
        names, count = _spooled(output, spool, jobs)
        gpus = int(ray.cluster_resources().get("GPU", 0)) if task.settings.device != "cpu" else 0
        nodes = sum(node["Alive"] for node in ray.nodes())
        actors = cluster.actors or gpus or nodes
        reporter.note(f"Ray: {actors} actors on {nodes} nodes, {'a GPU each' if gpus else 'no GPUs'}")
        if gpus:
            task = replace(task, settings=replace(task.settings, device="cuda"))
        together = _together(cluster.together, count // (TURNS * actors), task.settings.batch_size)
        told = set[str]()
        for line in _lines(output, names, task, actors, together, bool(gpus), cluster.opened):
            said = json.loads(line)
            if "warning" in said:
                reporter.warn(said["warning"])
            elif "size" in said:
                if line not in told:
                    told.add(line)
                    drawn_by(tuple(said.pop("size")), said)
            else:
                done(Outcome(**said))


def _together(most: int, share: int, batch_size: int) -> int:
    """How many jobs an actor gets at once: whole batches, one of them at least, and no more than `most` beyond that."""
    return max(1, min(most, share) // batch_size) * batch_size


def _lines(
    output: Output, names: list[str], task: Task, actors: int, together: int, gpu: bool, opened: str | None
) -> Iterator[str]:
    import ray
    from ray.data import ActorPoolStrategy, DataContext

    logging.getLogger("ray.data").setLevel(logging.ERROR)
    context = DataContext.get_current()
    context.enable_progress_bars = False
    context.print_on_execution_start = False
    context.actor_task_retry_on_errors = False
    paths, files = output.for_reading(names)
    drawn = (
        ray.data.read_text(paths, filesystem=files, override_num_blocks=len(paths))
        .repartition(target_num_rows_per_block=together)
        .map_batches(
            Drawer,
            batch_size=together,
            compute=ActorPoolStrategy(
                size=actors,
                max_tasks_in_flight_per_actor=CALLS,
                max_concurrent_calls_per_actor=CALLS,
                enable_true_multi_threading=True,
            ),
            num_cpus=CPUS,
            num_gpus=1 if gpu else 0,
            fn_constructor_args=(task.as_json(), str(Path.cwd()), opened),
        )
    )
    try:
        for batch in drawn.iter_batches(batch_size=None, prefetch_batches=0):
            yield from map(str, batch["line"])
    except ray.exceptions.RayError as error:
        raise _explained(error) from error


def _explained(error: Exception) -> Exception:
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, Unusable):
            return IpaError(*json.loads(str(cause)))
        if isinstance(cause, Bug):
            return Bug(f"in an actor:\n{cause}")
        cause = getattr(cause, "cause", None) or cause.__cause__
    said = [line for line in str(error).splitlines() if line.strip()]
    return IpaError(f"Ray: {public_text(said[-1].strip() if said else type(error).__name__)}", RESUME_HINT)


def _connected(address: str, lasting: ExitStack) -> Any:
    """Ray, connected to a cluster, or to one that is started for this batch, while `lasting` lasts."""
    os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")  # errors arrive as exceptions
    try:
        import ray
    except ImportError as error:
        raise IpaError("--ray needs Ray", "pip install 'ipa-cli[ray]'") from error
    scratch = lasting.enter_context(_scratch()) if address == LOCAL else None
    handled = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        _check_there(address)
        ray.init(
            address=address,
            _temp_dir=scratch,
            include_dashboard=False if address == LOCAL else None,
            log_to_driver=False,
            logging_level=logging.ERROR,
            configure_logging=True,
        )
    except (ConnectionError, RuntimeError, ValueError, OSError) as error:
        said = " ".join(str(error).split())[:200]
        hint = f"`ray start --head` starts one, --ray {LOCAL} one for this batch alone"
        raise IpaError(f"there is no Ray cluster at {address}: {said}", hint) from error
    finally:
        for number, handler in handled.items():  # Ray takes SIGTERM for itself
            signal.signal(number, handler)
    lasting.callback(ray.shutdown)
    return ray


@contextmanager
def _scratch() -> Iterator[str]:
    """A folder for a cluster, where names of sockets are short; those that killed drivers left are removed."""
    for left in Path(TEMP_DIR).glob(f"ray-*/{LOCK}"):
        with suppress(OSError):
            if left.parent.lstat().st_uid == os.geteuid() and not is_lock_file_held(left):
                shutil.rmtree(left.parent, ignore_errors=True)
    folder = tempfile.mkdtemp(prefix="ray-", dir=TEMP_DIR)
    with hold_lock_file(Path(folder, LOCK)):
        try:
            yield folder
        finally:
            shutil.rmtree(folder, ignore_errors=True)


def _check_there(address: str) -> None:
    """Raise OSError where nothing listens: Ray would try for more than a minute."""
    host, _, port = address.rpartition("://")[2].rpartition(":")
    if host and port.isdecimal():
        socket.create_connection((host.strip("[]"), int(port)), timeout=10).close()


def _spooled(output: Output, folder: str, jobs: Iterator[Job]) -> tuple[list[str], int]:
    """Write the jobs into files: their names, and how many jobs there are."""
    names, count = list[str](), 0
    while taken := list(itertools.islice(jobs, SPOOLED)):
        names.append(f"{folder}/{len(names):06}.txt")
        output.write(names[-1], "".join(f"{job.as_json()}\n" for job in taken).encode())
        count += len(taken)
    return names, count
