"""The queue that all workers take from: clients take turns, however many jobs one of them has sent."""

from __future__ import annotations

import threading
from collections import OrderedDict, deque
from collections.abc import Callable, Iterator

from ipa_cli.serve.jobs import Job
from ipa_cli.serve.limits import Refused

PIXELS = 512_000_000  # of the pictures of all jobs that wait, three bytes each


class Queue:
    """Jobs that wait, in turns of their clients; at most `limit`, whose pictures have at most `PIXELS`."""

    def __init__(self, limit: int):
        self.limit = limit
        self._waiting: OrderedDict[str, deque[Job]] = OrderedDict()
        self._changed = threading.Condition()
        self._closed = False

    def __len__(self) -> int:
        with self._changed:
            return sum(map(len, self._waiting.values()))

    def put(self, job: Job) -> None:
        """Let a job wait. Raises Refused when the queue is full, or closed."""
        with self._changed:
            if self._closed:
                raise Refused("the server is shutting down", "try another server", 503)
            waiting = list(self._in_turn())
            if len(waiting) >= self.limit:
                raise Refused(f"{self.limit} requests are waiting already", "try again later", 429)
            if waiting and sum(one.pixels for one in (*waiting, job)) > PIXELS:
                raise Refused("the requests that wait have too many large pictures", "try again later", 429)
            self._waiting.setdefault(job.client, deque()).append(job)
            self._changed.notify()

    def take(self, most: int = 1, together: Callable[[Job, Job], bool] = lambda one, other: False) -> list[Job]:
        """Wait for a job, and take it with up to `most - 1` others that go `together` with it; none once closed."""
        with self._changed:
            while not self._waiting and not self._closed:
                self._changed.wait()
            taken: list[Job] = []
            for job in list(self._in_turn()) if self._waiting else ():
                if not taken or (len(taken) < most and together(taken[0], job)):
                    taken.append(job)
            for job in taken:
                self._remove(job)
                if job.client in self._waiting:
                    self._waiting.move_to_end(job.client)
            return taken

    def position(self, job: Job) -> int | None:
        """How many jobs are drawn before this one; None when it does not wait."""
        with self._changed:
            return next((at for at, one in enumerate(self._in_turn()) if one is job), None)

    def discard(self, job: Job) -> bool:
        """Take a job out; whether it was waiting."""
        with self._changed:
            return self._remove(job)

    def close(self) -> list[Job]:
        """Take no more jobs, and give back those that wait."""
        with self._changed:
            self._closed = True
            refused = list(self._in_turn())
            self._waiting.clear()
            self._changed.notify_all()
            return refused

    def _in_turn(self) -> Iterator[Job]:
        """All waiting jobs in the order in which one worker would take them."""
        lines = [list(line) for line in self._waiting.values()]
        for place in range(max(map(len, lines), default=0)):
            yield from (line[place] for line in lines if place < len(line))

    def _remove(self, job: Job) -> bool:
        line = self._waiting.get(job.client)
        if line is None or job not in line:
            return False
        line.remove(job)
        if not line:
            del self._waiting[job.client]
        return True
