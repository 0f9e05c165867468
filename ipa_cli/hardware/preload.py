"""Load torch's native libraries, and the CUDA driver, in a thread while the command line is still checked."""

from __future__ import annotations

import ctypes
import sys
import threading
from contextlib import suppress
from importlib.util import find_spec
from pathlib import Path

LIBRARIES = "libtorch_python.so"  # which needs all others


def start(cuda: bool) -> None:
    """Begin; `cuda`: the driver too, which makes no context yet. Whatever fails here is reported by `import torch`.

    Opening the libraries takes a third of the time of `import torch`, and leaves Python free meanwhile.
    """
    spec = find_spec("torch") if sys.platform == "linux" and "torch" not in sys.modules else None
    if spec is not None and spec.origin is not None:
        threading.Thread(target=_load, args=(Path(spec.origin).parent, cuda), name="preload", daemon=True).start()


def _load(torch: Path, cuda: bool) -> None:
    with suppress(OSError):
        ctypes.CDLL(str(torch / "lib" / LIBRARIES))
    if cuda:
        with suppress(OSError, AttributeError):
            ctypes.CDLL("libcuda.so.1").cuInit(0)
