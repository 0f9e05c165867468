"""The server that `--server` means, and whether it draws what is asked for."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ipa_cli import __version__
from ipa_cli.client.answers import ABOUT, VERSION
from ipa_cli.client.connection import HERE, Connection
from ipa_cli.config import Resolved, servers
from ipa_cli.config.comparison import AUTO, OF_THE_PROCESS, Difference, differences
from ipa_cli.errors import IpaError, UsageError
from ipa_cli.system import inputs


@dataclass(frozen=True)
class Server:
    """A server that is ready, and what it says of itself (`GET /v1/server`)."""

    connection: Connection
    about: Mapping[str, Any]

    @property
    def url(self) -> str:
        return self.connection.url

    @property
    def machine(self) -> dict[str, Any]:
        """What it draws with, by the settings that a picture records of the machine."""
        settings, engine = self.about["settings"], self.about["engines"][0]
        return {
            "device": engine["device"].partition(":")[0],
            "dtype": engine["dtype"],
            "precision": settings["precision"],
            "backend": settings["backend"],
        }

    def differences(self, resolved: Resolved) -> list[Difference]:
        """How what is asked for differs from what it draws."""
        engines = self.about["engines"]
        devices, dtypes = ([one[name] for one in engines] for name in ("device", "dtype"))
        return differences(resolved, self.about["settings"], devices, dtypes)

    def check(self, resolved: Resolved) -> None:
        """Raise IpaError where it would draw otherwise than asked, UsageError for a flag that says nothing to it."""
        if found := self.differences(resolved):
            one = found[0]
            raise IpaError(f"{one.where} asks for {one.asked}, and the server at {self.url} has {one.there}", one.hint)
        for name in OF_THE_PROCESS:
            if resolved.sources[name].kind == "flag":
                flag = resolved.sources[name].where
                raise UsageError(f"{flag} says nothing to a server, which has its own", "leave it out")


def connected(resolved: Resolved) -> Server | None:
    """The server of the settings, None where they name none.

    Of several that `auto` finds it is the one that draws what `resolved` asks for. Raises IpaError when there is none,
    more than one, or it is not ready.
    """
    address = resolved.settings.server
    if address in (None, "none"):
        return None
    token = _token(resolved.settings.server_token_file)
    if address != AUTO:
        return _ready(Connection(str(address).rstrip("/"), token))
    running = servers.running()
    if not running:
        raise IpaError("none of your servers runs on this machine", HERE)
    if len(running) == 1:
        return _ready(Connection(running[0].url, token or running[0].token))
    fitting: list[Server] = []
    told = []
    for one in running:
        try:
            server = _ready(Connection(one.url, token or one.token))
        except IpaError as error:
            told.append(f"{one.url} ({error.message})")
            continue
        if not server.differences(resolved):
            fitting.append(server)
        told.append(f"{one.url} ({one.model})")
    if len(fitting) == 1:
        return fitting[0]
    which = "none of them draws" if not fitting else "more than one draws"
    raise IpaError(f"{which} what you ask for: {', '.join(told)}", f"name one: --server {running[0].url}")


def _ready(connection: Connection) -> Server:
    about = connection.ask("GET", "/v1/server", seconds=10, shape=VERSION)
    if about["version"] != __version__:
        raise IpaError(
            f"the server at {connection.url} is ipa {about['version']}, this is {__version__}",
            "restart it with this version: pictures could differ",
        )
    if not connection.checked(about, ABOUT)["engines"]:
        raise connection.foreign()
    return Server(connection, about)


def _token(path: Path | None) -> str | None:
    if path is None:
        return None
    token = inputs.read(str(path), 4096, "a token").decode("utf-8", "replace").strip()
    if not token.isascii() or not token.isprintable() or not token:
        raise UsageError(f"{path} holds no token", "it is one line of ASCII, as the server was given")
    return token
