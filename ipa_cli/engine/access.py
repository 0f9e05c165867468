"""The way to the device: one thread at a time, modules where they run, and what others may read of it meanwhile."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from ipa_cli.hardware import devices

if TYPE_CHECKING:
    import torch

CALLING = ("warming up", "drawing")


@dataclass(frozen=True)
class State:
    """What an engine is at, as another thread may read it at any time.

    `doing` is idle, loading, encoding, merging, preparing, warming up, drawing, enlarging, or decoding; `step` of
    `steps` are calls of the UNet for the pictures that are being drawn; `drawn` counts finished pictures.
    """

    doing: str = "idle"
    step: int = 0
    steps: int = 0
    drawn: int = 0
    encoders: bool = False  # whether they are loaded
    graphs: tuple[Mapping[str, Any], ...] = ()  # that are open: backend and `Ready.facts`


class Turn:
    """A re-entrant lock; while it is held, `device` is torch's current GPU."""

    def __init__(self, device: torch.device):
        self._device, self._lock = device, threading.RLock()
        self._current: list[AbstractContextManager[Any]] = []

    def __enter__(self) -> None:
        self._lock.acquire()
        current: AbstractContextManager[Any] = nullcontext()
        if self._device.type == "cuda":
            import torch

            current = torch.cuda.device(self._device)
        current.__enter__()
        self._current.append(current)

    def __exit__(self, *raised: Any) -> None:
        self._current.pop().__exit__(*raised)
        self._lock.release()


class Access:
    """A device that one thread works on at a time."""

    def __init__(self, device: torch.device, offload: str, tiled: bool):
        self.device, self.offload = device, offload
        self.state = State()  # frozen, and replaced as a whole: each reader sees one that was true
        self.lock = Turn(device)
        self.watch: Callable[[], AbstractContextManager[None]] = nullcontext  # around what calls the UNet
        self._tiled = tiled

    def publish(self, **changes: Any) -> None:
        """Change the state; only who holds the lock does."""
        self.state = replace(self.state, **changes)

    @contextmanager
    def working(self, doing: str, *modules: Any) -> Iterator[None]:
        """Work with `modules` brought to the device. Raises OutOfMemory, which says what would fit."""
        with self.lock:
            before = self.state.doing
            self.publish(doing=doing)
            try:
                with (
                    devices.translate_out_of_memory(self.device, self.offload, self._tiled),
                    devices.on_device(self.device, self.offload, *modules),
                    self.watch() if doing in CALLING else nullcontext(),
                ):
                    yield
            finally:
                self.publish(doing=before)
