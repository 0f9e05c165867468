"""Figures, ratios and regressions of made-up runs, in the table, the chart and the file."""

import io
import json
from dataclasses import replace
from pathlib import Path

import pytest
from PIL import Image

from ipa_cli.bench import chart, comparison, files, machine, results_file, table
from ipa_cli.bench.results import BackendResult, BenchResults
from ipa_cli.bench.specs import parse_specs
from ipa_cli.errors import IpaError

ENVIRONMENT = {
    "versions": {"ipa": "1", "torch": "2.9"},
    "device": "cpu",
    "dtype": "float16",
    "width": 64,
    "height": 64,
    "steps": 2,
    "dummy": True,
}
PARITY = {
    "relative_error": 1.5e-3,
    "fp32_error": 2e-3,
    "eager_fp32_error": 1e-3,
    "identical": False,
    "psnr_db": 40.0,
}


def a_run(origin="uncompiled", speed=10.0, **more):
    seconds = {
        "load_s": 5.0,
        "compile_s": 0.0,
        "open_s": 0.25,
        "first_step_s": 0.5,
        "warmup_s": 2.0,
        "e2e_s": 20 / speed,
        "beside_s": 0.5,
        "process_s": 9.0,
    }
    unmeasured = {"reserved_gib": None, "pictures_per_s": None}
    measured = {
        "origin": origin,
        "it_per_s": speed,
        "peak_gib": 8.0,
        "weights_sum": 7.0,
        "inputs_sum": 1.0,
        "warnings": [],
    }
    return {**measured, **unmeasured, **seconds, **more}


def a_bench():
    eager, inductor, oneflow = parse_specs(["eager,inductor,oneflow"])
    return BenchResults(
        date="2026-01-02T03:04:05+00:00",
        asked={"model": "sdxl", "size": "64x64", "batch": 1, "dynamic": []},
        machine={"gpu": None, "driver": None, "cpu": "a CPU", "cores": 4},
        backends=(
            BackendResult(
                eager, (a_run(), a_run(speed=12.0), a_run(speed=11.0)), {**PARITY, "identical": True}, ENVIRONMENT
            ),
            BackendResult(
                inductor,
                (
                    a_run("compiled", 20.0, warmup_s=60.0, peak_gib=9.0),
                    a_run("cache", 22.0, warmup_s=3.0),
                    a_run("cache", 24.0, warmup_s=4.0),
                ),
                PARITY,
                ENVIRONMENT,
            ),
            BackendResult(oneflow, reason="oneflow is missing", hint="install it"),
        ),
        baseline="eager",
        seconds=90.0,
    )


def cells(bench):
    return {row[0]: row[1:] for row in table.make(bench).rows}


def test_the_table_has_median_ratio_and_spread():
    assert table.make(a_bench()).columns == ("Metric", "eager", "inductor", "oneflow")
    found = cells(a_bench())
    missing = "not measured"
    assert found["Iteration speed"] == (
        "11.00 it/s [10.00–12.00]",
        "22.00 it/s (+100.0%) [20.00–24.00]",
        missing,
    )
    assert found["E2E time"][1] == "0.91 s (-50.0%) [0.83–1.00]"
    assert found["Max memory used"] == ("8.00 GiB [8.00–8.00]", "8.00 GiB (+0.0%) [8.00–8.00]", missing)
    assert found["Max memory while compiling"] == ("–", "9.00 GiB", missing)
    assert found["Warm-up with run"] == ("2.00 s [2.00–2.00]", "–", missing)
    assert found["Warm-up with compilation"] == ("–", "60.00 s", missing)
    assert found["Warm-up with cache"] == ("–", "3.50 s [3.00–4.00]", missing)
    assert found["Ready: graph opened"] == ("–", "0.25 s [0.25–0.25]", missing)
    assert found["UNet error vs eager"] == ("1.5e-03", "1.5e-03", missing)
    assert found["UNet error vs fp32"] == ("2.0e-03", "2.0e-03", missing)
    assert found["Eager's own error vs fp32"] == ("1.0e-03", "1.0e-03", missing)
    assert found["Picture vs eager (PSNR)"] == ("identical", "40.0 dB", missing)


def test_files_hold_no_secret_and_a_bench_resumes_with_the_same_pythons(world):
    python, address = f"{world.home}/env/bin/python", "https://me:hunter2@host/x?token=hunter2"
    bench = a_bench()
    spec = replace(bench.backends[0].spec, python=python)
    column = replace(
        bench.backends[0], spec=spec, reason=f"cannot reach {address}", hint=address, log=(f"{python}: no",)
    )
    bench = replace(bench, backends=(column, *bench.backends[1:]), asked={**bench.asked, "model": f"{world.home}/m"})
    files.write(world.cwd, bench)
    for name in (files.RESULTS, files.TABLE):
        text = (world.cwd / name).read_text()
        assert "hunter2" not in text and str(world.home) not in text
    assert spec in results_file.measured(results_file.read(world.cwd), "backends")


def test_what_was_not_measured_is_marked():
    bench = a_bench()
    eager, inductor, oneflow = bench.backends
    once = replace(bench, backends=(eager, replace(inductor, runs=inductor.runs[:1], parity=None), oneflow))
    found = cells(once)
    assert found["Warm-up with cache"][1] == found["Max memory used"][1] == "not measured"
    assert found["UNet error vs eager"][1] == "not measured"
    assert "Max memory reserved" not in {row for row, values in found.items() if values[1] != "–"}
    assert found["Iteration speed"][1] == "20.00 it/s (+81.8%)"
    nothing = replace(
        bench, backends=tuple(BackendResult(backend.spec) for backend in bench.backends), stopped="interrupted"
    )
    assert {cell for row in cells(nothing).values() for cell in row} == {"not measured"}
    assert "interrupted after 90 s: what is missing was not measured" in table.notes(nothing)


def test_notes_say_why_a_backend_is_missing_and_which_versions_were_used():
    notes = table.notes(a_bench())
    assert "oneflow: oneflow is missing (install it)" in notes
    assert "eager, inductor: ipa 1, torch 2.9" in notes
    assert "percentages: against eager" in notes
    assert "sdxl with seeded random weights, 64x64, 2 steps, float16, on a CPU (4 cores)" in table.heading(a_bench())


def test_a_device_is_not_read_as_a_bench():
    with pytest.raises(IpaError, match="/dev/zero is a device, not a bench"):
        results_file.read(Path("/dev/zero"))


def test_notes_list_other_weights_warnings_and_references():
    bench = a_bench()
    eager, inductor, oneflow = bench.backends
    other = (a_run("compiled", 20.0, weights_sum=7.1, warnings=["compiled again"]),)
    reference = BackendResult(replace(eager.spec, python="/envs/nexfort"), (a_run(speed=9.0),))
    notes = table.notes(
        replace(bench, backends=(eager, replace(inductor, runs=other), oneflow), references=(reference,))
    )
    assert "inductor: other random weights than eager" in notes and "inductor: compiled again" in notes
    assert "eager without CUDA graph in /envs/nexfort: 9.00 it/s" in notes
    assert not [line for line in table.notes(bench) if "other random" in line]


def test_markdown_is_a_table():
    lines = table.markdown(a_bench()).splitlines()
    assert lines[2] == "| Metric | eager | inductor | oneflow |" and lines[3] == "| --- | --- | --- | --- |"
    rows = [line for line in lines if line.startswith("|")]
    assert {line.count("|") for line in rows} == {5} and len(rows) == len(table.make(a_bench()).rows) + 2


def test_results_survive_json(tmp_path):
    data = results_file.to_data(a_bench())
    (tmp_path / "results.json").write_text(json.dumps(data, allow_nan=False))
    assert results_file.read(tmp_path) == results_file.read(tmp_path / "results.json") == data
    figures = data["backends"][1]["figures"]
    assert figures["it_per_s"] == {"median": 22.0, "least": 20.0, "most": 24.0, "count": 3, "ratio": 1.0}
    assert figures["reserved_gib"] is None and figures["warmup_compile_s"]["ratio"] is None
    assert data["backends"][2]["figures"]["it_per_s"] is None and data["backends"][2]["reason"] == "oneflow is missing"
    again = results_file.measured(data, "backends")
    assert tuple(again.values())[:2] == a_bench().backends[:2] and again[a_bench().backends[2].spec].reason is None
    envelope = {"command": "bench", "data": data}
    (tmp_path / "printed.json").write_text(json.dumps(envelope))
    assert results_file.read(tmp_path / "printed.json") == data


@pytest.mark.parametrize(
    "text", ["", "{", "[]", "{}", '{"format": 99}', '{"command": "bench", "data": null}', "[" * 9999]
)
def test_a_file_that_is_not_a_bench_is_refused(tmp_path, text):
    (tmp_path / "old.json").write_text(text)
    with pytest.raises(IpaError):
        results_file.read(tmp_path / "old.json")
    with pytest.raises(IpaError, match="no file"):
        results_file.read(tmp_path / "none.json")


def with_speeds(bench, *speeds):
    eager, *others = bench.backends
    return replace(bench, backends=(replace(eager, runs=tuple(a_run(speed=speed) for speed in speeds)), *others))


def slower(bench, before):
    return [(each.backend, each.metric) for each in comparison.regressions(bench, results_file.to_data(before))]


def test_a_regression_is_more_than_the_spread_and_the_tolerance():
    steady = with_speeds(a_bench(), 100.0, 100.0)
    assert slower(a_bench(), a_bench()) == []
    assert slower(with_speeds(steady, 96.0, 96.0), steady) == []
    assert slower(with_speeds(steady, 94.0, 94.0), steady) == [("eager", "it_per_s")]
    assert slower(with_speeds(steady, 90.0, 97.0), steady) == []  # 6.5 worse, and 7 apart
    assert slower(with_speeds(steady, 50.0, 50.0), steady) == [("eager", "it_per_s"), ("eager", "e2e_s")]
    assert slower(with_speeds(steady, 200.0, 200.0), steady) == []  # faster is not a regression
    assert slower(with_speeds(steady, 94.0, 94.0), with_speeds(steady, 90.0, 110.0)) == []  # the older one varied


def test_more_memory_and_a_longer_warm_up_are_regressions():
    bench = a_bench()
    eager, inductor, oneflow = bench.backends
    heavy = (a_run("compiled", 20.0, warmup_s=90.0, peak_gib=9.0), a_run("cache", 23.0, warmup_s=3.5, peak_gib=10.0))
    later = replace(bench, backends=(eager, replace(inductor, runs=heavy), oneflow))
    assert slower(later, bench) == [("inductor", "peak_gib"), ("inductor", "warmup_compile_s")]
    messages = [str(each) for each in comparison.regressions(later, results_file.to_data(bench))]
    assert messages[1] == "inductor: Warm-up with compilation: 60.00 → 90.00 s (+50.0%)"


def test_changed_versions_machines_and_backends_are_listed():
    bench = a_bench()
    before = results_file.to_data(bench)
    eager, inductor, oneflow = bench.backends
    newer = {**ENVIRONMENT, "versions": {"ipa": "1", "torch": "2.10"}}
    later = replace(
        bench,
        machine={**bench.machine, "gpu": "a GPU"},
        backends=(replace(eager, environment=newer), replace(inductor, runs=()), oneflow),
    )
    assert comparison.environment_differences(later, before) == ["gpu none → a GPU", "torch 2.9 → 2.10"]
    assert comparison.uncompared(later, before) == ["inductor"]
    assert comparison.workload_differences({"model": "sdxl", "size": "96x96"}, before) == ["size 64x64 → 96x96"]


@pytest.mark.slow
def test_the_chart_has_bars_as_long_as_the_figures():
    picture = Image.open(io.BytesIO(chart.draw(a_bench()))).convert("RGB")

    def longest(colour):
        wanted = tuple(int(colour[i : i + 2], 16) for i in (1, 3, 5))
        rows = picture.crop((0, 0, picture.width, 240))  # the first panel: speed
        data = rows.load()
        return max(sum(data[x, y] == wanted for x in range(rows.width)) for y in range(rows.height))

    eager, inductor = longest(chart.COLOURS[0]), longest(chart.COLOURS[1])
    assert eager > 50 and inductor / eager == pytest.approx(2, rel=0.02)


def test_a_chart_without_figures_is_a_picture():
    nothing = replace(a_bench(), backends=tuple(BackendResult(backend.spec) for backend in a_bench().backends))
    assert Image.open(io.BytesIO(chart.draw(nothing))).format == "PNG"


@pytest.mark.parametrize(
    ("spoil", "name"),
    [
        (lambda data: data.pop("asked"), "asked"),
        (lambda data: data.update(backends={}), "backends"),
        (lambda data: data["backends"].append(None), "backends[3]"),
        (lambda data: data["backends"][1].pop("figures"), "backends[1].figures"),
        (lambda data: data["backends"][1]["figures"].update(e2e_s={"median": 1}), "backends[1].figures.e2e_s.least"),
        (lambda data: data["backends"][0]["runs"][2].pop("it_per_s"), "backends[0].runs[2].it_per_s"),
        (lambda data: data["backends"][0]["runs"][0].update(e2e_s="1"), "backends[0].runs[0].e2e_s"),
        (lambda data: data["asked"].update(dynamic=[1]), "asked.dynamic[0]"),
        (lambda data: data.pop("references"), "references"),
    ],
)
def test_the_first_missing_part_of_a_bench_is_named(tmp_path, spoil, name):
    data = results_file.to_data(a_bench())
    path = tmp_path / "results.json"
    path.write_text(json.dumps(data))
    assert results_file.read(path) == json.loads(json.dumps(data))
    spoil(data)
    path.write_text(json.dumps(data))
    with pytest.raises(IpaError) as odd:
        results_file.read(path)
    assert odd.value.message == f"{path} is not a complete bench: {name} is missing or of the wrong type"


def test_other_busy_programs_are_a_warning(monkeypatch):
    monkeypatch.setattr(machine.cores, "usable", lambda: 2)
    assert not machine.disturbance(0.4)
    assert machine.disturbance(1.5).startswith("other programs used 1.5 of 2 cores meanwhile")


def test_runs_that_differ_much_are_noted():
    bench = a_bench()
    eager = bench.backends[0]
    assert not any("differ" in line for line in table.notes(bench))
    runs = (a_run(speed=10.0), a_run(speed=4.0))
    notes = table.notes(replace(bench, backends=(replace(eager, runs=runs), *bench.backends[1:])))
    assert "eager: its runs differ, from 4.00 to 10.00 it/s: other programs were running, measure again" in notes
