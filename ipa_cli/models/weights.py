"""Weight files on disk: safetensors first, pickles only as bare tensors."""

from __future__ import annotations

import errno
import json
import math
import re
import shlex
from collections.abc import Collection, Mapping
from concurrent.futures import Future
from functools import lru_cache
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from ipa_cli.errors import IpaError
from ipa_cli.models import broken

if TYPE_CHECKING:
    import torch
    from torch import Tensor

SAFETENSORS = (".safetensors", ".sft")
PICKLES = (".ckpt", ".bin", ".pt", ".pth")

Shapes = Mapping[str, tuple[int, ...]]


def is_safetensors(file: str | Path) -> bool:
    """Whether a file is one by its name, in letters of any case."""
    return str(file).lower().endswith(SAFETENSORS)


def is_pickle(file: str | Path) -> bool:
    """Whether a file is one of torch by its name, in letters of any case."""
    return str(file).lower().endswith(PICKLES)


class WeightsError(IpaError):
    """A weight file is broken, unsafe or of another kind."""


def stamp(path: Path) -> tuple[int, ...] | None:
    """What differs once a file has changed; None where nobody may look: reading it says what is wrong."""
    try:
        status = path.stat()
    except (OSError, ValueError):
        return None
    return status.st_ino, status.st_size, status.st_mtime_ns


def header(path: Path) -> Mapping[str, tuple[int, ...]]:
    """Names and shapes of the tensors in a `.safetensors` file, without reading them."""
    from safetensors import SafetensorError

    try:
        status = path.stat()
        return _header(path, (status.st_ino, status.st_size, status.st_mtime_ns))
    except SafetensorError as error:
        raise _not_safetensors(path, path, error) from error
    except OSError as error:
        raise _unreadable(path, error) from error


@lru_cache(maxsize=16)
def _header(path: Path, _: tuple[int, ...]) -> Mapping[str, tuple[int, ...]]:
    """A header is asked for by each part of a model, and takes 25 ms for one of SDXL."""
    from safetensors import safe_open

    with safe_open(path, framework="np") as file:
        return MappingProxyType({key: tuple(file.get_slice(key).get_shape()) for key in file.keys()})  # noqa: SIM118


def shapes(path: Path) -> Mapping[str, tuple[int, ...]]:
    """Names and shapes of the tensors in a weight file, without reading them; a pickle is read as `load_adapter`."""
    if not is_pickle(path):
        return header(path)
    return {name: tuple(tensor.shape) for name, tensor in _pickled(path, "meta").items()}


def metadata(path: Path) -> dict[str, str]:
    """What the header of a `.safetensors` file that `header` takes says beside its tensors."""
    from safetensors import safe_open

    with safe_open(path, framework="np") as file:
        return file.metadata() or {}


def size(path: Path, names: Collection[str] | None, dtype: torch.dtype) -> int:
    """Bytes that a file's tensors, all or those named, take in `dtype`; a pickle, which is not opened, as it is."""
    if is_pickle(path):
        return path.stat().st_size
    return dtype.itemsize * sum(math.prod(shape) for name, shape in header(path).items() if _wanted(name, names))


def _wanted(name: str, names: Collection[str] | None) -> bool:
    return names is None or name in names


def read(path: Path, names: Collection[str] | None, device: torch.device, dtype: torch.dtype) -> dict[str, Tensor]:
    """The tensors of a weight file, all or those of these names, on `device`, floating ones in `dtype`.

    Raises WeightsError for a broken file. Several threads may read at once: it spends its time outside of Python.
    """
    from safetensors import safe_open

    if is_pickle(path):
        loaded = _pickled(path, "cpu").items()
        return {name: _as(tensor, dtype).to(device) for name, tensor in loaded if _wanted(name, names)}
    header(path)
    try:
        with safe_open(path, framework="pt", device=str(device)) as file:
            return {name: _as(file.get_tensor(name), dtype) for name in file.keys() if _wanted(name, names)}  # noqa: SIM118
    except OSError as error:
        raise _unreadable(path, error) from error


def finished(path: Path, reading: Future[dict[str, Tensor]], dtype: torch.dtype) -> dict[str, Tensor]:
    """What `reader.start` reads of a file, floating tensors in `dtype`. Raises WeightsError for a broken file."""
    try:
        return {name: _as(tensor, dtype) for name, tensor in reading.result().items()}
    except OSError as error:
        raise _unreadable(path, error) from error


def readable_by_gpu(path: Path) -> bool:
    """Whether `reader` takes a file: a `.safetensors` file of tensors whose kinds torch has."""
    if is_pickle(path):
        return False
    from ipa_cli.models import reader

    header(path)
    with path.open("rb") as file:
        entries = json.loads(file.read(int.from_bytes(file.read(8), "little")))
    return all(entry["dtype"] in reader.KINDS for name, entry in entries.items() if name != "__metadata__")


def _not_safetensors(path: Path, source: Path | bytes, error: Exception) -> WeightsError:
    reason, hint = broken.safetensors(source, error)
    if path.is_symlink() and path.resolve().parent.name == "blobs":  # of the hub's cache
        hint = f"delete it, to have it downloaded again: rm {shlex.quote(str(path.resolve()))}"
    return WeightsError(f"{path} is not a whole .safetensors file: {reason}", hint)


def _unreadable(path: Path, error: OSError) -> WeightsError:
    denied = isinstance(error, PermissionError)
    hint = "check its permissions" if denied else "check the disk, or download it again"
    return WeightsError(f"{path} cannot be read: {error.strerror or error}", hint)


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
    if is_safetensors(path):
        return {adapter_name(name): shape for name, shape in header(path).items()}
    return {adapter_name(name): tuple(tensor.shape) for name, tensor in _pickled(path, "meta").items()}


def load_named(path: Path, pattern: re.Pattern[str]) -> dict[str, Tensor]:
    """Those tensors of an IP-Adapter file whose `adapter_name` matches whole, by it."""
    if not is_safetensors(path):
        found = {adapter_name(name): tensor for name, tensor in _pickled(path, "cpu").items()}
        return {name: tensor for name, tensor in found.items() if pattern.fullmatch(name)}
    from safetensors import safe_open

    wanted = {name: adapter_name(name) for name in header(path)}
    with safe_open(path, framework="pt") as file:
        return {usual: file.get_tensor(name) for name, usual in wanted.items() if pattern.fullmatch(usual)}


def of_adapter(names: Collection[str]) -> frozenset[str]:
    """Those tensors of a file that are an IP-Adapter's: a training checkpoint holds its whole UNet beside.

    Without the LoRA of FaceID adapters, which is merged as one.
    """
    return frozenset(name for name in names if _part(name) and "_lora." not in name)


def _part(name: str) -> str | None:
    part = adapter_name(name).partition(".")[0]
    return part if part in ("image_proj", "ip_adapter") else None


def of_bytes(path: Path, data: bytes, only_tensors: bool = True) -> tuple[dict[str, Tensor], dict[str, str]]:
    """The tensors in a weight file's content, and its metadata, which a pickle has not.

    Raises WeightsError for a broken file, and for a pickle of anything but tensors, and of text and numbers where it
    need not hold `only_tensors`.
    """
    if is_pickle(path):
        return _pickled(path, "cpu", data, () if only_tensors else (str, int, float, type(None))), {}
    from safetensors import SafetensorError
    from safetensors.torch import load

    try:
        tensors = load(data)
    except (SafetensorError, KeyError) as error:  # KeyError: numbers that torch has not
        raise _not_safetensors(path, data, error) from error
    header = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])  # whole, or it would not have been loaded
    return tensors, header.get("__metadata__") or {}


def _pickled(path: Path, device: str, data: bytes | None = None, beside: tuple[type, ...] = ()) -> dict[str, Tensor]:
    """The tensors of a pickle by their names, those of a table in it as "table.name"; `data` is its content if known.

    Values of the types `beside` are left out. Raises WeightsError for a pickle that holds anything else.
    """
    import torch

    loaded = _unpickled(path, data, device, "bare tensors, and nothing else is opened")
    found: dict[str, Tensor] = {}
    for name, value in loaded.items() if isinstance(loaded, Mapping) else ():
        found |= {f"{name}.{key}": one for key, one in value.items()} if isinstance(value, Mapping) else {name: value}
    found = {name: value for name, value in found.items() if type(value) not in beside}
    for name, value in found.items():
        if not isinstance(name, str) or not isinstance(value, torch.Tensor) or value.layout != torch.strided:
            raise WeightsError(f"{path} holds more than tensors: {str(name)[:80]!r}", "use its .safetensors version")
        if value.nbytes > value.untyped_storage().nbytes():  # one number can pass for any many
            raise WeightsError(f"{path}: {name[:80]!r} is larger than its data", "use its .safetensors version")
    return found


def _unpickled(path: Path, data: bytes | None, device: str, wanted: str, hint: str = "") -> Any:
    """What a pickle holds, opened so that no code of it runs. Raises WeightsError, which says what was `wanted`."""
    import io
    import pickle
    import struct

    import torch

    # All that torch's reader raises for damaged files.
    damaged = (pickle.UnpicklingError, struct.error, RuntimeError, EOFError, LookupError, ValueError, AssertionError)
    try:
        return torch.load(path if data is None else io.BytesIO(data), map_location=device, weights_only=True)
    except (*damaged, TypeError, AttributeError, OSError) as error:
        if isinstance(error, OSError) and error.errno != errno.EINVAL:  # which a file that is cut off gives
            raise _unreadable(path, error) from error
        reason, usual = broken.pickle(path if data is None else data, error)
        raise WeightsError(f"{path} is not a pickle of {wanted}: {reason}", hint or usual) from error


def pickled_tensor(path: Path, data: bytes) -> Tensor:
    """The one tensor in a pickle, alone or in a list. Raises WeightsError for one that holds anything else."""
    import torch

    found = _unpickled(path, data, "cpu", "a bare tensor", "save it as .safetensors")
    found = found[0] if isinstance(found, list | tuple) and len(found) == 1 else found
    if not isinstance(found, torch.Tensor) or found.layout != torch.strided or not found.is_floating_point():
        raise WeightsError(f"{path} is not a pickle of one tensor", "save it as .safetensors")
    if found.nbytes > found.untyped_storage().nbytes():
        raise WeightsError(f"{path}: its tensor is larger than its data", "save it as .safetensors")
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
