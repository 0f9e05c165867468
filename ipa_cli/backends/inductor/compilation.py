"""Trace each kind of part of a UNet, and have processes of their own compile them side by side."""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Mapping
from concurrent.futures import Future, as_completed
from pathlib import Path
from typing import Any

import torch

from ipa_cli.backends.base import LATENT_FACTOR, Report
from ipa_cli.backends.inductor import regions, worker_pool
from ipa_cli.backends.inductor.loading import PLAN, check_size, check_text, kernel_options
from ipa_cli.backends.inductor.partition import partition
from ipa_cli.backends.inductor.regions import Region
from ipa_cli.errors import UsageError
from ipa_cli.hardware import cores
from ipa_cli.unet.inputs import ControlInputs, UNetInputs


def compile(
    unet: Any, example: UNetInputs | ControlInputs, folder: Path, options: Mapping[str, Any], report: Report
) -> list[str]:
    """Compile the parts of `unet` for inputs like `example` into `folder`: packages and a plan, no weights.

    Returns a warning for each region that was compiled once more.
    Raises IpaError when the toolchain fails, or what it made crashes or computes something else.
    """
    if example.context.regions and (options["dynamic"] or options["text"]) is not None:
        raise UsageError(
            "a graph for a range of sizes or text tokens takes no regions",
            "leave out --region, or compile for one size",
        )
    if example.context.mask and options["dynamic"] is not None:
        raise UsageError("a graph for a range of sizes takes no masks", "leave out --mask, or compile for one size")
    if options["dynamic"] is not None:
        check_size(example.sample, options)
    check_text(example.context, options)
    unet.to(memory_format=torch.channels_last)
    parts = partition(unet, kernel_options(options, unet.device), example.context)
    count = _worker_count(unet)
    with (
        tempfile.TemporaryDirectory(prefix="work-", dir=folder) as work,
        worker_pool.started(Path(work), count) as submit,
    ):
        report("looking at the UNet's parts")
        found = regions.find(unet, parts, example, options["dynamic"] is not None)
        settings = inductor_settings(options, len(found) / count)
        jobs: dict[Future, Region] = {}
        warnings: list[str] = []
        for region in found:
            report(f"tracing {region.name}")
            part, sizes = parts[region.parts[0]], _latent_sizes(region, example, options)
            exported = regions.export(part, region, sizes, options["text"])
            exported._example_inputs = None  # the weights: the workers make up their own
            program = Path(work, f"{region.name}.program.pt2")
            torch.export.save(exported, program)
            job = {
                "program": str(program),
                "package": str(Path(work, f"{region.name}.pt2")),
                "inputs": [region.weight_layouts, region.inputs],
                "device": str(unet.device),
                "config": settings,
            }
            jobs[submit(job)] = region
        for done, job_done in enumerate(as_completed(jobs), 1):
            name = jobs[job_done].name
            answer = job_done.result()
            warnings += worker_pool.again(name, answer)
            took, error = answer["compile_s"], answer["error"]
            report(f"compiled {name} in {took:.1f} s, {error:.0e} from uncompiled ({done} of {len(jobs)})")
            shutil.move(Path(work, f"{name}.pt2"), folder / f"{name}.pt2")
    plan = {
        "sample": list(example.sample.shape),
        "dynamic": options["dynamic"],
        "text": options["text"],
        "regions": [region._asdict() for region in found],
    }
    (folder / PLAN).write_text(json.dumps(plan))
    return warnings


def _latent_sizes(
    region: Region, example: UNetInputs | ControlInputs, options: Mapping[str, Any]
) -> tuple[int, int] | None:
    """The smallest and largest height or width of the states that a part sees; None where it is fixed."""
    shape, (height, width) = region.inputs[0].shape, example.sample.shape[-2:]
    if options["dynamic"] is None or len(shape) < 3:
        return None
    pixels = shape[2] * shape[3] if len(shape) == 4 else shape[1]
    ratio = round((height * width / pixels) ** 0.5)
    low, high = options["dynamic"]
    return max(2, low // LATENT_FACTOR // ratio), -(-high // LATENT_FACTOR // ratio)


def inductor_settings(options: Mapping[str, Any], parts_each: float) -> dict[str, Any]:
    """Settings of torch._inductor.config for one part, where each process compiles this many."""
    settings = {
        # As long to build as one part takes, and a third of each later one is saved. torch names them by openssl.
        "aot_inductor.precompile_headers": parts_each > 3 and shutil.which("openssl") is not None,
        "aot_inductor.compile_wrapper_opt_level": "O0",
        "aot_inductor.enable_line_tables": False,
        "cpp.dynamic_threads": True,  # or the number of threads of the worker is frozen
        "max_autotune_gemm": False,  # minutes to compile, and slower on an H100
        **options["inductor"],
    }
    from torch._inductor import config

    known = config.get_config_copy()
    return {name: value for name, value in settings.items() if name in known}


def _worker_count(unet: Any) -> int:
    """How many processes compile side by side: at most one per core, 16, and one per GiB of free GPU memory."""
    count = min(cores.usable(), 16)
    if unet.device.type != "cuda":
        return count
    torch.cuda.empty_cache()
    return max(1, min(count, torch.cuda.mem_get_info(unet.device)[0] // 2**30))
