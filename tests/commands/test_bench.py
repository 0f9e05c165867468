"""`ipa bench` with the demo model on the CPU: real processes, two ways of eager as backends."""

from __future__ import annotations

import json
import signal
import sys
import time
from pathlib import Path

import pytest
from PIL import Image

from ipa_cli import backends
from tests import tiny_model
from tests.unets import FLAT

pytestmark = pytest.mark.slow

QUICK = ("--steps", 2, "--size", "64x64", "--device", "cpu")
PLAIN = "eager:cuda_graph=false"
MISSING = backends.problem("oneflow", {}).message


@pytest.mark.timeout(600)
def test_an_interrupted_bench_keeps_what_it_measured_goes_on_and_is_compared(ipa, ipa_process, world):
    """Runs of the program in one test: each process that measures takes seconds to import what it needs."""
    asked = ("--backends", f"eager,{PLAIN},oneflow", "--dtype", "bfloat16", *QUICK, "--batch", 2, "-o", "out", "--json")
    ran = ipa_process("bench", *asked, "--runs", 5, interrupt_at="[1/15] eager, run 1", signals=[signal.SIGHUP])
    assert ran.exit_code == 129
    stopped = ran.json()["data"]
    kept = json.loads(Path("out/results.json").read_text())
    assert kept["stopped"] == stopped["stopped"] == "interrupted"
    measured, waiting, _ = kept["backends"]
    assert len(measured["runs"]) == 1 and measured["figures"]["it_per_s"]["median"] > 0
    assert waiting["runs"] == [] and waiting["figures"]["it_per_s"] is None and waiting["reason"] is None
    table = Path("out/table.md").read_text()
    assert "interrupted after" in table and "| not measured |" in table and "2 pictures at once" in table
    assert all_end_in(world.home)

    again = ("bench", "--runs", 1, "-o", "out", "--resume")  # the folder knows the rest
    ran = ipa(*again, "--json")
    assert f"[1/2] {PLAIN}, run 1" in ran.stderr and MISSING in ran.stderr
    data = ran.data()
    assert (data["stopped"], data["date"]) == (None, kept["date"]) and data["seconds"] > kept["seconds"]
    assert sorted(path.name for path in Path("out").iterdir()) == ["chart.png", "results.json", "table.md"]
    assert json.loads(Path("out/results.json").read_text()) == {
        name: value for name, value in data.items() if name not in ("folder", "compared")
    }
    assert Image.open("out/chart.png").size[0] > 500
    assert (data["baseline"], data["compared"]) == (PLAIN, None)
    assert data["machine"]["cpu"] and data["machine"]["cores"] >= 1

    eager, plain, oneflow = data["backends"]
    assert [eager["name"], plain["name"]] == ["eager", PLAIN] and eager["runs"] == measured["runs"]
    assert MISSING in oneflow["reason"] and set(oneflow["figures"].values()) == {None}
    assert oneflow["runs"] == [] and oneflow["parity"] is None
    for column in (eager, plain):
        assert column["reason"] is None and column["environment"]["versions"]["torch"]
        assert (column["environment"]["width"], column["environment"]["steps"]) == (64, 2)
        (run,) = column["runs"]
        assert run["origin"] == "uncompiled" and run["pictures_per_s"] == pytest.approx(2 / run["e2e_s"])
        # pictures are their steps and more; getting ready holds the first step
        assert run["e2e_s"] - 2 / run["it_per_s"] == pytest.approx(run["beside_s"]) and run["beside_s"] > 0
        assert run["warmup_s"] > run["first_step_s"] > 0 and run["load_s"] > 0 and run["peak_gib"] > 0.1
        figure = column["figures"]["it_per_s"]
        assert (figure["median"], figure["least"], figure["most"]) == (run["it_per_s"],) * 3 and figure["count"] == 1
        # the same weights and inputs in every process, and nothing compiled: not a bit may differ
        assert column["parity"]["identical"] and column["parity"]["relative_error"] == 0
        assert 1e-4 < column["parity"]["fp32_error"] == column["parity"]["eager_fp32_error"] < 0.2
    assert eager["parity"] == plain["parity"]
    medians = [column["figures"]["it_per_s"]["median"] for column in (eager, plain)]
    assert eager["figures"]["it_per_s"]["ratio"] == pytest.approx(medians[0] / medians[1] - 1)
    assert plain["figures"]["it_per_s"]["ratio"] is None

    # An older bench that was a hundred times as fast, and one a hundred times as slow, both without the first backend.
    del data["backends"][2]  # or it is tried again
    Path("out/results.json").write_text(json.dumps(data))
    for name, factor in (("fast", 100), ("slow", 0.01)):
        older = json.loads(Path("out/results.json").read_text())
        del older["backends"][0]
        figures = older["backends"][0]["figures"]
        for metric, value in figures.items():
            if value is not None:
                by = factor if metric in ("it_per_s", "pictures_per_s") else 1 / factor
                figures[metric] = {**value, **dict.fromkeys(("median", "least", "most"), value["median"] * by)}
        Path(f"{name}.json").write_text(json.dumps(older))
    ran = ipa(*again, "--compare", "fast.json")
    assert ran.exit_code == 1 and "run 1" not in ran.stderr  # nothing is measured again
    lines = ran.stdout.splitlines()
    assert lines[1] == f"Metric\teager\t{PLAIN}" and lines[2].startswith("Iteration speed\t")
    said = lines.index(f"slower than on {data['date']}")
    assert lines[said + 1].startswith(f"  {PLAIN}: Iteration speed: ")
    assert any(line.startswith(f"  {PLAIN}: E2E time: ") for line in lines[said:])
    assert lines[-1] == "measured in only one of the two: eager"
    ran = ipa(*again, "--compare", "slow.json", "--markdown")
    assert ran.exit_code == 0 and f"nothing is slower than on {data['date']}" in ran.stdout
    assert f"| Metric | eager | {PLAIN} |\n| --- | --- | --- |\n| Iteration speed | " in ran.stdout
    assert Path("out/table.md").read_text().rstrip() in ran.stdout


def test_only_a_bench_of_the_same_is_gone_on_with(ipa, world):
    asked = {"size": "64x64", "batch": 1, "dynamic": [], "model": "demo", "load_format": "auto", "steps": 2}
    column = {"name": "eager", "backend": "eager", "options": None, "python": None}
    column |= {"runs": [], "parity": None, "environment": {}, "figures": {}}
    older = {"format": 1, "date": "", "runs": 1, "asked": asked, "backends": [column], "references": []}
    older["machine"] = {"gpu": "another"}
    Path("out").mkdir()
    Path("out/results.json").write_text(json.dumps(older))
    asked = ("--backends", "oneflow", "--device", "cpu", "--steps", 3, "--size", "64x96")
    ran = ipa("bench", *asked, "-o", "out", "--resume", "--json")
    assert ran.exit_code == 1
    for told in ("size 64x64 → 64x96", "steps 2 → 3", "gpu another → none", "without eager"):
        assert told in ran.error()["message"]
    assert json.loads(Path("out/results.json").read_text()) == older
    ran = ipa("bench", *asked, "--resume", "--json")
    assert ran.exit_code == 2 and "--output" in ran.error()["hint"]


@pytest.mark.parametrize("where", ["options", "python", "nested"])
def test_a_folder_does_not_choose_programs_by_itself(ipa, world, where):
    """It may have come with a repository."""
    code = {"options": 'inductor:{"inductor": {"cpp.cxx": ["./tool"]}}', "nested": 'nexfort:options={"a": 1}'}
    column = {"name": code.get(where, "eager"), "backend": "eager", "options": None, "parity": None, "figures": {}}
    column |= {"python": "./tool" if where == "python" else None, "runs": [], "environment": {}}
    asked = {"size": "64x64", "batch": 1, "dynamic": [], "model": "demo", "device": "cpu", "steps": 2}
    kept = {"format": 1, "date": "", "runs": 1, "asked": asked, "backends": [column], "references": [], "machine": {}}
    (world.cwd / "tool").write_text("#!/bin/sh\ntouch ran\nexit 1\n")
    (world.cwd / "tool").chmod(0o755)
    Path("out").mkdir()
    Path("out/results.json").write_text(json.dumps(kept))
    ran = ipa("bench", "-o", "out", "--resume", "--json")
    assert ran.exit_code == 1 and "which may run any program" in ran.error()["message"]
    assert "--backends" in ran.error()["hint"] and not Path("ran").exists()


def test_a_folder_of_work_that_is_a_link_is_refused(ipa, world):
    Path("out").mkdir()
    (world.home / "theirs").mkdir()
    Path("out/.work").symlink_to(world.home / "theirs")
    ran = ipa("bench", "--backends", "eager", *QUICK, "-o", "out", "--json")
    assert ran.exit_code != 0 and "link" in ran.error()["message"] and not any((world.home / "theirs").iterdir())


def test_the_budget_ends_it(ipa):
    Path("out").mkdir()
    Path("out/results.json").write_text("{}")
    ran = ipa("bench", "--backends", "eager", *QUICK, "--budget", 1, "-o", "out", "--force", "--json")
    assert ran.exit_code == 1  # nothing was measured
    assert ran.json()["data"]["stopped"] == "out of time" and ran.json()["data"]["backends"][0]["runs"] == []
    assert "out of time after" in Path("out/table.md").read_text()


@pytest.mark.campaign
@pytest.mark.timeout(900)
def test_a_compiled_backend_is_compiled_once_and_then_read_from_its_cache(ipa, tmp_path):
    model = tiny_model.write(tmp_path / "model", FLAT)
    ran = ipa(
        "bench", "--backends", "inductor", "--model", model, "--load-format", "dummy", *QUICK, "--runs", 2, "--json"
    )
    (inductor,) = ran.data()["backends"]
    if inductor["reason"] and "needs torch" in inductor["reason"]:
        pytest.skip(inductor["reason"])
    assert inductor["reason"] is None
    first, second = inductor["runs"]
    assert (first["origin"], second["origin"]) == ("compiled", "cache")
    assert first["warmup_s"] > first["compile_s"] > 0 == second["compile_s"]
    figures = inductor["figures"]
    assert figures["warmup_compile_s"]["median"] == first["warmup_s"]
    assert figures["warmup_cache_s"]["median"] == second["warmup_s"] < first["warmup_s"]
    assert figures["warmup_run_s"] is None and figures["peak_gib"]["count"] == 1
    assert inductor["parity"]["relative_error"] < 1e-3 and inductor["parity"]["fp32_error"] is None
    assert ran.data()["baseline"] is None and figures["it_per_s"]["ratio"] is None


def test_a_python_that_does_not_work_is_a_reason(ipa):
    Path("python").write_text(f'#!/bin/sh\nexec {sys.executable} -S -I "$@"\n')
    Path("python").chmod(0o755)
    ran = ipa("bench", "--backends", "eager", "--python", "eager=./python", *QUICK, "-o", "out")
    assert ran.exit_code == 1
    assert "eager: run 1: the process ended with status 1: " in ran.stdout
    assert "No module named 'ipa_cli'" in ran.stdout
    assert "(its log: out/eager-run-1.log)" in ran.stdout
    assert "No module named" in Path("out/eager-run-1.log").read_text()
    (column,) = json.loads(Path("out/results.json").read_text())["backends"]
    assert "No module named" in column["log"][-1]


@pytest.mark.parametrize(
    ("flags", "told"),
    [
        (("--batch", 0), "--batch 0: expected a whole number from 1 to 64"),
        (("--backends", "eagre"), "unknown backend 'eagre'; did you mean 'eager'?"),
        (("--python", "nexfort=/no/such"), "there is no Python at /no/such"),
        (("--compare", "/no/such"), "there is no file /no/such"),
        (("--size", "65x64"), "--size 65: expected a multiple of 8, for example 64 or 72"),
        (("--size", "big"), "'big' is not a picture size"),
        (("--dynamic", "big"), "'big' is not a range of sizes"),
        (("--runs", 0), "--runs 0: expected a whole number"),
    ],
)
def test_wrong_usage_is_reported_before_anything_starts(ipa, world, flags, told):
    ran = ipa("bench", *flags, "--json")
    assert ran.exit_code == (1 if "there is no" in told else 2)
    assert told in ran.error()["message"] and ran.error()["hint"]
    assert world.files() == []


def test_an_older_bench_of_something_else_is_no_comparison(ipa, world):
    asked = {"size": "64x64", "batch": 1, "dynamic": [], "model": "demo", "load_format": "auto", "steps": 2}
    older = {"format": 1, "date": "", "runs": 1, "asked": asked, "backends": [], "references": [], "machine": {}}
    Path("old.json").write_text(json.dumps(older))
    ran = ipa("bench", "--device", "cpu", "--steps", 3, "--size", "64x96", "--compare", "old.json", "--json")
    assert ran.exit_code == 1
    assert "measured another workload: size 64x64 → 64x96" in ran.error()["message"]
    assert "steps 2 → 3" in ran.error()["message"] and world.files() == ["old.json"]


def test_an_earlier_bench_is_not_overwritten(ipa):
    Path("out").mkdir()
    Path("out/results.json").write_text("{}")
    ran = ipa("bench", *QUICK, "-o", "out", "--json")
    assert ran.exit_code == 1 and "holds a bench already" in ran.error()["message"]
    assert Path("out/results.json").read_text() == "{}"


def all_end_in(home):
    """Whether no process of this home is left: one that was killed may take a moment to end."""
    ends = time.monotonic() + 10
    while processes_in(home) and time.monotonic() < ends:
        time.sleep(0.05)
    return not processes_in(home)


def processes_in(home):
    """Processes whose home is this test's."""
    found = []
    for environ in Path("/proc").glob("[0-9]*/environ"):
        try:
            if f"HOME={home}".encode() in environ.read_bytes():
                found.append(environ.parent.name)
        except OSError:
            continue
    return found
