"""Which versions each backend needs, what is missing here, and what to type: pure, so that nothing need be imported.

The rules of nexfort name the one set of versions that was seen working; those of oneflow come from onediff's source,
because no build that onediff accepts is on PyPI.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Mapping
from dataclasses import dataclass

from ipa_cli.errors import IpaError

ONEFLOW_BUILDS = "https://github.com/siliconflow/oneflow_releases/releases/expanded_assets/community_cu121"


@dataclass(frozen=True)
class Rule:
    """A package, the versions that will do (pip's notation), and why others do not."""

    package: str
    versions: str
    why: str = ""


@dataclass(frozen=True)
class Needs:
    """What a backend needs, and how to get it; `newest_python` is None where no limit is known."""

    rules: tuple[Rule, ...]
    install: str
    newest_python: tuple[int, int] | None = None


_BASE = (Rule("torch", ">=2.3"), Rule("diffusers", ">=0.30"), Rule("transformers", ">=4.44"))

BACKENDS: Mapping[str, Needs] = {
    "eager": Needs(_BASE, 'pip install "torch>=2.3" "diffusers>=0.30" "transformers>=4.44"'),
    "inductor": Needs(
        # Since 2.8 its loader opens a package single-threaded, which a CUDA graph needs, on a given device.
        (Rule("torch", ">=2.8"), *_BASE[1:]),
        'pip install --upgrade "torch>=2.8" "diffusers>=0.30" "transformers>=4.44"',
    ),
    "nexfort": Needs(
        (
            Rule("nexfort", "==0.1.dev262", "0.1.dev322 and 0.1.dev330 lack nexfort.inductor.codegen"),
            Rule("torch", "==2.3.1"),
            Rule("onediff", "==1.2.0"),
            Rule("diffusers", ">=0.30,<0.31"),
            Rule("transformers", ">=4.44,<4.45"),
            Rule("numpy", "<2"),
            Rule("huggingface_hub", "<0.26"),
        ),
        "in an environment of its own, with Python 3.10 or 3.11, from a clone of ipa: "
        'pip install -c constraints-nexfort.txt ".[nexfort]"',
        newest_python=(3, 11),
    ),
    "oneflow": Needs(
        (
            Rule("oneflow", ">=0.9.1", "PyPI's 0.9.0 lacks oneflow.framework.args_tree, which onediff needs"),
            Rule("onediff", "==1.2.0"),
            *_BASE,
        ),
        f"pip install onediff==1.2.0 && pip install --pre oneflow -f {ONEFLOW_BUILDS}",
    ),
}


class BackendMissing(IpaError):
    """A backend cannot work here."""


def problem(
    backend: str, versions: Mapping[str, str | None], python: tuple[int, int] = sys.version_info[:2]
) -> IpaError | None:
    """Everything `backend` lacks in one line with the command that brings it; None when it can work."""
    needs = BACKENDS[backend]
    if needs.newest_python is not None and python > needs.newest_python:
        newest = ".".join(map(str, needs.newest_python))
        return BackendMissing(
            f"{backend} has no builds for Python {python[0]}.{python[1]}: {newest} is the newest it works with",
            needs.install,
        )
    lacking = [
        _in_words(rule, versions.get(rule.package))
        for rule in needs.rules
        if not satisfies(versions.get(rule.package), rule.versions)
    ]
    if not lacking:
        return None
    return BackendMissing(f"{backend} needs {', '.join(lacking)}", needs.install)


def satisfies(version: str | None, wanted: str) -> bool:
    """Whether a version fits `wanted`, such as ">=0.30,<0.31"; the part after "+" (the build) does not count.

    `==` compares the whole text, the others the release numbers alone: 0.9.1.dev20240104 counts as 0.9.1.
    """
    if version is None:
        return False
    public = version.partition("+")[0]
    for part in wanted.split(","):
        operator, number = re.fullmatch(r"(==|>=|<)(.+)", part.strip()).groups()  # type: ignore[union-attr]
        here, there = _release(public), _release(number)
        fits = {"==": public == number, ">=": here >= there, "<": here < there}[operator]
        if not fits:
            return False
    return True


def _release(version: str) -> tuple[int, ...]:
    """The release numbers without trailing zeros, so that 2 and 2.0 are equal."""
    numbers = re.match(r"v?(\d+(?:\.\d+)*)", version)
    release = [int(part) for part in numbers[1].split(".")] if numbers else []
    while release and release[-1] == 0:
        release.pop()
    return tuple(release)


def _in_words(rule: Rule, version: str | None) -> str:
    here = "not installed" if version is None else f"{version} is installed"
    return f"{rule.package}{rule.versions} ({here}{f'; {rule.why}' if rule.why and version else ''})"
