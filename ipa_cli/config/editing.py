"""Changing a settings file, one key at a time, with comments and order kept."""

from __future__ import annotations

import os
import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ipa_cli.config import files
from ipa_cli.config.dropping import NONE, drops
from ipa_cli.config.names import meant, setting_of
from ipa_cli.config.places import exists, expanded, is_file
from ipa_cli.config.project import beside, is_trusted, trust, with_places
from ipa_cli.config.settings import EXPLAINED, FIELDS, ConfigError, checked
from ipa_cli.config.values import as_json, element, expected, from_text
from ipa_cli.errors import IpaError, UsageError, suggest
from ipa_cli.system import child

if TYPE_CHECKING:
    from tomlkit import TOMLDocument

ELSEWHERE = "set IPA_CONFIG to another file"


def name_of(key: str) -> str:
    """The setting of a key, as files have it. Raises UsageError if there is none."""
    name = setting_of(key)
    if name not in FIELDS:
        raise UsageError(
            f"there is no setting '{key}'{suggest(meant(name), FIELDS)}", "`ipa config show` lists all settings"
        )
    return name


def value_of(name: str, words: Sequence[str], path: Path, project: bool = False) -> Any:
    """A value for the TOML file at `path` from the words of a command line. Raises UsageError.

    Files and folders that are there are named so that they are found from other folders too: in a project's file
    relative to its own.
    """

    def placed(setting: str, text: str) -> str:
        here = files.working_directory()
        if (project and path.parent == here) or name == "output" or not exists(text):
            return text
        place = beside(setting, text, here)
        return os.path.relpath(place, path.parent) if project and place != text else place

    if drops(name, words):
        return [] if expected(name)[0] is tuple else NONE
    if expected(name)[0] is tuple:
        value: Any = tuple(element(name, word, name) for word in words)
        return as_json(with_places(name, checked(name, value, name), placed))
    if len(words) != 1:
        raise UsageError(f"{name} has one value, not {len(words)}", "quote a value that contains spaces")
    hint = f"`ipa config unset {name}` takes it out of the file" if words[0].lower() == NONE else EXPLAINED
    value = checked(name, from_text(name, words[0], name, hint), name)
    return str(expanded(value).absolute()) if isinstance(value, Path) else with_places(name, value, placed)


def put(path: Path, name: str, value: Any) -> None:
    """Set a key of the file, which is created if necessary. Raises IpaError."""
    document = _document(path)
    document[next(_spellings(document, name), name)] = value
    _write(path, document)


def drop(path: Path, key: str) -> bool:
    """Remove a key from the file, known or not; False if it is not there. Raises IpaError."""
    document = _document(path) if is_file(path) else None
    found = [] if document is None else list(_spellings(document, setting_of(key)))
    if document is None or not found:
        return False
    for spelled in found:
        del document[spelled]
    _write(path, document)
    return True


def edit(path: Path) -> None:
    """Open the file in the user's editor, and check the result. Raises IpaError."""
    command = next((text for name in ("VISUAL", "EDITOR") if (text := os.environ.get(name, "").strip())), None)
    if command is None:
        raise ConfigError("neither VISUAL nor EDITOR is set", f"EDITOR=nano ipa config edit, or edit {path}")
    program, *arguments = shlex.split(command)
    was_trusted = is_file(path) and is_trusted(path)
    _make_folder(path.parent)
    try:
        status = child.attend([child.find(program) or program, *arguments, str(path)])
    except OSError as error:
        raise IpaError(f"the editor {program} cannot be started: {error.strerror}", "set EDITOR") from error
    if status:
        raise IpaError(f"the editor {program} ended with status {status}", "set EDITOR to another one")
    if is_file(path):
        for name, value in files.parse(path, files.read(path)).items():
            checked(name, value, str(path), ConfigError)
        if was_trusted:
            trust(path)


def _spellings(document: TOMLDocument, name: str) -> Any:
    return (key for key in list(document) if setting_of(key) == name)


def _document(path: Path) -> TOMLDocument:
    import tomlkit

    if not is_file(path):
        return tomlkit.document()
    data = files.read(path)
    files.check_syntax(path, data)
    try:
        return tomlkit.parse(data.decode("utf-8-sig"))
    except ValueError as error:
        raise IpaError(f"{path} cannot be changed: {error}", "`ipa config edit`") from error


def _write(path: Path, document: TOMLDocument) -> None:
    from ipa_cli.system.files import replace

    was_trusted = is_file(path) and is_trusted(path)
    _make_folder(path.parent)
    replace(path, document.as_string().encode(), ELSEWHERE)
    if was_trusted:  # by the user, who makes this change too
        trust(path)


def _make_folder(folder: Path) -> None:
    """Make the folder of the user's own file; it may be a link, as people have who keep their settings elsewhere."""
    from ipa_cli.system.files import make_private

    try:
        make_private(folder)
    except OSError as error:
        raise IpaError(f"{folder} cannot be made: {error.strerror}", ELSEWHERE) from error
