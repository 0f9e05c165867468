"""A web server that sends more than was asked for, or what unpacks to more, fills no memory."""

from __future__ import annotations

import gzip
import http.server
import threading
from typing import ClassVar

import pytest

from ipa_cli.cache import remote
from ipa_cli.system import web_answers

BOMB = gzip.compress(b"\0" * 50_000_000)


class Hostile(http.server.BaseHTTPRequestHandler):
    """Says that every file has 100 bytes."""

    protocol_version = "HTTP/1.1"
    asked: ClassVar[set[str | None]] = set()

    def do_HEAD(self):
        self.answer(200, 100)

    def do_GET(self):
        self.asked.add(self.headers["Accept-Encoding"])
        if self.path.startswith("/endless"):
            self.answer(206, 1 << 40)
            try:
                while True:
                    self.wfile.write(bytes(1 << 16))
            except OSError:
                pass
        else:
            self.answer(206, len(BOMB), "gzip")
            self.wfile.write(BOMB)

    def answer(self, status, length, encoding=None):
        self.send_response(status)
        self.send_header("Accept-Ranges", "bytes")
        self.send_header("Content-Length", str(length))
        if encoding:
            self.send_header("Content-Encoding", encoding)
        self.end_headers()

    def log_message(self, *arguments):
        pass


@pytest.fixture
def url():
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Hostile) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


def test_an_answer_is_read_no_further_than_anything_asks_for(url):
    place = remote.Remote(f"{url}/endless")
    with pytest.raises(remote.RemoteError, match="has more than 1000 bytes"):
        place.read("graphs/a.json", 1000)
    came = bytearray()
    with pytest.raises(remote.RemoteError, match=f"it sends more than {web_answers.MOST_BYTES} bytes at once"):
        place.fetch("blobs/a", 100, 10, came.extend, came.clear)  # what broke off goes on from byte 10
    assert not came


def test_an_answer_is_not_unpacked(url):
    """No server is asked to pack, and what one packs all the same is as damaged as anything else."""
    assert len(remote.Remote(f"{url}/packed").read("graphs/a.json", 60_000_000) or b"") <= len(BOMB)
    assert Hostile.asked == {"identity"}
