"""A real `ipa serve` process for tests."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx2

TOKEN = "0123456789abcdef"


@dataclass(frozen=True)
class Server:
    """A running server: its address, and the process behind it."""

    url: str
    process: subprocess.Popen[bytes]
    _stderr: int

    @property
    def stderr(self) -> str:
        """What it has said so far."""
        return os.pread(self._stderr, 1 << 22, 0).decode()

    def client(self, token: str | None = None) -> httpx2.Client:
        """A client of its own connection."""
        headers = {} if token is None else {"Authorization": f"Bearer {token}"}
        return httpx2.Client(base_url=self.url, headers=headers, timeout=300, trust_env=False)

    def wait_until_ready(self, token: str | None = None) -> Server:
        """Wait until it takes requests."""
        with self.client(token) as client:
            while client.get("/readyz").status_code != 200:
                assert self.process.poll() is None, self.stderr
                time.sleep(0.05)
        return self

    def end(self, number: int = signal.SIGTERM) -> int:
        """Send a signal, and wait for the exit status."""
        self.process.send_signal(number)
        return self.process.wait(120)


@contextmanager
def serving(
    environ: dict[str, str], cwd: Path, arguments: Sequence[object] = (), warm: str = "64x64"
) -> Iterator[Server]:
    """`ipa serve` on a free port of loopback, listening; killed at the end. It warms up for `warm`, "" as usual."""
    command = [sys.executable, "-m", "ipa_cli", "serve", "--port", "0", *map(str, arguments)]
    if warm and "--warm" not in arguments:
        command += ["--warm", warm]
    with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=out, stderr=err, env=environ, cwd=cwd)
        try:
            while not (found := re.search(rb"listening on (http://\S+)", os.pread(err.fileno(), 1 << 20, 0))):
                assert process.poll() is None, os.pread(err.fileno(), 1 << 20, 0).decode()
                time.sleep(0.05)
            yield Server(found[1].decode(), process, err.fileno())
        finally:
            process.kill()
            process.wait()
