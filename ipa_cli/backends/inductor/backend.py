"""The UNet's parts compiled ahead of time by AOTInductor, without weights; on a GPU inside one CUDA graph.

`compile` traces each kind of part (see `regions`) and has processes of their own compile them side by side;
`load` opens the packages, which runs no compiler, and lets the UNet's modules call them with their own weights.
"""

from __future__ import annotations

import importlib.util
import json
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from concurrent.futures import Future, as_completed
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ipa_cli.backends import requirements, workers
from ipa_cli.backends.base import Denoiser, Report
from ipa_cli.backends.cuda_graph import CudaGraphs
from ipa_cli.backends.inductor import fp8, regions
from ipa_cli.backends.inductor.blocks import CONVOLUTIONS, KERNELS, LINEAR, Ways
from ipa_cli.backends.inductor.parts import Part, aligned, split, walk
from ipa_cli.backends.inductor.regions import Layout, Region
from ipa_cli.backends.inductor.worker import open_package
from ipa_cli.backends.options import check_sizes, read_options
from ipa_cli.errors import IpaError, UsageError
from ipa_cli.hardware import cores, packages
from ipa_cli.unet.inputs import UNetInputs

compiles = True

PLAN = "graph.json"
PRECISIONS = ("half", "fp8")

FAST: dict[str, Any] = {
    "cuda_graph": True,
    "cudnn_attention": True,
    # of our own: "cross" and "self" attention, product and "gate" of the feed-forward networks on Hopper, and where
    # that is not for fp8, its gate by "rows"
    "kernels": ["cross", "gate", "rows"],
    "phases": True,  # upsampling and its convolution as one convolution of the small picture
    "precision": "half",  # or "fp8" for the layers below
    "fp8_layers": ["attn1.to_qkv", "ff.net.0.proj", "ff.net.2", "conv1", "conv2"],  # convolutions on Hopper alone
    "search_convolutions": False,  # cuDNN times its ways at the first call
    "max_autotune": False,  # products of Triton where they seem faster: minutes to compile, slower on an H100
    "dynamic": None,  # [smallest, largest] height and width in pixels; None: the example's size alone
    "inductor": {},  # further settings of torch._inductor.config, by name
}
PRESETS = {"fast": FAST, "max": FAST}  # nothing that takes longer to compile was measured to run faster


def missing(environment: Any) -> IpaError | None:
    """Why compiled graphs cannot run here."""
    return requirements.problem("inductor", packages.installed())


def missing_to_compile(environment: Any) -> IpaError | None:
    """Why graphs cannot be compiled here."""
    reason = missing(environment)
    if reason is not None:
        return reason
    if not workers.compiler_works():
        return IpaError(
            f"there is no working C++ compiler ({workers.compiler()})",
            "install g++ (apt install g++) or set CXX to a compiler; or choose --backend eager",
        )
    if torch.cuda.is_available() and importlib.util.find_spec("triton") is None:
        return IpaError("Triton is missing", "type pip install triton, or choose --backend eager")
    return None


def versions() -> dict[str, str]:
    """The packages, and the CPU's capability as torch sees it, that the generated code depends on."""
    here = packages.installed()
    found = {name: here[name] or "none" for name in ("torch", "triton", "diffusers")}
    return {**found, "cpu": torch.backends.cpu.get_cpu_capability()}


def options(given: str | Mapping[str, Any] | None) -> dict[str, Any]:
    """The options in full; raises UsageError on an unknown one or an impossible value."""
    chosen = read_options("inductor", given, PRESETS)
    if chosen["precision"] not in PRECISIONS:
        raise UsageError(f"inductor has no precision {chosen['precision']!r}", f"known: {', '.join(PRECISIONS)}")
    for name, known in (("fp8_layers", (*LINEAR, *CONVOLUTIONS)), ("kernels", KERNELS)):
        strange = [word for word in chosen[name] if word not in known]
        if strange:
            raise UsageError(f"inductor's option {name} has {strange[0]!r}", f"known: {', '.join(known)}")
    check_sizes("inductor", chosen["dynamic"])
    unknown = [name for name in chosen["inductor"] if not _is_setting(name)]
    if unknown:
        raise UsageError(
            f"torch._inductor.config has no setting {unknown[0]!r}", "see python -m pydoc torch._inductor.config"
        )
    return chosen


def compile(unet: Any, example: UNetInputs, folder: Path, options: Mapping[str, Any], report: Report) -> None:
    """Compile the parts of `unet` for inputs like `example` into `folder`: packages and a plan, no weights.

    Raises IpaError when the toolchain is missing or fails, or what it made crashes or computes something else.
    """
    reason = missing_to_compile(None)
    if reason is not None:
        raise reason
    if example.context.mask and options["dynamic"] is not None:
        raise UsageError("a graph for a range of sizes takes no masks", "leave out --mask, or compile for one size")
    if options["dynamic"] is not None:
        _check_size(example.sample, options)
    if options["precision"] == "fp8":
        fp8.check(unet.device)
    unet.to(memory_format=torch.channels_last)
    parts = split(unet, _ways(options, unet.device), example.context)
    count, threads = _how_many(unet), 4 if options["max_autotune"] else 1
    with (
        tempfile.TemporaryDirectory(prefix="work-", dir=folder) as work,
        workers.started(Path(work), count, threads) as submit,
    ):
        report("looking at the UNet's parts")
        found = regions.find(unet, parts, example, options["dynamic"] is not None)
        settings = _settings(options, len(found) / count)
        jobs: dict[Future, Region] = {}
        for region in found:
            report(f"tracing {region.name}")
            part, sizes = parts[region.parts[0]], _latent_sizes(region, example, options)
            exported = regions.export(part, region, sizes)
            exported._example_inputs = None  # the weights: the workers make up their own
            program = Path(work, f"{region.name}.program.pt2")
            torch.export.save(exported, program)
            job = {
                "program": str(program),
                "package": str(Path(work, f"{region.name}.pt2")),
                "inputs": [region.weight_layouts, region.inputs],
                "device": str(unet.device),
                "config": settings,
                "cudnn_attention": options["cudnn_attention"],
                "measuring": str(Path(work, "measuring.lock")) if options["max_autotune"] else None,
            }
            jobs[submit(job)] = region
        for done, job_done in enumerate(as_completed(jobs), 1):
            name = jobs[job_done].name
            answer = job_done.result()
            report(f"compiled {name} in {answer['compile_s']:.1f} s ({done} of {len(jobs)})")
            shutil.move(Path(work, f"{name}.pt2"), folder / f"{name}.pt2")
    plan = {
        "sample": list(example.sample.shape),
        "dynamic": options["dynamic"],
        "regions": [region._asdict() for region in found],
    }
    (folder / PLAN).write_text(json.dumps(plan))


def load(unet: Any, folder: Path | None, options: Mapping[str, Any]) -> Denoiser:
    """Open the packages in `folder`; nothing is compiled, now or later, and the weights are read from `unet`.

    Raises IpaError for packages that do not open, or are not for these weights.
    """
    assert folder is not None
    unet.to(memory_format=torch.channels_last)
    parts = split(unet, _ways(options, unet.device))
    plan, found = _read_plan(folder, parts)
    calls: dict[str, Any] = {}
    for region in found:
        run = _open(folder / f"{region.name}.pt2", unet.device)
        calls |= {name: _call(run, region, parts[name], plan["dynamic"] is not None) for name in region.parts}

    compiled = {name: parts[name] for name in calls}

    @torch.no_grad()
    def call(inputs: UNetInputs) -> Tensor:
        _check_size(inputs.sample, plan)
        with _searching(options["search_convolutions"]):
            return walk(unet, compiled, inputs, lambda name, given: calls[name](given))

    return CudaGraphs(call) if unet.device.type == "cuda" and options["cuda_graph"] else call


def _read_plan(folder: Path, parts: Mapping[str, Part]) -> tuple[dict[str, Any], list[Region]]:
    """The plan that `compile` wrote, and its regions. Raises IpaError for another UNet's, or anything else."""
    try:
        plan = json.loads((folder / PLAN).read_text())
        found = [Region(*(region[field] for field in Region._fields)) for region in plan["regions"]]
        fits = all(len(region.weight_layouts) == len(parts[name].weights) for region in found for name in region.parts)
        layouts = [Layout.read(layout) for region in found for layout in (*region.weight_layouts, *region.inputs)]
        sizes = [*plan["sample"], *(plan["dynamic"] or ()), *(side for layout in layouts for side in layout.shape)]
        fits = fits and len(plan["sample"]) == 4 and set(map(type, sizes)) == {int}
    except (OSError, ValueError, LookupError, TypeError, AttributeError) as error:
        raise IpaError(f"the graph is not as ipa writes it: {error!r}", "`ipa cache clear` removes it") from error
    if not fits:
        raise IpaError("the graph is for another UNet", "`ipa cache clear` removes it")
    return plan, found


def _open(package: Path, device: torch.device) -> Any:
    """The function in a package."""
    try:
        return open_package(str(package), device).boxed_run
    except RuntimeError as error:
        raise IpaError(
            f"the compiled graph does not open: {str(error).splitlines()[0]}", "type ipa compile to build it again"
        ) from error


def _call(run: Any, region: Region, part: Part, dynamic: bool) -> Any:
    """Run the compiled code with the weights of `part`, after a look at what it takes for granted."""

    def what(layout: Layout) -> tuple:
        return layout.of_any_size() if dynamic else tuple(layout)

    expected = [what(Layout.read(layout)) for layout in region.inputs]
    for (name, weight), layout in zip(part.weights.items(), region.weight_layouts, strict=True):
        found, wanted = Layout.of(weight.read()), Layout.read(layout)
        if (found.shape, found.dtype) != (wanted.shape, wanted.dtype):
            raise IpaError(
                f"this graph is not for these weights: {part.name}.{name} is {found.dtype} {found.shape}",
                "type ipa compile to build one that is",
            )

    def call(inputs: list[Tensor]) -> list[Tensor]:
        inputs = [aligned(tensor) for tensor in inputs]
        layouts = [what(Layout.of(tensor)) for tensor in inputs]
        if layouts != expected:
            raise ValueError(f"{part.name} was compiled for {expected}, not {layouts}")
        return run([*(weight.read() for weight in part.weights.values()), *inputs])

    return call


@contextmanager
def _searching(wanted: bool) -> Iterator[None]:
    """Let cuDNN look for its fastest way for each new convolution."""
    before = torch.backends.cudnn.benchmark
    torch.backends.cudnn.benchmark = wanted or before
    try:
        yield
    finally:
        torch.backends.cudnn.benchmark = before


def _ways(options: Mapping[str, Any], device: torch.device) -> Ways:
    """How the parts compute on `device`."""
    triton = importlib.util.find_spec("triton") is not None
    eight = tuple(options["fp8_layers"]) if options["precision"] == "fp8" else ()
    kernels = tuple(options["kernels"]) if triton else ()
    squares = not options["dynamic"] and fp8.multiplies_blocks(device)  # rows that 16 divides must be known
    return Ways(kernels, options["phases"], eight, squares)


def _check_size(sample: Tensor, plan: Mapping[str, Any]) -> None:
    height, width = sample.shape[-2] * 8, sample.shape[-1] * 8
    if plan["dynamic"]:
        low, high = plan["dynamic"]
        good, wanted = low <= min(height, width) and max(height, width) <= high, f"{low} to {high} pixels a side"
    else:
        good, wanted = list(sample.shape) == plan["sample"], "{1}x{0}".format(*(8 * n for n in plan["sample"][2:]))
    if not good:
        raise IpaError(
            f"this graph is for {wanted}, not {width}x{height}",
            f"type ipa compile --size {width}x{height}, or ipa compile --dynamic",
        )


def _latent_sizes(region: Region, example: UNetInputs, options: Mapping[str, Any]) -> tuple[int, int] | None:
    """The smallest and largest height or width of the states that a part sees; None where it is fixed."""
    shape, (height, width) = region.inputs[0].shape, example.sample.shape[-2:]
    if options["dynamic"] is None or len(shape) < 3:
        return None
    pixels = shape[2] * shape[3] if len(shape) == 4 else shape[1]
    ratio = round((height * width / pixels) ** 0.5)
    low, high = options["dynamic"]
    return max(2, low // 8 // ratio), -(-high // 8 // ratio)


def _settings(options: Mapping[str, Any], parts_each: float) -> dict[str, Any]:
    """Settings of torch._inductor.config for one part, where each process compiles so many."""
    settings = {
        # As long to build as one part takes, and a third of each later one is saved. torch names them by openssl.
        "aot_inductor.precompile_headers": parts_each > 3 and shutil.which("openssl") is not None,
        "aot_inductor.compile_wrapper_opt_level": "O0",
        "aot_inductor.enable_line_tables": False,
        "cpp.dynamic_threads": True,  # or the number of threads of the worker is frozen
        "max_autotune_gemm": options["max_autotune"],
        "max_autotune_conv_backends": "ATEN",
        **options["inductor"],
    }
    return {name: value for name, value in settings.items() if _is_setting(name)}


def _is_setting(name: str) -> bool:
    from torch._inductor import config

    return name in config.get_config_copy()


def _how_many(unet: Any) -> int:
    """How many processes compile side by side: no more than cores, 16, or GiB of free memory on the GPU."""
    count = min(cores.usable(), 16)
    if unet.device.type != "cuda":
        return count
    torch.cuda.empty_cache()
    return max(1, min(count, torch.cuda.mem_get_info(unet.device)[0] // 2**30))
