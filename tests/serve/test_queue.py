"""The queue: turns of clients, and what it has no room for."""

from types import SimpleNamespace

import pytest

from ipa_cli.serve import queue
from ipa_cli.serve.limits import Refused
from ipa_cli.serve.queue import Queue


def job(client="a", pixels=0):
    return SimpleNamespace(client=client, pixels=pixels)


def test_clients_take_turns_however_many_jobs_one_has_sent():
    waiting, many, one = Queue(10), [job("many") for _ in range(3)], job("one")
    for each in (*many, one):
        waiting.put(each)
    assert [waiting.position(each) for each in (*many, one)] == [0, 2, 3, 1]
    assert [waiting.take()[0] for _ in range(4)] == [many[0], one, many[1], many[2]]


def test_jobs_that_go_together_are_taken_together_from_all_clients():
    waiting, jobs = Queue(10), [job(client) for client in "abab"]
    for each in jobs:
        waiting.put(each)
    assert waiting.take(3, lambda one, other: other is not jobs[1]) == [jobs[0], jobs[2], jobs[3]]
    assert len(waiting) == 1


def test_a_full_queue_and_one_of_large_pictures_refuse_with_429(monkeypatch):
    monkeypatch.setattr(queue, "PIXELS", 100)
    waiting = Queue(2)
    waiting.put(job(pixels=150))  # alone it may be as large as a request may be
    with pytest.raises(Refused, match="large pictures") as refused:
        waiting.put(job(pixels=1))
    assert refused.value.status == 429
    waiting.take()
    for _ in range(2):
        waiting.put(job(pixels=40))
    with pytest.raises(Refused, match="2 requests are waiting"):
        waiting.put(job())


def test_a_closed_queue_gives_back_what_waits_and_takes_nothing():
    waiting, one = Queue(2), job()
    waiting.put(one)
    assert waiting.close() == [one] and waiting.take() == []
    with pytest.raises(Refused, match="shutting down"):
        waiting.put(job())
