"""An SDXL UNet that takes nothing but tensors and lists of them, as onediff's compilers want it."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from ipa_cli.errors import UsageError
from ipa_cli.unet.attention import UNetInputs


class FlatUNet(nn.Module):
    """`attention.call_unet` as a module; what changes between calls, the scale too, is an argument."""

    def __init__(self, unet: Any):
        super().__init__()
        self.unet = unet

    def forward(
        self,
        sample: Tensor,
        timestep: Tensor,
        text_embeds: Tensor,
        time_ids: Tensor,
        scale: Tensor,
        text: list[Tensor],
        image: list[list[Tensor]],
    ) -> Tensor:
        return self.unet(
            sample,
            timestep,
            encoder_hidden_states=(text, image, scale, ()),
            added_cond_kwargs={"text_embeds": text_embeds, "time_ids": time_ids},
            return_dict=False,
        )[0]


def arguments(inputs: UNetInputs) -> tuple[Any, ...]:
    """The arguments of `FlatUNet`, always of one layout and dtype, because compiled code is for one alone."""
    sample, timestep, text_embeds, time_ids, context = inputs
    if context.mask:
        raise UsageError("this backend knows no masks", "use --backend inductor or eager, or leave out --mask")
    plain = (sample.contiguous(), timestep.float(), text_embeds.contiguous(), time_ids.contiguous())
    return (*plain, context.scale.contiguous(), list(context.text), [list(adapter) for adapter in context.image])
