"""The drawing process's side of a pair: starts the other one, keeps its UNet equal, and shares each call with it."""

from __future__ import annotations

import atexit
import json
import tempfile
import threading
import time
from collections.abc import Callable, Hashable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ipa_cli.config import Settings
from ipa_cli.config.privacy import public_text
from ipa_cli.config.values import settings_as_json
from ipa_cli.engine.content import LRU
from ipa_cli.engine.pair.link import Link, described, kind
from ipa_cli.engine.ready import Ready
from ipa_cli.errors import IpaError
from ipa_cli.hardware import second_gpu
from ipa_cli.result import Reporter
from ipa_cli.system import child

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from ipa_cli.backends.base import Denoiser
    from ipa_cli.models.plan import Plan
    from ipa_cli.pipeline.denoise import Conditions
    from ipa_cli.unet.inputs import Context, UNetInputs

MODULE = "ipa_cli.engine.pair.worker"
# Longest waits in seconds: until both have met and exchanged weights, and until a graph is opened or compiled.
MEETING, PREPARING = 180.0, 1800.0
# After so long without a call it is asked whether its device is done; to answer it has as long as three steps may take,
# since no more are under way at a time.
PATIENCE, STEPS = 15.0, {"cuda": 60.0, "cpu": 1800.0}
LASTING = ("text", "image", "mask", "regions", "share")  # of a context: all that does not change between steps
KEPT = 16  # denoisers for shapes of inputs, those used last
REASON = 5.0  # from an exchange that fails to the end of the process that caused it
LEAVE_OUT = "draw again, or leave out --gpus to draw on one"


@contextmanager
def starting(settings: Settings) -> Iterator[Pair | None]:
    """The pair that the settings ask for, which is closed again where what follows fails."""
    pair = Pair() if settings.gpus > 1 else None
    try:
        yield pair
    except BaseException:
        if pair is not None:
            pair.close()
        raise


class Pair:
    """A process for a second device, and what it was told. One thread works with it at a time.

    When it fails or hangs, every wait for it ends, and `watched` raises why. It ends with this process.
    """

    def __init__(self) -> None:
        """Start the other process, whose libraries load while this one's do."""
        self._device: torch.device
        self._second: torch.device | None = None
        self._problem: IpaError | None = None
        # Until when it must have met or prepared, when it was last called while somebody waits, and the questions
        # whether it is done; on the monotonic clock.
        self._deadline: float | None = None
        self._called: float | None = None
        self._asked = self._answered = 0
        self._telling = threading.Lock()
        self._failed, self._closed = threading.Event(), threading.Event()
        self._ready: set[int] = set()
        self._unet: Any = None
        self._weights: dict[str, Tensor] = {}
        self._versions: dict[str, int] = {}
        self._sent: tuple[Any, ...] = (None,) * len(LASTING)  # what the other process has
        self._own: Context
        self._prepared = 0
        self._halved: LRU[Ready] = LRU(KEPT)
        self._link: Link | None = None

        self._folder = tempfile.TemporaryDirectory(prefix="ipa-pair-")
        folder = Path(self._folder.name)
        with (folder / "log").open("w") as log:
            self._process = child.start(MODULE, folder, log)
        atexit.register(self.close)
        for target in (self._listen, self._watch):
            threading.Thread(target=target, daemon=True).start()

    def begin(
        self, settings: Settings, plan: Plan, device: torch.device, dtype: torch.dtype, reporter: Reporter
    ) -> None:
        """Have the other process make its UNet and meet this one, which may load the model meanwhile.

        Raises IpaError where there is no second GPU.
        """
        self._device, self._second = device, second_gpu.after(device, settings.device == "cpu", reporter)
        if settings.cache_dir is not None:
            settings = replace(settings, cache_dir=settings.cache_dir.absolute())
        self._seconds = STEPS[device.type]
        meeting, seconds = Path(self._folder.name, "meeting"), max(MEETING, self._seconds)
        job = {
            "device": str(self._second),
            "dtype": str(dtype).removeprefix("torch."),
            "unet": dict(plan.unet_config),
            "settings": settings_as_json(settings),
            "model": plan.name,
            "latent_factor": plan.architecture.latent_factor,
            "meeting": str(meeting),
            "seconds": seconds,
        }
        with suppress(OSError):  # it has ended, and `share` says why
            self._tell(job)
        self._meeting = threading.Thread(target=self._meet, args=(meeting, seconds), daemon=True)
        self._meeting.start()

    def share(self, unet: Any) -> None:
        """Give the other process the weights of `unet`, whose changes it gets before each call from now on."""
        with self.watched(MEETING), self._exchange():
            while self._meeting.is_alive() and not self._failed.wait(0.02):
                pass
            self._check()
            self._unet = unet
            self.find_weights()
            self._share_weights()

    def find_weights(self) -> None:
        """Look at the UNet's weights anew: a graph that was opened has put some of them together in other tensors."""
        before, self._weights = self._weights, dict(self._unet.named_parameters())
        for name, weight in self._weights.items():
            if weight is not before.get(name):
                self._versions.pop(name, None)

    def prepared(
        self,
        shape: Hashable,
        conditions: Conditions,
        half: Callable[[Conditions], Ready],
        example: Callable[[], UNetInputs],
    ) -> Ready:
        """A denoiser for conditions with guidance, kept by `shape`: `half` makes that of this process."""
        from ipa_cli.pipeline.denoise import positive_half

        return self._halved.get(shape, lambda: self._prepare(half(positive_half(conditions)), example()))

    def _prepare(self, own: Ready, example: UNetInputs) -> Ready:
        with self.watched(PREPARING), self._exchange():
            self._share_weights()
            _, other = self._split(example)
            number = self._prepared = self._prepared + 1
            self._send({"prepare": number, "backend": own.backend}, other)
            while number not in self._ready and not self._failed.wait(0.005):
                pass
        # The times are those of the graph, which steps without guidance use too.
        return replace(own, denoiser=lambda inputs: self.call(number, own.denoiser, inputs))

    def call(self, number: int, denoiser: Denoiser, inputs: UNetInputs) -> Tensor:
        """The noise of both halves: the negative one's from `denoiser`, while the other process computes its own."""
        import torch

        with self.watched(), self._exchange():
            self._share_weights()
            own, other = self._split(inputs)
            self._send({"call": number}, other)
            noise = denoiser(own)
            assert self._link is not None
            return torch.cat([noise, *self._link.receive([kind(noise)])])

    @contextmanager
    def watched(self, seconds: float | None = None) -> Iterator[None]:
        """Wait for the other process in here, up to `seconds`, or without a limit as long as its device is at work.

        Raises IpaError with its failure, in place of what that causes here.
        """
        before, now = self._called, time.monotonic()
        if seconds is None:
            self._called = now
        else:
            self._deadline = now + seconds
        try:
            self._check()
            yield
            self._check()
        except (RuntimeError, OSError) as error:  # what torch raises, and a broken pipe
            if _is_out_of_memory(error) or not self._failed.wait(REASON):
                raise
            raise self._failure from error
        finally:
            self._deadline, self._called = None, None if before is None else time.monotonic()

    @contextmanager
    def _exchange(self) -> Iterator[None]:
        """Something of which the other process does its part; whatever stops it in the middle, the pair has failed."""
        try:
            yield
        except BaseException as error:
            other = isinstance(error, RuntimeError | OSError) and not _is_out_of_memory(error)
            if not self._failed.wait(REASON if other else 0):
                why = (str(error).splitlines() or [""])[0] or type(error).__name__
                self._fail(IpaError(f"the exchange with {self._name} was broken off: {why}", LEAVE_OUT))
            raise

    def close(self) -> None:
        """End the other process."""
        atexit.unregister(self.close)
        self._closed.set()
        child.end(self._process, seconds=2)
        if self._link is not None:
            self._link.close()
        self._folder.cleanup()

    @property
    def _name(self) -> str:
        second = self._second
        return f"the process for {'the second half' if second is None or second.type == 'cpu' else second}"

    @property
    def _failure(self) -> IpaError:
        assert self._problem is not None
        return IpaError(self._problem.message, self._problem.hint)

    def _check(self) -> None:
        if self._problem is not None:
            raise self._failure

    # --- what it receives ------------------------------------------------------------------------------------------

    def _tell(self, job: dict[str, Any]) -> None:
        assert self._process.stdin is not None
        with self._telling:
            self._process.stdin.write(json.dumps(job) + "\n")
            self._process.stdin.flush()

    def _send(self, job: dict[str, Any], inputs: Any, name: str = "inputs") -> None:
        tensors: list[Tensor] = []
        self._tell({**job, name: described(inputs, tensors)})
        assert self._link is not None
        self._link.send(tensors)

    def _share_weights(self) -> None:
        """Send the weights that have changed in place since the last time, as by a LoRA."""
        assert self._link is not None
        versions = {name: weight._version for name, weight in self._weights.items()}
        names = [name for name, version in versions.items() if self._versions.get(name) != version]
        if names:
            self._tell({"weights": names})
            self._link.send([self._weights[name] for name in names])
            self._versions = versions

    def _split(self, inputs: UNetInputs) -> tuple[UNetInputs, UNetInputs]:
        """Inputs of this process, and of the other one without keys, values and masks, which go when they are new."""
        from ipa_cli.unet.inputs import Context, halves

        context = inputs.context
        lasting = tuple(getattr(context, name) for name in LASTING)
        if any(one is not sent for one, sent in zip(lasting, self._sent, strict=True)):
            negative, positive = halves(inputs)
            self._send({}, positive.context, "context")
            self._own, self._sent = negative.context, lasting
        bare = replace(inputs, context=Context([], [], context.scale))
        own, other = halves(bare)
        return replace(own, context=self._own._replace(scale=context.scale)), other

    # --- what it answers -------------------------------------------------------------------------------------------

    def _meet(self, meeting: Path, seconds: float) -> None:
        try:
            self._link = Link(0, meeting, self._device, seconds)
        except Exception as error:
            self._fail(IpaError(f"the two processes did not meet: {error}".splitlines()[0], LEAVE_OUT))

    def _listen(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            with suppress(ValueError):
                message = json.loads(line)
                if "failed" in message:
                    self._fail(IpaError(f"{self._name}: {message['failed']}", message["hint"]))
                    return
                self._ready.add(message.get("ready", 0))
                self._answered = max(self._answered, message.get("done", 0))
        if not self._closed.is_set():
            log = Path(self._folder.name, "log").read_text(encoding="utf-8", errors="replace")
            why = child.Ended(self._process.wait(), err=public_text(log)).why
            self._fail(IpaError(f"{self._name} has ended: {why}", LEAVE_OUT))

    def _watch(self) -> None:
        asked, answered = None, 0.0  # when
        while not self._closed.wait(0.2) and not self._failed.is_set():
            now, deadline, called = time.monotonic(), self._deadline, self._called
            late = deadline is not None and now > deadline
            if asked is None:
                if called is not None and now - max(called, answered) > PATIENCE:
                    self._asked, asked = self._asked + 1, now
                    with suppress(OSError):
                        self._tell({"done": self._asked})
            elif self._answered == self._asked:
                asked, answered = None, now
            else:
                late = late or (called is not None and now - asked > self._seconds)
            if late:
                self._fail(IpaError(f"{self._name} does not answer", LEAVE_OUT))

    def _fail(self, problem: IpaError) -> None:
        """End the other process and every wait for it; the first reason counts."""
        if self._failed.is_set() or self._closed.is_set():
            return
        self._problem = problem
        self._failed.set()
        child.end(self._process, seconds=1)
        if self._link is not None:
            self._link.close()


def _is_out_of_memory(error: Exception) -> bool:
    import torch

    return isinstance(error, torch.cuda.OutOfMemoryError)
