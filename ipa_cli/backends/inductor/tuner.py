"""`ipa bench --tune`: the choices of `tuning` for this GPU, measured with the shapes of SDXL at 1024x1024."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from ipa_cli.backends.base import Measured, Report
from ipa_cli.backends.inductor import tuning
from ipa_cli.errors import IpaError, UsageError

LEVELS = ((4096, 640, 10), (1024, 1280, 60))  # pixels, width, layers
GUIDED = 2  # pictures in a call
TOLERANCE = 1e-2
MARGIN = 0.97  # of the first choice's time: one that takes more does not replace it
ROUNDS = 3
REPEATS = 20

Call = Callable[[tuning.Choice], Tensor]


class Trial(NamedTuple):
    """A kernel on one shape: `layers` of a step do this; `call` computes it by a choice, None by torch."""

    layers: int
    call: Call


def tune(device: torch.device, dtype: torch.dtype, report: Report) -> list[Measured]:
    """The fastest choice for each kernel on `device`.

    Raises UsageError for a dtype that our kernels do not take, IpaError where the table has no alternatives.
    """
    if dtype not in (torch.float16, torch.bfloat16):
        raise UsageError("our kernels are for half precision", "tune with --dtype float16 or bfloat16")
    card = tuning.card(torch.cuda.get_device_capability(device))
    names = [name for name in TRIALS if len(getattr(card, name)) > 1]
    if not names:
        raise IpaError("there is nothing to tune for this GPU", "its graphs use torch's own kernels")
    found = []
    with torch.no_grad(), torch.cuda.device(device):
        for name in names:
            report(name)
            trials = list(TRIALS[name](device, dtype))
            found.append(_measure(name, getattr(card, name), trials))
    return found


def _measure(name: str, choices: tuple[tuning.Choice, ...], trials: list[Trial]) -> Measured:
    """Milliseconds of a step for each choice, the best of several rounds in turn; the first unless one beats it."""
    good = [choice for choice in choices if all(_works(trial, choice) for trial in trials)]
    times: dict[tuning.Choice, float] = {}
    for _ in range(ROUNDS):
        for choice in good:
            spent = sum(trial.layers * milliseconds(partial(trial.call, choice)) for trial in trials)
            times[choice] = min(spent, times.get(choice, spent))
    if not times:
        raise IpaError(f"no kernel for {name} works on this GPU", "type ipa doctor --deep")
    best = min(times, key=lambda choice: times[choice])
    first = choices[0]
    if first in times and times[best] > MARGIN * times[first]:
        best = first
    rows = [(None if c is None else list(c), times.get(c)) for c in choices]
    return Measured(name, rows, None if best is None else list(best), best == first)


def _works(trial: Trial, choice: tuning.Choice) -> bool:
    """Whether a choice runs here and computes what torch does."""
    from triton.runtime.errors import TritonError

    expected = trial.call(None).float()
    try:
        got = trial.call(choice).float()
    except (TritonError, RuntimeError):  # more registers or memory than there are
        return False
    return ((got - expected).norm() <= TOLERANCE * expected.norm()).item()


def milliseconds(call: Callable[[], Any]) -> float:
    """Median time of a call in replays of a CUDA graph, which leaves the host out."""
    stream = torch.cuda.Stream()
    with torch.cuda.stream(stream):
        call()
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        for _ in range(REPEATS):
            call()
    graph.replay()
    times = []
    for _ in range(7):
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        start.record()
        graph.replay()
        end.record()
        end.synchronize()
        times.append(start.elapsed_time(end) / REPEATS)
    return sorted(times)[len(times) // 2]


def _cross_attention(device: torch.device, dtype: torch.dtype) -> Iterator[Trial]:
    from ipa_cli.backends.inductor.kernels import attention

    def normal(*shape: int) -> Tensor:
        return torch.randn(shape, device=device, dtype=dtype)

    scale = torch.tensor([0.5], device=device)
    for pixels, width, layers in LEVELS:
        query, heads = normal(GUIDED, pixels, width), width // 64
        text, image = (normal(2, GUIDED, heads, tokens, 64) for tokens in (77, 4))

        def call(choice: Any, given: tuple = (query, text, image, scale)) -> Tensor:
            if choice is None:
                return attention.plain_cross_attention(*given)
            return attention.cross_attention(*given, *choice)

        yield Trial(layers, call)


def _geglu(device: torch.device, dtype: torch.dtype) -> Iterator[Trial]:
    from ipa_cli.backends.inductor.kernels import feed_forward

    # As the compiled graph does it: the product by cuBLAS, the gate as one kernel.
    gate = torch.compile(feed_forward.plain_gate, dynamic=False)
    for pixels, width, layers in LEVELS:
        states = torch.randn(GUIDED * pixels, width, device=device, dtype=dtype)
        weight = torch.randn(8 * width, width, device=device, dtype=dtype) * width**-0.5
        bias = torch.randn(8 * width, device=device, dtype=dtype)

        def call(choice: Any, given: tuple = (states, weight, bias)) -> Tensor:
            return gate(F.linear(*given)) if choice is None else feed_forward.geglu(*given, *choice)

        yield Trial(layers, call)


TRIALS: dict[str, Callable[[torch.device, torch.dtype], Iterator[Trial]]] = {
    "cross_attention": _cross_attention,
    "geglu": _geglu,
}
