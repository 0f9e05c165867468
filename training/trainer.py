"""One training step, fast on a small network: flat weights, steps recorded as CUDA graphs, the clock of a stage."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

WORK = torch.bfloat16 if torch.cuda.is_available() else torch.float32
WARM_UP = 100


class Trainer:
    """AdamW on float32 weights that `modules` compute with in `WORK`, gradient clipping, a moving average.

    All weights live in one flat tensor each (working copy, gradients, masters, average), so that clipping, the
    optimizer and the average are a dozen launches, not thousands.
    """

    def __init__(self, modules: list[nn.Module], rate: float, average: float = 0.999, decay: float = 0.0):
        parameters = [p for module in modules for p in module.parameters()]
        sizes = [-(-p.numel() // 64) * 64 for p in parameters]  # aligned, as the fast kernels want it
        device = parameters[0].device
        self.master = torch.zeros(sum(sizes), device=device)
        self.work = torch.zeros_like(self.master, dtype=WORK)
        self.gradient = torch.zeros_like(self.work)
        start = 0
        for p, size in zip(parameters, sizes, strict=True):
            span = slice(start, start + p.numel())
            self.master[span] = p.data.flatten()
            p.data = self.work[span].view(p.shape)
            p.grad = self.gradient[span].view(p.shape)
            start += size
        for module in modules:
            for buffer in module.buffers():
                if buffer.is_floating_point():
                    buffer.data = buffer.data.to(WORK)
        self.work.copy_(self.master)
        self.parameters = parameters
        self.recorded: dict = {}
        self.pool = None
        self.average = self.master.clone()
        self.rate, self.keep, self.count = rate, average, 0
        fused = device.type == "cuda"
        self.optimizer = torch.optim.AdamW([self.master], lr=rate, betas=(0.9, 0.99), weight_decay=decay, fused=fused)

    def step(self, loss_of: Callable[..., Tensor], progress: float, *inputs: Tensor) -> Tensor:
        """One step down `loss_of(*inputs)`, a scalar; on a GPU it is recorded once for each function and shape.

        `progress` 0 to 1: the learning rate follows half a cosine, after a short rise.
        """
        self.count += 1
        self.gradient.zero_()
        loss = self._replay(loss_of, inputs) if self.master.is_cuda else run(loss_of, inputs)
        gradient = self.gradient.float()
        norm = gradient.norm()
        # Not a number or infinite: a step of nothing instead of a ruined model.
        gradient = torch.where(norm.isfinite(), gradient * (1 / norm.clamp(min=1)), torch.zeros_like(gradient))
        self.master.grad = gradient
        rise = min(1.0, self.count / WARM_UP)
        rate = self.rate * rise * (0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * min(1.0, progress))))
        self.optimizer.param_groups[0]["lr"] = rate
        self.optimizer.step()
        self.work.copy_(self.master)
        keep = min(self.keep, self.count / (10 + self.count))
        self.average.lerp_(self.master, 1 - keep)
        return loss

    def _replay(self, loss_of, inputs: tuple[Tensor, ...]) -> Tensor:
        key = (loss_of, *(x.shape for x in inputs))
        if key not in self.recorded:
            self.recorded[key] = record(loss_of, inputs, self.pool)
            self.pool = self.pool or (self.recorded[key] and self.recorded[key].pool)
            self.gradient.zero_()
        replay = self.recorded[key]
        return replay(inputs) if replay else run(loss_of, inputs)

    @contextmanager
    def averaged(self) -> Iterator[None]:
        """Inside, the modules hold the averaged weights."""
        self.work.copy_(self.average)
        try:
            yield
        finally:
            self.work.copy_(self.master)

    def averages(self, module: nn.Module) -> dict[str, Tensor]:
        """The state of `module`, one of those trained, with the averaged weights."""
        starts, start = {}, 0
        for p in self.parameters:
            starts[id(p)] = start
            start += -(-p.numel() // 64) * 64
        state = module.state_dict(keep_vars=True)
        return {
            k: self.average[starts[id(v)] : starts[id(v)] + v.numel()].view(v.shape) if id(v) in starts else v
            for k, v in state.items()
        }

    def finish(self) -> None:
        """Give the modules the averaged weights, in float32."""
        self.recorded.clear()
        start = 0
        for p in self.parameters:
            p.grad = None
            p.data = self.average[start : start + p.numel()].view(p.shape).clone()
            start += -(-p.numel() // 64) * 64


def run(loss_of: Callable[..., Tensor], inputs: tuple[Tensor, ...]) -> Tensor:
    """Forward and backward, launch by launch."""
    loss = loss_of(*inputs)
    loss.backward()
    return loss.detach()


class Recorded:
    """A forward and backward as a CUDA graph; calling it copies the inputs in and replays."""

    def __init__(self, loss_of: Callable[..., Tensor], inputs: tuple[Tensor, ...], pool):
        self.inputs = [x.clone() for x in inputs]
        side = torch.cuda.Stream()
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):  # libraries choose their kernels here, not while recording
            for _ in range(3):
                run(loss_of, tuple(self.inputs))
        torch.cuda.current_stream().wait_stream(side)
        self.graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(self.graph, pool=pool):
            self.loss = run(loss_of, tuple(self.inputs))
        self.pool = self.graph.pool()

    def __call__(self, inputs: tuple[Tensor, ...]) -> Tensor:
        for mine, given in zip(self.inputs, inputs, strict=True):
            mine.copy_(given)
        self.graph.replay()
        return self.loss.clone()


def record(loss_of: Callable[..., Tensor], inputs: tuple[Tensor, ...], pool=None) -> Recorded | None:
    """The step as a CUDA graph, or None with a warning where it cannot be recorded."""
    try:
        return Recorded(loss_of, inputs, pool)
    except RuntimeError as error:
        print(f"steps are not recorded but run one by one: {error}", flush=True)
        return None


def compiled(module: nn.Module, arguments: tuple, named: dict) -> Callable:
    """`module`, through torch.compile for inputs of these shapes; for others, or where that fails, as it is.

    A forward and a backward run here, so that nothing compiles later.
    """
    begun, fast, shape = time.time(), torch.compile(module, dynamic=False), arguments[0].shape
    try:
        fast(*arguments, **named).sample.float().mean().backward()
    except RuntimeError as error:  # torch.compile's own errors are of this kind
        print(f"not compiled for {tuple(shape)}: {str(error)[:500]}", flush=True)
        return module
    print(f"compiled for {tuple(shape)} in {time.time() - begun:.0f} s", flush=True)
    return lambda sample, *rest, **given: (fast if sample.shape == shape else module)(sample, *rest, **given)


class Clock:
    """Steps of a stage until its steps or its seconds are used up; says how far it came."""

    def __init__(self, name: str, steps: int, seconds: float, every: float = 30.0):
        self.name, self.steps, self.seconds, self.every = name, steps, seconds, every
        self.begun = self.checked = time.time()

    def __iter__(self) -> Iterator[tuple[int, float]]:
        """Yield (step, progress from 0 to 1)."""
        self.begun = self.checked = time.time()
        step = 0
        while (spent := max(step / self.steps, (time.time() - self.begun) / self.seconds)) < 1:
            yield step, spent
            step += 1
            if step % 32 == 0 and torch.cuda.is_available():
                torch.cuda.synchronize()  # so that the clock sees the work, not only its launch
        print(f"[{self.name}] {step} steps in {time.time() - self.begun:.0f} s", flush=True)

    def due(self) -> bool:
        """Whether `every` seconds have gone by since the last time this was so."""
        if time.time() - self.checked < self.every:
            return False
        self.checked = time.time()
        return True

    def log(self, step: int, loss: Tensor) -> None:
        if step % (250 if loss.is_cuda else 20) == 0:
            spent = time.time() - self.begun
            print(f"[{self.name}] step {step}, {spent:.0f} s: loss {loss.item():.4f}", flush=True)
