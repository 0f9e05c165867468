"""Settings merged from layers; every value knows where it came from.

Layers, strongest first: flag, the settings a picture carries (`--from`), environment `IPA_*`, `ipa.toml` found upwards
from the working directory, the user's file, the default. What a preset stands for counts as much as the preset, but for
settings given beside it.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ipa_cli.config import files, presets
from ipa_cli.config.adapters import SETTINGS as ADAPTER_SETTINGS
from ipa_cli.config.adapters import SHARED
from ipa_cli.config.dropping import drops
from ipa_cli.config.names import meant, setting_of
from ipa_cli.config.places import is_file
from ipa_cli.config.project import Ignored, read_project
from ipa_cli.config.settings import (
    EXPLAINED,
    FIELDS,
    ConfigError,
    Settings,
    checked,
    collecting,
    contradicting,
    contradiction,
)
from ipa_cli.config.values import PARSED, element, element_type, expected, flag_of, from_json, from_text
from ipa_cli.errors import IpaError, UsageError, suggest


@dataclass(frozen=True)
class Source:
    """Where a value comes from: `kind` is flag, picture, env, project, user or default; `where` names it."""

    kind: str
    where: str

    def __str__(self) -> str:
        return self.where


@dataclass(frozen=True)
class Layer:
    """Settings from one source, as JSON; None leaves the choice to the model and hides weaker sources."""

    source: Source
    values: Mapping[str, Any]


@dataclass(frozen=True)
class Resolved:
    """Settings with the source of each value, and what was ignored of a project's file."""

    settings: Settings
    sources: Mapping[str, Source]
    ignored: tuple[Ignored, ...] = ()


def resolve(
    flags: Mapping[str, Any],
    environ: Mapping[str, str] | None = None,
    cwd: Path | None = None,
    picture: Layer | None = None,
    problems: list[IpaError] | None = None,
    reads_project: bool = True,
) -> Resolved:
    """Merge all layers. Raises ConfigError for a bad file, UsageError for a flag or variable, IpaError for a picture.

    With a list of `problems`, errors are added to it and the rest is merged.
    """
    environ = os.environ if environ is None else environ
    values: dict[str, Any] = {}
    sources: dict[str, Source] = {}

    def put(name: str, value: Any, source: Source, error: type[IpaError], hint: str = EXPLAINED) -> None:
        with collecting(problems):
            values[name] = checked(name, value, source.where, error, hint)
            sources[name] = source

    user = files.user_file(environ)
    with collecting(problems):
        for name, value in _of_user(user, environ, problems).items():
            put(name, value, Source("user", str(user)), ConfigError)
    here = files.working_directory() if cwd is None else cwd.resolve()
    ignored: tuple[Ignored, ...] = ()
    project = files.project_file(here) if reads_project else None
    if project is not None and not (user is not None and is_file(user) and project.samefile(user)):
        with collecting(problems):
            found, ignored = read_project(project, here, problems)
            for name, value in found.items():
                put(name, value, Source("project", str(project)), ConfigError)
    for name, (variable, text) in _environment(environ, problems).items():
        source = Source("env", variable)
        with collecting(problems):
            put(name, from_text(name, text, source.where), source, UsageError)
    given = {name: value for name, value in flags.items() if name in FIELDS and value is not None and value != ()}
    if picture is not None:
        replaced = presets.preset_values(picture.values.get("preset")) if "preset" in given else {}
        for name, value in picture.values.items():
            if name not in given and name not in replaced:
                found = from_json(name, value, picture.source.where)
                put(name, found, picture.source, IpaError, f"say another with {flag_of(name)}")
    for name, value in given.items():
        if drops(name, value):
            values[name], sources[name] = FIELDS[name].default, Source("flag", flag_of(name))
            continue
        if expected(name)[0] is Path:
            value = Path(value)  # Typer before 0.28 keeps the text
        if element_type(name) in PARSED:
            # A program's are read already.
            value = tuple(element(name, one, flag_of(name)) if isinstance(one, str) else one for one in value)
        put(name, value, Source("flag", flag_of(name)), UsageError)
    for name, value in presets.preset_values(values.get("preset")).items():
        if name not in sources or _KINDS.index(sources[name].kind) > _KINDS.index(sources["preset"].kind):
            values[name], sources[name] = value, sources["preset"]
    for name in FIELDS:
        sources.setdefault(name, Source("default", "default"))
    inherited = frozenset(name for name, source in sources.items() if source.kind not in ("flag", "default"))
    return Resolved(Settings(**values, inherited=inherited), sources, ignored)


def check_together(resolved: Resolved) -> None:
    """Raise UsageError for settings that contradict each other, and for a flag that no adapter follows."""
    settings, sources = resolved.settings, resolved.sources
    both = contradiction(settings)
    if both is not None:
        weaker = max(both, key=lambda name: _KINDS.index(sources[name].kind))
        first, second = (_named(name, sources[name]) for name in both)
        raise contradicting(first, second, _undo(weaker, sources[weaker]))
    for field in SHARED if settings.adapter else ():
        flag, source = flag_of(ADAPTER_SETTINGS[field]), sources[ADAPTER_SETTINGS[field]]
        if source.kind == "flag" and all(field in adapter.stated for adapter in settings.adapter):
            raise UsageError(
                f"every --adapter has its own {field}: {flag} has no effect",
                f"leave out {flag}, or {field}= of an adapter that should follow it",
            )


_KINDS = ("flag", "picture", "env", "project", "user", "default")  # strongest first


def _named(name: str, source: Source) -> str:
    return source.where if source.kind in ("flag", "env") else f"{name} in {source.where}"


def _undo(name: str, source: Source) -> str:
    """What to type so that a source no longer sets `name`; nothing special for a flag."""
    return {
        "env": f"unset {source.where}",
        "project": f"ipa config unset --project {name}",
        "user": f"ipa config unset {name}",
    }.get(source.kind, "")


def _of_user(path: Path | None, environ: Mapping[str, str], problems: list[IpaError] | None) -> dict[str, Any]:
    if path is not None and is_file(path):
        return files.parse(path, files.read(path), problems)
    if environ.get("IPA_CONFIG"):
        raise IpaError(f"IPA_CONFIG names {path}, which is not a file", "create it, or unset IPA_CONFIG")
    return {}


def _variable(name: str) -> str:
    return "IPA_" + name.upper()


def _environment(environ: Mapping[str, str], problems: list[IpaError] | None) -> dict[str, tuple[str, str]]:
    """Variables that are not empty, and their text, by setting."""
    found: dict[str, tuple[str, str]] = {}
    for variable, text in environ.items():
        if not variable.startswith("IPA_") or variable == "IPA_CONFIG":
            continue
        name = setting_of(variable[4:].lower())
        with collecting(problems):
            if name in found and text:
                raise UsageError(f"{found[name][0]} and {variable} are both set", f"unset {variable}")
            if name in FIELDS:
                found |= {name: (variable, text)} if text else {}
                continue
            known = [_variable(n) for n in FIELDS]
            raise UsageError(
                f"unknown environment variable {variable}{suggest(_variable(meant(name)), known)}",
                "`ipa config show` lists all settings",
            )
    return found
