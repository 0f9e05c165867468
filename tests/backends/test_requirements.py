"""Which versions each backend needs, and what is said of others."""

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from ipa_cli.backends import requirements

WORKING = {
    "torch": "2.3.1+cu121",
    "diffusers": "0.30.3",
    "transformers": "4.44.2",
    "numpy": "1.26.4",
    "huggingface_hub": "0.25.2",
    "nexfort": "0.1.dev262",
    "onediff": "1.2.0",
    "onediffx": "1.2.0",
    "oneflow": "0.9.1.dev20240802+cu121",
    "triton": "2.3.1",
}


def test_the_set_that_was_seen_working_lacks_nothing():
    for backend in ("eager", "nexfort", "oneflow"):
        assert requirements.problem(backend, WORKING, (3, 11)) is None


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
        ("oneflow", "oneflow", "0.9.0", "PyPI's 0.9.0 lacks oneflow.framework.args_tree"),
        ("inductor", "torch", "2.7.1", "torch>=2.8 (2.7.1 is installed)"),
        ("eager", "torch", None, "torch>=2.3 (not installed)"),
    ],
)
def test_what_is_missing_is_named_with_the_command_that_brings_it(backend, package, version, words):
    versions = {**WORKING, "torch": "2.13.0"} if backend == "inductor" else WORKING
    assert requirements.problem(backend, versions, (3, 11)) is None
    problem = requirements.problem(backend, {**versions, package: version}, (3, 11))
    assert problem is not None and words in problem.message and "\n" not in problem.message
    assert "pip install" in problem.hint


def test_everything_missing_is_named_at_once():
    problem = requirements.problem("nexfort", {}, (3, 11))
    assert all(rule.package in problem.message for rule in requirements.BACKENDS["nexfort"].rules)


def test_a_python_without_builds_is_named_before_all_else():
    problem = requirements.problem("nexfort", WORKING, (3, 12))
    assert "3.12" in problem.message and "3.11" in problem.message


def test_oneflow_names_where_its_builds_are_published():
    assert requirements.ONEFLOW_BUILDS in requirements.problem("oneflow", {}, (3, 10)).hint


RELEASE = st.lists(st.integers(0, 30), min_size=1, max_size=4).map(lambda numbers: ".".join(map(str, numbers)))


@given(RELEASE, RELEASE, RELEASE, st.sampled_from(["", "+cu121", "+cpu"]))
def test_versions_compare_as_pip_compares_them(version, low, high, build):
    from packaging.specifiers import SpecifierSet

    wanted = f">={low},<{high}"
    assert requirements.satisfies(version + build, wanted) == SpecifierSet(wanted).contains(version)


@given(st.text())
@example("")
@example("unknown")
def test_no_version_text_is_too_odd_to_judge(version):
    requirements.satisfies(version, ">=1.0")  # raises nothing


def test_a_package_that_is_not_installed_satisfies_no_range():
    assert not requirements.satisfies(None, ">=0")


def test_a_development_version_counts_as_its_release():
    assert requirements.satisfies("0.9.1.dev20240104+cu121", ">=0.9.1")
    assert not requirements.satisfies("0.1.dev330", "==0.1.dev262")
