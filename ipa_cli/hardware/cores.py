"""Processor cores: how many this process may use, how many others use, and the number of threads for torch."""

from __future__ import annotations

import os
import time
from dataclasses import dataclass
from pathlib import Path

from ipa_cli.result import Reporter

CGROUPS, OURS = Path("/sys/fs/cgroup"), Path("/proc/self/cgroup")
# Variables by which users choose the number of threads.
CHOSEN = ("OMP_NUM_THREADS", "MKL_NUM_THREADS")
SHORT = 0.2  # seconds; below, the kernel's counters with their steps of 10 ms are too coarse


@dataclass(frozen=True)
class Snapshot:
    """Clock time, busy time of the usable cores, and busy time of this process, in seconds."""

    at: float
    busy: float
    own: float


def usable() -> int:
    """How many cores this process may use by its affinity and its container's quota."""
    quota = limit()
    count = len(_affinity())
    return count if quota is None else max(1, min(count, int(quota)))


def limit(cgroups: Path = CGROUPS, ours: Path = OURS) -> float | None:
    """The least quota of the control groups (version 1 or 2) around this process, in cores; None without one."""
    found = []
    for controllers, path in _groups(ours):
        base = cgroups / controllers
        inner = base / path
        for folder in {base, inner, *(parent for parent in inner.parents if parent.is_relative_to(base))}:
            found += [_ratio(folder, ("cpu.max",)), _ratio(folder, ("cpu.cfs_quota_us", "cpu.cfs_period_us"))]
    return min((quota for quota in found if quota is not None), default=None)


def snapshot() -> Snapshot:
    """The counters now."""
    try:
        import psutil
    except ImportError:  # `ipa doctor` on a broken installation: it reports no other programs
        return Snapshot(time.monotonic(), 0.0, 0.0)
    times = psutil.cpu_times(percpu=True)
    cores = [times[core] for core in _affinity() if core < len(times)]
    kinds = ["user", "system", "irq", "softirq", "steal"]
    if os.nice(0) > 0:  # else processes of low priority give way to this one
        kinds.append("nice")
    busy = sum(getattr(core, kind, 0.0) for core in cores for kind in kinds)
    return Snapshot(time.monotonic(), busy, sum(os.times()[:4]))


def others(since: Snapshot) -> float:
    """How many of our cores other programs have kept busy `since` then; 0 where the time was too short to tell."""
    now = snapshot()
    seconds = now.at - since.at
    if seconds < SHORT:
        return 0.0
    return max(0.0, (now.busy - since.busy - (now.own - since.own)) / seconds)


def threads(most: int, cores: int, elsewhere: float) -> int:
    """The number of threads, at most `most`: one per free core, but at least for a quarter of the cores.

    Threads wait for each other after every operation, so one that shares its core delays all. The miniature on 2
    cores beside two busy processes: 0.6 steps per second with 2 threads, 9.8 with one.
    """
    return max(1, min(most, max(cores // 4, round(cores - elsewhere))))


def fit(elsewhere: float, reporter: Reporter) -> None:
    """Set torch's threads to the number of usable free cores, unless the user has chosen.

    `elsewhere` is the result of `others`. Notes when that is fewer than torch's default.
    """
    import torch

    if any(os.environ.get(name) for name in CHOSEN):
        return
    most, cores = torch.get_num_threads(), usable()
    count = threads(most, cores, elsewhere)
    if count < most:
        torch.set_num_threads(count)
        why = (
            f"other programs use {elsewhere:.1f} of {cores} cores"
            if elsewhere >= 0.5
            else f"this process may use {cores} cores"
        )
        reporter.note(f"computing with {count} of {most} threads: {why} (OMP_NUM_THREADS={most} takes all)")


def _affinity() -> set[int]:
    if hasattr(os, "sched_getaffinity"):
        return os.sched_getaffinity(0)
    return set(range(os.cpu_count() or 1))


def _groups(ours: Path) -> list[tuple[str, str]]:
    """The names of the controllers, none in version 2, and the paths of our control groups."""
    try:
        lines = [line.split(":", 2) for line in ours.read_text(encoding="utf-8").splitlines()]
    except OSError:
        return []
    return [(line[1], line[2].lstrip("/")) for line in lines if len(line) == 3 and ".." not in line[2]]


def _ratio(folder: Path, files: tuple[str, ...]) -> float | None:
    """The quota by its period, from one file or two; None for "max", -1 or nothing there."""
    try:
        quota, period = " ".join((folder / file).read_text(encoding="ascii") for file in files).split()
        return int(quota) / int(period) if int(quota) > 0 else None
    except (OSError, ValueError):
        return None
