"""Graphs as far as the store is concerned: keys, a builder, and processes that use the store."""

import os
import subprocess
import sys
import textwrap
from pathlib import Path

from ipa_cli import cache
from ipa_cli.cache import Entry
from ipa_cli.cache.keys import GraphKey

ROOT = Path(__file__).parents[2]
# Where a test builds hundreds of graphs, in memory if possible: waiting for a disk to sync shows nothing more.
MEMORY = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None


def key(batch=2, backend="inductor", **factors):
    return GraphKey(backend, "cpu", f"64x64-b{batch}", {"torch": "2.13.0", "batch": batch, **factors})


def fill(folder: Path):
    (folder / "graph.pt2").write_bytes(b"native code " * 20)
    (folder / "kernels").mkdir()
    (folder / "kernels" / "one.so").write_bytes(b"\x7fELF" * 30)
    return {"parity": 1.5e-5}


def build(store, wanted=None, builder=fill):
    return cache.build(store, wanted or key(), {"model": "demo"}, builder).entry


def never(folder):
    raise AssertionError("built although the graph is there")


def leftovers(store):
    return [found.path.name for found in cache.scratch_folders(store)]


def assert_whole(store):
    """Every listed graph passes the full check."""
    for item in cache.scan(store):
        assert isinstance(item, Entry), item
        cache.check(item)


def script(text, *arguments, **more):
    """A fresh Python process that runs `text` with this module's names at hand."""
    head = "import os, sys, time\nfrom pathlib import Path\nfrom ipa_cli.cache import Store\n"
    head += "from tests.cache.graphs import *\n"
    code = head + textwrap.dedent(text)
    command = [sys.executable, "-c", code, *map(str, arguments)]
    return subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True, **more)
