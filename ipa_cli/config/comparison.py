"""Settings that a server is started with and no request changes: how it tells them, and how they are compared."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from ipa_cli.config.adapters import AdapterConfig
from ipa_cli.config.controls import ControlConfig
from ipa_cli.config.places import exists
from ipa_cli.config.privacy import public_name
from ipa_cli.config.project import with_places
from ipa_cli.config.setting import MACHINE, MODEL
from ipa_cli.config.settings import FIELDS, Settings
from ipa_cli.config.sources import Resolved, Source
from ipa_cli.config.values import as_json, flag_of

# Settings of the process that draws: where it keeps things, and not what it draws or how.
OF_THE_PROCESS = ("warmup", "cache_dir", "cache_max_size", "cache_remote", "cache_push", "cache_signing_key")
NOT_COMPARED = (*OF_THE_PROCESS, "server", "server_token_file")
COMPARED = (
    *(name for name, one in FIELDS.items() if one.metadata["panel"] in (MODEL, MACHINE) and name not in NOT_COMPARED),
    *("adapter", "lora", "lora_dir", "control", "embedding", "embedding_dir"),
)
AUTO = "auto"  # the process that draws chooses


@dataclass(frozen=True)
class Difference:
    """A setting that `where` gives another value than the server has; both as text, and what to do about it."""

    name: str
    where: str
    asked: str
    there: str
    hint: str


def reported(settings: Settings) -> dict[str, Any]:
    """What a server reports of its settings as JSON: existing paths in full, home as `~`, and no secrets."""
    controls = tuple(dict.fromkeys(ControlConfig(one.source, one.file) for one in settings.control))
    plain = replace(settings, adapter=tuple(_location(one) for one in settings.adapter), control=controls)
    return {name: as_json(with_places(name, getattr(plain, name), _in_full)) for name in COMPARED}


def differences(
    resolved: Resolved, there: Mapping[str, Any], devices: Sequence[str], dtypes: Sequence[str]
) -> list[Difference]:
    """How given settings differ from those of a server as `reported`, which draws on `devices` with `dtypes`.

    Settings that nothing gives are the server's to choose, but for adapters: each has references of its own.
    """
    asked, found = reported(resolved.settings), []
    for name in COMPARED:
        source = resolved.sources[name]
        if source.kind == "default" and (name != "adapter" or not there.get(name)):
            continue
        if name == "control" and set(asked[name]) <= set(there.get(name) or ()):
            continue  # a request has maps for any of those that are loaded
        here = {"device": list(devices), "dtype": list(dtypes)}.get(name, [there.get(name)])
        if asked[name] != AUTO and not all(_same(name, asked[name], one) for one in here):
            named = {"flag": source.where, "env": source.where, "default": "the command"}
            where = named.get(source.kind, f"{flag_of(name)} ({source.where})")
            values = (_text(asked[name]), _text(here[0] if len(here) == 1 else here))
            found.append(Difference(name, where, *values, _hint(name, source, asked[name])))
    return found


def _hint(name: str, source: Source, asked: Any) -> str:
    flag = flag_of(name)
    if isinstance(asked, bool):
        typed = flag if asked else f"--no-{flag[2:]}"
    else:
        several = asked if isinstance(asked, list) else [asked]
        typed = " ".join(f"{flag} {shlex.quote(str(one))}" for one in several)
    started = f"start the server with {typed}, " if typed else "start the server without --adapter, "
    undo = {"flag": f"leave {flag} out", "env": f"unset {source.where}", "default": f"give the same {flag}"}
    return started + undo.get(source.kind, f"type another {flag}") + ", or --server none to draw here"


def _same(name: str, asked: Any, there: Any) -> bool:
    if name != "device":
        return bool(asked == there)
    kind, _, number = str(there).partition(":")
    return asked in (there, kind, f"{kind}:{number or 0}")


def _text(value: Any) -> str:
    if isinstance(value, list):
        return ", ".join(map(_text, value)) or "none"
    if isinstance(value, bool):
        return "yes" if value else "no"
    return "the default" if value is None else str(value)


def _location(adapter: AdapterConfig) -> AdapterConfig:
    """An adapter without what requests say of it."""
    return replace(adapter, stated=adapter.stated & {"encoder"})


def _in_full(name: str, place: str) -> str:
    if place in FIELDS[name].metadata["words"] or not exists(place):
        return public_name(place)
    return public_name(str(Path(place).expanduser().resolve()))
