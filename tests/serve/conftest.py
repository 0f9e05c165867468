"""One server for all tests that only ask it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import httpx2
import pytest

from tests.conftest import isolated
from tests.serve.server import TOKEN, Server, serving


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server of the demo model that is ready, in a world of its own; shared, so no test may end it."""
    with pytest.MonkeyPatch.context() as patch:
        world = isolated(tmp_path_factory.mktemp("serve"), patch)
        with serving(world.environ, world.cwd, warm="") as running:
            yield running.wait_until_ready()


@pytest.fixture(scope="session")
def guarded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """The same, but it asks for TOKEN; not to be ended either."""
    with pytest.MonkeyPatch.context() as patch:
        world = isolated(tmp_path_factory.mktemp("guarded"), patch)
        Path("token").write_text(f"{TOKEN}\n")
        with serving(world.environ, world.cwd, ["--token-file", "token"]) as running:
            yield running.wait_until_ready(TOKEN)


@pytest.fixture
def client(server: Server) -> Iterator[httpx2.Client]:
    with server.client() as client:
        yield client
