"""Open the packages of a compiled UNet and call them with the weights that it has now."""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ipa_cli.backends.base import LATENT_FACTOR, Denoiser
from ipa_cli.backends.cuda_graph import CudaGraphs
from ipa_cli.backends.inductor import fp8, tuning
from ipa_cli.backends.inductor.kernel_options import KernelOptions
from ipa_cli.backends.inductor.partition import Part, Weight, aligned, partition, run_parts
from ipa_cli.backends.inductor.regions import Layout, Region
from ipa_cli.backends.inductor.worker import open_package
from ipa_cli.errors import IpaError
from ipa_cli.unet.inputs import Context, ControlInputs, UNetInputs

PLAN = "graph.json"


def load(unet: Any, folder: Path, options: Mapping[str, Any]) -> Denoiser:
    """Open the packages in `folder`: nothing is compiled, now or later, and the weights are read from `unet`.

    Raises IpaError for packages that do not open, or are not for these weights.
    """
    unet.to(memory_format=torch.channels_last)
    parts = partition(unet, kernel_options(options, unet.device))
    plan, found = _read_plan(folder, parts)
    calls: dict[str, Any] = {}
    for region in found:
        run = open_compiled(folder / f"{region.name}.pt2", unet.device)
        calls |= {name: _call(run, region, parts[name], plan) for name in region.parts}

    compiled = {name: parts[name] for name in calls}

    @torch.no_grad()
    def call(inputs: UNetInputs | ControlInputs) -> Any:
        check_size(inputs.sample, plan)
        check_text(inputs.context, plan)
        return run_parts(unet, compiled, inputs, lambda name, given: calls[name](given))

    if unet.device.type != "cuda" or not options["cuda_graph"]:
        return call
    weights = [weight for part in compiled.values() for weight in part.weights.values() if weight.transform]
    return CudaGraphs(call, unet, _refresher(weights))


def _refresher(weights: Sequence[Weight]) -> Callable[[], None]:
    """Brings transformed weights up to date where the UNet's own have changed: a CUDA graph does not look at those."""
    seen: list[list[int]] = []

    def refresh() -> None:
        versions = [weight.versions for weight in weights]
        if versions != seen:
            for weight in weights:
                weight.read()
            seen[:] = versions

    return refresh


def _read_plan(folder: Path, parts: Mapping[str, Part]) -> tuple[dict[str, Any], list[Region]]:
    """The plan that `compile` wrote, and its regions. Raises IpaError for another UNet's, or anything else."""
    try:
        plan = json.loads((folder / PLAN).read_text())
        found = [Region(*(region[field] for field in Region._fields)) for region in plan["regions"]]
        fits = all(len(region.weight_layouts) == len(parts[name].weights) for region in found for name in region.parts)
        layouts = [Layout.from_json(layout) for region in found for layout in (*region.weight_layouts, *region.inputs)]
        sizes = [
            *plan["sample"],
            *(plan["dynamic"] or ()),
            *(plan["text"] or ()),
            *(side for layout in layouts for side in layout.shape),
        ]
        fits = fits and len(plan["sample"]) == 4 and set(map(type, sizes)) == {int}
    except (OSError, ValueError, LookupError, TypeError, AttributeError) as error:
        raise IpaError(f"the graph is not as ipa writes it: {error!r}", "`ipa cache clear` removes it") from error
    if not fits:
        raise IpaError("the graph is for another UNet", "`ipa cache clear` removes it")
    return plan, found


def open_compiled(package: Path, device: torch.device) -> Any:
    """The function in a package."""
    try:
        return open_package(str(package), device).boxed_run
    except RuntimeError as error:
        raise IpaError(
            f"the compiled graph does not open: {str(error).splitlines()[0]}", "type ipa compile to build it again"
        ) from error


def _call(run: Any, region: Region, part: Part, plan: Mapping[str, Any]) -> Any:
    """The compiled code with the weights of `part`; checks what it does not check itself: shapes, strides, dtypes."""

    text = region.text if plan["text"] else None

    def what(number: int, layout: Layout) -> tuple:
        if number == text:
            return layout.of_any_text()
        return layout.of_any_size() if plan["dynamic"] else tuple(layout)

    expected = [what(number, Layout.from_json(layout)) for number, layout in enumerate(region.inputs)]
    for (name, weight), layout in zip(part.weights.items(), region.weight_layouts, strict=True):
        found, wanted = Layout.of(weight.read()), Layout.from_json(layout)
        if (found.shape, found.dtype) != (wanted.shape, wanted.dtype):
            raise IpaError(
                f"this graph is not for these weights: {part.name}.{name} is {found.dtype} {found.shape}",
                "type ipa compile to build one that is",
            )

    def call(inputs: list[Tensor]) -> list[Tensor]:
        inputs = [aligned(tensor) for tensor in inputs]
        layouts = [what(number, Layout.of(tensor)) for number, tensor in enumerate(inputs)]
        if layouts != expected:
            raise ValueError(f"{part.name} was compiled for {expected}, not {layouts}")
        return run([*(weight.read() for weight in part.weights.values()), *inputs])

    return call


def kernel_options(options: Mapping[str, Any], device: torch.device) -> KernelOptions:
    """The kernels that the parts use on `device`. Raises IpaError where this torch has no fp8 products for it."""
    triton = importlib.util.find_spec("triton") is not None
    fp8_layers = tuple(options["fp8_layers"]) if options["precision"] == "fp8" else ()
    kernels = tuple(options["kernels"]) if triton else ()
    blockwise = not options["dynamic"] and fp8.supports_blockwise(device)  # rows that 16 divides must be known
    half, chosen = True, tuning.Tuning()
    if device.type == "cuda":
        if fp8_layers:
            fp8.check_product(device)
        half = fp8.gives_half(device)
        chosen = tuning.chosen(torch.cuda.get_device_capability(device), options["tuning"])
    return KernelOptions(kernels, options["fuse_upsample"], fp8_layers, blockwise, half, chosen)


def check_size(sample: Tensor, plan: Mapping[str, Any]) -> None:
    """Raise IpaError unless a graph serves latents of this size."""
    height, width = (LATENT_FACTOR * side for side in sample.shape[-2:])
    if plan["dynamic"]:
        low, high = plan["dynamic"]
        good, wanted = low <= min(height, width) and max(height, width) <= high, f"{low} to {high} pixels a side"
    else:
        good, wanted = (
            list(sample.shape) == plan["sample"],
            "{1}x{0}".format(*(LATENT_FACTOR * n for n in plan["sample"][2:])),
        )
    if not good:
        raise IpaError(
            f"this graph is for {wanted}, not {width}x{height}",
            f"type ipa compile --size {width}x{height}, or ipa compile --dynamic",
        )


def check_text(context: Context, plan: Mapping[str, Any]) -> None:
    """Raise IpaError unless a graph for a range of text tokens serves those of a context."""
    if not context.text or not plan["text"]:
        return
    tokens = context.text[0].shape[3]
    if not plan["text"][0] <= tokens <= plan["text"][1]:
        raise IpaError(
            "this graph is for {} to {} text tokens, not ".format(*plan["text"]) + str(tokens),
            "choose a range with the compile option text, 77 tokens for each chunk of a prompt",
        )
