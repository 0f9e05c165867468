"""What is said of a request before it is drawn, whether a command, a job, an HTTP request or a program asks for it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection

from ipa_cli.config import Settings
from ipa_cli.models.plan import Plan
from ipa_cli.pipeline import control, init_image, prompts, sampling
from ipa_cli.pipeline.task import Request
from ipa_cli.result import Reporter


def review(
    request: Request, settings: Settings, plan: Plan, reporter: Reporter, texts: Collection[str] | None = None
) -> None:
    """Warn of what may surprise in a picture; `texts` are prompts in place of the request's own.

    Raises UsageError for what the model does not draw and for prompts that would be misread.
    """
    _warn_of_twins(settings, reporter)
    init_image.check_model(request.init, plan)
    if request.init is not None:
        init_image.note_size(request.init, reporter)
    control.note_size(request.controls, (request.width, request.height), reporter)
    sampling.advise(settings, plan, request.loras, reporter)
    prompts.review(request.texts if texts is None else texts, request, reporter)


def _warn_of_twins(settings: Settings, reporter: Reporter) -> None:
    """Warn of adapters and ControlNets that are given again word for word: what they do adds up, as that of LoRAs."""
    for flag, given in (("--adapter", settings.adapter), ("--control", settings.control)):
        for one, count in Counter(map(str, given)).items():
            if count > 1:
                reporter.warn(f"{flag} {one} is given {count} times: what it does adds up")
