"""`ipa config`: what the settings are, and where each comes from."""

from __future__ import annotations

from typing import Any

import typer

from .. import config
from ..report import Result, Table
from . import options

app = typer.Typer(no_args_is_help=True, help="Show settings and where each one comes from.")


@app.command()
def show(context: typer.Context, json: options.Json = False, quiet: options.Quiet = False) -> Result:
    """Print every setting, its value and its source."""
    resolved = options.settings(context)
    entries = {
        name: {
            "value": _plain(getattr(resolved.settings, name)),
            "source": source.kind,
            "where": source.where,
        }
        for name, source in ((name, resolved.sources[name]) for name in config.FIELDS)
    }
    rows = tuple((name, _shown(entry["value"]), entry["where"]) for name, entry in entries.items())
    return Result("config show", {"settings": entries}, (Table(("setting", "value", "source"), rows),))


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


def _plain(value: Any) -> Any:
    if isinstance(value, tuple):
        return list(value)
    return value if value is None or isinstance(value, (bool, int, float)) else str(value)


def _shown(value: Any) -> str:
    if value in (None, "", []):
        return "-"
    if isinstance(value, list):
        return ", ".join(value)
    return str(value).lower() if isinstance(value, bool) else str(value)
