"""The UNet with nothing but tensors and lists of them as named arguments, as onediff wants it."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from ipa_cli.errors import UsageError
from ipa_cli.unet.inputs import AddedConditions, Context, UNetInputs


class FlatInputsUNet(nn.Module):
    """The UNet as a module; what changes between calls, the scale too, is an argument."""

    def __init__(self, unet: Any):
        super().__init__()
        self.unet = unet

    def forward(
        self,
        sample: Tensor,
        timestep: Tensor,
        scale: Tensor,
        text: list[Tensor],
        image: list[list[Tensor]],
        text_embeds: Tensor | None = None,
        time_ids: Tensor | None = None,
    ) -> Tensor:
        added = None if text_embeds is None or time_ids is None else AddedConditions(text_embeds, time_ids)
        return self.unet(UNetInputs(sample, timestep, Context(text, image, scale), added))


def flatten_inputs(inputs: UNetInputs) -> dict[str, Any]:
    """The arguments of `FlatInputsUNet`, always of one layout and dtype, because compiled code is for one alone."""
    context, added = inputs.context, inputs.added
    if context.mask or context.regions or inputs.control is not None:
        raise UsageError("this backend takes no masks, no regions and no ControlNet", "use --backend inductor or eager")
    found = {
        "sample": inputs.sample.contiguous(),
        "timestep": inputs.timestep.float(),
        "scale": context.scale.contiguous(),
        "text": list(context.text),
        "image": [list(adapter) for adapter in context.image],
    }
    if added is not None:
        found |= {"text_embeds": added.text_embeds.contiguous(), "time_ids": added.time_ids.contiguous()}
    return found
