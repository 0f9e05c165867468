"""Graphs that a remote cache offers: their names, and what their manifests say; nothing of it is trusted yet."""

from __future__ import annotations

import json
import re
from collections import deque
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import Future
from dataclasses import dataclass
from functools import cached_property
from itertools import islice
from pathlib import PurePosixPath
from typing import Any

from ipa_cli.cache import ed25519, keys
from ipa_cli.cache.checking import manifest_of
from ipa_cli.cache.keys import Factor, GraphKey
from ipa_cli.cache.manifest import Damage
from ipa_cli.cache.remote.location import Remote, RemoteError, in_thread
from ipa_cli.errors import IpaError

INDEX = "ipa-graphs.json"
INDEX_SCHEMA = 1
GRAPHS, BLOBS = "graphs", "blobs"
AT_ONCE = 8  # manifests

_SLUG = r"[a-z0-9_][a-z0-9_.+-]{0,79}"
_NAME = re.compile(rf"{_SLUG}/{_SLUG}/{_SLUG}-[0-9a-f]{{16}}")


@dataclass(frozen=True)
class Offer:
    """A graph on a remote: `name` is its folder in a cache, `text` its manifest; the signatures are valid."""

    name: str
    text: bytes
    manifest: Mapping[str, Any]
    signatures: tuple[ed25519.Signature, ...]

    @property
    def id(self) -> str:
        """The first 16 digits of the key's digest."""
        return id_of(self.name)

    @property
    def backend(self) -> str:
        return self.key.backend

    @cached_property
    def key(self) -> GraphKey:
        return keys.from_dict(self.manifest["key"])

    @property
    def factors(self) -> Mapping[str, Factor]:
        return self.key.factors

    @property
    def describe(self) -> Mapping[str, Any]:
        return self.manifest["describe"]

    @property
    def build_seconds(self) -> float:
        return self.manifest["build_seconds"]

    @property
    def size(self) -> int:
        """The bytes of all files."""
        return sum(file["size"] for file in self.manifest["files"].values())


def id_of(name: str) -> str:
    """The first 16 digits of the digest of the key of the graph of this name."""
    return name[-16:]


def names(remote: Remote, of: str = "") -> list[str]:
    """The names of all graphs, or of those `of` "inductor/cpu", sorted; files of other names are left alone.

    Raises RemoteError, also where a server that cannot list has no index or a damaged one.
    """
    below = f"{of}/" if of else ""
    found = remote.list(f"{GRAPHS}/{below}".rstrip("/"))
    if found is not None:
        paths = [f"{below}{path}" for path in found]
        return [path[:-5] for path in paths if path.endswith(".json") and _NAME.fullmatch(path[:-5])]
    text = remote.read(INDEX, ed25519.MAX_ENVELOPE)
    if text is None:
        raise RemoteError(f"there is no {INDEX} in {remote.url}", "`ipa cache push` writes it, where it can write")
    try:
        return [name for name in parse_index(text) if name.startswith(below)]
    except Damage as damage:
        raise RemoteError(f"{remote.url}/{INDEX} is damaged: {damage}", "`ipa cache push` writes it again") from damage


def parse_index(text: bytes) -> list[str]:
    """The names in an index. Raises Damage."""
    try:
        index = json.loads(text)
    except (ValueError, RecursionError):
        raise Damage("it is not JSON") from None
    if not isinstance(index, dict) or index.get("schema_version") != INDEX_SCHEMA:
        raise Damage(f"it is not of schema {INDEX_SCHEMA}")
    found = index.get("graphs")
    if not isinstance(found, list) or not all(isinstance(name, str) and _NAME.fullmatch(name) for name in found):
        raise Damage("it names no graphs")
    return sorted(set(found))


def find(names: list[str], prefix: str) -> str:
    """The one name whose key begins with `prefix`. Raises IpaError for none or several."""
    prefix = prefix.lower()[:16]
    found = [name for name in names if prefix and id_of(name).startswith(prefix)]
    if len(found) == 1:
        return found[0]
    if not found:
        raise IpaError(
            f"no graph there begins with {prefix!r}", "`ipa cache pull URL --all --dry-run` shows what is there"
        )
    raise IpaError(f"{len(found)} graphs begin with {prefix!r}", "type more digits of the key")


def render_index(found: list[str]) -> bytes:
    """The index of graphs of these names."""
    return keys.canonical({"schema_version": INDEX_SCHEMA, "graphs": sorted(found)}).encode() + b"\n"


def read(remote: Remote, name: str) -> Offer | None:
    """The graph of this name; None where there is none. Raises Damage for one that is not as it was sent there."""
    text = remote.read(f"{GRAPHS}/{name}.json", ed25519.MAX_ENVELOPE)
    return None if text is None else parse(name, text)


def read_ahead(remote: Remote, names: Iterable[str]) -> Iterator[Future[Offer | None]]:
    """What `read` returns or raises for each of these names, in their order; `AT_ONCE` are read at the same time."""
    every, begun = iter(names), deque[Future[Offer | None]]()
    while True:
        begun.extend(in_thread(read, remote, name) for name in islice(every, AT_ONCE - len(begun)))
        if not begun:
            return
        yield begun.popleft()


def parse(name: str, text: bytes) -> Offer:
    """The graph that an envelope holds, which lay under `name`. Raises Damage."""
    manifest, signatures = ed25519.parse(text)
    fields = manifest_of(name, manifest)
    for file in fields["files"]:
        if any(parent.as_posix() in fields["files"] for parent in PurePosixPath(file).parents):
            raise Damage(f"its manifest names a file {file!r} below another file")
    if signatures:
        ed25519.check(manifest, signatures)
    return Offer(name, manifest, fields, signatures)


def blob(sha256: str) -> str:
    """Where the file with this digest lies."""
    return f"{BLOBS}/{sha256[:2]}/{sha256}"
