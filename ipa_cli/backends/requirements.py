"""Which package versions a backend needs, what is missing here, and what to type; no package is imported."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import dataclass

from packaging.specifiers import Specifier, SpecifierSet
from packaging.version import InvalidVersion, Version

from ipa_cli.errors import IpaError


@dataclass(frozen=True)
class Package:
    """A package, the versions that will do (a PEP 440 specifier), and why others do not."""

    name: str
    versions: str
    why: str = ""


@dataclass(frozen=True)
class Requirements:
    """What a backend needs, how to install it, and the import statement that proves that it starts.

    The first of `packages` is the one whose absence means that the backend was never installed. `newest_python` is
    None where no limit is known.
    """

    packages: tuple[Package, ...]
    install: str
    imports: str
    newest_python: tuple[int, int] | None = None


COMMON = (Package("torch", ">=2.3"), Package("diffusers", ">=0.30"), Package("transformers", ">=4.44"))


def problem(
    backend: str,
    needs: Requirements,
    versions: Mapping[str, str | None],
    python: tuple[int, int] = sys.version_info[:2],
) -> IpaError | None:
    """Everything `backend` lacks in one line, with the command that installs it; None when nothing is missing."""
    if needs.newest_python is not None and python > needs.newest_python:
        newest = ".".join(map(str, needs.newest_python))
        return IpaError(
            f"{backend} has no builds for Python {python[0]}.{python[1]}: {newest} is the newest it works with",
            needs.install,
        )
    lacking = [
        _described(package, versions.get(package.name))
        for package in needs.packages
        if not satisfies(versions.get(package.name), package.versions)
    ]
    return IpaError(f"{backend} needs {', '.join(lacking)}", needs.install) if lacking else None


def satisfies(version: str | None, specifier: str) -> bool:
    """Whether an installed version fits a specifier; one that is not a PEP 440 version fits none.

    A pre-release counts as its release, so that 0.9.1.dev20240104 fits ">=0.9.1", except for "==", which names one
    version. The local part, such as +cu121, does not count.
    """
    try:
        found = Version(version or "")
    except InvalidVersion:
        return False
    return all(one.contains(_compared(found, one), prereleases=True) for one in SpecifierSet(specifier))


def _compared(found: Version, specifier: Specifier) -> str:
    return found.public if specifier.operator == "==" else found.base_version


def _described(package: Package, version: str | None) -> str:
    here = "not installed" if version is None else f"{version} is installed"
    return f"{package.name}{package.versions} ({here}{f'; {package.why}' if package.why and version else ''})"
