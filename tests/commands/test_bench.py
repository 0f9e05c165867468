"""`ipa bench` with the demo model on the CPU: real processes, two ways of eager as backends."""

from __future__ import annotations

import json
import signal
import sys
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
def test_a_bench_and_a_comparison_with_it(ipa, tmp_path):
    """Runs of the program in one test: each process that measures takes seconds to import what it needs."""
    asked = ("--backends", f"eager,{PLAIN},oneflow", "--dtype", "bfloat16", *QUICK)
    ran = ipa("bench", *asked, "--runs", 2, "-o", "out", "--json")
    data = ran.data()
    assert "[1/6] eager, run 1" in ran.stderr and MISSING in ran.stderr
    assert sorted(path.name for path in Path("out").iterdir()) == ["chart.png", "results.json", "table.md"]
    assert json.loads(Path("out/results.json").read_text()) == {
        name: value for name, value in data.items() if name not in ("folder", "compared")
    }
    assert Image.open("out/chart.png").size[0] > 500
    assert (data["baseline"], data["stopped"], data["compared"]) == (PLAIN, None, None)
    assert data["machine"]["cpu"] and data["machine"]["cores"] >= 1

    eager, plain, oneflow = data["backends"]
    assert [eager["name"], plain["name"]] == ["eager", PLAIN] and MISSING in oneflow["reason"]
    assert oneflow["runs"] == [] and oneflow["parity"] is None and set(oneflow["figures"].values()) == {None}
    for column in (eager, plain):
        assert column["reason"] is None and column["environment"]["versions"]["torch"]
        assert (column["environment"]["width"], column["environment"]["steps"]) == (64, 2)
        assert [run["origin"] for run in column["runs"]] == ["uncompiled", "uncompiled"]
        for run in column["runs"]:
            # a picture is its steps and more; getting ready holds the first step
            assert run["e2e_s"] - 2 / run["it_per_s"] == pytest.approx(run["beside_s"]) and run["beside_s"] > 0
            assert run["warmup_s"] > run["first_step_s"] > 0 and run["load_s"] > 0 and run["peak_gib"] > 0.1
        figure = column["figures"]["it_per_s"]
        speeds = [run["it_per_s"] for run in column["runs"]]
        assert (figure["least"], figure["most"], figure["count"]) == (min(speeds), max(speeds), 2)
        assert figure["median"] == pytest.approx(sum(speeds) / 2)
        # the same weights and inputs in every process, and nothing compiled: not a bit may differ
        assert column["parity"]["identical"] and column["parity"]["relative_error"] == 0
        assert 1e-4 < column["parity"]["fp32_error"] == column["parity"]["eager_fp32_error"] < 0.2
    assert eager["parity"] == plain["parity"]
    medians = [column["figures"]["it_per_s"]["median"] for column in (eager, plain)]
    assert eager["figures"]["it_per_s"]["ratio"] == pytest.approx(medians[0] / medians[1] - 1)
    assert plain["figures"]["it_per_s"]["ratio"] is None

    # An older bench that was a hundred times as fast, and one a hundred times as slow.
    for name, factor in (("fast", 100), ("slow", 0.01)):
        older = json.loads(Path("out/results.json").read_text())
        figures = older["backends"][1]["figures"]
        for metric, value in figures.items():
            if value is not None:
                by = factor if metric == "it_per_s" else 1 / factor
                figures[metric] = {**value, **dict.fromkeys(("median", "least", "most"), value["median"] * by)}
        Path(f"{name}.json").write_text(json.dumps(older))
    once = ("--backends", PLAIN, "--dtype", "bfloat16", *QUICK, "--runs", 1, "-o", "again")
    ran = ipa("bench", *once, "--compare", "fast.json")
    assert ran.exit_code == 1
    lines = ran.stdout.splitlines()
    assert lines[1] == f"Metric\t{PLAIN}" and lines[2].startswith("Iteration speed\t")
    said = lines.index(f"slower than on {data['date']}")
    assert lines[said + 1].startswith(f"  {PLAIN}: Iteration speed: ")
    assert lines[said + 2].startswith(f"  {PLAIN}: E2E time: ")
    assert lines[-1] == "measured in only one of the two: eager"
    ran = ipa("bench", *once, "--compare", "slow.json", "--resume", "--markdown")  # which measures nothing again
    assert "run 1" not in ran.stderr
    assert ran.exit_code == 0 and f"nothing is slower than on {data['date']}" in ran.stdout
    assert f"| Metric | {PLAIN} |\n| --- | --- |\n| Iteration speed | " in ran.stdout
    assert Path("again/table.md").read_text().rstrip() in ran.stdout


@pytest.mark.timeout(600)
def test_an_interrupted_bench_keeps_what_it_measured_and_goes_on(ipa, ipa_process, world):
    asked = ("--backends", f"eager,{PLAIN}", *QUICK, "--batch", 2, "-o", "out", "--json")
    ran = ipa_process("bench", *asked, "--runs", 5, interrupt_at="[1/10] eager, run 1", signals=[signal.SIGHUP])
    assert ran.exit_code == 129
    data = ran.json()["data"]
    kept = json.loads(Path("out/results.json").read_text())
    assert kept["stopped"] == data["stopped"] == "interrupted"
    eager, plain = kept["backends"]
    assert len(eager["runs"]) == 1 and eager["figures"]["it_per_s"]["median"] > 0
    assert plain["runs"] == [] and plain["figures"]["it_per_s"] is None and plain["reason"] is None
    table = Path("out/table.md").read_text()
    assert "interrupted after" in table and "| not measured |" in table and "2 pictures at once" in table
    assert not processes_in(world.home)

    ran = ipa("bench", "--runs", 1, "-o", "out", "--json", "--resume")  # the folder knows the rest
    assert "[1/1] eager:cuda_graph=false, run 1" in ran.stderr
    data = ran.data()
    assert (data["stopped"], data["date"]) == (None, kept["date"]) and data["seconds"] > kept["seconds"]
    assert data["backends"][0]["runs"] == eager["runs"] and len(data["backends"][1]["runs"]) == 1
    assert [column["parity"]["identical"] for column in data["backends"]] == [True, True]
    for column in data["backends"]:
        (run,) = column["runs"]
        assert run["pictures_per_s"] == pytest.approx(2 / run["e2e_s"])
    assert sorted(path.name for path in Path("out").iterdir()) == ["chart.png", "results.json", "table.md"]


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
        (("--batch", 0), "Invalid value for '--batch'"),
        (("--backends", "eagre"), "unknown backend 'eagre'; did you mean 'eager'?"),
        (("--python", "nexfort=/no/such"), "there is no Python at /no/such"),
        (("--compare", "/no/such"), "there is no file /no/such"),
        (("--size", "65x64"), "--size 65: expected a multiple of 8, for example 64 or 72"),
        (("--size", "big"), "'big' is not a picture size"),
        (("--dynamic", "big"), "'big' is not a range of sizes"),
        (("--runs", 0), "Invalid value for '--runs'"),
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
