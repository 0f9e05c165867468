"""A publisher's machine and a worker's, each with a cache and keys of its own, and a place that both reach."""

from __future__ import annotations

import secrets
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from ipa_cli import cache
from ipa_cli.cache import Entry, Store, publishers, remote
from tests.cache.graphs import build


@dataclass(frozen=True)
class Machine:
    """A home with a cache; `with machine:` makes it the one that the test is on."""

    folder: Path
    monkeypatch: pytest.MonkeyPatch

    @property
    def store(self) -> Store:
        return Store(self.folder / "cache")

    @contextmanager
    def here(self) -> Iterator[Store]:
        with self.monkeypatch.context() as patch:
            patch.setenv("HOME", str(self.folder))
            patch.setenv("XDG_STATE_HOME", str(self.folder / "state"))
            yield self.store


@dataclass(frozen=True)
class Fleet:
    """Two machines that share a place; the worker trusts the key of the publisher."""

    publisher: Machine
    worker: Machine
    place: remote.Remote
    key: str

    def publish(self, key: object = None, **more: object) -> Entry:
        with self.publisher.here() as store:
            entry = build(store, key, **more) if key else build(store, **more)
            assert remote.push(self.place, entry, publishers.private_key(), False, True, quiet).fresh
            remote.write_index(self.place)
            return entry

    def pull(self, allow_unsigned: bool = False, place: remote.Remote | None = None) -> list[remote.Pulled]:
        """What the worker gets of everything that is there. Raises what the first one that fails raises."""
        place = place or self.place
        with self.worker.here() as store:
            return [
                remote.pull(store, place, remote.read(place, name), allow_unsigned, quiet)
                for name in remote.names(place)
            ]


def quiet(doing: str) -> None:
    pass


@pytest.fixture
def fleet(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], Fleet]:
    def make(url: str) -> Fleet:
        publisher, worker = (Machine(tmp_path / name, monkeypatch) for name in ("publisher", "worker"))
        for machine in (publisher, worker):
            machine.folder.mkdir()
        with publisher.here():
            key = publishers.generate(publishers.key_file())
            publishers.trust(key, "own")
        with worker.here():
            publishers.trust(key, "ci")
        return Fleet(publisher, worker, remote.Remote(url), key)

    return make


@pytest.fixture
def shared(fleet: Callable[[str], Fleet], tmp_path: Path) -> Fleet:
    """Machines that share a folder."""
    return fleet(str(tmp_path / "place"))


@pytest.fixture
def in_memory(fleet: Callable[[str], Fleet]) -> Fleet:
    """Machines that share an object store in memory."""
    return fleet(f"memory://graphs-{secrets.token_hex(4)}")


def opened(store: Store, entry: Entry) -> None:
    """Open a graph as a backend would: raises unless it is trusted and whole."""
    with cache.open_graph(store, entry):
        pass
