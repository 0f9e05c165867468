"""`ipa config`: what the settings are, and where each comes from."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path
from typing import Annotated, Any

import typer

from ipa_cli import config
from ipa_cli.commands import options
from ipa_cli.commands.base import App
from ipa_cli.config import editing
from ipa_cli.config.names import setting_of
from ipa_cli.config.units import plural
from ipa_cli.config.values import as_json
from ipa_cli.errors import IpaError, UsageError
from ipa_cli.result import Result, Table

app = App(help="Show and change settings, and trust the files of projects.")


def _names(incomplete: str) -> list[str]:
    return [name for name in config.FIELDS if name.startswith(incomplete.replace("-", "_"))]


def _choices(context: typer.Context, incomplete: str) -> list[str]:
    """What may stand behind the name of a setting on the command line."""
    name = setting_of(context.params.get("name") or "")
    values = options.choices(name) if name in config.FIELDS else None
    return [] if values is None else options.completion(values)(incomplete)


Project = Annotated[
    bool, typer.Option("--project", help="Use the project's file, here or in a folder above, instead of your own.")
]
Name = Annotated[str, typer.Argument(help="Setting, as `ipa config show` lists it.", autocompletion=_names)]


@app.command(example="ipa config show")
def show() -> Result:
    """Print every setting with its value and source, and errors in the files."""
    problems: list[IpaError] = []
    resolved = config.resolve({}, problems=problems)
    entries = _entries(resolved, problems)
    rows = tuple((name, _shown(entry["value"]), entry["where"]) for name, entry in entries.items())
    ignored = [
        {"setting": one.name, "value": as_json(one.value), "where": str(one.path), "why": one.why}
        for one in resolved.ignored
    ]
    told = [*map(str, resolved.ignored), *([config.TRUST_HINT] if ignored else [])]
    told += [f"error: {problem.message}" for problem in problems]
    data = {
        "settings": entries,
        "ignored": ignored,
        "problems": [{"message": problem.message, "hint": problem.hint} for problem in problems],
    }
    return Result("config show", data, (Table(("setting", "value", "source"), rows), *told), _failure(problems))


@app.command(example="ipa config get steps")
def get(name: Name) -> Result:
    """Print the value of one setting, one line for each of several values; nothing if it is not set."""
    name = editing.name_of(name)
    entry = _entries(config.resolve({}), [])[name]
    value = entry["value"]
    lines = value if isinstance(value, list) else [] if value is None else [value]
    return Result("config get", {"setting": name, **entry}, tuple(_shown(line) for line in lines))


@app.command("set", example="ipa config set steps 20")
def set_(
    name: Name,
    values: Annotated[
        list[str],
        typer.Argument(metavar="VALUE...", help="Value; several for a setting with several.", autocompletion=_choices),
    ],
    project: Project = False,
) -> Result:
    """Write a setting to your own ipa.toml, keeping comments."""
    name, file = editing.name_of(name), _file(project)
    value = editing.value_of(name, values, file, project)
    editing.put(file, name, value)
    return Result("config set", {"path": str(file), "setting": name, "value": value}, (f"{file}: {name} is set",))


@app.command(example="ipa config unset steps")
def unset(
    name: Annotated[str, typer.Argument(help="Setting, or any key of the file.", autocompletion=_names)],
    project: Project = False,
) -> Result:
    """Remove a setting from your own ipa.toml, keeping comments."""
    file = _file(project)
    done = editing.drop(file, name)
    line = f"{file}: {name} is no longer set" if done else f"{file} does not set {name}"
    return Result("config unset", {"path": str(file), "setting": name, "changed": done}, (line,))


@app.command(example="ipa config edit --project")
def edit(project: Project = False) -> Result:
    """Edit your own ipa.toml with $VISUAL or $EDITOR, and check it afterwards."""
    file = _file(project)
    editing.edit(file)
    return Result("config edit", {"path": str(file)}, (f"{file} is valid",))


@app.command(example="ipa config path")
def path() -> Result:
    """Print the paths of the settings files, strongest first."""
    project, user = config.project_file(), config.user_file()
    data = {
        "project": str(project) if project else None,
        "user": str(user) if user else None,
        "user_exists": config.is_file(user),
    }
    lines = [f"project  {project or f'no {config.FILE_NAME} here or in a folder above'}"]
    lines.append(f"user     {user or 'no home directory'}{'' if data['user_exists'] else ' (not there yet)'}")
    return Result("config path", data, tuple(lines))


@app.command(example="ipa config trust")
def trust(
    file: Annotated[Path | None, typer.Argument(help="File; the nearest ipa.toml unless given.")] = None,
) -> Result:
    """Let a project's ipa.toml, as it is now, also choose code, graphs, paths and servers."""
    path = _project(file)
    allowed = {name: as_json(value) for name, value in config.trust(path).items()}
    lines = [f"trusted as it is now: {path}", *(f"  {name} = {_shown(value)}" for name, value in allowed.items())]
    return Result("config trust", {"path": str(path), "allowed": allowed}, tuple(lines))


@app.command(example="ipa config untrust")
def untrust(
    file: Annotated[Path | None, typer.Argument(help="File; the nearest ipa.toml unless given.")] = None,
) -> Result:
    """Stop trusting a file."""
    path = _project(file)
    done = config.untrust(path)
    line = f"no longer trusted: {path}" if done else f"{path} was not trusted"
    return Result("config untrust", {"path": str(path), "changed": done}, (line,))


def _failure(problems: list[IpaError]) -> IpaError | None:
    """The first of the problems, with how many there are."""
    if not problems:
        return None
    more = f" (and {plural(len(problems) - 1, 'other problem')})" if len(problems) > 1 else ""
    return IpaError(f"{problems[0].message}{more}", problems[0].hint)


def _project(file: Path | None) -> Path:
    """The file given, or the nearest one."""
    if file is not None:
        return file.parent.resolve() / file.name
    found = config.project_file()
    if found is None:
        raise IpaError(
            f"there is no {config.FILE_NAME} here or in a folder above", "name the file, or cd to the project"
        )
    return found


def _file(project: bool) -> Path:
    """The file to change, which need not exist yet; a link to the user's own is followed."""
    if project:
        return config.project_file() or Path.cwd() / config.FILE_NAME
    user = config.user_file()
    if user is None:
        raise UsageError("there is no home directory for your own file", "set HOME, or set IPA_CONFIG to a file")
    return user.resolve()


def _entries(resolved: config.Resolved, problems: list[IpaError]) -> dict[str, dict[str, Any]]:
    """Every setting with its value and source; settings left open have the model's value, if it has one."""
    from ipa_cli.models.plan import OF_THE_ARCHITECTURE, own_defaults

    values = {name: as_json(getattr(resolved.settings, name)) for name in config.FIELDS}
    entries = {
        name: {"value": value, "source": resolved.sources[name].kind, "where": resolved.sources[name].where}
        for name, value in values.items()
    }
    with config.collecting(problems):
        own = own_defaults(resolved.settings)
        own["image"] = [own.pop("reference")] if "reference" in own and not resolved.settings.adapter else []
        if resolved.settings.ip_layers is not None:
            own["scale"] = 1.0  # the table contains the scales
        model = f"model {resolved.settings.model}"
        for name, entry in entries.items():
            if entry["source"] == "default" and entry["value"] in (None, "", []):
                if own.get(name):
                    entry |= {"value": own[name], "source": "model", "where": model}
                elif name in OF_THE_ARCHITECTURE:
                    entry["where"] = f"{model}, once it is downloaded"
    if entries["cache_dir"]["value"] is None:
        with suppress(IpaError):  # a user without a home has none
            entries["cache_dir"]["value"] = str(config.cache_dir(resolved.settings))
    return entries


def _shown(value: Any) -> str:
    if value in (None, "", []):
        return "-"
    if isinstance(value, list):
        return ", ".join(map(str, value))
    return str(value).lower() if isinstance(value, bool) else str(value)
