"""Weight files on disk: safetensors first, pickles only as bare tensors."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .errors import IpaError

if TYPE_CHECKING:
    from torch import Tensor


class WeightsError(IpaError):
    """A weight file is broken, unsafe or of another kind."""


def header(path: Path) -> dict[str, tuple[int, ...]]:
    """Names and shapes of the tensors in a `.safetensors` file, without reading them."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="np") as file:
            return {key: tuple(file.get_slice(key).get_shape()) for key in file.keys()}  # noqa: SIM118
    except (SafetensorError, OSError) as error:
        raise WeightsError(f"{path} is not a whole .safetensors file: {error}", "download it again") from error


def adapter_shapes(path: Path) -> dict[str, tuple[int, ...]]:
    """Shapes of the tensors of an IP-Adapter file as its `.safetensors` names them: "image_proj.proj.weight"."""
    if path.suffix == ".safetensors":
        return header(path)
    parts = load_adapter(path, "meta")
    return {f"{part}.{key}": tuple(t.shape) for part, tensors in parts.items() for key, t in tensors.items()}


def load_adapter(path: Path, device: str = "cpu") -> dict[str, dict[str, Tensor]]:
    """An IP-Adapter file as {"image_proj": …, "ip_adapter": …}; a pickle is read with `weights_only=True`."""
    if path.suffix == ".safetensors":
        from safetensors.torch import load_file

        header(path)
        return _nested(load_file(path, device))
    import pickle

    import torch

    try:
        loaded = torch.load(path, map_location=device, weights_only=True)
    except (pickle.UnpicklingError, RuntimeError, EOFError, KeyError, IndexError, ValueError) as error:
        reason = (str(error).splitlines() or ["it is empty"])[0]
        raise WeightsError(
            f"{path} is not a pickle of bare tensors, and nothing else is opened: {reason}",
            "use the .safetensors file of the same adapter",
        ) from error
    return _nested(loaded)


def _nested(loaded: Any) -> dict[str, dict[str, Tensor]]:
    if isinstance(loaded, Mapping) and {"image_proj", "ip_adapter"} <= set(loaded):
        return {part: dict(loaded[part]) for part in ("image_proj", "ip_adapter")}
    parts: dict[str, dict[str, Tensor]] = {"image_proj": {}, "ip_adapter": {}}
    for key, tensor in loaded.items() if isinstance(loaded, Mapping) else ():
        part, _, rest = key.partition(".")
        if part in parts:
            parts[part][rest] = tensor
    if not all(parts.values()):
        raise WeightsError(
            "the file holds no IP-Adapter: it has no image_proj.* and ip_adapter.* tensors",
            "name the adapter's own file with --ip-adapter-weight-name",
        )
    return parts
