"""`ipa generate`: everything is checked, then the model is loaded, then pictures are drawn and written."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ipa_cli.config import Settings
from ipa_cli.config.privacy import public_name
from ipa_cli.engine import replay, schedules
from ipa_cli.engine.backend_choice import check_backend
from ipa_cli.engine.drawing import Drawing
from ipa_cli.engine.engine import Engine
from ipa_cli.engine.generated import AS_NAMED, NO_FIELDS, Drawn, Form, Generated, format_of, name_of, plan_paths
from ipa_cli.engine.ready import Ready
from ipa_cli.engine.record import adapter_name, record
from ipa_cli.engine.recorded import Recorded
from ipa_cli.images import encode
from ipa_cli.models import schedulers
from ipa_cli.models.lora import lora
from ipa_cli.models.plan import make_plan
from ipa_cli.pipeline import prompts, unused
from ipa_cli.pipeline.references import load_references, remark_none
from ipa_cli.pipeline.review import review
from ipa_cli.pipeline.task import Request, make_requests, name_fields
from ipa_cli.result import Reporter
from ipa_cli.system import files

if TYPE_CHECKING:
    from PIL.Image import Image

    from ipa_cli.models.plan import Plan


def generate(
    settings: Settings,
    reporter: Reporter,
    force: bool,
    shows_bars: bool,
    recorded: Recorded | None = None,
    several: Sequence[Mapping[str, Any]] = (),
    form: Form = AS_NAMED,
) -> Generated:
    """Draw and write the pictures `settings` ask for; all that can be wrong is looked for before the long work.

    `recorded` is the picture that `settings` were read from, `several` are prompts as `task.make_requests` takes them.
    """
    started = time.perf_counter()
    plan, requests, paths = _checked(settings, reporter, force, recorded, several, form)
    first = requests[0]
    note_model(settings, plan, reporter)

    engine = Engine.open(settings, plan, reporter, shows_bars)
    loaded_at = time.perf_counter()
    engine.encode(requests, drop_encoders=True)
    encoded_at = time.perf_counter()
    ready = engine.prepare(first)
    ready_at = time.perf_counter()
    first_step = engine.warm_up(first)
    warmed_at = time.perf_counter()
    drawn, saved = _draw_and_save(engine, ready, requests, paths, force, form, reporter)
    ended = time.perf_counter()

    step_seconds = sum(drawing.steps_s for drawing in drawn)
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
            "decode_s": sum(drawing.decode_s for drawing in drawn),
            "save_s": sum(seconds for _, seconds, _ in saved),
            "e2e_s": ended - started,
            "it_per_s": first.steps_taken * len(drawn) / step_seconds if step_seconds else 0.0,
        },
        memory=engine.memory(),
        backend=ready.backend,
        gpus=settings.gpus,
        graph=ready.facts,
        device=str(engine.device),
        dtype=str(engine.dtype).removeprefix("torch."),
        model=plan.name,
        adapter=adapter_name(plan),
        prompt=first.prompt if len(requests) == 1 else None,
        steps=first.steps_taken,
        step_cache=str(first.step_cache),
        steps_saved=first.steps_saved,
        references=tuple(source.source for source in first.sources),
        stdout=saved[0][2],
    )


def _checked(
    settings: Settings,
    reporter: Reporter,
    force: bool,
    recorded: Recorded | None,
    several: Sequence[Mapping[str, Any]],
    form: Form,
) -> tuple[Plan, tuple[Request, ...], Sequence[Path | None]]:
    """The model, the requests, and a path for every picture: all that can be found wrong before the model is loaded."""
    schedulers.choose(settings.scheduler, settings.schedule, settings.eta)
    check_backend(settings.backend, settings.precision)
    plan_paths(settings, [NO_FIELDS] * settings.num_images, force, form)
    if recorded is not None:
        replay.check_there(recorded, settings)
    loaded = load_references(settings, reporter)
    plan = make_plan(settings)
    requests = make_requests(settings, plan, loaded, several, lora.load(settings.lora, plan, reporter), reporter)
    unused.remark_all(settings, requests, reporter)
    texts = [text for one in requests for text in one.texts]
    review(requests[0], settings, plan, reporter, texts)
    prompts.warn_of_unused(settings, texts, requests[0], reporter)
    if recorded is not None:
        replay.check_same(recorded, settings, requests[0].digests, reporter)
        replay.check_same_loras(recorded, requests[0].loras, reporter)
        replay.check_embeddings(recorded, requests[0], reporter)
    fields = [name_fields(request, number) for request in requests for number in range(len(request.seeds))]
    paths = plan_paths(settings, [{**each, "index": index} for index, each in enumerate(fields)], force, form)
    longest = max((one.texts for one in requests), key=lambda texts: sum(map(len, texts)))
    for format in {format_of(path, form) for path in paths}:
        encode.check(format, form.quality, longest)
    for path in {path if force else path.parent: path for path in paths if path}.values():
        files.check_writable(path, replacing=force)
    for one in requests[0].passes:
        schedules.find(settings, plan, one.sampling, one.steps, reporter)
    return plan, requests, paths


def _draw_and_save(
    engine: Engine,
    ready: Ready,
    requests: Sequence[Request],
    paths: Sequence[Path | None],
    force: bool,
    form: Form,
    reporter: Reporter,
) -> tuple[list[Drawing], list[tuple[Drawn, float, bytes | None]]]:
    """All pictures, and their files: each is compressed and written while the next are drawn."""
    drawn: list[Drawing] = []
    saving: list[Future[tuple[Drawn, float, bytes | None]]] = []
    next_paths = iter(paths)
    with _naming_saved(saving, len(paths), reporter), ThreadPoolExecutor(requests[0].batch_size) as writer:
        for request in requests:
            own = list(islice(next_paths, len(request.seeds)))
            for numbers in request.batches:
                drawing = engine.draw_batch(
                    request, numbers, ", ".join(dict.fromkeys(name_of(own[n]) for n in numbers))
                )
                drawn.append(drawing)
                for number, image in drawing.images.items():
                    kept = record(engine, engine.settings, ready, request, number)
                    saving.append(writer.submit(_save, request, number, image, own[number], kept, force, form))
                for future in saving:
                    if future.done():
                        future.result()  # nothing more is drawn when a picture could not be written
        return drawn, [future.result() for future in saving]


@contextmanager
def _naming_saved(
    saving: Sequence[Future[tuple[Drawn, float, bytes | None]]], count: int, reporter: Reporter
) -> Iterator[None]:
    """Name the pictures that are there when the others of `count` are not drawn any more."""
    try:
        yield
    except BaseException:
        saved = [future.result()[0].path for future in saving if not future.exception()]
        if any(saved):
            reporter.warn(f"saved {len(saved)} of {count} pictures: {', '.join(map(name_of, saved))}")
        raise


def _save(
    request: Request, number: int, image: Image, path: Path | None, kept: Mapping[str, Any], force: bool, form: Form
) -> tuple[Drawn, float, bytes | None]:
    """The picture on disk, seconds, and the file itself when it is for stdout."""
    began, data = time.perf_counter(), None
    if path is None:
        data = encode.encode(image, kept, format_of(path, form), form.quality)
        digest = hashlib.sha256(data).hexdigest()
    else:
        path, digest = encode.save(path, image, kept, force, form.quality)
    seed = request.seeds[number]
    references = tuple(public_name(one.source) for one in request.of_picture(number).sources)
    drawn = Drawn(path, request.prompt, seed, request.scale, image.width, image.height, digest, references)
    return drawn, time.perf_counter() - began, data


def note_model(settings: Settings, plan: Plan, reporter: Reporter) -> None:
    """A line on what people get who did not choose a model, or no reference picture."""
    if plan.dummy:
        reporter.note("seeded random weights: right for measuring, the picture means nothing")
    elif plan.name == "demo":
        about = plan.defaults["about"]
        reporter.note(f"this is {about}; `ipa generate --model sdxl` takes the real SDXL (an 11 GB download)")
    if plan.adapter is None:
        remark_none(settings, reporter)
