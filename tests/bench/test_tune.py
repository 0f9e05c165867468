"""`ipa bench --tune`, on a GPU that is made up."""

import json
import os
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from ipa_cli.backends.base import Measured
from ipa_cli.backends.inductor import backend
from ipa_cli.config import Settings
from ipa_cli.doctor import places
from ipa_cli.engine import backend_choice, tuned, wanted
from ipa_cli.errors import IpaError
from ipa_cli.hardware import probe
from ipa_cli.hardware.gpu import Gpu
from ipa_cli.result import KeepingReporter

CARD = Gpu("NVIDIA GeForce RTX 3090", "8.6", "580.1")
FOUND = [
    Measured("cross_attention", [([128, 128, 8], 1.0), ([64, 64, 4], 0.5), (None, 2.0)], [64, 64, 4], False),
    Measured("geglu", [(None, 1.0), ([128, 64, 32, 8, 8, 3, False], None)], None, True),
]


@pytest.fixture
def card(monkeypatch):
    machine = replace(probe.machine(), gpu=CARD)
    monkeypatch.setattr(probe, "machine", lambda index=0: machine)
    monkeypatch.setattr("ipa_cli.hardware.devices.pick_device", lambda name: torch.device("cuda"))
    monkeypatch.setattr(backend, "toolchain_problem", lambda: None)
    monkeypatch.setattr(backend, "tune", lambda device, dtype, report: FOUND)


def test_the_choice_is_kept_and_enters_the_graphs_key(world, ipa, card):
    data = ipa("bench", "--tune", "--json").data()
    assert data["tuning"] == {"cross_attention": [64, 64, 4]} and data["gpu"] == "nvidia-geforce-rtx-3090-sm86"
    assert json.loads(Path(data["file"]).read_text())["tuning"] == data["tuning"]
    settings = Settings()
    assert wanted.asked_options(backend, "inductor", settings)["tuning"] == data["tuning"]
    plain = replace(settings, compile_options='{"tuning": {}}')
    assert wanted.asked_options(backend, "inductor", plain)["tuning"] == {}
    assert wanted.asked_options(backend, "inductor", replace(settings, device="cpu"))["tuning"] is None
    line = "kernels tuned for nvidia-geforce-rtx-3090-sm86 on "
    assert line in ipa("cache", "ls").stdout
    assert ipa("cache", "ls", "--json").data()["tuning"][0]["tuning"] == data["tuning"]


def test_the_table_of_a_tuning_names_what_is_chosen(world, ipa, card):
    lines = ipa("bench", "--tune").stdout
    assert "64 64 4" in lines and "does not run here" in lines and "faster than the table: cross_attention" in lines


NONE_OF_THE_CARD = {"cross_attention": [128, 128, 4]}  # of Hopper


@pytest.mark.parametrize(
    "damage",
    ["{}", "{", "[" * 70_000, json.dumps({"tuning": NONE_OF_THE_CARD, "date": "2026", "gpu": "x"}), "\0\ud800"],
)
def test_a_damaged_tuning_file_costs_a_warning_and_the_tuning(world, ipa, card, monkeypatch, damage):
    file = Path(ipa("bench", "--tune", "--json").data()["file"])
    file.write_bytes(damage.encode(errors="surrogatepass"))
    with pytest.raises(IpaError, match="is not as `ipa bench --tune` writes it"):
        tuned.kept(Settings(), "inductor")
    assert wanted.asked_options(backend, "inductor", Settings())["tuning"] is None
    said = KeepingReporter()
    backend_choice.warn_of_tuning(Settings(), torch.device("cuda"), said)
    assert len(said.warnings) == 1 and "kernels run as they do untuned; `ipa cache clear --stale`" in said.warnings[0]
    given = Settings(compile_options='{"tuning": {}}')
    backend_choice.warn_of_tuning(given, torch.device("cuda"), said)
    assert len(said.warnings) == 1


def test_a_damaged_tuning_file_is_listed_and_a_warning_of_the_doctor(world, ipa, card):
    file = Path(ipa("bench", "--tune", "--json").data()["file"])
    file.write_text("{}")
    listed = ipa("cache", "ls")
    assert listed.exit_code == 0 and f"damaged: {file} is not as" in listed.stdout
    assert ipa("cache", "ls", "--json").data()["tuning"][0]["damage"]
    (file.parent / "folder.json").mkdir()
    (file.parent / "link.json").symlink_to("/nowhere")
    assert len(ipa("cache", "ls", "--json").data()["tuning"]) == 2
    assert "damaged: None" not in ipa("cache", "ls").stdout
    assert ipa("cache", "clear", "--stale", "--dry-run", "--json").data()["tuning"][1].endswith("link.json")
    check = places.graphs(Settings(), True)
    assert check.status == "warning" and "ipa bench --tune" in check.found


def test_a_named_pipe_in_its_place_is_not_waited_for_and_names_are_printed_without_control_characters(world, ipa, card):
    file = Path(ipa("bench", "--tune", "--json").data()["file"])
    (file.parent / "inductor-\033[31m\n.json").write_text("{}")
    printed = [ipa("cache", "clear", "--dry-run").stdout, ipa("cache", "ls").stdout]
    assert all("\033" not in text and "inductor-?[31m?.json" in text for text in printed)
    file.unlink()
    os.mkfifo(file)
    with pytest.raises(IpaError, match="is not as `ipa bench --tune` writes it"):
        tuned.kept(Settings(), "inductor")


@pytest.mark.parametrize(
    ("flags", "damaged", "goes"),
    [
        ((), False, True),
        (("--backend", "inductor"), False, True),
        (("--stale",), False, False),
        (("--stale",), True, True),
        (("--older-than", "1d"), False, False),
        (("--max-size", "0"), True, False),
    ],
)
def test_clear_counts_tuning_files(world, ipa, card, flags, damaged, goes):
    file = Path(ipa("bench", "--tune", "--json").data()["file"])
    if damaged:
        file.write_text("{}")
    size = file.stat().st_size if goes else 0
    looked = ipa("cache", "clear", "--dry-run", "--json", *flags).data()
    assert looked["freed"] == size and looked["tuning"] == [str(file)] * goes and file.exists()
    done = ipa("cache", "clear", "--yes", *flags)
    assert file.exists() != goes and ("removed 1 tuning file" in done.stdout) == goes, done.stdout


def test_there_is_nothing_to_tune_on_a_cpu(ipa):
    ran = ipa("bench", "--tune", "--device", "cpu")
    assert ran.exit_code == 1 and "there is nothing to tune on cpu" in ran.stderr


def test_tune_comes_alone(ipa):
    ran = ipa("bench", "--tune", "--runs", 2)
    assert ran.exit_code == 2 and "draws nothing" in ran.stderr
