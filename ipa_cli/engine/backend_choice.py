"""Which backend a name means, and whether it can work here."""

from __future__ import annotations

from ipa_cli import backends
from ipa_cli.backends import requirements
from ipa_cli.errors import UsageError, suggest
from ipa_cli.hardware import packages

ALIASES = {"none": "eager"}
AUTO = "auto"


def check_backend(name: str, precision: str = "half") -> str:
    """The backend asked for, or auto. Raises UsageError for an unknown one, IpaError for one that cannot work here."""
    name = resolve(name, precision)
    known = (AUTO, *backends.MODULES)
    if name not in known:
        raise UsageError(f"unknown backend '{name}'{suggest(name, known)}", f"choose one of {', '.join(known)}")
    problem = None if name == AUTO else requirements.problem(name, packages.installed())
    if problem is not None:
        raise problem
    return name


def resolve(name: str, precision: str) -> str:
    """The backend that a name stands for; one alone has fp8, so that auto is no longer free to choose."""
    return "inductor" if (name, precision) == (AUTO, "fp8") else ALIASES.get(name, name)
