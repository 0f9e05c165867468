"""Batches on a real Ray cluster of two nodes on this machine: whatever dies, each job is there once. See `.ci/ray`."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import psutil
import pytest

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not os.environ.get("RAY_CLUSTER"), reason="minutes: .ci/ray runs it"),
]
COUNT = int(os.environ.get("RAY_JOBS", "200"))
QUICK = ("--steps", 2, "--size", "64x64", "--device", "cpu", "--backend", "eager")


@pytest.fixture
def cluster(world):
    """A head and a second node, each with two CPUs."""
    from ray.cluster_utils import Cluster

    Path("/tmp/ray").mkdir(exist_ok=True)  # where Ray notes the address of a cluster, wherever that lies
    scratch = tempfile.mkdtemp(prefix="ray-", dir="/tmp")  # names of sockets are short
    node = {"num_cpus": 2, "object_store_memory": 100_000_000}
    made = Cluster(initialize_head=True, head_node_args={**node, "temp_dir": scratch, "include_dashboard": False})
    made.second = made.add_node(**node)
    made.wait_for_nodes()
    yield made
    made.shutdown()
    shutil.rmtree(scratch, ignore_errors=True)


def started(cluster, world, *flags):
    command = [sys.executable, "-m", "ipa_cli", "batch", "jobs.jsonl", *map(str, QUICK), "--verbose", *flags]
    log = Path("log").open("a")  # noqa: SIM115
    environ = {**world.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.Popen([*command, "--ray", cluster.address], stderr=log, stdout=log, env=environ)


def wait_until_drawn(number, folder, process):
    ends = time.monotonic() + 300
    while len(list(Path(folder, "pictures").glob("*.png"))) < number:
        assert process.poll() is None, Path("log").read_text()[-3000:]
        assert time.monotonic() < ends, Path("log").read_text()[-3000:]
        time.sleep(0.05)


def actors():
    return [one for one in psutil.process_iter(["cmdline"]) if "MapWorker" in " ".join(one.info["cmdline"] or ())]


def results(folder):
    return [json.loads(line) for line in Path(folder, "results.jsonl").read_text().splitlines()]


@pytest.fixture
def alone(ipa):
    """The digests of all jobs, drawn by one process without Ray, some of them by `ipa generate`."""
    lines = [{"id": f"job-{n}", "prompt": f"a star {n % 7}", "seed": n, "scale": n % 3 / 2} for n in range(COUNT)]
    Path("jobs.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    assert ipa("batch", "jobs.jsonl", *QUICK, "-o", "alone").exit_code == 0
    found = {one["id"]: one["sha256"] for one in results("alone")}
    for line in lines[:: COUNT // 4]:
        flags = ("-p", line["prompt"], "--seed", line["seed"], "--scale", line["scale"], "--json")
        assert ipa("generate", *QUICK, *flags).data()["images"][0]["sha256"] == found[line["id"]]
    return found


def check(folder, alone):
    found = results(folder)
    assert [one["id"] for one in found] == list(alone)  # each once
    assert {one["id"]: one["sha256"] for one in found} == alone
    for one in found:
        assert hashlib.sha256(Path(folder, one["file"]).read_bytes()).hexdigest() == one["sha256"]
    assert not list(Path(folder).glob(".spool-*"))


def test_an_actor_and_then_a_node_die(world, alone, cluster):
    process = started(cluster, world, "-o", "out")
    try:
        wait_until_drawn(COUNT // 8, "out", process)
        killed = actors()
        assert killed, "no actor is there to be killed"
        killed[0].kill()
        wait_until_drawn(COUNT // 3, "out", process)
        cluster.remove_node(cluster.second, allow_graceful=False)
        assert process.wait(600) == 0, Path("log").read_text()[-3000:]
    finally:
        process.kill()
    check("out", alone)


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_the_driver_dies_and_is_started_again(world, alone, cluster, number):
    process = started(cluster, world, "-o", "out")
    wait_until_drawn(COUNT // 4, "out", process)
    process.send_signal(number)
    assert process.wait(120) == (-9 if number == signal.SIGKILL else 143), Path("log").read_text()[-3000:]
    process = started(cluster, world, "-o", "out", "--resume")
    assert process.wait(600) == 0, Path("log").read_text()[-3000:]
    check("out", alone)
    drawn = [line for path in Path("out/journal").iterdir() for line in path.read_text().splitlines()]
    assert len(drawn) == COUNT


def test_a_cluster_that_is_not_there_is_an_error_in_a_line(world, ipa):
    Path("jobs.jsonl").write_text('{"id": "a"}\n')
    ran = ipa("batch", "jobs.jsonl", *QUICK, "--ray", "127.0.0.1:1", "-o", "out", "--json")
    assert ran.exit_code == 1 and "there is no Ray cluster at 127.0.0.1:1" in ran.error()["message"]


def test_a_sweep_on_the_cluster_leaves_the_same_files(world, ipa, cluster):
    flags = ("sweep-scale", *QUICK, "--scales", "0,0.5,1", "-p", "a star", "-p", "a moon", "--seed", 3)
    assert ipa(*flags, "--warmup", 0, "-o", "here").exit_code == 0
    command = [sys.executable, "-m", "ipa_cli", *map(str, flags), "--ray", cluster.address, "-o", "there"]
    assert subprocess.run(command, env={**world.environ, "OMP_NUM_THREADS": "1"}, timeout=300).returncode == 0
    here, there = (
        {path.relative_to(folder): path.read_bytes() for path in Path(folder).rglob("*.*") if path.name != ".lock"}
        for folder in ("here", "there")
        if Path(folder).is_dir()
    )
    assert here == there and len(here) > 6
