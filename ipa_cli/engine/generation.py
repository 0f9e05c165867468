"""`ipa generate`: everything is checked, then the model is loaded, then pictures are drawn and written."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ipa_cli.config import Settings
from ipa_cli.engine import replay, session
from ipa_cli.engine.record import adapter_name, record
from ipa_cli.errors import UsageError
from ipa_cli.images import encode, filenames
from ipa_cli.models import schedulers
from ipa_cli.models.plan import make_plan
from ipa_cli.pipeline import denoise, prompts
from ipa_cli.pipeline.task import load_references, make_tasks, name_fields
from ipa_cli.result import Reporter
from ipa_cli.system import files

if TYPE_CHECKING:
    from PIL.Image import Image

    from ipa_cli.engine.graphs import Ready
    from ipa_cli.models.plan import Plan
    from ipa_cli.pipeline.task import Task

STDOUT = "-"


@dataclass(frozen=True)
class Drawn:
    """A picture on disk, or without a path in `Generated.stdout`."""

    path: Path | None
    prompt: str
    seed: int
    scale: float
    width: int
    height: int
    sha256: str


@dataclass(frozen=True)
class Generated:
    """What `ipa generate` did: pictures, times in seconds, memory in GiB (`timing.memory`)."""

    images: tuple[Drawn, ...]
    timings: Mapping[str, float]
    memory: Mapping[str, float]
    backend: str
    graph: Mapping[str, Any]
    device: str
    dtype: str
    model: str
    adapter: str | None
    prompt: str | None  # None: each picture has one of its own
    steps: int
    references: tuple[str, ...] = field(default=())  # pictures and files of embeddings
    stdout: bytes | None = None  # the one picture of `--output -`


@dataclass(frozen=True)
class Form:
    """How pictures are written: Pillow's name of the format (None: by the file's suffix), and quality, 1 to 100."""

    format: str | None = None
    quality: int | None = None


def generate(
    settings: Settings,
    reporter: Reporter,
    force: bool,
    shows_bars: bool,
    recorded: replay.Recorded | None = None,
    several: Sequence[Mapping[str, Any]] = (),
    form: Form = Form(),
) -> Generated:
    """Draw and write the pictures `settings` ask for; all that can be wrong is looked for before the long work.

    `recorded` is the picture that `settings` were read from, `several` are prompts as `task.make_tasks` takes them.
    """
    started = time.perf_counter()
    schedulers.check(settings.scheduler)
    backend = session.check_backend(settings.backend, settings.precision)
    _plan_paths(settings, [{"seed": 0, "scale": 0, "index": 0, "prompt": ""}] * settings.num_images, force, form)
    if recorded is not None:
        replay.check_there(recorded, settings)
    loaded = load_references(settings, reporter)
    plan = make_plan(settings)
    tasks = make_tasks(settings, plan, loaded, several)
    first = tasks[0]
    prompts.warn_of_spelling([text for task in tasks for text in (task.prompt, task.negative_prompt)], reporter)
    if recorded is not None:
        replay.check_same(recorded, settings, first.references, reporter)
    fields = [name_fields(task, number) for task in tasks for number in range(len(task.requests))]
    paths = _plan_paths(settings, [{**each, "index": index} for index, each in enumerate(fields)], force, form)
    longest = max((task.prompt + task.negative_prompt for task in tasks), key=len)
    for format in {_format(path, form) for path in paths}:
        encode.check(format, form.quality, longest)
    for path in {path if force else path.parent: path for path in paths if path}.values():
        files.check_writable(path, replacing=force)
    schedulers.check_steps(settings.scheduler, plan, first.requests[0].steps)
    say_what_it_is(plan, reporter)

    opened = session.open_session(settings, plan, reporter, shows_bars)
    loaded_at = time.perf_counter()
    at_once = min(settings.batch_size, max(len(task.requests) for task in tasks))
    texts = [session.encode_text(opened, task, reporter) for task in tasks]
    images = session.encode_images(opened, first)
    conditions = denoise.for_several(session.join(opened, texts[0], images, first), at_once)
    opened = session.without_encoders(opened, joined=len(tasks) == 1)
    encoded_at = time.perf_counter()
    ready = session.make_ready(opened, backend, first.requests[0], conditions, reporter)
    ready_at = time.perf_counter()
    first_step = session.warm_up(opened, ready.denoiser, first.requests[0], conditions, reporter)
    warmed_at = time.perf_counter()

    drawn, saving, next_paths = [], [], iter(paths)
    with ThreadPoolExecutor(at_once) as writer:  # pictures are compressed while the next are drawn
        for task, text in zip(tasks, texts, strict=True):
            own = list(islice(next_paths, len(task.requests)))
            if task is not first:
                conditions = denoise.for_several(session.join(opened, text, images, task), at_once)
            for numbers in batches(len(task.requests), at_once):
                requests = [task.requests[number] for number in numbers]
                name = ", ".join(_name(own[number]) for number in dict.fromkeys(numbers))
                pictured = session.draw_several(opened, ready.denoiser, requests, conditions, name, reporter)
                drawn.append(pictured)
                for number, image in dict(zip(numbers, pictured.images, strict=True)).items():
                    kept = record(opened, ready, task, number)
                    saving.append(writer.submit(_save, task, number, image, own[number], kept, force, form))
                for future in saving:
                    if future.done():
                        future.result()  # nothing more is drawn when a picture could not be written
    saved = [future.result() for future in saving]
    ended = time.perf_counter()

    from ipa_cli.hardware.timing import memory

    step_seconds = sum(pictured.clock.seconds for pictured in drawn)
    return Generated(
        images=tuple(one for one, _, _ in saved),
        timings={
            "load_s": loaded_at - started,
            "encode_s": encoded_at - loaded_at,
            "prepare_s": ready_at - loaded_at,
            "graph_open_s": ready.open_s,
            "graph_compile_s": ready.compile_s,
            "first_step_s": first_step,
            "warmup_s": warmed_at - ready_at,
            "inference_s": ended - warmed_at,
            "steps_s": step_seconds,
            "decode_s": sum(pictured.decode_s for pictured in drawn),
            "save_s": sum(seconds for _, seconds, _ in saved),
            "e2e_s": ended - started,
            "it_per_s": first.requests[0].steps * len(drawn) / step_seconds if step_seconds else 0.0,
        },
        memory=memory(opened.device),
        backend=ready.backend,
        graph=graph_facts(ready),
        device=str(opened.device),
        dtype=str(opened.dtype).removeprefix("torch."),
        model=plan.name,
        adapter=adapter_name(plan),
        prompt=first.prompt if len(tasks) == 1 else None,
        steps=first.requests[0].steps,
        references=tuple(source.source for source in first.sources),
        stdout=saved[0][2],
    )


def batches(pictures: int, at_once: int) -> list[list[int]]:
    """The numbers of the pictures drawn at once; the last is repeated to fill its batch, so that one graph serves."""
    return [
        [min(number, pictures - 1) for number in range(first, first + at_once)] for first in range(0, pictures, at_once)
    ]


def _plan_paths(
    settings: Settings, fields: Sequence[Mapping[str, Any]], force: bool, form: Form
) -> Sequence[Path | None]:
    """A path for every picture; None is stdout, which takes one alone."""
    if settings.output != STDOUT:
        return filenames.plan_paths(settings.output, fields, force, form.format)
    if len(fields) > 1:
        raise UsageError(f"stdout takes one picture, not {len(fields)}", "name files, such as --output cat.png")
    return [None]


def _format(path: Path | None, form: Form) -> str:
    return filenames.FORMATS[path.suffix.lower()] if path else form.format or "PNG"


def _name(path: Path | None) -> str:
    return path.name if path else "stdout"


def _save(
    task: Task, number: int, image: Image, path: Path | None, kept: Mapping[str, Any], force: bool, form: Form
) -> tuple[Drawn, float, bytes | None]:
    """The picture on disk, seconds, and the file itself when it is for stdout."""
    began, data = time.perf_counter(), None
    if path is None:
        data = encode.encode(image, kept, _format(path, form), form.quality)
        digest = hashlib.sha256(data).hexdigest()
    else:
        path, digest = encode.save(path, image, kept, force, form.quality)
    seed = task.requests[number].seed
    drawn = Drawn(path, task.prompt, seed, task.scale, image.width, image.height, digest)
    return drawn, time.perf_counter() - began, data


def graph_facts(ready: Ready) -> dict[str, Any]:
    """Which graph drew, as data."""
    return {"origin": ready.origin, "id": ready.entry.id if ready.entry else None, "why": ready.why}


def say_what_it_is(plan: Plan, reporter: Reporter) -> None:
    """A line on what people get who did not choose a model, or no reference picture."""
    if plan.dummy:
        reporter.note("seeded random weights: right for measuring, the picture means nothing")
    elif plan.name == "demo":
        about = plan.defaults["about"]
        reporter.note(f"this is {about}; `ipa generate --model sdxl` takes the real SDXL (an 11 GB download)")
    if plan.adapter is None:
        reporter.note("no reference picture: drawing from the prompt alone (add one with --image)")
