"""`ipa config`: what the settings are, and where each comes from."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from .. import config
from ..errors import UsageError
from ..report import Result, Table
from . import options

app = typer.Typer(no_args_is_help=True, help="Show settings and where each one comes from.")


@app.command()
def show(json: options.Json = False, quiet: options.Quiet = False) -> Result:
    """Print every setting, its value and its source, and what a project's file said in vain."""
    resolved = config.resolve({})
    entries = {
        name: {
            "value": _plain(getattr(resolved.settings, name)),
            "source": source.kind,
            "where": source.where,
        }
        for name, source in ((name, resolved.sources[name]) for name in config.FIELDS)
    }
    rows = tuple((name, _shown(entry["value"]), entry["where"]) for name, entry in entries.items())
    ignored = [
        {"setting": one.name, "value": _plain(one.value), "where": str(one.path), "why": one.why}
        for one in resolved.ignored
    ]
    told = (*map(str, resolved.ignored), config.TRUST_HINT) if ignored else ()
    blocks = (Table(("setting", "value", "source"), rows), *told)
    return Result("config show", {"settings": entries, "ignored": ignored}, blocks)


@app.command()
def path(json: options.Json = False, quiet: options.Quiet = False) -> Result:
    """Print the configuration files that are looked at, strongest first."""
    project, user = config.project_file(), config.user_file()
    data = {
        "project": str(project) if project else None,
        "user": str(user) if user else None,
        "user_exists": user is not None and user.is_file(),
    }
    lines = [f"project  {project or f'no {config.FILE_NAME} here or above'}"]
    lines.append(f"user     {user or 'no home directory'}{'' if data['user_exists'] else ' (not there yet)'}")
    return Result("config path", data, tuple(lines))


@app.command()
def trust(
    file: Annotated[Path | None, typer.Argument(help="The file; the nearest ipa.toml when left out.")] = None,
    json: options.Json = False,
    quiet: options.Quiet = False,
) -> Result:
    """Let a project's ipa.toml, as it is now, also choose code, graphs, places and servers."""
    path = _project(file)
    allowed = {name: _plain(value) for name, value in config.trust(path).items()}
    lines = [f"trusted as it is now: {path}", *(f"  {name} = {_shown(value)}" for name, value in allowed.items())]
    return Result("config trust", {"path": str(path), "allowed": allowed}, tuple(lines))


@app.command()
def untrust(
    file: Annotated[Path | None, typer.Argument(help="The file; the nearest ipa.toml when left out.")] = None,
    json: options.Json = False,
    quiet: options.Quiet = False,
) -> Result:
    """Take back what `ipa config trust` said."""
    path = _project(file)
    done = config.untrust(path)
    line = f"no longer trusted: {path}" if done else f"{path} was not trusted"
    return Result("config untrust", {"path": str(path), "changed": done}, (line,))


def _project(file: Path | None) -> Path:
    """The file named, as it is found from a project's folders, or the nearest one."""
    if file is not None:
        return file.parent.resolve() / file.name
    found = config.project_file()
    if found is None:
        raise UsageError(f"there is no {config.FILE_NAME} here or above", "name the file, or cd into the project")
    return found


def _plain(value: Any) -> Any:
    if isinstance(value, tuple | list):
        return list(value)
    return value if value is None or isinstance(value, (bool, int, float)) else str(value)


def _shown(value: Any) -> str:
    if value in (None, "", []):
        return "-"
    if isinstance(value, list):
        return ", ".join(value)
    return str(value).lower() if isinstance(value, bool) else str(value)
