"""Graphs in the cache as JSON data and table rows, and the reasons why they cannot be used here."""

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


def with_versions(here: probe.Machine) -> probe.Machine:
    """The machine with the versions of what backends are installed."""
    return replace(here, versions=backends.installed())


def stale_reasons(here: probe.Machine) -> Callable[[Item], list[str]]:
    """A function from a graph to the reasons why it can never be used on this machine; none when it may be."""
    here = with_versions(here)
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


def blocking_reasons() -> Callable[[Item], list[str]]:
    """A function from a graph to the reasons why it is not loaded until the user acts, each with what to type."""
    trust_problem = cache.trust_checker()

    def reasons(item: Item) -> list[str]:
        if not isinstance(item, Entry):
            return [] if isinstance(item, BrokenGraph) else [item.reason]
        found = trust_problem(item)
        return [f"{found.message}; {found.hint}"] if found else []

    return reasons


def to_json(item: Item, stale: list[str], blocking: list[str]) -> dict[str, Any]:
    """A graph as JSON data, with the reasons of `stale_reasons` and `blocking_reasons`."""
    obstacles = [*stale, *blocking]
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


def table_row(graph: dict[str, Any], now: float) -> tuple[str, ...]:
    """The cells of COLUMNS for a graph of `to_json`."""
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


def narrow_row(cells: tuple[str, ...]) -> tuple[str, ...]:
    """The cells of a `table_row` for a narrow terminal: lines in place of columns."""
    key, backend, model, gpu, shape, size, created, used, hits, usable = cells
    use = f"used {used}, {hits} {'time' if hits == '1' else 'times'}" if hits != "0" else "never used"
    lines = [f"{backend} {shape}, {model} on {gpu}", f"{size}, made {created}, {use}"]
    return (key, "\n".join(lines), "yes") if usable == "yes" else (key, "\n".join([*lines, usable]), "no")


def summary_line(item: Item) -> str:
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
    """Why a graph for `gpu` with these key factors cannot be used on this machine, one phrase per reason.

    `code` is the digest of our own part in the backend's graphs, see `backends.code`.
    """
    slug = here.gpu.slug if here.gpu else probe.NONE
    found = [] if gpu in (probe.CPU, slug) else [keys.describe_change("gpu", gpu, slug)]
    known = {"code": code, **here.versions, **here.factors(gpu)}
    if found:  # these follow from it
        for name in ("gpu name", "compute capability", *(() if here.gpu else ("driver", "cuda"))):
            del known[name]
    for name in known.keys() & factors.keys():
        value = known[name] or probe.NONE
        if factors[name] != value:
            found.append(keys.describe_change(name, factors[name], value))
    return sorted(found)
