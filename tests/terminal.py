"""Programs that find a terminal."""

import os
import pty
import subprocess
import sys
from collections.abc import Mapping, Sequence
from typing import IO, Any


def on_a_terminal(arguments: Sequence[object], environ: Mapping[str, str], stdout: IO[Any] | None = None) -> str:
    """What Python, called with `arguments`, writes to a terminal: stderr, and stdout unless that goes elsewhere."""
    ours, theirs = pty.openpty()
    process = subprocess.Popen(
        [sys.executable, *map(str, arguments)],
        stdin=subprocess.DEVNULL,
        stdout=stdout or theirs,
        stderr=theirs,
        env=environ,
    )
    os.close(theirs)
    seen = b""
    try:
        while chunk := os.read(ours, 4096):
            seen += chunk
    except OSError:
        pass  # the other end closed: on Linux that is EIO
    finally:
        os.close(ours)
    assert process.wait() == 0, seen.decode(errors="replace")
    return seen.decode()
