"""Removing passwords, tokens and home folders from what is written to files that people share.

Every name and message in pictures, sweeps, benches, graphs and reports passes through here.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from ipa_cli.config import Settings, addresses, regions, with_places
from ipa_cli.config.values import as_json
from ipa_cli.errors import IpaError

WORDS = ("prompt", "negative_prompt", "prompts")  # the user's text, kept unchanged

_ADDRESS = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://")
_TOKEN = re.compile(r"\b(hf_|api_org_|gh[pousr]_|github_pat_|sk-)[A-Za-z0-9_-]{30,}")


def public_name(name: str) -> str:
    """The name of a file, folder, repository or address without secrets.

    Addresses lose user, password, query and fragment, which may contain signatures; the home folder becomes `~`.
    """
    if _ADDRESS.match(name):
        name = re.split(r"[?#]", name, maxsplit=1)[0]
    return public_text(name)


def public_text(said: str) -> str:
    """The same for all addresses and paths in a text; tokens of known forms are removed too."""
    said = _TOKEN.sub("<secret>", addresses.without_secrets(said))
    for home in _homes():
        said = re.sub(rf"(?<![\w.-]){re.escape(home)}(?![\w.-])", "~", said)
    return said


def public(data: Any) -> Any:
    """JSON data with `public_text` applied to every string, except the values of `WORDS` and the prompts of regions."""
    if isinstance(data, str):
        return public_text(data)
    if isinstance(data, Mapping):
        return {key: _public_value(key, value) for key, value in data.items()}
    return [public(value) for value in data] if isinstance(data, list | tuple) else data


def _public_value(name: str, value: Any) -> Any:
    if name == "region" and isinstance(value, list | tuple):
        return [_public_region(one) if isinstance(one, str) else public(one) for one in value]
    return value if name in WORDS else public(value)


def _public_region(text: str) -> str:
    """The text of `--region`, of which the mask alone is a place."""
    try:
        return str(regions.parse(text, "region").with_places(lambda _, place: public_name(place)))
    except IpaError:
        return public_text(text)


def public_settings(settings: Settings, names: Iterable[str]) -> dict[str, Any]:
    """Settings by name for JSON, without secrets."""

    def said(name: str) -> Any:
        value = with_places(name, getattr(settings, name), lambda _, text: public_name(text))
        if name in WORDS:
            return value
        return public_name(str(value)) if isinstance(value, str | Path) else _public_value(name, as_json(value))

    return {name: said(name) for name in names}


def _homes() -> list[str]:
    """Paths of the home folder; none for a home at the root ("/"), which has no name to hide."""
    try:
        home = Path.home()
        names = {str(home), str(home.resolve())}
    except (RuntimeError, OSError):
        return []
    return sorted((name for name in names if len(Path(name).parts) > 1), key=len, reverse=True)
