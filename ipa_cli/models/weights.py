"""Weight files on disk: safetensors first, pickles only as bare tensors."""

from __future__ import annotations

import errno
import itertools
import json
import math
from collections.abc import Collection, Iterator, Mapping
from functools import lru_cache
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from ipa_cli.errors import IpaError

if TYPE_CHECKING:
    import torch
    from torch import Tensor

# What is read at once on the way to a GPU, in bytes.
CHUNK = 32 << 20
# The tensors a GPU is handed straight from the file, by their kind's name in it.
KINDS = {
    **{"F64": "float64", "F32": "float32", "F16": "float16", "BF16": "bfloat16", "I64": "int64", "I32": "int32"},
    **{"F8_E4M3": "float8_e4m3fn", "F8_E5M2": "float8_e5m2"},
}
PICKLES = (".ckpt", ".bin", ".pt", ".pth")


Shapes = Mapping[str, tuple[int, ...]]


class WeightsError(IpaError):
    """A weight file is broken, unsafe or of another kind."""


def header(path: Path) -> Mapping[str, tuple[int, ...]]:
    """Names and shapes of the tensors in a `.safetensors` file, without reading them."""
    from safetensors import SafetensorError

    try:
        status = path.stat()
        return _header(path, (status.st_ino, status.st_size, status.st_mtime_ns))
    except (SafetensorError, OSError) as error:
        raise WeightsError(f"{path} is not a whole .safetensors file: {error}", "download it again") from error


@lru_cache(maxsize=16)
def _header(path: Path, _: tuple[int, ...]) -> Mapping[str, tuple[int, ...]]:
    """A header is asked for by each part of a model, and takes 25 ms for one of SDXL."""
    from safetensors import safe_open

    with safe_open(path, framework="np") as file:
        return MappingProxyType({key: tuple(file.get_slice(key).get_shape()) for key in file.keys()})  # noqa: SIM118


def metadata(path: Path) -> dict[str, str]:
    """What the header of a `.safetensors` file that `header` takes says beside its tensors."""
    from safetensors import safe_open

    with safe_open(path, framework="np") as file:
        return file.metadata() or {}


def size(path: Path, names: Collection[str] | None, dtype: torch.dtype) -> int:
    """Bytes that a file's tensors, all or those named, take in `dtype`; a pickle, which is not opened, as it is."""
    if path.suffix in PICKLES:
        return path.stat().st_size
    return dtype.itemsize * sum(math.prod(shape) for name, shape in header(path).items() if _wanted(name, names))


def _wanted(name: str, names: Collection[str] | None) -> bool:
    return names is None or name in names


def read(path: Path, names: Collection[str] | None, device: torch.device, dtype: torch.dtype) -> dict[str, Tensor]:
    """The tensors of a weight file, all or those of these names, on `device`, floating ones in `dtype`.

    Raises WeightsError for a broken file. Several threads may read at once: it spends its time outside of Python.
    """
    from safetensors import safe_open

    if path.suffix in PICKLES:
        loaded = _pickled(path, "cpu").items()
        return {name: _as(tensor, dtype).to(device) for name, tensor in loaded if _wanted(name, names)}
    header(path)
    try:
        tensors = in_chunks(path, names, device, dtype) if device.type == "cuda" else None
        if tensors is None:
            with safe_open(path, framework="pt", device=str(device)) as file:
                tensors = {name: _as(file.get_tensor(name), dtype) for name in file.keys() if _wanted(name, names)}  # noqa: SIM118
    except OSError as error:
        raise _unreadable(path, error) from error
    return tensors


def _unreadable(path: Path, error: OSError) -> WeightsError:
    return WeightsError(f"{path} cannot be read: {error.strerror}", "check the disk, or download it again")


def in_chunks(
    path: Path, names: Collection[str] | None, device: torch.device, dtype: torch.dtype, size: int = CHUNK
) -> dict[str, Tensor] | None:
    """`read` for a GPU: the file goes through two buffers of `size` bytes that the GPU reads by itself.

    It is never whole in main memory. None where a tensor is of a kind that is not in KINDS.
    """
    import torch

    pinned = device.type == "cuda"
    with path.open("rb", buffering=0) as file:
        length = int.from_bytes(file.read(8), "little")
        parsed = json.loads(file.read(length))
        entries = {name: entry for name, entry in parsed.items() if name != "__metadata__" and _wanted(name, names)}
        if not {entry["dtype"] for entry in entries.values()} <= KINDS.keys():
            return None
        chunks = _chunks(file, [torch.empty(size, dtype=torch.uint8, pin_memory=pinned) for _ in range(2)], device)
        chunk, start = torch.empty(0, dtype=torch.uint8), 0  # a part of the data and where it begins
        tensors = {}
        for name, entry in sorted(entries.items(), key=lambda item: item[1]["data_offsets"]):
            tensor = torch.empty(entry["shape"], dtype=getattr(torch, KINDS[entry["dtype"]]), device=device)
            inside, (first, end) = tensor.view(-1).view(torch.uint8), entry["data_offsets"]
            at = first
            if start + len(chunk) < first:  # what lies between is not wanted
                file.seek(8 + length + first)
                start, chunk = first, chunk[:0]
            while at < end:
                while at >= start + len(chunk):
                    start, chunk = start + len(chunk), next(chunks)
                part = chunk[at - start : end - start]
                inside[at - first : at - first + len(part)].copy_(part, non_blocking=True)
                at += len(part)
            tensors[name] = _as(tensor, dtype)
        if pinned:
            torch.cuda.current_stream(device).synchronize()  # before the buffers go
    return tensors


def _chunks(file: Any, buffers: list[Tensor], device: torch.device) -> Iterator[Tensor]:
    """What is left of `file`, through `buffers` in turns; one is filled again when the GPU has read it."""
    import torch

    being_read: dict[int, Any] = {}
    for turn in itertools.cycle(range(len(buffers))):
        if turn in being_read:
            being_read[turn].synchronize()
        count = file.readinto(buffers[turn].numpy())
        if not count:
            raise OSError(errno.EIO, "it ends too early")
        yield buffers[turn][:count]
        if device.type == "cuda":
            being_read[turn] = torch.cuda.current_stream(device).record_event()


def _as(tensor: Tensor, dtype: torch.dtype) -> Tensor:
    return tensor.to(dtype) if tensor.is_floating_point() else tensor


def usual_name(name: str) -> str:
    """A tensor's name in every version: transformers 5 left a first "text_model." out; old VAEs named attention so."""
    name = name.removeprefix("text_model.")
    for old, new in ((".query.", ".to_q."), (".key.", ".to_k."), (".value.", ".to_v."), (".proj_attn.", ".to_out.0.")):
        name = name.replace(old, new)
    return name


def adapter_name(name: str) -> str:
    """A tensor's name as IP-Adapter's files have it, "image_proj.…" or "ip_adapter.…"; training writes another."""
    for trained, usual in (("image_proj_model.", "image_proj."), ("adapter_modules.", "ip_adapter.")):
        if name.removeprefix("module.").startswith(trained):
            return usual + name.removeprefix("module.").removeprefix(trained)
    return name


def adapter_shapes(path: Path) -> dict[str, tuple[int, ...]]:
    """Shapes of the tensors of an IP-Adapter file by `adapter_name`."""
    if path.suffix == ".safetensors":
        return {adapter_name(name): shape for name, shape in header(path).items()}
    return {adapter_name(name): tuple(tensor.shape) for name, tensor in _pickled(path, "meta").items()}


def load_adapter(path: Path) -> dict[str, dict[str, Tensor]]:
    """An IP-Adapter file as {"image_proj": …, "ip_adapter": …}; a pickle is read with `weights_only=True`."""
    if path.suffix != ".safetensors":
        return nested(_pickled(path, "cpu"))
    from safetensors import safe_open

    names = of_adapter(header(path))
    with safe_open(path, framework="pt") as file:
        return nested({name: file.get_tensor(name) for name in names})


def of_adapter(names: Collection[str]) -> frozenset[str]:
    """Those tensors of a file that are an IP-Adapter's: a training checkpoint holds its whole UNet beside."""
    return frozenset(name for name in names if _part(name))


def _part(name: str) -> str | None:
    part = adapter_name(name).partition(".")[0]
    return part if part in ("image_proj", "ip_adapter") else None


def _pickled(path: Path, device: str) -> dict[str, Tensor]:
    """The tensors of a pickle by their names, those of a table in it as "table.name".

    Raises WeightsError for one that holds anything else.
    """
    import pickle

    import torch

    try:
        loaded = torch.load(path, map_location=device, weights_only=True)
    except OSError as error:
        raise _unreadable(path, error) from error
    except (pickle.UnpicklingError, RuntimeError, EOFError, KeyError, IndexError, ValueError) as error:
        reason = (str(error).splitlines() or ["it is empty"])[0]
        raise WeightsError(
            f"{path} is not a pickle of bare tensors, and nothing else is opened: {reason}",
            "use its .safetensors version",
        ) from error
    found: dict[str, Tensor] = {}
    for name, value in loaded.items() if isinstance(loaded, Mapping) else ():
        found |= {f"{name}.{key}": one for key, one in value.items()} if isinstance(value, Mapping) else {name: value}
    for name, value in found.items():
        if not isinstance(name, str) or not isinstance(value, torch.Tensor) or value.layout != torch.strided:
            raise WeightsError(f"{path} holds more than tensors: {str(name)[:80]!r}", "use its .safetensors version")
        if value.nbytes > value.untyped_storage().nbytes():  # one number can pass for any many
            raise WeightsError(f"{path}: {name[:80]!r} is larger than its data", "use its .safetensors version")
    return found


def nested(loaded: Mapping[str, Tensor]) -> dict[str, dict[str, Tensor]]:
    """The tensors of an IP-Adapter file as {"image_proj": …, "ip_adapter": …}; what else is in it is left out."""
    parts: dict[str, dict[str, Tensor]] = {"image_proj": {}, "ip_adapter": {}}
    for name, tensor in loaded.items():
        if part := _part(name):
            if not tensor.is_floating_point():
                kind = str(tensor.dtype).removeprefix("torch.")
                raise WeightsError(
                    f"the IP-Adapter's {name} holds {kind}, not floating-point numbers", "download it again"
                )
            parts[part][adapter_name(name).partition(".")[2]] = tensor
    if not all(parts.values()):
        raise WeightsError(
            "the file holds no IP-Adapter: it has no image_proj.* and ip_adapter.* tensors",
            "name the adapter's own file with --ip-adapter-weight-name",
        )
    return parts
