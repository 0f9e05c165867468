"""A process (see `child.start`) that measures one backend: it reads one job and writes messages until it is done.

A job has `folder`: the user's working directory or null, `settings` (of `config.Settings`), `batch`: pictures at once,
`keep`: the file for the output or null, and `exact`: whether it gets the UNet's output in fp32 too. Messages are
{"doing": text}, {"warning": text}, {"environment": {...}}, {"figures": {...}}, and last {"done": true},
{"failed": message, "hint": text}, or after a traceback {"done": false}.
"""

from __future__ import annotations

import os
import platform
import sys
import time
import traceback
import warnings
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ipa_cli import __version__, backends
from ipa_cli.bench import parity
from ipa_cli.config import Settings
from ipa_cli.config.values import settings_from_json
from ipa_cli.engine import schedules
from ipa_cli.engine.backend_choice import check_backend
from ipa_cli.engine.drawing import Drawing
from ipa_cli.engine.engine import Engine
from ipa_cli.engine.record import adapter_name
from ipa_cli.errors import IpaError
from ipa_cli.hardware import timing
from ipa_cli.images import faces
from ipa_cli.models import schedulers
from ipa_cli.models.lora.lora import load
from ipa_cli.models.plan import DEMO, make_plan
from ipa_cli.pipeline.init_image import check_model
from ipa_cli.pipeline.references import load_references
from ipa_cli.pipeline.task import Request, make_request
from ipa_cli.result import NullReporter
from ipa_cli.system import child

if TYPE_CHECKING:
    from torch import Tensor

    from ipa_cli.unet.inputs import UNetInputs

STARTED = time.perf_counter()
FIRST_STEPS = 2  # of the drawing that ends the warm-up
PROMPT = "a red fox in the snow"  # for models that have none of their own

Send = Callable[..., None]


class SendingReporter(NullReporter):
    """Sends notes, warnings and stages, but no steps: sending those would be measured too."""

    def __init__(self, send: Send):
        self._send = send

    def note(self, text: str) -> None:
        self._send(doing=text)

    def warn(self, text: str) -> None:
        self._send(warning=text)

    @contextmanager
    def stage(self, name: str) -> Iterator[Callable[[str], None]]:
        self._send(doing=name)
        yield lambda doing: self._send(doing=f"{name}: {doing}")


def measure(settings: Settings, batch: int, keep: Path | None, exact: bool, send: Send) -> None:
    """Load, prepare, draw with few steps, then measure drawing `batch` pictures at once, and keep the output in `keep`.

    Warm-up lasts from the loaded model to the end of the short drawing, E2E from encoding to the decoded pictures;
    times in seconds, memory in GiB.
    """
    from ipa_cli.unet.inputs import tensors

    reporter = SendingReporter(send)
    engine, request = _open(settings, batch, reporter)
    timing.synchronize(engine.device)
    load_s = time.perf_counter() - STARTED
    send(environment=_environment(engine, request))
    weights_sum = _sum(engine.model.unet.parameters())  # before a backend replaces them

    began = time.perf_counter()
    ready = engine.prepare(request)
    send(doing="warming up")
    first_step_s = engine.time_step(request)
    _draw(engine, replace(request, steps=min(request.steps, FIRST_STEPS)))
    warmup_s = time.perf_counter() - began

    send(doing="drawing")
    began = time.perf_counter()
    drawing = _draw(engine, request)
    e2e_s = time.perf_counter() - began
    figures = {
        "origin": ready.origin,
        "load_s": load_s,
        "compile_s": ready.compile_s,
        "open_s": ready.open_s,
        "first_step_s": first_step_s,
        "warmup_s": warmup_s,
        "it_per_s": drawing.it_per_s,
        "pictures_per_s": batch / e2e_s if batch > 1 else None,
        "e2e_s": e2e_s,
        "beside_s": e2e_s - drawing.steps_s,
        "peak_gib": timing.peak_gib(engine.device),
        "reserved_gib": _reserved_gib(engine.device),
    }
    inputs = engine.example_inputs(request)
    send(figures={**figures, "weights_sum": weights_sum, "inputs_sum": _sum(tensors(inputs))})
    if keep is not None:
        send(doing="keeping the output")
        noise = ready.denoiser(inputs)
        exact_noise = _in_fp32(engine.model.unet, inputs) if exact else None
        parity.keep(keep, noise, list(drawing.images.values()), exact_noise)


def _open(settings: Settings, batch: int, reporter: SendingReporter) -> tuple[Engine, Request]:
    """The loaded model and the pictures to draw, `batch` at once. Raises IpaError when the backend cannot work here."""
    backend = check_backend(settings.backend, settings.precision)
    problem = None if backend == backends.AUTO else backends.get(backend).toolchain_problem()
    if problem is not None:
        raise problem
    if not (settings.image or settings.embeds or settings.adapter) and settings.ip_adapter != "none":
        settings = replace(settings, image=(str(DEMO / "reference.png"),))
    plan = make_plan(settings)
    settings = replace(settings, backend=backend, prompt=settings.prompt or plan.defaults.get("prompt") or PROMPT)
    settings = replace(settings, num_images=batch, batch_size=batch, image_per_picture=False)
    settings = replace(settings, hires=None, region=())  # one size is measured, and one prompt
    loras = load(settings.lora, plan, reporter)
    request = make_request(settings, plan, load_references(settings, reporter), loras, reporter, faces.stand_in)
    schedulers.choose(settings.scheduler, settings.schedule, settings.eta)
    check_model(request.init, plan)
    schedules.find(settings, plan, request.sampling, request.steps, reporter)
    return Engine.open(settings, plan, reporter, alone=True), request


def _draw(engine: Engine, request: Request) -> Drawing:
    """Encode prompt and reference, denoise and decode, as for a first picture."""
    engine.forget()
    return engine.draw(request)


def _in_fp32(unet: Any, inputs: UNetInputs) -> Tensor | None:
    """The same call with the same weights in fp32, uncompiled; None where they are that already, or memory is short."""
    import torch
    from torch.utils import _pytree as pytree

    if unet.dtype == torch.float32:
        return None
    before = unet.dtype

    def wide(tensor: Tensor) -> Tensor:
        return tensor.float() if tensor.dtype == before else tensor

    torch.backends.cudnn.allow_tf32 = False  # its products keep no more digits than fp16's
    try:
        with torch.no_grad():
            return unet.to(torch.float32)(pytree.tree_map(wide, inputs))
    except torch.cuda.OutOfMemoryError:
        return None


def _sum(values: Iterable[Tensor]) -> float:
    """The sum of absolute values: equal in two processes with the same numbers, whatever their layout."""
    import torch

    return sum(float(tensor.abs().sum(dtype=torch.float64)) for tensor in values)


def _reserved_gib(device: Any) -> float | None:
    """GiB that the allocator has taken from the GPU, with the memory of CUDA graphs that `peak_gib` does not count."""
    if device.type != "cuda":
        return None
    import torch

    return torch.cuda.max_memory_reserved(device) / 2**30


def _environment(engine: Engine, request: Request) -> dict[str, Any]:
    """Versions and device of this process, and what it draws."""
    import torch

    device = engine.device
    return {
        "versions": {
            "ipa": __version__,
            "python": platform.python_version(),
            **{name: version for name, version in backends.installed().items() if version},
            **({"cuda": torch.version.cuda} if device.type == "cuda" else {}),
        },
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else device.type,
        "threads": torch.get_num_threads(),
        "dtype": str(engine.dtype).removeprefix("torch."),
        "model": engine.plan.name,
        "dummy": engine.plan.dummy,
        "adapter": adapter_name(engine.plan),
        "width": request.width,
        "height": request.height,
        "steps": request.steps,
        "guidance_scale": request.guidance_scale,
        "seed": request.seeds[0],
    }


def main() -> None:
    """Do one job."""
    jobs, write = child.serve()
    job = next(jobs)
    if job["folder"]:
        os.chdir(job["folder"])  # to which relative paths of models and pictures refer

    def send(**message: Any) -> None:
        write(message)

    show = warnings.showwarning

    def send_warning(message: Warning | str, category: type[Warning], filename: str, *more: Any) -> None:
        if Path(filename).is_relative_to(Path(__file__).parents[1]):  # ours, not a library's
            send(warning=str(message))
        show(message, category, filename, *more)

    warnings.showwarning = send_warning  # type: ignore[assignment]
    try:
        keep = Path(job["keep"]) if job["keep"] else None
        measure(settings_from_json(job["settings"], "job"), job["batch"], keep, job["exact"], send)
        send(done=True)
    except IpaError as error:
        send(failed=error.message, hint=error.hint)
    except BaseException:
        traceback.print_exc()  # at once: threads that a library left running may keep this process from ending
        sys.stderr.flush()
        send(done=False)
        raise
