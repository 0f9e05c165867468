"""What may be written into files that people pass on: no password, no token, no home folder.

Every name and message goes through here on its way into pictures, sweeps, benches, graphs and reports.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from ipa_cli.config import Settings, with_places
from ipa_cli.config.values import as_json

WORDS = ("prompt", "negative_prompt", "prompts")  # the user's own, kept as they are

_ADDRESS = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://")
_USER = re.compile(r"(?<=://)[^/\s]*@")
_AFTER_PATH = re.compile(r"""(://[^\s"'<>?#]*)([?#][^\s"'<>]*)?""")  # always taken whole: no text takes long
_ENDS = ":,;.)]}"  # of a sentence rather than of an address
_TOKEN = re.compile(r"\b(hf_|api_org_|gh[pousr]_|github_pat_|sk-)[A-Za-z0-9_-]{30,}")


def public_name(name: str) -> str:
    """The name of a file, a folder, a repository or an address.

    An address without user, password, query and fragment, which may be signatures; a path in the home folder from `~`,
    which finds it again.
    """
    if _ADDRESS.match(name):
        name = re.split(r"[?#]", name, maxsplit=1)[0]
    return public_text(name)


def public_text(said: str) -> str:
    """The same for every name in a text, as far as it can be told from other words; tokens of known forms go too."""
    said = _TOKEN.sub("<secret>", _AFTER_PATH.sub(_without_query, _USER.sub("", said)))
    for home in _homes():
        said = re.sub(rf"(?<![\w.-]){re.escape(home)}(?![\w.-])", "~", said)
    return said


def _without_query(address: re.Match[str]) -> str:
    path, query = address[1], address[2] or ""
    return path + query[len(query.rstrip(_ENDS)) :]


def public(data: Any) -> Any:
    """JSON data with every text in it made public, but for the words of `WORDS`."""
    if isinstance(data, str):
        return public_text(data)
    if isinstance(data, Mapping):
        return {key: value if key in WORDS else public(value) for key, value in data.items()}
    return [public(value) for value in data] if isinstance(data, list | tuple) else data


def public_settings(settings: Settings, names: Iterable[str]) -> dict[str, Any]:
    """The settings of these names as JSON has them."""

    def said(name: str) -> Any:
        value = with_places(name, getattr(settings, name), lambda _, text: public_name(text))
        if name in WORDS:
            return value
        return public_name(str(value)) if isinstance(value, str | Path) else public(as_json(value))

    return {name: said(name) for name in names}


def _homes() -> list[str]:
    """The names of the home folder that `~` stands for; a home at the root ("/") has none to hide."""
    try:
        home = Path.home()
        names = {str(home), str(home.resolve())}
    except (RuntimeError, OSError):
        return []
    return sorted((name for name in names if len(Path(name).parts) > 1), key=len, reverse=True)
