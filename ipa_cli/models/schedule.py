"""What a diffusers scheduler does, as a table of numbers: drawing needs neither diffusers nor its imports.

Schedulers are linear in the latents, in what the UNet predicts and in fresh noise. So one is run on unit vectors, which
gives all its coefficients, each step is written as a recurrence, and the table is tried against the scheduler.
"""

from __future__ import annotations

import importlib
import json
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor

FORMAT = 1
# Of the largest coefficient, what a fit may leave over: some schedulers compute in float32.
EXACT = 2e-6
# Of the latents in the end, what table and scheduler may differ by: float32 rounds by 1e-7 a step.
ALIKE = 1e-4
# How many earlier latents and earlier predictions a step may look back at, the cheapest first.
REACH = ((1, 1), (1, 2), (1, 3), (1, 4), (2, 2), (2, 3), (2, 4), (3, 3), (3, 4), (4, 4))
MOST_CALLS = 2000


@dataclass(frozen=True)
class Step:
    """One call of the UNet, with `scale` times the latents, and the latents after it.

    They are the last latents times `latents` and the last predictions times `predictions`, the newest first in both,
    and fresh noise times `noise`; None where none is drawn.
    """

    timestep: float
    scale: float
    latents: tuple[float, ...]
    predictions: tuple[float, ...]
    noise: float | None = None


@dataclass(frozen=True)
class Schedule:
    """The steps; latents begin as noise times `init_noise_sigma`.

    With a picture to begin with, `mixes` has the factors of its latents and of the noise, with which they are as noisy
    as those before the first step, and as those after each.
    """

    init_noise_sigma: float
    steps: tuple[Step, ...]
    mixes: tuple[tuple[float, float], ...] = ()


class NotLinear(Exception):
    """The scheduler is no recurrence: it clips, or draws its noise in a way of its own."""


Begin = Callable[[Any], "tuple[Sequence[Any], dict[str, Any]]"]


def of_scheduler(scheduler: Any, begin: Begin, mixed: bool = False) -> Schedule:
    """The schedule of a diffusers scheduler. Raises NotLinear.

    `begin` sets its timesteps, and returns them with what else each step is given. `mixed` adds `Schedule.mixes`.
    """
    import numpy as np
    import torch

    if any(scheduler.config.get(name) for name in ("clip_sample", "thresholding")):
        raise NotLinear
    timesteps, more = begin(scheduler)
    calls = len(timesteps)
    # Coefficients of the first latents, of each prediction, of each fresh noise; some schedulers want four dimensions.
    unit = torch.eye(1 + 2 * calls, dtype=torch.float64)[:, None, :, None, None]
    draws: list[int] = []
    scales: list[float] = []
    rows = [unit[0] * (1.0 if mixed else float(scheduler.init_noise_sigma))]
    mixes = [mix(scheduler, timesteps[0])] if mixed else []

    def fresh(*_: Any, **__: Any) -> Tensor:
        draws.append(len(scales) - 1)
        return unit[calls + len(scales)].clone()

    with _noise_from(scheduler, fresh):
        for call, timestep in enumerate(timesteps):
            scales.append(_ratio(scheduler.scale_model_input(rows[-1].clone(), timestep), rows[-1]))
            after = scheduler.step(unit[1 + call].clone(), timestep, rows[-1].clone(), **more, return_dict=False)[0]
            rows.append(after.double())
            if mixed:
                mixes.append(mix(scheduler, timesteps[call + 1]) if call + 1 < calls else (1.0, 0.0))
    if len(draws) != len(set(draws)):
        raise NotLinear
    table = np.stack([row.flatten().numpy() for row in rows])
    found = Schedule(
        float(scheduler.init_noise_sigma),
        tuple(
            Step(float(timesteps[call]), scales[call], *_fit(table, call, calls, call in draws))
            for call in range(calls)
        ),
        tuple(mixes),
    )
    _try(found, scheduler, begin)
    return found


def mix(scheduler: Any, timestep: Any) -> tuple[float, float]:
    """The factors of a picture's latents and of noise with which a scheduler makes it as noisy as at a timestep."""
    import torch

    image, noise = torch.eye(2, dtype=torch.float64)[:, None, :, None, None]
    found = scheduler.add_noise(image, noise, timestep[None]).flatten().tolist()
    return found[0], found[1]


def _ratio(scaled: Tensor, latents: Tensor) -> float:
    scaled, latents = scaled.flatten(), latents.flatten()
    largest = int(latents.abs().argmax())
    ratio = float(scaled[largest] / latents[largest])
    if not bool((scaled - ratio * latents).abs().max() <= EXACT * scaled.abs().max()):
        raise NotLinear
    return ratio


def _fit(table: Any, call: int, calls: int, draws: bool) -> tuple[tuple[float, ...], tuple[float, ...], float | None]:
    """The latents after a call by those before it and the predictions so far."""
    import numpy as np

    wanted = table[call + 1].copy()
    noise = float(wanted[1 + calls + call]) if draws else None
    wanted[1 + calls + call] = 0
    for back, many in REACH:
        back, many = min(back, call + 1), min(many, call + 1)
        latents = [table[call - k] for k in range(back)]
        predictions = [np.eye(1, table.shape[1], 1 + call - k)[0] for k in range(many)]
        basis = np.stack([*latents, *predictions], axis=1)
        size = np.abs(basis).max(0)
        solution = np.linalg.lstsq(basis / size, wanted, rcond=1e-12)[0] / size
        if np.abs(basis @ solution - wanted).max() <= EXACT * max(1e-3, np.abs(wanted).max()):
            return tuple(map(float, solution[:back])), tuple(map(float, solution[back:])), noise
    raise NotLinear


@contextmanager
def _noise_from(scheduler: Any, fresh: Callable[..., Tensor]) -> Iterator[None]:
    """Let a scheduler draw its noise from `fresh`."""
    module: Any = importlib.import_module(type(scheduler).__module__)
    before = getattr(module, "randn_tensor", None)
    if before is None:
        yield
        return
    module.randn_tensor = fresh
    try:
        yield
    finally:
        module.randn_tensor = before


def _try(schedule: Schedule, scheduler: Any, begin: Begin) -> None:
    """Raise NotLinear unless table and scheduler come to the same from noise, with something like a UNet."""
    import torch

    generator = torch.Generator().manual_seed(0)
    noise = torch.randn(2 + len(schedule.steps), 1, 4, 4, 4, generator=generator, dtype=torch.float64)
    number = 0

    def predict(given: Tensor, timestep: float) -> Tensor:
        return torch.tanh(0.7 * given + timestep / 1000)

    timesteps, more = begin(scheduler)
    level = math.hypot(*schedule.mixes[0]) if schedule.mixes else schedule.init_noise_sigma
    expected = noise[0] * level
    with _noise_from(scheduler, lambda *_, **__: noise[1 + number].clone()):
        for number, timestep in enumerate(timesteps):  # noqa: B007
            given = scheduler.scale_model_input(expected, timestep)
            expected = scheduler.step(predict(given, float(timestep)), timestep, expected, **more, return_dict=False)[0]
            expected = expected.double()
    latents: list[Tensor] = [noise[0] * level]
    predictions: list[Tensor] = []
    for number, step in enumerate(schedule.steps):
        predictions.insert(0, predict(latents[0] * step.scale, step.timestep))
        after = combined(step, latents, predictions)
        latents.insert(0, after if step.noise is None else after + step.noise * noise[1 + number])
    if not bool((latents[0] - expected).norm() <= ALIKE * expected.norm()):
        raise NotLinear


def combined(step: Step, latents: Sequence[Tensor], predictions: Sequence[Tensor]) -> Tensor:
    """The latents after a step, without its noise; the newest latents and predictions come first."""
    terms = [
        *(factor * one for factor, one in zip(step.latents, latents, strict=False) if factor),
        *(factor * one for factor, one in zip(step.predictions, predictions, strict=False) if factor),
    ]
    total = terms[0]
    for term in terms[1:]:
        total = total + term
    return total


def to_json(schedule: Schedule) -> str:
    """The table as JSON, every number in full."""
    return json.dumps({"format": FORMAT, **asdict(schedule)})


def from_json(text: str) -> Schedule | None:
    """What `to_json` wrote; None for anything else."""
    try:
        read = json.loads(text)
        if read.pop("format") != FORMAT:
            return None
        steps = tuple(_step(step) for step in read["steps"])
        mixes = tuple((float(image), float(noise)) for image, noise in read.get("mixes", ()))
        schedule = Schedule(float(read["init_noise_sigma"]), steps, mixes)
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
        return None
    numbers = [schedule.init_noise_sigma]
    for step in steps:
        numbers += [step.timestep, step.scale, *step.latents, *step.predictions, step.noise or 0.0]
    numbers += [number for pair in mixes for number in pair]
    right = all(map(math.isfinite, numbers)) and 0 < len(steps) <= MOST_CALLS and len(mixes) in (0, len(steps) + 1)
    return schedule if right and all(any((*step.latents, *step.predictions)) for step in steps) else None


def _step(read: Mapping[str, Any]) -> Step:
    latents, predictions = (tuple(map(float, read[name])) for name in ("latents", "predictions"))
    if max(len(latents), len(predictions)) > REACH[-1][0]:
        raise ValueError("it looks back too far")
    noise = None if read["noise"] is None else float(read["noise"])
    return Step(float(read["timestep"]), float(read["scale"]), latents, predictions, noise)
