"""The tasks of this repository: `nox` lists them, `nox -s fast` runs one.

Every session runs in the environment that nox itself is started from (torch is too large to install once per session).
"""

import shutil
import sys
from pathlib import Path

import nox

nox.options.default_venv_backend = "none"
nox.options.sessions = ["lint", "types", "fast"]

FAST = "not campaign and not slow and not compiles and not browser and not gpu"


def python(session: nox.Session, *arguments: str) -> None:
    session.run(sys.executable, "-m", *arguments, *session.posargs)


@nox.session
def fast(session: nox.Session) -> None:
    """Tests that need no browser, no compiled graph, no GPU and no process of their own."""
    python(session, "pytest", "-n", "2", "--dist", "worksteal", "-m", FAST)


@nox.session
def tests(session: nox.Session) -> None:
    """Everything: style, types and all tests."""
    python(session, "tests")


@nox.session
def lint(session: nox.Session) -> None:
    """Style, without changing anything."""
    session.run(sys.executable, "-m", "ruff", "check", ".")
    session.run(sys.executable, "-m", "ruff", "format", "--check", ".")


@nox.session
def types(session: nox.Session) -> None:
    """Types, by mypy."""
    python(session, "mypy")


@nox.session
def build(session: nox.Session) -> None:
    """Wheel and sdist in dist/, checked as PyPI checks them."""
    shutil.rmtree("dist", ignore_errors=True)
    session.run(sys.executable, "-m", "build")
    session.run(sys.executable, "-m", "twine", "check", "--strict", *map(str, Path("dist").iterdir()))
