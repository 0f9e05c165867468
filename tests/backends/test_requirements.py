"""Which versions each backend needs, and what is said of others."""

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from ipa_cli import backends
from ipa_cli.backends import requirements

WORKING = {
    "torch": "2.3.1+cu121",
    "diffusers": "0.30.3",
    "transformers": "4.44.2",
    "numpy": "1.26.4",
    "huggingface_hub": "0.25.2",
    "nexfort": "0.1.dev262",
    "onediff": "1.2.0",
    "oneflow": "0.9.0",
    "nvidia-cublas-cu11": "11.11.3.6",
    "nvidia-cudnn-cu11": "8.9.6.50",
    "triton": "2.3.1",
}


def problem(backend, versions, python=(3, 10)):
    return requirements.problem(backend, backends.get(backend).REQUIREMENTS, versions, python)


def test_the_set_that_was_seen_working_lacks_nothing():
    for backend in ("eager", "nexfort", "oneflow"):
        assert problem(backend, WORKING) is None


@pytest.mark.parametrize(
    ("backend", "package", "version", "words"),
    [
        ("nexfort", "torch", "2.13.0+cpu", "torch==2.3.1 (2.13.0+cpu is installed)"),
        ("nexfort", "torch", "2.4.0", "torch==2.3.1 (2.4.0 is installed)"),
        ("nexfort", "nexfort", None, "nexfort==0.1.dev262 (not installed)"),
        ("nexfort", "nexfort", "0.1.dev330", "lack nexfort.inductor.codegen"),
        ("nexfort", "onediff", "1.1.0", "onediff==1.2.0 (1.1.0 is installed)"),
        ("nexfort", "diffusers", "0.31.0", "diffusers>=0.30,<0.31 (0.31.0 is installed)"),
        ("nexfort", "transformers", "4.45.1", "transformers>=4.44,<4.45 (4.45.1 is installed)"),
        ("nexfort", "numpy", "2.0.0", "numpy<2 (2.0.0 is installed)"),
        ("nexfort", "huggingface_hub", "0.26.0", "huggingface_hub<0.26 (0.26.0 is installed)"),
        ("oneflow", "oneflow", "0.9.1.dev20240802+cu121", "oneflow==0.9.0 (0.9.1.dev20240802+cu121 is installed)"),
        ("oneflow", "nvidia-cudnn-cu11", None, "nvidia-cudnn-cu11>=8.5,<9 (not installed)"),
        ("oneflow", "nvidia-cublas-cu11", None, "nvidia-cublas-cu11>=11.10,<12 (not installed)"),
        ("oneflow", "numpy", "2.2.6", "numpy<2 (2.2.6 is installed; OneFlow 0.9.0 stops while it is imported)"),
        ("inductor", "torch", "2.7.1", "torch>=2.8 (2.7.1 is installed)"),
        ("eager", "torch", None, "torch>=2.3 (not installed)"),
    ],
)
def test_what_is_missing_is_named_with_the_command_that_brings_it(backend, package, version, words):
    versions = {**WORKING, "torch": "2.13.0"} if backend == "inductor" else WORKING
    assert problem(backend, versions) is None
    found = problem(backend, {**versions, package: version})
    assert found is not None and words in found.message and "\n" not in found.message
    assert "pip install" in found.hint


def test_everything_missing_is_named_at_once():
    found = problem("nexfort", {})
    assert all(package.name in found.message for package in backends.get("nexfort").REQUIREMENTS.packages)


@pytest.mark.parametrize(("backend", "newest", "newer"), [("nexfort", "3.11", (3, 12)), ("oneflow", "3.10", (3, 11))])
def test_a_python_without_builds_is_named_before_all_else(backend, newest, newer):
    found = problem(backend, WORKING, newer)
    assert f"3.{newer[1]}" in found.message and newest in found.message


@pytest.mark.parametrize(
    ("version", "specifier", "fits"),
    [
        ("0.9.1.dev20240104+cu121", ">=0.9.1", True),  # counts as its release
        ("2.8.0a0+git1234", ">=2.8", True),
        ("2.0.0rc1", "<2", False),
        ("2", "<2.0", False),
        ("2.3.1+cu121", "==2.3.1", True),
        ("2.3.1rc1", "==2.3.1", False),
        ("0.1.dev330", "==0.1.dev262", False),
        ("0.1.dev262", "==0.1.dev262", True),
        ("0.30.3", ">=0.30,<0.31", True),
        ("0.31.0.dev0", ">=0.30,<0.31", False),
        ("unknown", ">=0", False),
        (None, ">=0", False),
    ],
)
def test_versions_fit_as_releases_and_equal_as_written(version, specifier, fits):
    assert requirements.satisfies(version, specifier) is fits


@given(st.text())
@example("")
def test_a_version_that_is_none_fits_no_range(version):
    from packaging.version import InvalidVersion, Version

    try:
        Version(version)
    except InvalidVersion:
        assert not requirements.satisfies(version, ">=0")
    else:
        assert requirements.satisfies(version, ">=0")
