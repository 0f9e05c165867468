"""A process that measures one backend: a job as one line of JSON on stdin, JSON lines on stdout until it is done.

A job has `kind` (see `plan.Part`) and `settings` (of `config.Settings`). The lines are {"doing": text},
{"warning": text}, {"environment": {...}}, and last {"figures": {...}} or {"failed": message, "hint": text}.
"""

from __future__ import annotations

import json
import os
import platform
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ipa_cli import __version__, backends, measure, models, requirements, session
from ipa_cli.config import Settings
from ipa_cli.errors import IpaError
from ipa_cli.record import adapter_name
from ipa_cli.report import Silent
from ipa_cli.task import load_references, make_task

if TYPE_CHECKING:
    from PIL.Image import Image
    from torch import Tensor

    from ipa_cli.attention import UNetInputs
    from ipa_cli.pipeline import Conditions
    from ipa_cli.task import Task

STARTED = time.perf_counter()
FIRST_STEPS = 2  # of the picture that ends the warm-up
PROMPT = "a red fox in the snow"  # for models that have none of their own

Say = Callable[..., None]


class Teller(Silent):
    """A reporter that hands on what is being done, but for steps, whose telling would be measured too."""

    def __init__(self, say: Say):
        self._say = say

    def note(self, text: str) -> None:
        self._say(doing=text)

    def warn(self, text: str) -> None:
        self._say(warning=text)

    @contextmanager
    def stage(self, name: str) -> Iterator[Callable[[str], None]]:
        self._say(doing=name)
        yield lambda doing: self._say(doing=f"{name}: {doing}")


def timed(settings: Settings, say: Say) -> dict[str, Any]:
    """Load, get ready, draw a short picture, then the one that counts; times in seconds, memory in GiB.

    Warm-up goes from the loaded model to the end of the short picture, E2E from encoding to the decoded picture.
    """
    teller = Teller(say)
    opened, task = _open(settings, teller)
    measure.synchronize(opened.device)
    load_s = time.perf_counter() - STARTED
    say(environment=_environment(opened, task))

    began = time.perf_counter()
    conditions = session.condition(opened, task, Silent())
    ready = session.make_ready(opened, settings.backend, task.requests[0], conditions, teller)
    say(doing="warming up")
    first_step_s = session.time_step(opened, ready.denoiser, task.requests[0], conditions)
    _draw(opened, ready.denoiser, _short(task))
    warmup_s = time.perf_counter() - began

    say(doing="drawing")
    began = time.perf_counter()
    _, clock = _draw(opened, ready.denoiser, task)
    e2e_s = time.perf_counter() - began
    return {
        "origin": ready.origin,
        "load_s": load_s,
        "compile_s": ready.compile_s,
        "open_s": ready.open_s,
        "first_step_s": first_step_s,
        "warmup_s": warmup_s,
        "it_per_s": clock.per_second,
        "e2e_s": e2e_s,
        "peak_gib": measure.peak_gib(opened.device),
        "reserved_gib": _reserved_gib(opened.device),
    }


def parity(settings: Settings, say: Say) -> dict[str, Any]:
    """How far the backend is from the same weights uncompiled: relative errors of one UNet call, PSNR of the picture.

    The uncompiled ones come first, so that nothing a backend does to the UNet can flatter it.
    """
    import torch

    teller = Teller(say)
    opened, task = _open(settings, teller)
    say(environment=_environment(opened, task))
    conditions = session.condition(opened, task, Silent())
    inputs = session.example_inputs(opened, task.requests[0], conditions)
    plain = backends.get("eager").load(opened.model.unet, None, {"cuda_graph": False, "channels_last": False})
    say(doing="drawing uncompiled")
    expected = plain(inputs).double()
    picture, _ = _draw(opened, plain, task)
    exact = _in_fp32(opened.model.unet, plain, inputs)
    if opened.device.type == "cuda":
        torch.cuda.empty_cache()

    ready = session.make_ready(opened, settings.backend, task.requests[0], conditions, teller)
    say(doing="drawing")
    found = ready.denoiser(inputs).double()
    other, _ = _draw(opened, ready.denoiser, task)
    return {
        "relative_error": _relative(found, expected),
        "fp32_error": None if exact is None else _relative(found, exact),
        "eager_fp32_error": None if exact is None else _relative(expected, exact),
        **_psnr(other, picture),
    }


def _open(settings: Settings, teller: Teller) -> tuple[session.Session, Task]:
    """The loaded model and the picture to draw. Raises IpaError when the backend cannot work here."""
    backend = session.check_backend(settings.backend)
    problem = backends.get(backend).missing_to_compile(None)
    if problem is not None:
        raise problem
    if not settings.image and not settings.adapter and settings.ip_adapter != "none":
        settings = replace(settings, image=(str(models.DEMO / "reference.png"),))
    plan = models.plan(settings)
    settings = replace(settings, backend=backend, prompt=settings.prompt or plan.defaults.get("prompt") or PROMPT)
    task = make_task(settings, plan, load_references(settings, teller))
    return session.open_session(settings, plan, teller, shows_bars=False), task


def _draw(opened: session.Session, denoiser: Any, task: Task) -> tuple[Image, measure.StepClock]:
    """A whole picture: prompt and reference encoded, denoised, decoded."""
    request = task.requests[0]
    conditions: Conditions = session.condition(opened, task, Silent())
    return session.draw(opened, denoiser, request, conditions, "", Silent())


def _short(task: Task) -> Task:
    request = task.requests[0]
    return replace(task, requests=(replace(request, steps=min(request.steps, FIRST_STEPS)),))


def _in_fp32(unet: Any, denoiser: Any, inputs: UNetInputs) -> Tensor | None:
    """The same call with the same weights in fp32; None where they are that already, or memory is short."""
    import torch

    if unet.dtype == torch.float32:
        return None
    before = unet.dtype

    def wide(value: Any) -> Any:
        if isinstance(value, torch.Tensor):
            return value.float() if value.dtype == before else value
        parts = [wide(part) for part in value]
        return type(value)(*parts) if hasattr(value, "_fields") else type(value)(parts)

    try:
        unet.to(torch.float32)
        return denoiser(wide(inputs)).double()
    except torch.cuda.OutOfMemoryError:
        return None
    finally:
        unet.to(before)  # exact: every number came from there


def _relative(found: Tensor, expected: Tensor) -> float:
    return ((found - expected).norm() / expected.norm()).item()


def _psnr(one: Image, other: Image) -> dict[str, Any]:
    """PSNR in dB, None for identical pictures."""
    import numpy as np

    difference = np.asarray(one, np.float64) - np.asarray(other, np.float64)
    error = float((difference**2).mean())
    return {"identical": error == 0, "psnr_db": None if error == 0 else float(10 * np.log10(255**2 / error))}


def _reserved_gib(device: Any) -> float | None:
    """What the allocator took from the GPU, with the memory of CUDA graphs that `peak_gib` does not see."""
    if device.type != "cuda":
        return None
    import torch

    return torch.cuda.max_memory_reserved(device) / 2**30


def _environment(opened: session.Session, task: Task) -> dict[str, Any]:
    """Versions and device of this process, and what it draws."""
    import torch

    request, device = task.requests[0], opened.device
    return {
        "versions": {
            "ipa": __version__,
            "python": platform.python_version(),
            **{name: version for name, version in requirements.installed().items() if version},
            **({"cuda": torch.version.cuda} if device.type == "cuda" else {}),
        },
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else device.type,
        "threads": torch.get_num_threads(),
        "dtype": str(opened.dtype).removeprefix("torch."),
        "model": opened.plan.name,
        "dummy": opened.plan.dummy,
        "adapter": adapter_name(opened.plan),
        "width": request.width,
        "height": request.height,
        "steps": request.steps,
        "guidance_scale": request.guidance_scale,
        "seed": request.seed,
    }


def _read(given: Mapping[str, Any]) -> Settings:
    """Settings as they went into JSON."""
    paths = {"cache_dir": Path(given["cache_dir"])} if given.get("cache_dir") else {}
    return Settings(**{**given, "image": tuple(given.get("image", ())), **paths})


def _end_with_parent() -> None:
    sys.stdin.read()  # the parent holds the other end as long as it lives
    os._exit(1)


def main() -> None:
    """Do one job."""
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)  # whatever a library prints is no answer
    job = json.loads(sys.stdin.readline())
    threading.Thread(target=_end_with_parent, daemon=True).start()

    def say(**line: Any) -> None:
        answers.write(json.dumps(line) + "\n")
        answers.flush()

    work = {"run": timed, "parity": parity}[job["kind"]]
    try:
        say(figures=work(_read(job["settings"]), say))
    except IpaError as error:
        say(failed=error.message, hint=error.hint)


if __name__ == "__main__":
    main()
