"""Bodies of any kind, made from the server's own description of its routes: nothing is answered with a 500."""

from __future__ import annotations

import os
import threading

import hypothesis
import pytest
import schemathesis
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from ipa_cli.config import Settings
from ipa_cli.models.plan import make_plan
from ipa_cli.result import NullReporter
from ipa_cli.serve import jobs
from ipa_cli.serve.app import make_app
from ipa_cli.serve.limits import Limits
from ipa_cli.serve.metrics import Metrics
from ipa_cli.serve.service import Service
from tests.images.pictures import encoded

pytestmark = [pytest.mark.slow, pytest.mark.campaign]

EXAMPLES = int(os.environ.get("FUZZ_EXAMPLES", "6"))  # .ci/serve takes many more


def answered() -> Service:
    """A service whose jobs are done as soon as they are taken, each with the same small picture."""
    settings = Settings()
    service = Service(
        settings, make_plan(settings, references_later=True), Limits(), NullReporter(), Metrics(), ("cpu",)
    )
    said = PngInfo()
    said.add_text("parameters", "a star\nSteps: 1, Sampler: Euler")
    picture = jobs.Picture(encoded(Image.new("RGB", (8, 8)), pnginfo=said), "image/png", "0" * 64, "", 0, 0.0, 8, 8)
    timings = dict.fromkeys(("queued_s", "steps_s", "decode_s", "total_s", "it_per_s"), 0.0)

    def work() -> None:
        while taken := service.queue.take():
            for job in taken:
                job.end(jobs.DONE, pictures=(picture,) * len(job.request.seeds), timings=timings)

    threading.Thread(target=work, daemon=True).start()
    return service


schema = schemathesis.openapi.from_asgi("/openapi.json", make_app(answered(), "testserver"))


@schema.parametrize()
@hypothesis.settings(max_examples=EXAMPLES, deadline=None, suppress_health_check=list(hypothesis.HealthCheck))
def test_no_request_breaks_the_server(case):
    answer = case.call()
    assert answer.status_code != 500, answer.content
    if answer.status_code >= 400 and "json" in answer.headers.get("content-type", [""])[0]:
        assert answer.json()["status"] == "error" and answer.json()["error"]["message"]
