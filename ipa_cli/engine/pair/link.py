"""Tensors between two processes: by NCCL between GPUs, by gloo on a CPU, as bytes in one broadcast."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator, Sequence
from datetime import timedelta
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch
    from torch import Tensor

Kind = tuple[str, tuple[int, ...]]  # dtype and shape of a tensor
PART = 256 << 20  # bytes of several tensors that go together


class Link:
    """Two processes, `rank` 0 and 1, that meet at the file `meeting`; one receives exactly what the other sends.

    They find each other on the loopback interface. On a GPU nothing waits for the host but the first meeting.
    """

    def __init__(self, rank: int, meeting: Path, device: torch.device, seconds: float):
        import torch
        import torch.distributed as dist

        loopback = next((name for _, name in socket.if_nameindex() if name.startswith("lo")), None)
        for variable in ("NCCL_SOCKET_IFNAME", "GLOO_SOCKET_IFNAME") if loopback else ():
            os.environ.setdefault(variable, str(loopback))
        os.environ["TORCH_NCCL_ASYNC_ERROR_HANDLING"] = "0"  # it would end this process without a word
        self.rank = rank
        self.device = torch.device("cuda", device.index or 0) if device.type == "cuda" else device
        # The backends themselves, and not the process group that torch has one of in each process.
        store, limit = dist.FileStore(str(meeting), 2), timedelta(seconds=seconds)
        self._group: Any
        if device.type == "cuda":
            options = dist.ProcessGroupNCCL.Options()
            options._timeout = limit
            self._group = dist.ProcessGroupNCCL(store, rank, 2, options)
            self._group.eager_connect_single_device(self.device)
        else:
            self._group = dist.ProcessGroupGloo(store, rank, 2, limit)

    def send(self, tensors: Sequence[Tensor]) -> None:
        """Send tensors whose kinds the other process knows."""
        import torch

        for part in _parts([kind(tensor) for tensor in tensors]):
            flat = [tensors[number].detach().contiguous().reshape(-1).view(torch.uint8) for number in part]
            self._broadcast(torch.cat(flat), self.rank)

    def receive(self, kinds: Sequence[Kind]) -> list[Tensor]:
        """The contiguous tensors of these kinds that the other process sends."""
        import torch

        found: dict[int, Tensor] = {}
        for part in _parts(kinds):
            length = sum(_size(kinds[number]) for number in part)
            flat = torch.empty(length, dtype=torch.uint8, device=self.device)
            self._broadcast(flat, 1 - self.rank)
            at = 0
            for number in part:
                dtype, shape = kinds[number]
                size = _size(kinds[number])
                found[number] = flat[at : at + size].view(getattr(torch, dtype)).view(shape)
                at += size
        return [found[number] for number in range(len(kinds))]

    def close(self) -> None:
        """Leave the other process; what waits for it on the GPU ends, with whatever is in its memory."""
        if self.device.type == "cuda":
            self._group.abort()

    def _broadcast(self, flat: Tensor, source: int) -> None:
        import torch.distributed as dist

        options = dist.BroadcastOptions()
        options.rootRank, options.rootTensor = source, 0
        self._group.broadcast([flat], options).wait()  # on a GPU its stream waits, and the host goes on


def kind(tensor: Tensor) -> Kind:
    """What a process that receives a tensor knows of it."""
    return str(tensor.dtype).removeprefix("torch."), tuple(tensor.shape)


def _size(kind: Kind) -> int:
    import math

    import torch

    return math.prod(kind[1]) * getattr(torch, kind[0]).itemsize


def _parts(kinds: Sequence[Kind]) -> Iterator[list[int]]:
    """The numbers of the tensors that go together, those of wide dtypes first, so that each is aligned."""
    import torch

    order = sorted(range(len(kinds)), key=lambda number: -getattr(torch, kinds[number][0]).itemsize)
    before = 0

    def part(number: int) -> int:
        nonlocal before
        before += _size(kinds[number])
        return before // PART

    for _, numbers in groupby(order, part):
        yield list(numbers)


def described(value: Any, tensors: list[Tensor]) -> Any:
    """Inputs of a UNet, or a member of them, as JSON: kinds in place of its tensors, which join `tensors`."""
    import torch

    if isinstance(value, torch.Tensor):
        tensors.append(value)
        return {"tensor": kind(value)}
    if isinstance(value, list):
        return [described(one, tensors) for one in value]
    if type(value) is tuple:
        return {"tuple": [described(one, tensors) for one in value]}
    if value is None:
        return None
    name = type(value).__name__
    return {"type": name, "members": {field: described(getattr(value, field), tensors) for field in _types()[name]}}


def kinds(description: Any) -> list[Kind]:
    """The kinds of the tensors in a description, in their order."""
    if isinstance(description, list):
        return [found for one in description for found in kinds(one)]
    if description is None:
        return []
    if "tensor" in description:
        dtype, shape = description["tensor"]
        return [(dtype, tuple(shape))]
    return kinds(description["tuple"] if "tuple" in description else list(description["members"].values()))


def rebuilt(description: Any, tensors: Iterator[Tensor]) -> Any:
    """What `described` got, from a description and its tensors."""
    from ipa_cli.unet import inputs

    if isinstance(description, list):
        return [rebuilt(one, tensors) for one in description]
    if description is None:
        return None
    if "tensor" in description:
        return next(tensors)
    if "tuple" in description:
        return tuple(rebuilt(one, tensors) for one in description["tuple"])
    members = {name: rebuilt(one, tensors) for name, one in description["members"].items()}
    return getattr(inputs, description["type"])(**members)


def _types() -> dict[str, tuple[str, ...]]:
    """The types that inputs are made of, with the names of their members."""
    from dataclasses import fields

    from ipa_cli.unet import inputs

    data = (inputs.UNetInputs, inputs.AddedConditions, inputs.ControlResiduals)
    return {"Context": inputs.Context._fields} | {one.__name__: tuple(f.name for f in fields(one)) for one in data}
