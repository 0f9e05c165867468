"""Load torch's native libraries, and the CUDA driver, in a thread while the command line is still checked."""

from __future__ import annotations

import ctypes
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch

LIBRARIES = "libtorch_python.so"  # which needs all others


def start(cuda: bool) -> None:
    """Begin; `cuda`: make the context of the first GPU too. Whatever fails here is reported when torch is used.

    Opening the libraries takes a quarter of the time of `import torch`, and leaves Python free meanwhile.
    """
    spec = find_spec("torch") if sys.platform == "linux" and "torch" not in sys.modules else None
    if spec is not None and spec.origin is not None:
        threading.Thread(target=_load, args=(Path(spec.origin).parent, cuda), name="preload", daemon=True).start()


def _load(folder: Path, cuda: bool) -> None:
    with suppress(OSError):
        ctypes.CDLL(str(folder / "lib" / LIBRARIES))
    if cuda:
        with suppress(OSError):
            driver, context = ctypes.CDLL("libcuda.so.1"), ctypes.c_void_p()
            if driver.cuInit(0) == 0:
                driver.cuDevicePrimaryCtxRetain(ctypes.byref(context), 0)  # the one that torch uses


@contextmanager
def first_calls(device: torch.device, dtype: torch.dtype) -> Iterator[None]:
    """Meanwhile, call what loads cuBLAS, cuDNN and attention kernels for the first time, in a thread.

    Whatever fails there is reported when the model does the same.
    """
    if device.type != "cuda":
        yield
        return
    thread = threading.Thread(target=_call, args=(device, dtype), name="first-calls", daemon=True)
    thread.start()
    try:
        yield
    finally:
        thread.join()  # nothing may load while a CUDA graph is captured


def _call(device: torch.device, dtype: torch.dtype) -> None:
    import torch
    from torch.nn import functional as F

    with suppress(RuntimeError), torch.no_grad(), torch.cuda.device(device), torch.cuda.stream(torch.cuda.Stream()):
        states = torch.zeros(1, 8, 77, 64, dtype=dtype, device=device)
        F.linear(states.flatten(2), torch.zeros(64, 77 * 64, dtype=dtype, device=device))
        F.scaled_dot_product_attention(states, states, states)
        picture = torch.zeros(1, 64, 16, 16, dtype=dtype, device=device)
        F.conv2d(picture, torch.zeros(64, 64, 3, 3, dtype=dtype, device=device), padding=1)
        F.group_norm(picture, 32)
        torch.cuda.current_stream().synchronize()
