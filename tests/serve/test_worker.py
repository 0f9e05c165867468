"""The thread that draws, with an engine that fails."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from types import SimpleNamespace

from ipa_cli.config import Settings
from ipa_cli.models.plan import make_plan
from ipa_cli.pipeline.references import load_references
from ipa_cli.pipeline.task import make_request
from ipa_cli.result import KeepingReporter, NullReporter
from ipa_cli.serve import jobs
from ipa_cli.serve.queue import Queue
from ipa_cli.serve.worker import JobReporter, Worker


def test_a_picture_that_cannot_be_encoded_leaves_its_traceback_in_the_log(world):
    settings = Settings(seed=1)
    request = make_request(settings, make_plan(settings), load_references(settings, NullReporter()))
    drawing = SimpleNamespace(images={0: None}, steps_s=0.0, decode_s=0.0, it_per_s=0.0)
    engine = SimpleNamespace(
        prepare=lambda request: SimpleNamespace(backend="eager", facts={}),
        draw=lambda request: drawing,
        memory=dict,
        device="cpu",
    )
    loop, queue, log = asyncio.new_event_loop(), Queue(1), KeepingReporter()
    job = jobs.Job(request, settings, "client", loop)
    job_queue = [[job], []]
    queue.take = lambda *_: job_queue.pop(0)
    Worker(engine, JobReporter(log), queue).work()
    loop.close()
    assert job.state.status == jobs.FAILED
    assert len(log.warnings) == 1 and "Traceback" in log.warnings[0]


def test_a_job_that_cannot_be_drawn_fails_alone(world):
    settings, loop, log, drawn = Settings(seed=1), asyncio.new_event_loop(), KeepingReporter(), []
    request = make_request(settings, make_plan(settings), load_references(settings, NullReporter()))
    several = [jobs.Job(replace(request, seeds=(seed,)), settings, "client", loop) for seed in range(3)]

    def draw(request):
        if request.seeds == (1,):
            raise RuntimeError("shapes")
        drawn.append(request.seeds)
        return SimpleNamespace(images={}, steps_s=0.0, decode_s=0.0, it_per_s=0.0)

    engine = SimpleNamespace(
        prepare=lambda request: SimpleNamespace(backend="eager", facts={}),
        draw=draw,
        draw_together=lambda requests: [draw(one) for one in requests],
        memory=dict,
        device="cpu",
    )
    batches = [several, []]
    Worker(engine, JobReporter(log), SimpleNamespace(take=lambda *_: batches.pop(0)), batch_size=3).work()
    loop.close()
    assert [job.state.status for job in several] == [jobs.DONE, jobs.FAILED, jobs.DONE]
    assert "3 jobs cannot be drawn together" in log.warnings[0] and "Traceback" in log.warnings[1]
