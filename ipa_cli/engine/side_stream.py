"""A second CUDA stream, on which the next pictures are encoded while the GPU still draws those before them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch
    from torch import Tensor


class SideStream:
    """A stream of high priority beside the current one; on other devices than CUDA work runs in turn."""

    def __init__(self, device: torch.device):
        self._device = device
        self._stream: Any = None
        self._waits = True

    def wait_for_current(self) -> None:
        """Have the next work wait for all that the current stream has by then, because it reads the results."""
        self._waits = True

    @contextmanager
    def running(self) -> Iterator[None]:
        """Run what is launched inside on the side stream; the current stream waits for it, also after an error."""
        if self._device.type != "cuda":
            yield
            return
        import torch

        current = torch.cuda.current_stream(self._device)
        if self._stream is None:
            self._stream = torch.cuda.Stream(self._device, priority=-1)
        if self._waits:
            self._stream.wait_stream(current)
            self._waits = False
        try:
            with torch.cuda.stream(self._stream):
                yield
        finally:
            current.wait_stream(self._stream)

    def record(self, tensors: Sequence[Tensor]) -> None:
        """Keep tensors made here until the current stream has used them, see `torch.Tensor.record_stream`."""
        if self._device.type == "cuda":
            import torch

            current = torch.cuda.current_stream(self._device)
            for tensor in tensors:
                tensor.record_stream(current)
