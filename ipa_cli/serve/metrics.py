"""What Prometheus reads at `/metrics`."""

from __future__ import annotations

from typing import TYPE_CHECKING

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector

from ipa_cli.serve import jobs

if TYPE_CHECKING:
    from ipa_cli.serve.jobs import Job

SECONDS = (0.1, 0.25, 0.5, 1, 2, 4, 8, 15, 30, 60, 120, 300)


class Metrics:
    """Counters of one server, in a registry of their own."""

    def __init__(self) -> None:
        self.registry = registry = CollectorRegistry()
        self.answers = Counter("ipa_http_answers", "Answers.", ["method", "route", "status"], registry=registry)
        self.jobs = Counter("ipa_jobs", "Jobs that ended.", ["status"], registry=registry)
        self.pictures = Counter("ipa_pictures", "Pictures drawn.", registry=registry)
        self.waiting = Gauge("ipa_jobs_waiting", "Jobs in the queue.", registry=registry)
        self.drawing = Gauge("ipa_jobs_drawing", "Jobs that are drawn now.", registry=registry)
        self.memory = Gauge("ipa_memory_peak_bytes", "Most memory used so far.", ["device"], registry=registry)
        self.reserved = Gauge("ipa_memory_reserved_bytes", "Most memory held on a GPU.", ["device"], registry=registry)
        self.queued = Histogram("ipa_job_queued_seconds", "Time in the queue.", buckets=SECONDS, registry=registry)
        self.total = Histogram("ipa_job_seconds", "Time from request to picture.", buckets=SECONDS, registry=registry)
        ProcessCollector(registry=registry)

    def count(self, job: Job) -> None:
        """Count a job that has ended."""
        state = job.state
        self.jobs.labels(state.status).inc()
        if state.status == jobs.DONE:
            self.pictures.inc(len(state.pictures))
            self.queued.observe(state.timings["queued_s"])
            self.total.observe(state.timings["total_s"])
