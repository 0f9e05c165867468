"""A model hub on loopback: listings, files with ETag and Range, and everything that can go wrong with them."""

from __future__ import annotations

import hashlib
import json
import re
import socket
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


PORT = _free_port()
# Nobody listens here until a test opens a hub.
ENDPOINT = f"http://127.0.0.1:{PORT}"


@dataclass(frozen=True)
class Sent:
    """One answer: bytes of content that left, and the first byte that was asked for."""

    method: str
    repo: str
    file: str
    start: int
    count: int


@dataclass
class Hub:
    """Repositories by name, and what to do wrong."""

    repos: dict[str, Mapping[str, bytes]] = field(default_factory=dict)
    refuse: dict[str, tuple[int, str]] = field(default_factory=dict)  # repository -> status and error code
    break_after: dict[str, int] = field(default_factory=dict)  # file -> bytes until the connection breaks, once
    refuse_once_broken: tuple[int, str] | None = None
    log: list[Sent] = field(default_factory=list)

    def sent(self, ending: str) -> list[Sent]:
        """Answers with content of files whose names end so."""
        return [sent for sent in self.log if sent.method == "GET" and sent.file.endswith(ending)]


def folder(path: Path) -> dict[str, bytes]:
    """The files of a folder as a repository."""
    return {file.relative_to(path).as_posix(): file.read_bytes() for file in path.rglob("*") if file.is_file()}


@contextmanager
def serving(hub: Hub) -> Iterator[Hub]:
    """Answer at ENDPOINT for a while."""

    class Handler(BaseHTTPRequestHandler):
        def do_HEAD(self) -> None:
            self.do_GET()

        def do_GET(self) -> None:
            if listing := re.fullmatch(r"/api/models/([^/]+/[^/]+)(?:/revision/([^/]+))?", self.path):
                repo, revision = listing[1], listing[2] or "main"
                if self.known(repo, revision):
                    names = [{"rfilename": name} for name in hub.repos[repo]]
                    body = {"id": repo, "modelId": repo, "sha": commit(repo), "siblings": names, "private": False}
                    self.answer(repo, "", json.dumps(body).encode())
            elif resolved := re.fullmatch(r"/([^/]+/[^/]+)/resolve/([^/]+)/(.+)", self.path):
                repo, revision, name = resolved.groups()
                if self.known(repo, revision):
                    if name in hub.repos[repo]:
                        self.answer(repo, name, hub.repos[repo][name])
                    else:
                        self.refuse(404, "EntryNotFound")
            else:
                self.refuse(404, "")

        def known(self, repo: str, revision: str) -> bool:
            if repo in hub.refuse:
                self.refuse(*hub.refuse[repo])
            elif repo not in hub.repos:
                self.refuse(404, "RepoNotFound")
            elif revision not in ("main", commit(repo)):
                self.refuse(404, "RevisionNotFound")
            else:
                return True
            return False

        def refuse(self, status: int, code: str) -> None:
            self.send_response(status)
            if code:
                self.send_header("X-Error-Code", code)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def answer(self, repo: str, name: str, body: bytes) -> None:
            start, end = 0, len(body)
            asked = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", ""))
            if asked:
                start, end = int(asked[1]), min(end, int(asked[2]) + 1 if asked[2] else end)
            self.send_response(206 if asked else 200)
            if asked:
                self.send_header("Content-Range", f"bytes {start}-{end - 1}/{len(body)}")
            self.send_header("Content-Length", str(end - start))
            self.send_header("Accept-Ranges", "bytes")
            self.send_header("ETag", f'"{hashlib.sha256(body).hexdigest()}"')
            self.send_header("X-Repo-Commit", commit(repo))
            self.end_headers()
            content = body[start:end] if self.command == "GET" else b""
            if content and name in hub.break_after:
                content = content[: hub.break_after.pop(name)]
                if hub.refuse_once_broken:
                    hub.refuse[repo] = hub.refuse_once_broken
            self.wfile.write(content)
            hub.log.append(Sent(self.command, repo, name, start, len(content)))

        def log_message(self, *arguments: object) -> None:
            pass

    def commit(repo: str) -> str:
        return hashlib.sha1(repo.encode()).hexdigest()

    class Server(ThreadingHTTPServer):
        allow_reuse_address = True
        daemon_threads = True

    server = Server(("127.0.0.1", PORT), Handler)
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
