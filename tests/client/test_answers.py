"""Answers of a server that are not those of `ipa serve`: one clear line, whatever is wrong with them."""

from __future__ import annotations

import copy
import hashlib
import json
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from ipa_cli import __version__

PICTURE = b"a picture"
ABOUT = {
    "version": __version__,
    "model": "demo",
    "adapter": None,
    "settings": {"precision": "half", "backend": "auto"},
    "engines": [{"device": "cpu", "dtype": "float32"}],
    "limits": {"upload": 1 << 20, "pictures": 4},
}
STATE = {
    "id": "1",
    "status": "done",
    "position": None,
    "step": 1,
    "steps": 1,
    "notes": [],
    "warnings": [],
    "pictures": [
        {
            "url": "/v1/jobs/1/pictures/0",
            "sha256": hashlib.sha256(PICTURE).hexdigest(),
            **{"prompt": "a star", "seed": 1, "scale": 1.0, "width": 64, "height": 64, "references": []},
        }
    ],
    "timings": {"prepare_s": 0.1, "steps_s": 0.1, "decode_s": 0.1},
    "graph": {"backend": "eager", "why": "asked for"},
    "memory": {"peak_gib": 0.1},
    "device": "cpu",
    "request": {
        **{"prompt": "a star", "scale": 1.0, "digests": [], "references": []},
        **{"steps_taken": 1, "step_cache": "none", "steps_saved": 0},
    },
    "error": None,
}


@dataclass
class Answers:
    """What the server says of itself, of a job that is sent and of one that has ended; an envelope goes around."""

    url: str
    about: Any = field(default_factory=lambda: copy.deepcopy(ABOUT))
    sent: Any = field(default_factory=lambda: copy.deepcopy(STATE))
    last: Any = field(default_factory=lambda: copy.deepcopy(STATE))
    envelope: Any = field(default_factory=lambda: {"status": "ok", "error": None})
    status: int = 200


@pytest.fixture
def answers() -> Iterator[Answers]:
    """A server whose answers a test may change."""

    class Handler(BaseHTTPRequestHandler):
        def log_message(self, *_: object) -> None:
            pass

        def answer(self, data: bytes) -> None:
            self.send_response(found.status)
            self.end_headers()
            self.wfile.write(data)

        def do_GET(self) -> None:
            if self.path == "/v1/server":
                self.answer(json.dumps({**found.envelope, "data": found.about}).encode())
            elif self.path.endswith("/events"):
                self.answer(b"data: " + json.dumps(found.last).encode() + b"\n\n")
            else:
                self.answer(PICTURE)

        def do_POST(self) -> None:
            self.rfile.read(int(self.headers["Content-Length"]))
            self.answer(json.dumps({"status": "ok", "error": None, "data": found.sent}).encode())

        def do_DELETE(self) -> None:
            self.answer(json.dumps({"status": "ok", "error": None, "data": {}}).encode())

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        found = Answers(f"http://127.0.0.1:{server.server_port}")
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield found
        server.shutdown()


def drawn(ipa, answers: Answers):
    return ipa("generate", "--seed", 1, "-o", "a.png", "--server", answers.url, "--json")


def changed(value: Any, keys: str, new: Any) -> None:
    """Set what `keys` lead to; `...` takes it away."""
    *way, last = [int(key) if key.isdigit() else key for key in keys.split(".")]
    for key in way:
        value = value[key]
    if new is ...:
        del value[last]
    else:
        value[last] = new


def test_answers_of_the_right_shape_are_taken(ipa, answers):
    ran = drawn(ipa, answers)
    assert ran.exit_code == 0, ran.stderr
    assert Path("a.png").read_bytes() == PICTURE


@pytest.mark.parametrize("data", [None, [], "text", 1, {}, [{"version": __version__}], {"version": 1}])
@pytest.mark.parametrize("which", ["about", "sent", "last"])
def test_data_that_is_something_else_is_no_server_of_ours(ipa, answers, which, data):
    setattr(answers, which, data)
    ran = drawn(ipa, answers)
    assert ran.exit_code == 1 and ran.error()["message"].endswith("is no `ipa serve`"), ran.stderr


@pytest.mark.parametrize(
    ("which", "keys", "new"),
    [
        ("about", "engines", []),
        ("about", "engines", {}),
        ("about", "engines.0.device", None),
        ("about", "settings", ["precision"]),
        ("about", "limits.upload", "much"),
        ("sent", "id", ...),
        ("sent", "request", ...),
        ("sent", "request.digests", [[]]),
        ("last", "position", ...),
        ("last", "status", ["done"]),
        ("last", "steps", None),
        ("last", "step", 10**18),
        ("last", "pictures.0.scale", float("inf")),
        ("last", "notes", [1]),
        ("last", "pictures", []),
        ("last", "pictures.0.sha256", ...),
        ("last", "timings", {}),
        ("last", "graph", {}),
        ("last", "device", "cuda:7"),
        ("last", "error", "broken"),
        ("envelope", "status", None),
        ("envelope", "error", []),
    ],
)
def test_a_part_that_is_missing_or_something_else_is_no_server_of_ours(ipa, answers, which, keys, new):
    changed(getattr(answers, which), keys, new)
    ran = drawn(ipa, answers)
    assert ran.exit_code == 1 and ran.error()["message"].endswith("is no `ipa serve`"), ran.stderr


@pytest.mark.parametrize("status", [422, 429])
@pytest.mark.parametrize("error", [None, {"message": "full"}, {"type": "IpaError", "message": None, "hint": ""}])
def test_an_error_of_another_shape_is_no_server_of_ours(ipa, answers, status, error):
    answers.status, answers.envelope = status, {"status": "error", "error": error}
    ran = drawn(ipa, answers)
    assert ran.exit_code == 1 and ran.error()["message"].endswith("is no `ipa serve`"), ran.stderr


@pytest.mark.parametrize("url", ["/bild ä.png", "/a\r\nb", "/\ud800"])
def test_an_address_that_http_cannot_say_is_asked_for_in_its_encoding(ipa, answers, url):
    changed(answers.last, "pictures.0.url", url)
    assert drawn(ipa, answers).exit_code == 0


def test_a_setting_of_another_type_is_a_difference_in_one_line(ipa, answers, monkeypatch):
    answers.about["settings"]["vae"] = {"a": 1}
    monkeypatch.setenv("IPA_VAE", "some/vae")
    ran = drawn(ipa, answers)
    assert ran.exit_code == 1 and ran.error()["message"].startswith("IPA_VAE asks for some/vae")


@pytest.mark.parametrize("host", ["a..b", f"{'a' * 70}.example"])
def test_a_name_that_no_host_can_have_is_not_found(ipa, world, host):
    ran = ipa("generate", "-o", "a.png", "--server", f"http://{host}", "--json")
    assert ran.exit_code == 1 and ran.error()["message"] == f"http://{host}: the host cannot be found"
