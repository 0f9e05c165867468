"""What is told of the graphs in the cache: as data, in rows for people, and what stands against using them here."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from datetime import datetime
from typing import Any

from ipa_cli import backends, cache
from ipa_cli.cache import BrokenGraph, Entry, Item, keys
from ipa_cli.config import units
from ipa_cli.hardware import probe

COLUMNS = ("key", "backend", "model", "gpu", "shape", "size", "created", "last used", "hits", "usable here")


def staleness(here: probe.Machine) -> Callable[[Item], list[str]]:
    """What tells why a graph is of no use on this machine whatever is done, in words; nothing when it may be."""
    here = replace(here, versions=backends.installed())
    known: dict[tuple[str, str, str], list[str]] = {}  # thousands of graphs were built with the same few things

    def reasons(item: Item) -> list[str]:
        if isinstance(item, BrokenGraph):
            return [f"broken: {item.reason}"]
        if not isinstance(item, Entry):
            return []
        case = (item.backend, item.gpu, item.built_with)
        if case not in known:
            known[case] = differences(item.gpu, item.factors, here, backends.code(item.backend))
        return known[case]

    return reasons


def hindrances() -> Callable[[Item], list[str]]:
    """What tells what keeps a graph from being loaded until something is done about it, with what to type."""
    obstacle = cache.trust_checker()

    def reasons(item: Item) -> list[str]:
        if not isinstance(item, Entry):
            return [] if isinstance(item, BrokenGraph) else [item.reason]
        found = obstacle(item)
        return [f"{found.message}; {found.hint}"] if found else []

    return reasons


def described(item: Item, stale: list[str], hindered: list[str]) -> dict[str, Any]:
    """A graph as JSON has it, with what `staleness` and `hindrances` say of it."""
    obstacles = [*stale, *hindered]
    return {
        "key": item.id,
        "backend": item.backend,
        "model": item.model,
        "gpu": item.gpu,
        "shape": item.shape,
        "size": item.size,
        "created": item.created,
        "last_used": time.strftime("%Y-%m-%dT%H:%M:%S+00:00", time.gmtime(item.last_used)),
        "hits": item.hits,
        "usable": not obstacles,
        "obstacles": obstacles,
        "stale": bool(stale),
        "broken": isinstance(item, BrokenGraph),
        "path": item.path,
    }


def row(graph: dict[str, Any], now: float) -> tuple[str, ...]:
    """The cells of COLUMNS for a described graph."""
    cells = (
        graph["key"][:8],
        graph["backend"],
        graph["model"] or "-",
        graph["gpu"],
        graph["shape"],
        units.size(graph["size"]),
        _ago(graph["created"], now) if graph["created"] else "-",
        _ago(graph["last_used"], now) if graph["hits"] else "never",
        str(graph["hits"]),
        "yes" if graph["usable"] else ", ".join(graph["obstacles"]),
    )
    return tuple(map(printable, cells))


def stacked(cells: tuple[str, ...]) -> tuple[str, ...]:
    """The same for a narrow terminal: lines below each other in place of columns."""
    key, backend, model, gpu, shape, size, created, used, hits, usable = cells
    use = f"used {used}, {hits} {'time' if hits == '1' else 'times'}" if hits != "0" else "never used"
    lines = [f"{backend} {shape}, {model} on {gpu}", f"{size}, made {created}, {use}"]
    return (key, "\n".join(lines), "yes") if usable == "yes" else (key, "\n".join([*lines, usable]), "no")


def line(item: Item) -> str:
    """A graph in one line."""
    parts = (item.id[:8], item.backend, item.model or "-", item.gpu, item.shape, units.size(item.size))
    return printable("  ".join(parts))


def printable(text: str) -> str:
    """An imported manifest may hold anything, and a terminal obeys control characters."""
    return text if text.isprintable() else re.sub(r"[^ -~\u00a1-\uffff]", "?", text)


def _ago(date: str, now: float) -> str:
    span = units.age(now - datetime.fromisoformat(date).timestamp())
    return span if span == "now" else f"{span} ago"


def differences(gpu: str, factors: Mapping[str, keys.Factor], here: probe.Machine, code: str) -> list[str]:
    """Why a graph for `gpu` with these key factors is of no use on this machine, one phrase per reason.

    `code` is the digest of our own part in the backend's graphs, see `backends.code`.
    """
    slug = here.gpu.slug if here.gpu else probe.NONE
    found = [] if gpu in (probe.CPU, slug) else [keys.describe_change("gpu", gpu, slug)]
    known = {"code": code, **here.versions, **here.factors(gpu)}
    if found:  # what follows from it goes without saying
        for name in ("gpu name", "compute capability", *(() if here.gpu else ("driver", "cuda"))):
            del known[name]
    for name in known.keys() & factors.keys():
        value = known[name] or probe.NONE
        if factors[name] != value:
            found.append(keys.describe_change(name, factors[name], value))
    return sorted(found)
