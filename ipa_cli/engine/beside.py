"""Work on a GPU beside the pictures that it still draws, so that the next ones are encoded by the time they end."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch
    from torch import Tensor


class Beside:
    """A stream of its own, whose kernels go first; on other devices than CUDA work takes its turn."""

    def __init__(self, device: torch.device):
        self._device = device
        self._stream: Any = None
        self._waits = True

    def wait(self) -> None:
        """Have the next work wait for all that the device was given by then: it reads what that makes."""
        self._waits = True

    @contextmanager
    def working(self) -> Iterator[None]:
        """Give the device work that it does beside other; what it is given afterwards waits for this."""
        if self._device.type != "cuda":
            yield
            return
        import torch

        main = torch.cuda.current_stream(self._device)
        if self._stream is None:
            self._stream = torch.cuda.Stream(self._device, priority=-1)
        if self._waits:
            self._stream.wait_stream(main)
            self._waits = False
        try:
            with torch.cuda.stream(self._stream):
                yield
        finally:
            main.wait_stream(self._stream)

    def hand_over(self, tensors: Sequence[Tensor]) -> None:
        """Keep the memory of what was made here until the work that is given to the device before it is let go of."""
        if self._device.type == "cuda":
            import torch

            main = torch.cuda.current_stream(self._device)
            for tensor in tensors:
                tensor.record_stream(main)
