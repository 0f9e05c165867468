"""The value of one setting, read from text, TOML or JSON."""

from __future__ import annotations

import os
import types
import typing
from collections.abc import Callable, Mapping
from functools import cache
from pathlib import Path
from typing import Any

from ipa_cli.config import adapter_options, controls, embeddings, loras, option_text, regions
from ipa_cli.config.adapters import AdapterConfig
from ipa_cli.config.checks import number_hint, quoted, short
from ipa_cli.config.controls import ControlConfig
from ipa_cli.config.dropping import drops
from ipa_cli.config.embeddings import EmbeddingConfig
from ipa_cli.config.loras import LoraConfig
from ipa_cli.config.places import expanded
from ipa_cli.config.regions import RegionConfig
from ipa_cli.config.settings import EXPLAINED, FIELDS, ConfigError, Settings
from ipa_cli.errors import IpaError, UsageError

_TYPES = typing.get_type_hints(Settings)
# Elements of lists that have a syntax of their own, and what reads it.
PARSED: Mapping[type, Callable[..., Any]] = {
    AdapterConfig: adapter_options.parse,
    LoraConfig: loras.parse,
    ControlConfig: controls.parse,
    EmbeddingConfig: embeddings.parse,
    RegionConfig: regions.parse,
}


def flag_of(name: str) -> str:
    """The long flag of a setting."""
    return "--" + name.replace("_", "-")


@cache
def expected(name: str) -> tuple[type, str]:
    """The Python type of a setting without `None`, and its name in messages."""
    kind = _TYPES[name]
    if isinstance(kind, types.UnionType):
        kind = next(k for k in typing.get_args(kind) if k is not type(None))
    if typing.get_origin(kind) is tuple:
        return tuple, "a list of numbers" if element_type(name) is float else "a list of strings"
    names = {str: "a string", int: "a whole number", float: "a number", bool: "true or false", Path: "a path"}
    return kind, names[kind]


def element_type(name: str) -> type:
    """The type of a list setting's elements, or of any other setting."""
    kind = _TYPES[name]
    return typing.get_args(kind)[0] if typing.get_origin(kind) is tuple else expected(name)[0]


def element(name: str, text: str, where: str) -> Any:
    """A value of a setting, or an element of its list, from text. Raises UsageError, which names `where`."""
    kind = element_type(name)
    if kind in PARSED:
        return PARSED[kind](text, where)
    try:
        return kind(text)
    except ValueError:
        wanted = "a number" if kind is float else "a string"
        hint = number_hint(text, option_text.DIGITS)
        raise UsageError(f"{where}={short(text)}: expected {wanted}", hint) from None


def from_toml(name: str, key: str, value: Any, path: Path) -> Any:
    if drops(name, value):
        return FIELDS[name].default
    kind, wanted = expected(name)
    if kind is tuple and not isinstance(value, list):
        value = [value]
    if kind is Path and isinstance(value, str):
        return path.parent / expanded(Path(value))
    value = _as_kind(name, value, f"{path}: {key}", ConfigError)
    if type(value) is not kind:
        raise ConfigError(f"{path}: {key} = {quoted(value)}: expected {wanted}", f"edit {path}")
    return value


def from_json(name: str, value: Any, where: str) -> Any:
    if (value is None and FIELDS[name].default is None) or drops(name, value):
        return FIELDS[name].default
    kind, wanted = expected(name)
    if kind is Path and isinstance(value, str):
        return Path(value)
    value = _as_kind(name, value, where, IpaError)
    if type(value) is not kind:
        raise IpaError(f"{where}: {name} = {quoted(value)}: expected {wanted}", f"set it with {flag_of(name)}")
    return value


def as_json(value: Any) -> Any:
    """A setting's value as JSON and TOML have it, which `from_json` reads back."""
    if isinstance(value, tuple | list):
        return [as_json(one) for one in value]
    return value if value is None or isinstance(value, bool | int | float) else str(value)


def settings_as_json(settings: Settings) -> dict[str, Any]:
    """All settings by name, as JSON has them."""
    return {name: as_json(getattr(settings, name)) for name in FIELDS}


def settings_from_json(values: Mapping[str, Any], where: str) -> Settings:
    """Settings from what `settings_as_json` gave. Raises IpaError, which names `where`."""
    return Settings(**{name: from_json(name, value, where) for name, value in values.items()})


def from_python(name: str, value: Any) -> Any:
    """A value that a program gives, of the type the setting has; paths are taken for text, one value for a list of it.

    Raises UsageError for another.
    """
    if drops(name, value):
        return FIELDS[name].default
    kind, wanted = expected(name)
    if kind is Path and isinstance(value, str | Path):
        return Path(value)
    if kind is tuple:
        several = value if isinstance(value, list | tuple) else [value]
        value = [str(one) if isinstance(one, Path) else one for one in several]
    elif isinstance(value, Path):
        value = str(value)
    value = _as_kind(name, value, name, UsageError)
    if type(value) is not kind:
        raise UsageError(f"{name} = {quoted(value)}: expected {wanted}", EXPLAINED)
    return value


def _as_kind(name: str, value: Any, where: str, error: type[IpaError]) -> Any:
    """A TOML or JSON value converted to the setting's type if that is lossless, else unchanged."""
    kind, each = expected(name)[0], element_type(name)
    if kind is tuple:
        if not isinstance(value, list):
            return value
        if each in PARSED:
            strings = all(isinstance(v, str) for v in value)
            return tuple(PARSED[each](v, where, error) for v in value) if strings else value
        values = [float(v) if each is float and type(v) is int and abs(v) < 2**53 else v for v in value]
        return tuple(values) if all(type(v) is each for v in values) else value
    if kind is float and type(value) is int and abs(value) < 2**53:
        return float(value)
    if FIELDS[name].metadata["numeric"] and type(value) in (int, float):
        return f"{value:g}"
    return value


def from_text(name: str, text: str, where: str, hint: str = "") -> Any:
    """The value of a variable, a cell or a word. Raises UsageError, which names `where`; `hint` says what to type."""
    if drops(name, text):
        return FIELDS[name].default
    kind, wanted = expected(name)
    switches = {
        "1": True,
        "true": True,
        "yes": True,
        "on": True,
        "0": False,
        "false": False,
        "no": False,
        "off": False,
    }
    try:
        if kind is bool:
            return switches[text.lower()]
        if kind is tuple:
            if element_type(name) is float:
                return tuple(float(part) for part in text.split(","))
            if element_type(name) in PARSED:
                return (PARSED[element_type(name)](text, where),)
            return tuple(text.split(os.pathsep)) if "://" not in text else (text,)
        return kind(text)
    except (ValueError, KeyError):
        hint = hint or f"unset {where} or correct it"
        hint = number_hint(text, hint) if kind is float else hint
        raise UsageError(f"{where}={short(text)}: expected {wanted}", hint) from None
