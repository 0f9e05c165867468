"""One job of a server: sent, followed with our bars, its pictures fetched; cancelled when nobody waits any more."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from ipa_cli.client.answers import DONE, STATE
from ipa_cli.client.connection import Busy, Connection, raised
from ipa_cli.errors import IpaError

if TYPE_CHECKING:
    from ipa_cli.result import Advance, Reporter

MOST_STEPS = 1_000_000  # of a job
CANCEL_S = 3.0  # for telling the server
ENDED = ("done", "failed", "cancelled")


class Jobs:
    """The jobs of one command; what the server says about them is said here, each thing once."""

    def __init__(self, server: Connection, reporter: Reporter):
        self._server, self._reporter = server, reporter
        self._said: set[str] = set()
        self._open = 0

    def send(self, body: Any) -> Mapping[str, Any]:
        """A new job; waits, with a word, while the server's queue is full. Raises what is wrong with the request."""
        self._open += 1  # before it is sent: what interrupts this may come after the server has it
        waiting = False
        while True:
            try:
                return self._server.ask("POST", "/v1/jobs", body, shape=STATE)
            except Busy as busy:
                if not waiting:
                    self._reporter.note(f"the server is busy: {busy.message}; trying again every {busy.seconds:g} s")
                waiting = True
                time.sleep(busy.seconds)
            except IpaError:
                self._open -= 1
                raise

    def follow(self, job: Mapping[str, Any], name: str, count: int) -> Mapping[str, Any]:
        """The last state of a job, with `count` pictures; `name` is that of its bar. Raises what made it fail."""
        events = self._events(job["id"])
        state = next(events)
        if state["status"] == "queued":
            state = next(events)  # the queue may be empty
        if state["status"] == "queued":
            with self._reporter.stage("waiting for the server") as doing:
                while state["status"] == "queued":
                    doing(f"{state['position'] or 0} requests before this")
                    state = next(events)
        with self._reporter.steps(name, state["steps"]) as advance:
            at = _advanced(0, state["step"], advance)
            while state["status"] not in ENDED:
                state = next(events)
                at = _advanced(at, state["step"], advance)
        self._open -= 1
        if state["error"] is not None:
            raise raised(state["error"])
        if state["status"] == "cancelled":
            raise IpaError("the request was cancelled at the server", "try again")
        self._server.checked(state, DONE)
        if len(state["pictures"]) != count:
            raise self._server.foreign()
        return state

    def picture(self, picture: Mapping[str, Any]) -> bytes:
        """The file of a picture. Raises IpaError when it is not what the server drew."""
        data = self._server.file(picture["url"])
        if hashlib.sha256(data).hexdigest() != picture["sha256"]:
            raise IpaError("a picture was damaged on its way from the server", "try again")
        return data

    def cancel(self) -> None:
        """End the jobs that have not ended, with a word where the server does not hear of it."""
        if self._open:
            try:
                self._server.ask("DELETE", "/v1/jobs", seconds=CANCEL_S)
            except IpaError as error:
                self._reporter.warn(f"what was sent may be drawn to its end: {error.message}")

    def _events(self, id: str) -> Iterator[Mapping[str, Any]]:
        """The states of a job; notes and warnings in them are said."""
        for state in self._server.events(f"/v1/jobs/{id}/events", STATE):
            if max(state["step"], state["steps"]) > MOST_STEPS:
                raise self._server.foreign()
            for say, texts in ((self._reporter.note, state["notes"]), (self._reporter.warn, state["warnings"])):
                for text in texts:
                    if text not in self._said:
                        self._said.add(text)
                        say(text)
            yield state
        raise IpaError(f"the connection to {self._server.url} broke", "look at the server's log, and try again")


def _advanced(before: int, after: int, advance: Advance) -> int:
    for _ in range(after - before):
        advance()
    return after
