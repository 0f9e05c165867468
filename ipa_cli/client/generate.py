"""Pictures drawn by a server and written here, each file as `ipa generate` itself would write it."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from ipa_cli.client import payload
from ipa_cli.client.find import Server
from ipa_cli.client.jobs import Jobs
from ipa_cli.client.payload import Carried
from ipa_cli.client.per_picture import apart
from ipa_cli.config import Resolved, Settings
from ipa_cli.config.comparison import AUTO
from ipa_cli.engine.generated import AS_NAMED, NO_FIELDS, Drawn, Form, Generated, format_of, name_of, plan_paths
from ipa_cli.images.filenames import stem
from ipa_cli.pipeline.references import remark_none
from ipa_cli.pipeline.spread import spread
from ipa_cli.system import files

if TYPE_CHECKING:
    from pathlib import Path

    from ipa_cli.engine.recorded import Recorded
    from ipa_cli.result import Reporter


@dataclass
class _Done:
    """What came of the jobs so far; times in seconds."""

    images: list[Drawn] = field(default_factory=list)
    jobs: list[Mapping[str, Any]] = field(default_factory=list)
    stdout: bytes | None = None
    save_s: float = 0.0


def generate(
    server: Server,
    resolved: Resolved,
    reporter: Reporter,
    force: bool,
    recorded: Recorded | None = None,
    several: Sequence[Mapping[str, Any]] = (),
    form: Form = AS_NAMED,
) -> Generated:
    """As `engine.generate.generate`, drawn by a server: a request is one job of it, or several when it is large.

    Raises IpaError where the server draws otherwise than asked, and what it finds wrong. Whatever ends this, the server
    draws no more of it.
    """
    began, settings = time.perf_counter(), resolved.settings
    server.check(resolved)
    planned = plan_paths(settings, [NO_FIELDS] * settings.num_images, force, form)
    _check_writable(planned, force)
    if recorded is not None:
        from ipa_cli.engine import replay

        replay.check_there(recorded, settings)
    carried = payload.read(settings, reporter)
    each_carried = apart(settings, carried)
    for own in each_carried:
        payload.check_size(own, server.about["limits"]["upload"])
    each = spread(settings, several, len(each_carried))
    reporter.note(f"drawing at {server.url}: {server.about['model']} on {server.machine['device']}")

    jobs, done = Jobs(server.connection, reporter), _Done()
    sent: deque[tuple[range, Mapping[str, Any]]] = deque()
    paths: Sequence[Path | None] = ()
    form = Form(format_of(planned[0], form), form.quality)
    pairs = [(one, own) for one in each for own in each_carried]
    try:
        for numbers, body in payload.bodies(pairs, form, server.about["limits"]["pictures"]):
            sent.append((numbers, jobs.send(body)))
            if not paths:
                request = sent[0][1]["request"]
                paths = _paths(settings, pairs, request, force, form)
                _remark(recorded, settings, request, reporter)
            if len(sent) > len(server.about["engines"]):  # it draws on all of them while pictures are fetched
                _finish(jobs, *sent.popleft(), paths, force, done)
        while sent:
            _finish(jobs, *sent.popleft(), paths, force, done)
    finally:
        jobs.cancel()
    if recorded is not None and server.machine["backend"] == AUTO:
        replay.check_backend(recorded, done.jobs[0]["graph"]["backend"], reporter)
    return _generated(server, each, done, time.perf_counter() - began)


def _paths(
    settings: Settings,
    each: Sequence[tuple[Settings, Carried]],
    request: Mapping[str, Any],
    force: bool,
    form: Form,
) -> Sequence[Path | None]:
    """A path for every picture of all requests; `request` is the first with all defaults filled in."""
    fields: list[dict[str, Any]] = []
    for one, carried in each:
        image = stem(carried.references or [used["source"] for used in request["references"]])
        for number in range(one.num_images):
            prompt = request["prompt"] if one.prompt is None else _shown(one.prompt, one)
            seed = (one.seed or 0) + number
            fields.append(
                {"seed": seed, "scale": request["scale"], "index": len(fields), "prompt": prompt, "image": image}
            )
    paths = plan_paths(settings, fields, force, form)
    _check_writable(paths, force)
    return paths


def _shown(prompt: str, settings: Settings) -> str:
    """A prompt as file names have it."""
    if settings.lora_dir is None or settings.prompt_syntax != "a1111":
        return prompt
    from ipa_cli.models.lora import tags

    return tags.without(prompt)


def _check_writable(paths: Sequence[Path | None], force: bool) -> None:
    for path in {path if force else path.parent: path for path in paths if path}.values():
        files.check_writable(path, replacing=force)


def _remark(recorded: Recorded | None, settings: Settings, request: Mapping[str, Any], reporter: Reporter) -> None:
    """Say what people should know of their references."""
    if recorded is not None:
        from ipa_cli.engine import replay

        replay.check_same(recorded, settings, set(request["digests"]), reporter)
    if not request["references"]:
        remark_none(settings, reporter)


def _finish(
    jobs: Jobs, numbers: range, job: Mapping[str, Any], paths: Sequence[Path | None], force: bool, done: _Done
) -> None:
    """Wait for a job, and write its pictures."""
    last = jobs.follow(job, ", ".join(name_of(paths[number]) for number in numbers), len(numbers))
    done.jobs.append(last)
    for number, picture in zip(numbers, last["pictures"], strict=True):
        data, path, began = jobs.picture(picture), paths[number], time.perf_counter()
        if path is None:
            done.stdout = data
        else:
            path = files.write(path, data, force)
        done.save_s += time.perf_counter() - began
        facts = {name: picture[name] for name in ("prompt", "seed", "scale", "width", "height", "sha256")}
        done.images.append(Drawn(path, **facts, references=tuple(picture["references"])))


def _generated(server: Server, each: Sequence[Settings], done: _Done, total_s: float) -> Generated:
    """The result; times of loading are 0, as nothing is loaded."""
    last, request = done.jobs[-1], done.jobs[0]["request"]
    times = {name: sum(job["timings"][name] for job in done.jobs) for name in ("prepare_s", "steps_s", "decode_s")}
    calls = sum(job["steps"] for job in done.jobs)
    dtypes = {one["device"]: one["dtype"] for one in server.about["engines"]}
    if last["device"] not in dtypes:
        raise server.connection.foreign()
    return Generated(
        images=tuple(done.images),
        timings={
            "load_s": 0.0,
            "encode_s": 0.0,
            "prepare_s": times["prepare_s"],
            "graph_open_s": 0.0,
            "graph_compile_s": 0.0,
            "first_step_s": 0.0,
            "warmup_s": 0.0,
            "inference_s": total_s - times["prepare_s"],
            "steps_s": times["steps_s"],
            "decode_s": times["decode_s"],
            "save_s": done.save_s,
            "e2e_s": total_s,
            "it_per_s": calls / times["steps_s"] if times["steps_s"] else 0.0,
        },
        memory=last["memory"],
        backend=last["graph"]["backend"],
        graph={name: value for name, value in last["graph"].items() if name != "backend"},
        device=last["device"],
        dtype=dtypes[last["device"]],
        model=server.about["model"],
        adapter=server.about["adapter"],
        prompt=request["prompt"] if len(each) == 1 else None,
        steps=request["steps_taken"],
        step_cache=request["step_cache"],
        steps_saved=request["steps_saved"],
        references=tuple(one["source"] for one in request["references"]),
        stdout=done.stdout,
        server=server.url,
    )
