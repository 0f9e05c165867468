"""LoRAs merged into the weights of a loaded module, in place, and taken out again to the bit.

The base of every changed weight is kept for as long as a LoRA is in it: on the device where that leaves room, else in
main memory. A merge always begins from the base, so that it is the same whatever was merged before.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from ipa_cli.models.lora import change
from ipa_cli.models.lora.change import Change
from ipa_cli.models.lora.lora import Lora, acting

if TYPE_CHECKING:
    import torch
    from torch import Tensor

LEFT_FREE = 4 << 30  # bytes of GPU memory for activations, if the base of weights is to stay there


class MergedModule:
    """One part of a model, a UNet or text encoder, and what is merged into it.

    Weights are computed on `device`, wherever they live, in float32, and rounded once. They change where they lie:
    CUDA graphs remember addresses. Without `restorable` the first LoRAs stay, and no base is kept.
    """

    def __init__(self, part: str, module: Any, device: torch.device):
        self._part, self._module, self._device = part, module, device
        self.restorable = True
        self._merged: tuple[tuple[str, float], ...] = ()
        self._base: dict[str, Tensor] = {}

    def differs(self, loras: Sequence[Lora]) -> bool:
        """Whether something else is merged than these LoRAs."""
        return acting(loras, self._part) != self._merged

    def merge(self, loras: Sequence[Lora]) -> None:
        """Have these LoRAs merged and no others. Nothing at all is merged where that fails."""
        import torch

        if self._merged and not self.restorable:
            raise RuntimeError("other LoRAs were merged to stay")
        changes: dict[str, list[tuple[Change, float]]] = {}
        for lora in loras:
            if strength := lora.strength(self._part):
                for name, one in lora.file.changes[self._part].items():
                    changes.setdefault(name, []).append((one, strength))
        with torch.no_grad():
            try:
                keeper = self._keeper([name for name in changes if name not in self._base])
                for name in dict.fromkeys([*self._base, *changes]):
                    self._change(name, changes.get(name, ()), keeper)
            except BaseException:
                for name in [*self._base]:
                    self._change(name, (), self._device)
                self._merged = ()
                raise
        self._merged = acting(loras, self._part)

    def _change(self, name: str, changes: Sequence[tuple[Change, float]], keeper: torch.device) -> None:
        weight = self._weight(name)
        if name not in self._base and self.restorable:
            self._base[name] = weight.detach().to(keeper, copy=True)
        base = self._base.get(name, weight)
        if changes:
            weight.copy_(change.merged(base, changes, self._device))  # rounds
        else:
            weight.copy_(base)
            del self._base[name]

    def _keeper(self, names: Sequence[str]) -> torch.device:
        """Where the base of these weights is kept."""
        import torch

        if not self.restorable or not names or self._weight(names[0]).device.type != "cuda":
            return torch.device("cpu")
        free, _ = torch.cuda.mem_get_info(self._device)
        unused = torch.cuda.memory_reserved(self._device) - torch.cuda.memory_allocated(self._device)
        needed = sum(self._weight(name).nbytes for name in names)
        return self._device if free + unused - needed > LEFT_FREE else torch.device("cpu")

    def _weight(self, name: str) -> Tensor:
        module = self._module.get_submodule(name)
        if module.weight.is_meta:  # offloaded layer by layer, where accelerate keeps it
            return module._hf_hook.weights_map["weight"]
        return module.weight
