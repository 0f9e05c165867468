"""The VAE's decoder as one program, compiled ahead of time without its weights, for pictures of one size on a GPU."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ipa_cli.backends.base import Report
from ipa_cli.backends.inductor import compilation, decoder_blocks, norms, worker_pool
from ipa_cli.backends.inductor.loading import open_compiled
from ipa_cli.backends.inductor.partition import aligned
from ipa_cli.backends.inductor.regions import Layout
from ipa_cli.errors import IpaError
from ipa_cli.hardware import cores

NAME = "decoder"
PLAN = "decoder.json"


def compile(
    vae: Any,
    latents: Tensor,
    folder: Path,
    options: Mapping[str, Any],
    report: Report,
    fused: bool = False,
) -> list[str]:
    """Compile `AutoencoderKL.decode` for latents like these into `folder`: a package and its inputs' layouts.

    fused: with our kernels, for a decoder that `decoder_blocks.supports`; else what torch's compiler makes of it.
    Returns a warning where it was compiled once more.
    Raises IpaError when the toolchain fails, or what it made crashes or computes something else.
    """
    weights, latents = _weights(vae), aligned(latents.to(vae.dtype))
    layouts = [[Layout.of(tensor) for tensor in tensors] for tensors in (weights, [latents])]
    with (
        tempfile.TemporaryDirectory(prefix="work-", dir=folder) as work,
        worker_pool.started(Path(work), 1, min(cores.usable(), 8)) as submit,
    ):
        report("tracing the decoder")
        with torch.no_grad():
            program = torch.export.export(_Decode(vae, fused), (weights, [latents]), strict=False)
        program._example_inputs = None  # the weights: the worker makes up its own
        torch.export.save(program, Path(work, "program.pt2"))
        report("compiling the decoder")
        job = {
            "program": str(Path(work, "program.pt2")),
            "package": str(folder / f"{NAME}.pt2"),
            "inputs": layouts,
            "device": str(vae.device),
            "config": compilation.inductor_settings(options, parts_each=1),
        }
        answer = submit(job).result()
    (folder / PLAN).write_text(json.dumps(layouts))
    return worker_pool.again(f"the {NAME}", answer)


def load(vae: Any, folder: Path) -> Callable[[Tensor], Tensor]:
    """`AutoencoderKL.decode` by the package in `folder`, with the weights of `vae`.

    Raises IpaError for a package that does not open, or is not for these weights.
    """
    weights = _weights(vae)
    try:
        given, (latents,) = json.loads((folder / PLAN).read_text())
        layouts, expected = [Layout.from_json(one) for one in given], Layout.from_json(latents)
    except (OSError, ValueError, LookupError, TypeError) as error:
        raise IpaError(f"the graph is not as ipa writes it: {error!r}", "`ipa cache clear` removes it") from error
    if layouts != [Layout.of(weight) for weight in weights]:
        raise IpaError("the graph is for another VAE", "`ipa cache clear` removes it")
    run = open_compiled(folder / f"{NAME}.pt2", vae.device)

    @torch.no_grad()
    def decode(latents: Tensor) -> Tensor:
        latents = aligned(latents.to(vae.dtype))
        if Layout.of(latents) != expected:
            raise ValueError(f"this decoder was compiled for {expected}, not {Layout.of(latents)}")
        return run([*weights, latents])[0]

    return decode


class _Decode(nn.Module):
    """`AutoencoderKL.decode` as a function of weights and latents."""

    def __init__(self, vae: Any, fused: bool):
        super().__init__()
        self.parts = [norms.on_meta(part) for part in _parts(vae)]  # a list, so that their parameters are not its own
        if fused:
            self.parts[-1] = decoder_blocks.FusedDecoder(norms.meta_copy(vae.decoder))
        self.names = [list(dict(part.named_parameters())) for part in self.parts]

    def forward(self, weights: list[Tensor], inputs: list[Tensor]) -> list[Tensor]:
        states, left = inputs[0], iter(weights)
        for part, names in zip(self.parts, self.names, strict=True):
            states = torch.func.functional_call(part, {name: next(left) for name in names}, (states,))
        return [states]


def _parts(vae: Any) -> list[nn.Module]:
    """What latents go through."""
    return [part for part in (vae.post_quant_conv, vae.decoder) if part is not None]


def _weights(vae: Any) -> list[Tensor]:
    return [weight for part in _parts(vae) for weight in part.parameters()]
