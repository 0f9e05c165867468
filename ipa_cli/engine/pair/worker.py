"""The process for the second GPU (see `child.start`): a UNet that computes halves until its parent ends.

Its jobs: first what `Half` takes; then {"weights": names}, {"context": description}, {"prepare": number, "backend":
name, "inputs": description}, {"call": number, "inputs": description}. The tensors of each follow by `Link`, and those
of a call go back. {"done": number} asks whether the device has done all that came before. Messages are {"ready":
number}, {"done": number}, and last {"failed": message, "hint": text}.
"""

from __future__ import annotations

import traceback
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ipa_cli.config.values import settings_from_json
from ipa_cli.engine import graphs
from ipa_cli.engine.pair.link import Link, kinds, rebuilt
from ipa_cli.engine.ready import Ready
from ipa_cli.engine.store import graph_store
from ipa_cli.errors import IpaError
from ipa_cli.hardware import devices, timing
from ipa_cli.result import NullReporter
from ipa_cli.system import child

if TYPE_CHECKING:
    from ipa_cli.unet.inputs import Context, UNetInputs

LEAVE_OUT = "leave out --gpus to draw on one"


class Half:
    """A UNet like that of the parent, without weights of its own, and what is prepared for it."""

    def __init__(self, job: Mapping[str, Any]):
        import torch

        from ipa_cli.networks.common import without_weights
        from ipa_cli.unet import attention
        from ipa_cli.unet.model import UNet

        self._settings = settings_from_json(job["settings"], "job")
        self._model, self._factor = job["model"], job["latent_factor"]
        device = devices.pick_device(job["device"])
        if device.type == "cuda":
            torch.cuda.set_device(device)
        else:
            torch.set_num_threads(max(1, torch.get_num_threads() // 2))
        with without_weights():
            unet = UNet(job["unet"])
        self.unet = unet.to(getattr(torch, job["dtype"])).to_empty(device=device).eval().requires_grad_(False)
        attention.set_processors(self.unet)
        self._context: Context
        self._ready: dict[int, Ready] = {}
        self._link = Link(1, Path(job["meeting"]), device, job["seconds"])

    def read_weights(self, names: list[str]) -> None:
        import torch

        from ipa_cli.engine.pair.link import kind

        own = dict(self.unet.named_parameters())  # as they are now: opening a graph puts some together in other tensors
        weights = [own[name] for name in names]
        with torch.no_grad():
            for weight, value in zip(weights, self._link.receive([kind(one) for one in weights]), strict=True):
                weight.copy_(value)

    def read_context(self, description: Any) -> None:
        self._context = self._receive(description)

    def prepare(self, number: int, backend: str, description: Any) -> None:
        inputs, opened = self._inputs(description), list(self._ready.values())
        given = self.unet, inputs, self._model, self._settings, graph_store(self._settings), NullReporter(), opened
        self._ready[number] = graphs.prepare_asked(backend, *given, self._factor)

    def call(self, number: int, description: Any) -> None:
        noise = self._ready[number].denoiser(self._inputs(description))
        self._link.send([noise])

    def _inputs(self, description: Any) -> UNetInputs:
        """Inputs that come without keys, values and masks: those of the context that came last."""
        inputs = self._receive(description)
        return replace(inputs, context=self._context._replace(scale=inputs.context.scale))

    def _receive(self, description: Any) -> Any:
        return rebuilt(description, iter(self._link.receive(kinds(description))))


def _work(jobs: Iterator[Any], say: Any) -> None:
    half = Half(next(jobs))
    for job in jobs:
        if "weights" in job:
            half.read_weights(job["weights"])
        elif "context" in job:
            half.read_context(job["context"])
        elif "prepare" in job:
            half.prepare(job["prepare"], job["backend"], job["inputs"])
            say({"ready": job["prepare"]})
        elif "done" in job:
            timing.synchronize(half.unet.device)
            say(job)
        else:
            half.call(job["call"], job["inputs"])


def main() -> None:
    """Compute halves; any failure is the last message."""
    jobs, say = child.serve()
    try:
        import torch

        from ipa_cli.unet import attention, model  # noqa: F401 - what `Half` needs, while the parent gets ready

        with devices.translate_out_of_memory(torch.device("cuda"), "none", tiled=True):
            _work(jobs, say)
    except devices.OutOfMemory as error:
        say({"failed": error.message, "hint": f"{LEAVE_OUT}, or draw smaller pictures"})
    except IpaError as error:
        say({"failed": error.message, "hint": error.hint})
    except BaseException as error:
        traceback.print_exc()
        say({"failed": f"{type(error).__name__}: {(str(error).splitlines() or [''])[0]}", "hint": LEAVE_OUT})
        raise
