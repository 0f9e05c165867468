"""One server for all tests that only ask it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import pytest

from tests.conftest import isolated
from tests.serve.server import Server, serving


@dataclass(frozen=True)
class Served:
    """A ready server, and the runtime folder of its user."""

    server: Server
    runtime: str

    @property
    def url(self) -> str:
        return self.server.url


@pytest.fixture(scope="session")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """A server of the demo model, in a world of its own, that draws four pictures a request; no test may end it."""
    with pytest.MonkeyPatch.context() as patch:
        world = isolated(tmp_path_factory.mktemp("served"), patch)
        with serving(world.environ, world.cwd, ["--max-pictures", 4]) as running:
            yield Served(running.wait_until_ready(), world.environ["XDG_RUNTIME_DIR"])


@pytest.fixture
def auto(served: Served, world: object, monkeypatch: pytest.MonkeyPatch) -> Served:
    """The server, where `--server auto` finds it."""
    monkeypatch.setenv("XDG_RUNTIME_DIR", served.runtime)
    return served
