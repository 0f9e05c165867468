"""Cores that may be used and are free, and the threads that torch then computes with."""

import os
import subprocess
import sys

import pytest

from ipa_cli.hardware import cores
from ipa_cli.result import KeepingReporter


@pytest.fixture
def groups(tmp_path):
    """Control groups as the kernel shows them: files below a folder, and the paths of this process."""

    def make(ours, files):
        (tmp_path / "ours").write_text(ours)
        for name, text in files.items():
            (tmp_path / "cgroup" / name).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / "cgroup" / name).write_text(text)
        return cores.limit(tmp_path / "cgroup", tmp_path / "ours")

    return make


@pytest.mark.parametrize(
    ("ours", "files", "quota"),
    [
        ("0::/\n", {"cpu.max": "250000 100000\n"}, 2.5),
        ("0::/\n", {"cpu.max": "max 100000\n"}, None),
        ("0::/pod/box\n", {"pod/box/cpu.max": "max 100000", "pod/cpu.max": "150000 50000"}, 3),
        ("0::/pod/box\n", {"pod/box/cpu.max": "100000 100000", "pod/cpu.max": "150000 50000"}, 1),
        ("0::/../elsewhere\n", {"cpu.max": "100000 100000"}, None),
        (
            "5:memory:/box\n4:cpu,cpuacct:/box\n",
            {"cpu,cpuacct/cpu.cfs_quota_us": "400000\n", "cpu,cpuacct/cpu.cfs_period_us": "100000\n"},
            4,
        ),
        ("4:cpu:/box\n", {"cpu/box/cpu.cfs_quota_us": "-1\n", "cpu/box/cpu.cfs_period_us": "100000\n"}, None),
        ("nonsense", {"cpu.max": "strange"}, None),
    ],
)
def test_the_quota_of_a_container_is_read(groups, ours, files, quota):
    assert groups(ours, files) == quota


def test_affinity_and_quota_bound_the_cores(monkeypatch):
    monkeypatch.setattr(cores, "_affinity", lambda: set(range(8)))
    for quota, count in ((None, 8), (2.5, 2), (0.5, 1), (64, 8)):
        monkeypatch.setattr(cores, "limit", lambda quota=quota: quota)
        assert cores.usable() == count


@pytest.mark.parametrize(
    ("most", "here", "elsewhere", "count"),
    [
        (2, 2, 0, 2),
        (2, 2, 0.3, 2),
        (2, 2, 1, 1),
        (2, 2, 2, 1),
        (16, 16, 2, 14),
        (16, 16, 16, 4),
        (8, 2, 0, 2),
        (1, 2, 0, 1),
    ],
)
def test_threads_are_those_of_free_cores(most, here, elsewhere, count):
    assert cores.threads(most, here, elsewhere) == count


def test_what_others_do_is_what_is_done_without_us(monkeypatch):
    before = cores.Snapshot(at=100, busy=50, own=5)
    for now, elsewhere in (((102, 54, 6), 1.5), ((102, 54, 10), 0), ((100.1, 54, 6), 0)):
        monkeypatch.setattr(cores, "snapshot", lambda now=now: cores.Snapshot(*now))
        assert cores.others(before) == elsewhere


@pytest.mark.slow
def test_the_counters_are_those_of_the_kernel(monkeypatch):
    monkeypatch.setattr(os, "nice", lambda by: 1)  # so that work of a low priority counts, as this may be
    began = cores.snapshot()
    subprocess.run([sys.executable, "-c", "import time\nwhile time.process_time() < 0.4: pass"], check=True)
    now = cores.snapshot()
    assert now.busy - began.busy > 0.3 and 0.3 < now.own - began.own < now.at - began.at + 0.1


def test_torch_takes_fewer_threads_beside_others_and_says_so(monkeypatch):
    import torch

    for name in cores.CHOSEN:
        monkeypatch.delenv(name, raising=False)
    before = torch.get_num_threads()
    monkeypatch.setattr(cores, "usable", lambda: 4)
    said = KeepingReporter()
    try:
        torch.set_num_threads(4)
        cores.fit(0.1, said)
        assert torch.get_num_threads() == 4 and not said.notes
        monkeypatch.setenv("OMP_NUM_THREADS", "4")
        cores.fit(3.0, said)
        assert torch.get_num_threads() == 4 and not said.notes
        monkeypatch.delenv("OMP_NUM_THREADS")
        cores.fit(3.0, said)
        assert torch.get_num_threads() == 1
        assert said.notes == [
            "computing with 1 of 4 threads: other programs use 3.0 of 4 cores (OMP_NUM_THREADS=4 takes all)"
        ]
        torch.set_num_threads(8)
        cores.fit(0.0, said)
        assert torch.get_num_threads() == 4 and "this process may use 4 cores" in said.notes[1]
    finally:
        torch.set_num_threads(before)
