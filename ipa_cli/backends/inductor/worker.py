"""A process of its own (see `child.start`) that compiles regions and tries the result: a job, an answer.

Compilers write where they like and a library
built by a bad toolchain can crash when it is opened: here neither reaches the user's process.
"""

from __future__ import annotations

import functools
import importlib
import importlib.util
import pkgutil
import time
from typing import Any

import torch
from torch import Tensor

from ipa_cli.backends.inductor import kernels
from ipa_cli.system import child

MAX_PERSISTENT_ROW = 16384  # numbers that one block of threads holds while it makes their sum
# The largest relative error of compiled code against the same program run by torch, on random numbers.
TOLERANCE = {torch.float32: 1e-3, torch.float16: 2e-2, torch.bfloat16: 1e-1}
# With fp8 weights both sides are fp8, so this is not its distance from half precision (7e-2 to 8e-2 of a UNet call):
# where compiled code rounds a state otherwise in its last bit, fp8 may take the next number, 6 to 12 % away. That made
# 1.0e-2 on a CPU in float16; on GPUs the kernels' own order of sums adds to it.
FP8_TOLERANCE = 5e-2


def compile_region(
    program: str,
    package: str,
    inputs: list[Any],
    device: str,
    config: dict[str, Any],
) -> dict[str, Any]:
    """Compile an exported region into `package`, run both once on random numbers and compare them."""
    import torch._inductor
    from torch.nn.attention import SDPBackend, sdpa_kernel

    _patch_torch(device.startswith("cuda"))
    began = time.monotonic()
    exported = torch.export.load(program)
    weights = [_random(spec, device, product=True) for spec in inputs[0]]
    others = [_random(spec, device, product=False) for spec in inputs[1]]
    exported._example_inputs = ((weights, others), {})
    kinds = [SDPBackend.FLASH_ATTENTION, SDPBackend.EFFICIENT_ATTENTION, SDPBackend.MATH]
    if others[0].is_cuda:
        kinds.insert(0, SDPBackend.CUDNN_ATTENTION)
    with torch.no_grad(), sdpa_kernel(kinds, set_priority=True):
        torch._inductor.aoti_compile_and_package(exported, package_path=package, inductor_configs=config)
        built = time.monotonic()
        loader = open_package(package, others[0].device)
        got = loader.boxed_run([*weights, *others])
        expected = exported.module()(weights, others)
        errors = torch.tensor([_difference(a, b) for a, b in zip(got, expected, strict=True)])
    has_fp8 = any(weight.dtype.itemsize == 1 for weight in weights)
    error = errors.max().item()  # of one that is not a number, just that
    if not error <= (FP8_TOLERANCE if has_fp8 else TOLERANCE.get(got[0].dtype, 1e-1)):
        raise RuntimeError(f"the compiled code computes something else: relative error {error:.1e}")
    return {"error": error, "compile_s": built - began, "try_s": time.monotonic() - built}


def open_package(package: str, device: torch.device) -> Any:
    """Open a compiled package: no compiler runs, unlike in torch's own loader, which probes the CPU by building."""
    index = -1 if device.index is None else device.index
    return torch._C._aoti.AOTIModelPackageLoader(package, "model", True, 1, index)


def _difference(a: Tensor, b: Tensor) -> float:
    """Relative error of `a` against `b`."""
    return ((a.double() - b.double()).norm() / b.double().norm().clamp(min=1e-30)).item()


@functools.cache  # or each further region would wrap what the last one left
def _patch_torch(cuda: bool) -> None:
    _declare_arrays_once()
    if cuda:
        _skip_cpu_probes()
        _prefer_persistent_reductions()
        _patch_descriptor_names()


def _declare_arrays_once() -> None:
    """Have torch declare an array of sizes or strides in each buffer of C++ code that uses it.

    It recognizes a buffer by the `id` of its bound method (to 2.12), or by its own (2.13), and keeps neither alive: one
    at the address of another passes for it, and its code uses arrays that are declared elsewhere, later or nowhere
    (pytorch/pytorch#178147 and #193621). So one bound method per buffer is used, and kept with the code.
    """
    from torch._inductor.codegen.cpp_wrapper_cpu import CppWrapperCpu

    original = CppWrapperCpu.codegen_int_array_var

    def by_buffer(self: Any, int_array: str, writeline: Any, *rest: Any, **named: Any) -> str:
        kept = self.__dict__.setdefault("_ipa_writelines", {})
        return original(self, int_array, kept.setdefault(writeline, writeline), *rest, **named)

    CppWrapperCpu.codegen_int_array_var = by_buffer  # type: ignore[method-assign]


def _skip_cpu_probes() -> None:
    """Treat the CPU as a plain one: only the host's side of GPU code runs there.

    Otherwise torch builds and loads up to six programs to find out its vector instructions, 28 s a process on a
    16-core host (`cpp.vec_isa_ok` spares the first kind alone, not AMX and its like).
    """
    from torch._inductor import cpu_vec_isa

    cpu_vec_isa.valid_vec_isa_list = lambda: []  # type: ignore[assignment]


def _prefer_persistent_reductions() -> None:
    """Let kernels that norm or quantize rows hold a whole row; torch reads one of more than 1,024 numbers again."""
    from torch._inductor.choices import InductorChoices
    from torch._inductor.runtime.hints import ReductionHint
    from torch._inductor.virtualized import V

    original = InductorChoices.should_use_persistent_reduction

    def should_be_persistent(features: Any, *given: Any) -> bool:
        along_rows = features.get_reduction_hint() == ReductionHint.INNER
        fits = along_rows and V.graph.sizevars.statically_known_leq(features.reduction_numel, MAX_PERSISTENT_ROW)
        return fits or original(features, *given)

    InductorChoices.should_use_persistent_reduction = staticmethod(should_be_persistent)  # type: ignore[assignment]


def _patch_descriptor_names() -> None:
    """Let torch benchmark Triton kernels that read a view through descriptors.

    It writes the view in C++ into the Python program that benchmarks them, where the name has the right shape already.
    """
    from torch._inductor.codegen.wrapper import PythonWrapperCodegen
    from torch._inductor.virtualized import V

    original = PythonWrapperCodegen._generate_tma_descriptor_call_stable

    def by_name(self: Any, desc: Any, apply_size_hints: bool = False) -> str:
        if not apply_size_hints:
            return original(self, desc)
        block = list(V.graph.sizevars.optimization_hints(desc.block_shape))
        return f"triton.tools.tensor_descriptor.TensorDescriptor.from_tensor({desc.tensor.get_name()}, {block})"

    PythonWrapperCodegen._generate_tma_descriptor_call_stable = by_name  # type: ignore[method-assign]


def _random(spec: tuple[list[int], list[int], str], device: str, product: bool) -> Tensor:
    """Numbers of unit size, or the weights of a product that keeps unit size."""
    shape, stride, dtype = spec
    tensor = torch.empty_strided(shape, stride, device=device).normal_()
    if product and tensor.ndim > 1:
        # A single row is the weight scale of an fp8 layer.
        tensor = tensor.abs_().clamp_(0.5, 2) if shape[0] == 1 else tensor.mul_(tensor[0].numel() ** -0.5)
    return tensor.to(getattr(torch, dtype))


def _preload() -> None:
    """Import what compiling takes, seconds of work, while the first part is still being traced elsewhere."""
    for name in ("torch._inductor.compile_fx", "torch._export.serde.serialize"):
        importlib.import_module(name)
    if importlib.util.find_spec("triton"):
        for module in pkgutil.iter_modules(kernels.__path__):  # programs may call their operators
            importlib.import_module(f"{kernels.__name__}.{module.name}")


def main() -> None:
    """Answer jobs until the parent ends."""
    jobs, say = child.serve()
    _preload()
    for job in jobs:
        say(compile_region(**job))
