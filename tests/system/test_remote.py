"""Connections to object stores: what ends them."""

from __future__ import annotations

import asyncio
import fcntl
import functools
import socket
import struct
import sys
import termios
import time
import weakref

import pytest

from ipa_cli.system import remote

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="what Linux tells of a connection")


@pytest.fixture
def listening():
    with socket.create_server(("127.0.0.1", 0)) as found:
        yield found


def test_a_connection_ends_when_the_other_end_takes_nothing_any_more(listening, monkeypatch):
    monkeypatch.setattr(remote, "SILENCE", 0.2)

    async def upload() -> None:
        loop = asyncio.get_running_loop()
        [address] = await loop.getaddrinfo(*listening.getsockname(), type=socket.SOCK_STREAM)
        made = remote._socket(address)
        made.setblocking(False)
        await loop.sock_connect(made, address[4])
        _, writer = await asyncio.open_connection(sock=made)  # as aiohttp does it
        with listening.accept()[0], pytest.raises(ConnectionError):
            writer.write(bytes(16 << 20))
            await asyncio.wait_for(writer.drain(), 10)

    asyncio.run(upload())


class Clock:
    """An event loop whose time passes in `wait`."""

    def __init__(self):
        self.now, self.due = 0.0, []

    def time(self):
        return self.now

    def call_later(self, seconds, function, *arguments):
        self.due.append((self.now + seconds, functools.partial(function, *arguments)))

    def wait(self, seconds):
        end = self.now + seconds
        while self.due and self.due[0][0] <= end:
            self.now, function = self.due.pop(0)
            function()
        self.now = end


def test_a_connection_lasts_while_anything_moves_in_either_direction(listening):
    clock, made = Clock(), socket.create_connection(listening.getsockname())
    other, _ = listening.accept()
    with made, other:
        remote._end_when_silent(clock, weakref.ref(made), b"", 0.0)
        for source, target in ((made, other), (other, made)) * 2:
            clock.wait(0.7 * remote.SILENCE)
            source.sendall(b"x")
            assert target.recv(1) == b"x"
            while struct.unpack("i", fcntl.ioctl(source, termios.TIOCOUTQ, bytes(4)))[0]:
                time.sleep(0.01)  # until it is acknowledged
        other.setblocking(False)
        with pytest.raises(BlockingIOError):
            other.recv(1)
        clock.wait(1.5 * remote.SILENCE)
        other.settimeout(10)
        assert other.recv(1) == b"", "it has ended"
    assert not clock.due


def test_a_connection_that_has_been_closed_is_watched_no_longer(listening):
    clock, made = Clock(), socket.create_connection(listening.getsockname())
    remote._end_when_silent(clock, weakref.ref(made), b"", 0.0)
    made.close()
    clock.wait(remote.SILENCE)
    assert not clock.due
