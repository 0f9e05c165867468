"""Pictures from the web: limits of size, time and redirects."""

import hashlib
import socket
import threading
import time
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from ipa_cli.images import download
from ipa_cli.images.reference import expand, load
from tests.images.pictures import HALVES, encoded, refused


class Handler(BaseHTTPRequestHandler):
    def do_GET(self):
        path = self.path.split("?")[0]
        page = {"/cat.png": encoded(), "/k%C3%A4se%20x.png": encoded(), "/page": b"<html>", "/empty": b""}.get(path)
        if page is not None:
            self.answer(200, page)
        elif path == "/agent":
            self.answer(200 if self.headers["User-Agent"].startswith("ipa/") else 403, encoded())
        elif path.startswith("/hop"):
            hops = int(path[4:])
            self.answer(302, b"", Location=f"/hop{hops - 1}" if hops else "/cat.png")
        elif path.startswith("/moved"):
            self.answer(int(path[6:]), b"", Location="cat.png")
        elif path == "/loop":
            self.answer(301, b"", Location="/loop")
        elif path == "/away":
            self.answer(302, b"", Location=self.path.partition("?")[2])
        elif path == "/nowhere":
            self.answer(302, b"")
        elif path == "/huge":
            self.answer(200, b"", length=1 << 40)
        elif path in ("/endless", "/endless-redirect", "/endless-404"):
            self.send_response({"/endless": 200, "/endless-404": 404}.get(path, 302))
            self.send_header("Location", "/cat.png")
            self.end_headers()
            self.pour(b"x" * (1 << 16), 0)
        elif path == "/drip":
            self.send_response(200)
            self.end_headers()
            self.pour(b"x", 0.05)
        elif path == "/drip-headers":
            self.wfile.write(b"HTTP/1.0 200 OK\r\nX: ")
            self.pour(b"x", 0.05)
        elif path == "/silent":
            self.server.stop.wait(20)
        elif path == "/short":
            self.answer(200, encoded()[:50], length=5000)
        elif path == "/broken":
            self.wfile.write(b"nonsense\r\n\r\n")
        elif path == "/hangup":
            self.connection.shutdown(socket.SHUT_RDWR)
        elif path == "/chunked":
            self.protocol_version = "HTTP/1.1"
            self.send_response(200)
            self.send_header("Transfer-Encoding", "chunked")
            self.end_headers()
            self.wfile.write(b"5\r\nhello\r\nzz\r\n")
        else:
            self.answer(404, b"no")

    def answer(self, code, body, length=None, **headers):
        self.send_response(code)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body) if length is None else length))
        self.end_headers()
        self.wfile.write(body)

    def pour(self, piece, pause):
        self.server.poured[self.path] = 0
        try:
            while not self.server.stop.wait(pause):
                self.wfile.write(piece)
                self.wfile.flush()
                self.server.poured[self.path] += len(piece)
        except OSError:
            pass

    def log_message(self, *arguments):
        pass


@pytest.fixture
def server(monkeypatch):
    for name in ("http_proxy", "https_proxy", "all_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.stop, server.poured = threading.Event(), {}
    server.url = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    yield server
    server.stop.set()
    server.shutdown()
    server.server_close()
    thread.join()


@contextmanager
def within(seconds):
    start = time.monotonic()
    yield
    assert time.monotonic() - start < seconds, "no limit ended this"


def test_a_picture_from_the_web(server):
    url = f"{server.url}/cat.png?size=large#top"
    reference = load(*expand(url))
    assert reference.image.tobytes() == HALVES.tobytes()
    assert reference.source == f"{server.url}/cat.png?size=large"
    assert reference.sha256 == hashlib.sha256(encoded()).hexdigest()


@pytest.mark.slow
@pytest.mark.parametrize(
    "path", ["/käse x.png", "/k%C3%A4se%20x.png", "/agent", "/hop3", *(f"/moved{c}" for c in (301, 302, 303, 307, 308))]
)
def test_addresses_and_redirects_that_work(server, path):
    assert load(server.url + path).width == 64
    assert load("HTTP" + (server.url + path)[4:]).width == 64


@pytest.mark.slow
@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("/none.png", "the server answered 404 Not Found"),
        ("/page", "is a web page or SVG"),
        ("/empty", "is empty"),
        ("/hop9", "has too many redirects"),
        ("/loop", "has too many redirects"),
        ("/nowhere", "the server answered 302 Found"),
        ("/away?file:///etc/passwd", "only http and https"),
        ("/away?ftp://127.0.0.1/cat.png", "only http and https"),
        ("/away?http://me:pass@127.0.0.1/", "must not contain a user name"),
        ("/away?http://a..b/", "redirects to a forbidden address"),
        ("/away?http://" + "a" * 64 + "/", "redirects to a forbidden address"),
        ("/away?http://[/", "redirects"),
        ("/away?http://a:99999/", "redirects to a forbidden address"),
        ("/huge", "is larger than 32 MiB"),
        ("/short", "the connection broke"),
        ("/broken", "the connection broke"),
        ("/hangup", "the connection broke"),
        ("/chunked", "the connection broke"),
    ],
)
def test_answers_that_are_not_a_picture_are_refused(server, path, message):
    assert server.url in refused(server.url + path, message).message


def test_a_body_is_not_read_past_its_limit(server, monkeypatch):
    monkeypatch.setattr(download, "URL_BYTES", 1 << 20)
    with within(10):
        refused(f"{server.url}/endless", "is larger than 1 MiB")
        refused(f"{server.url}/endless-404", "404")
        assert load(f"{server.url}/endless-redirect").width == 64
    assert all(0 < poured < 16 << 20 for poured in server.poured.values())  # what the sockets buffer


@pytest.mark.parametrize("path", ["/drip", "/drip-headers", "/silent"])
def test_the_time_limit_is_for_the_whole(server, monkeypatch, path):
    monkeypatch.setattr(download, "URL_SECONDS", 0.4)
    with within(5):
        refused(server.url + path, "took longer than 0.4 s")


def test_a_host_that_does_not_listen_or_exist(server):
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        refused(f"http://127.0.0.1:{unused.getsockname()[1]}/cat.png", "cannot be reached")
    refused("http://no-such-host.invalid/cat.png", "the host cannot be found")


def test_a_server_without_encryption_is_reported(server):
    refused("https" + server.url[4:] + "/cat.png", "the secure connection failed")
