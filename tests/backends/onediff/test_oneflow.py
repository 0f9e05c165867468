"""The oneflow backend through the real onediff, where that is installed, around a stand-in for OneFlow itself."""

from __future__ import annotations

import json
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

from ipa_cli.backends.onediff import oneflow
from ipa_cli.errors import IpaError, UsageError

with_onediff = pytest.mark.skipif(find_spec("onediff") is None, reason="onediff is not installed")


def standin(folder: Path, *arguments: str) -> dict[str, Any]:
    command = [sys.executable, "-m", "tests.backends.onediff.oneflow_standin", str(folder), *arguments]
    ran = subprocess.run(command, capture_output=True, text=True, cwd=Path(__file__).parents[3])
    assert ran.returncode == 0, ran.stderr
    return json.loads(ran.stdout.splitlines()[-1])


@with_onediff
def test_a_graph_goes_through_onediff_into_a_file_and_back_and_follows_the_scale(tmp_path):
    saw = standin(tmp_path)
    assert saw["files"] == [oneflow.GRAPH]
    assert (saw["graphs"], saw["loads"]) == (2, 1), "one built, another read from the file"
    assert max(saw["errors"]) < 1e-6
    assert min(saw["effects"][1:]) > 1e-2
    assert "register_diffusers.unet_2d_condition_oflow" in saw["unet"], "onediff's own UNet is in use"
    assert saw["processors"] == ["ipa_cli.backends.onediff.oneflow"], "ours are in all layers"


@with_onediff
def test_a_save_that_writes_nothing_is_an_error(tmp_path):
    assert "saved nothing" in standin(tmp_path, "save nothing")["error"]


@with_onediff
def test_an_option_that_onediff_does_not_know_is_refused(tmp_path):
    assert "no option 'no_such'" in standin(tmp_path, "unknown option")["error"]


def test_a_folder_without_a_graph_is_an_error(tmp_path):
    with pytest.raises(IpaError, match="holds no OneFlow graph"):
        oneflow.load(None, tmp_path, oneflow.options(None))


def test_options_pass_through():
    assert oneflow.options(None) == {"options": {}, "dynamic": None}
    given = '{"options": {"kernel_enable_cuda_graph": true}, "dynamic": [512, 1024]}'
    assert oneflow.options(given) == {"options": {"kernel_enable_cuda_graph": True}, "dynamic": [512, 1024]}


@pytest.mark.parametrize(
    "given", [{"dynamic": True}, {"options": {"graph_file": "x"}}, {"options": {"dynamic": True}}, {"no_such": 1}, "{"]
)
def test_impossible_options_are_usage_errors(given):
    with pytest.raises(UsageError):
        oneflow.options(given)
