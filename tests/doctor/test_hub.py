"""The hub: silent, broken, offline, and tokens that are never shown."""

import http.server
import os
import socket
import threading
from contextlib import contextmanager, suppress

import pytest

from ipa_cli.doctor import hub


@contextmanager
def server(status: int, headers: dict[str, str] | None = None):
    class Handler(http.server.BaseHTTPRequestHandler):
        def do_HEAD(self):
            self.send_response(status)
            for name, value in (headers or {}).items():
                self.send_header(name, value)
            self.end_headers()

        def log_message(self, *_):
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as listening:
        thread = threading.Thread(target=listening.serve_forever)
        thread.start()
        try:
            yield f"http://127.0.0.1:{listening.server_port}"
        finally:
            listening.shutdown()
            thread.join()


@pytest.mark.slow
@pytest.mark.parametrize("status", [200, 302, 401, 404])
def test_a_hub_that_answers_is_ok(status):
    with server(status, {"Location": "http://127.0.0.1:9/"}) as url:
        check = hub.reach({"HF_ENDPOINT": url})()
        assert check.status == "ok" and url in check.found


def test_a_hub_with_a_server_error_is_a_warning():
    with server(503) as url:
        check = hub.reach({"HF_ENDPOINT": url})()
        assert check.status == "warning" and "503" in check.found


def test_a_hub_that_refuses_connections_is_a_warning():
    check = hub.reach({"HF_ENDPOINT": "http://127.0.0.1:9"})()
    assert check.status == "warning" and "127.0.0.1:9" in check.found and "HF_ENDPOINT" in check.advice


@pytest.mark.slow
def test_a_hub_that_never_answers_is_a_warning():
    with socket.create_server(("127.0.0.1", 0)) as silent:
        check = hub.reach({"HF_ENDPOINT": f"http://127.0.0.1:{silent.getsockname()[1]}"})()
    assert check.status == "warning" and check.advice


def test_a_hub_that_talks_nonsense_is_a_warning():
    with socket.create_server(("127.0.0.1", 0)) as listening:

        def answer() -> None:
            with listening.accept()[0] as talking:
                talking.recv(1000)
                talking.sendall(b"\xff\x00 what?\r\n\r\n")

        thread = threading.Thread(target=answer, daemon=True)
        thread.start()
        check = hub.reach({"HF_ENDPOINT": f"http://127.0.0.1:{listening.getsockname()[1]}"})()
        thread.join()
    assert check.status == "warning" and "what?" in check.found


@pytest.mark.slow
def test_a_hub_that_never_ends_its_answer_is_a_warning():
    enough = threading.Event()
    with socket.create_server(("127.0.0.1", 0)) as listening:

        def drip() -> None:
            with listening.accept()[0] as talking, suppress(OSError):
                talking.sendall(b"HTTP/1.1 200 ")
                while not enough.wait(0.5):
                    talking.sendall(b".")  # each letter comes in time, the answer does not

        thread = threading.Thread(target=drip, daemon=True)
        thread.start()
        check = hub.reach({"HF_ENDPOINT": f"http://127.0.0.1:{listening.getsockname()[1]}"})()
        enough.set()
        assert check.status == "warning" and "no answer within 2 s" in check.found
    thread.join()


def test_offline_the_hub_is_not_asked():
    check = hub.reach({"HF_ENDPOINT": "http://127.0.0.1:9", "HF_HUB_OFFLINE": "1"})()
    assert check.status == "skipped" and "HF_HUB_OFFLINE" in check.found


@pytest.mark.parametrize(
    "endpoint", ["file:///etc/passwd", "ftp://127.0.0.1", "huggingface.co", "http://[::1", "http://", "http://a:b"]
)
def test_an_endpoint_that_is_not_an_address_is_a_warning(endpoint):
    assert hub.reach({"HF_ENDPOINT": endpoint})().status == "warning"


def test_a_password_in_the_endpoint_is_not_shown():
    check = hub.reach({"HF_ENDPOINT": "http://me:hunter2@127.0.0.1:9"})()
    assert "hunter2" not in check.found + check.advice and "127.0.0.1:9" in check.found


def test_a_token_is_found_but_never_shown(tmp_path):
    secret = "hf_thisIsNotForOthers"
    home = {"HF_HOME": str(tmp_path)}
    none = hub.token(home)
    assert none.status == "ok" and "none" in none.found
    (tmp_path / "token").write_text(secret)
    file, variable = hub.token(home), hub.token({**home, "HF_TOKEN": secret})
    assert str(tmp_path / "token") in file.found and "HF_TOKEN" in variable.found
    assert not any(secret in check.found + check.advice for check in (file, variable))
    (tmp_path / "token").write_bytes(b"\xff\xfe\x00")
    assert hub.token(home).status == "warning"


def test_offline_lasts_as_long_as_it_should(monkeypatch):
    monkeypatch.delenv("TRANSFORMERS_OFFLINE", raising=False)
    with hub.offline(True):
        assert os.environ["TRANSFORMERS_OFFLINE"] == "1"
    assert "TRANSFORMERS_OFFLINE" not in os.environ
    with hub.offline(False):
        assert "TRANSFORMERS_OFFLINE" not in os.environ
    monkeypatch.setenv("TRANSFORMERS_OFFLINE", "0")
    with pytest.raises(ZeroDivisionError), hub.offline(True):
        raise ZeroDivisionError
    assert os.environ["TRANSFORMERS_OFFLINE"] == "0"
