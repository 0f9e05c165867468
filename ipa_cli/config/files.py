"""Settings files: the `ipa.toml` of a project, and the user's own."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ipa_cli.config.checks import short
from ipa_cli.config.names import meant, setting_of
from ipa_cli.config.places import at_home, expanded, is_file
from ipa_cli.config.settings import FIELDS, ConfigError, collecting
from ipa_cli.config.values import from_toml
from ipa_cli.errors import IpaError, suggest

FILE_NAME = "ipa.toml"
MOST_BYTES = 100_000
MOST_DOTS = 100  # in one key: tomllib takes minutes for tens of thousands


def project_file(cwd: Path | None = None) -> Path | None:
    """The nearest `ipa.toml` from the working directory upwards. Raises IpaError as `working_directory`."""
    here = cwd or working_directory()
    return next((d / FILE_NAME for d in (here, *here.parents) if is_file(d / FILE_NAME)), None)


def working_directory() -> Path:
    """The working directory without links. Raises IpaError if it was removed, where MKL would end the process."""
    try:
        return Path.cwd().resolve()
    except FileNotFoundError:
        raise IpaError("the working directory has been removed", "cd to a folder that exists") from None


def user_file(environ: Mapping[str, str] | None = None) -> Path | None:
    """The user's own file, or the one that `IPA_CONFIG` names; None for a user without a home."""
    environ = os.environ if environ is None else environ
    if environ.get("IPA_CONFIG"):
        return expanded(Path(environ["IPA_CONFIG"]))
    import platformdirs

    folder = at_home(platformdirs.user_config_path)
    return None if folder is None else folder / FILE_NAME


def read(path: Path) -> bytes:
    """The content of a settings file. Raises IpaError if it cannot be read or is too long."""
    from ipa_cli.system.inputs import read_bytes  # imported only if there is a file

    return read_bytes(path, MOST_BYTES, "a settings file")


def parse(path: Path, data: bytes, problems: list[IpaError] | None = None) -> dict[str, Any]:
    """Settings by name, each of the type it has, from the content of `path`.

    Raises ConfigError, or adds an error for every invalid key to `problems`.
    """
    values: dict[str, Any] = {}
    for key, value in check_syntax(path, data).items():
        with collecting(problems):
            name = setting_of(key)
            if name not in FIELDS:
                raise ConfigError(
                    f"{path}: unknown key '{short(key)}'{suggest(meant(name), FIELDS)}",
                    "`ipa config show` lists every key",
                )
            if name in values:
                raise ConfigError(f"{path}: {name} is set twice, by two spellings of its name", f"edit {path}")
            values[name] = from_toml(name, key, value, path)
    return values


def check_syntax(path: Path, data: bytes) -> dict[str, Any]:
    """The content of a file, parsed as TOML. Raises ConfigError."""
    if sys.version_info >= (3, 11):
        import tomllib
    else:
        import tomli as tomllib
    try:
        if any(run.count(b".") > MOST_DOTS for run in re.split(rb"[=\n,{}[\]]", data)):
            raise ValueError(f"a key of more than {MOST_DOTS} parts")
        return tomllib.loads(data.decode("utf-8-sig"))
    except UnicodeDecodeError as error:  # as PowerShell's ">" writes it, for one
        raise ConfigError(
            f"{path} is not UTF-8 text: {error.reason} at byte {error.start}", "save it as UTF-8"
        ) from error
    except (ValueError, RecursionError) as error:  # bad syntax, numbers of a thousand digits, deep nesting
        escaped = "Unescaped" in str(error) or "hex value" in str(error)
        hint = "write a path of Windows in single quotes" if escaped else f"edit {path}"
        raise ConfigError(f"{path} is not valid TOML: {error}", hint) from error
