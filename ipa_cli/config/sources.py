"""Settings merged from layers; every value knows where it came from.

Layers, strongest first: flag, the settings a picture carries (`--from`), environment `IPA_*`, `ipa.toml` found upwards
from the working directory, the user's file, the default.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..errors import IpaError, UsageError
from .settings import FIELDS, ConfigError, Settings, at_home, checked, expanded, is_file, suggest
from .values import expected, flag_of, from_json, from_text, from_toml

FILE_NAME = "ipa.toml"


@dataclass(frozen=True)
class Source:
    """Where a value came from: `kind` is flag, picture, env, project, user or default; `where` names it."""

    kind: str
    where: str

    def __str__(self) -> str:
        return self.where


@dataclass(frozen=True)
class Layer:
    """Settings read from one place, as JSON has them; None leaves the choice to the model, whatever is below says."""

    source: Source
    values: Mapping[str, Any]


@dataclass(frozen=True)
class Resolved:
    """Settings together with the source of each value."""

    settings: Settings
    sources: Mapping[str, Source]


def resolve(
    flags: Mapping[str, Any],
    environ: Mapping[str, str] | None = None,
    cwd: Path | None = None,
    picture: Layer | None = None,
) -> Resolved:
    """Merge all layers. Raises ConfigError for a bad file or picture, UsageError for a bad flag or variable."""
    environ = os.environ if environ is None else environ
    values: dict[str, Any] = {}
    sources: dict[str, Source] = {}

    def put(name: str, value: Any, source: Source, error: type[IpaError]) -> None:
        values[name] = checked(name, value, source.where, error)
        sources[name] = source

    user = user_file(environ)
    if environ.get("IPA_CONFIG") and not is_file(user):
        raise ConfigError(f"there is no file {user}, which IPA_CONFIG names", "create it, or unset IPA_CONFIG")
    for kind, path in (("user", user), ("project", project_file(cwd))):
        if is_file(path):
            for name, value in _read_file(path).items():
                put(name, value, Source(kind, str(path)), ConfigError)
    for name, text in _environment(environ).items():
        source = Source("env", _variable(name))
        put(name, from_text(name, text, source.where), source, UsageError)
    given = {name: value for name, value in flags.items() if name in FIELDS and value is not None and value != ()}
    if picture is not None:
        for name, value in picture.values.items():
            if name not in given:
                put(name, from_json(name, value, picture.source.where), picture.source, ConfigError)
    for name, value in given.items():
        if expected(name)[0] is Path:
            value = Path(value)  # Typer before 0.28 keeps the text
        put(name, value, Source("flag", flag_of(name)), UsageError)
    for name in FIELDS:
        sources.setdefault(name, Source("default", "default"))
    return Resolved(Settings(**values), sources)


def project_file(cwd: Path | None = None) -> Path | None:
    """The nearest `ipa.toml` from the working directory upwards.

    Raises ConfigError when that directory has been removed: MKL, for one, would end the process without a word.
    """
    try:
        here = (cwd or Path.cwd()).resolve()
    except FileNotFoundError:
        raise ConfigError("the working directory has been removed", "cd to a folder that exists") from None
    return next((d / FILE_NAME for d in (here, *here.parents) if is_file(d / FILE_NAME)), None)


def user_file(environ: Mapping[str, str] | None = None) -> Path | None:
    """The user's own file; `IPA_CONFIG` names another one, and a user without a home has none."""
    environ = os.environ if environ is None else environ
    if environ.get("IPA_CONFIG"):
        return expanded(Path(environ["IPA_CONFIG"]))
    import platformdirs

    folder = at_home(platformdirs.user_config_path)
    return None if folder is None else folder / FILE_NAME


def _variable(name: str) -> str:
    return "IPA_" + name.upper()


def _environment(environ: Mapping[str, str]) -> dict[str, str]:
    found = {}
    for variable, text in environ.items():
        if not variable.startswith("IPA_") or variable == "IPA_CONFIG":
            continue
        name = variable[4:].lower()
        if name not in FIELDS:
            known = [_variable(n) for n in FIELDS]
            raise UsageError(
                f"unknown environment variable {variable}{suggest(variable, known)}",
                "`ipa config show` lists every setting",
            )
        if text:
            found[name] = text
    return found


def _read_file(path: Path) -> dict[str, Any]:
    if sys.version_info >= (3, 11):
        import tomllib
    else:
        import tomli as tomllib
    try:
        with path.open("rb") as file:
            table = tomllib.load(file)
    except (ValueError, RecursionError) as error:  # bad syntax or encoding, numbers of a thousand digits, deep nesting
        raise ConfigError(f"{path} is not valid TOML: {error}", f"edit {path}") from error
    except OSError as error:
        raise ConfigError(f"cannot read {path}: {error.strerror}", f"check the permissions of {path}") from error
    values = {}
    for key, value in table.items():
        name = key.replace("-", "_")
        if name not in FIELDS:
            raise ConfigError(
                f"{path}: unknown key '{key}'{suggest(name, FIELDS)}", "`ipa config show` lists every key"
            )
        if name in values:
            raise ConfigError(f"{path}: {name} is set twice, with a hyphen and without", f"edit {path}")
        values[name] = from_toml(name, key, value, path)
    return values
