"""A tiny Triton kernel; `ipa doctor --deep` runs this file as a process of its own."""

import triton
import triton.language as tl


@triton.jit
def add(left, right, out, size, BLOCK: tl.constexpr):
    at = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    inside = at < size
    tl.store(out + at, tl.load(left + at, mask=inside) + tl.load(right + at, mask=inside), mask=inside)


def main() -> None:
    import torch

    left, right = torch.rand(2, 1000, device="cuda")
    out = torch.empty_like(left)
    add[(8,)](left, right, out, 1000, BLOCK=128)
    if not torch.equal(out, left + right):
        raise RuntimeError("the kernel computes something else")


if __name__ == "__main__":
    main()
