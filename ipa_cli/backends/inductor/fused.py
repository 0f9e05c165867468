"""What a transformer block computes by fewer kernels than it has modules: products as one, and kernels of our own."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn

from ipa_cli.backends.inductor import fp8, tuning
from ipa_cli.unet.inputs import Context


class FusedQkvSelfAttention:
    """`attention.SelfAttention` with one product for queries, keys and values."""

    def __call__(self, attn: Any, hidden_states: Tensor, *_: Any, **__: Any) -> Tensor:
        parts = attn.to_qkv(hidden_states).chunk(3, dim=-1)
        query, key, value = (part.unflatten(-1, (attn.heads, -1)).transpose(1, 2) for part in parts)
        return attn.to_out[0](F.scaled_dot_product_attention(query, key, value).transpose(1, 2).flatten(2))


class FusedGeglu(nn.Module):
    """diffusers' GEGLU, product and gate, as one kernel."""

    def __init__(self, gate: Any, tile: tuning.Geglu):
        super().__init__()
        self.proj, self.tile = gate.proj, tile

    def forward(self, states: Tensor) -> Tensor:
        from ipa_cli.backends.inductor.kernels import feed_forward

        out = feed_forward.geglu(states.flatten(0, -2), self.proj.weight, self.proj.bias, *self.tile)
        return out.unflatten(0, states.shape[:-1])


class GateQuantize(nn.Module):
    """diffusers' GEGLU before a linear layer in fp8: gate and rowwise quantization as one kernel behind the product."""

    def __init__(self, gate: Any, choice: tuning.GateQuantize):
        super().__init__()
        self.proj, self.warps = gate.proj, choice.warps

    def forward(self, states: Tensor) -> fp8.RowwiseStates:
        from ipa_cli.backends.inductor.kernels import feed_forward

        values, scale = feed_forward.gate_quantize(self.proj(states).flatten(0, -2), self.warps)
        return fp8.RowwiseStates(values, scale, states.shape[:-1])


class GegluQuantize(nn.Module):
    """diffusers' GEGLU in fp8 before a blockwise linear layer: product, gate and quantization as one kernel."""

    def __init__(self, gate: Any):
        super().__init__()
        self.proj = gate.proj

    def forward(self, states: Tensor | fp8.RowwiseStates) -> fp8.BlockwiseStates:
        from ipa_cli.backends.inductor.kernels import feed_forward

        proj, (values, scale, shape) = self.proj, fp8.RowwiseStates.of(states)
        values, scale = feed_forward.geglu_quantize(values, scale, proj.weight, proj.weight_scale, proj.bias)
        return fp8.BlockwiseStates(values, scale, shape)


class NormQuantize(nn.Module):
    """A layer norm before a layer in fp8: the sum that it norms, norm and rowwise quantization as one kernel."""

    def __init__(self, norm: nn.LayerNorm, choice: tuning.NormQuantize):
        super().__init__()
        self.weight, self.bias, self.eps, self.choice = norm.weight, norm.bias, norm.eps, choice

    def forward(self, addends: Sequence[Tensor], bias: Tensor | None = None) -> tuple[fp8.RowwiseStates, Tensor]:
        from ipa_cli.backends.inductor.kernels import layer_norm

        rows, shape = [addend.flatten(0, -2) for addend in addends], addends[0].shape
        values, scale, total = layer_norm.norm_quantize(rows, self.weight, self.bias, bias, self.eps, *self.choice)
        return fp8.RowwiseStates(values, scale, shape[:-1]), total.unflatten(0, shape[:-1])


class FusedCrossAttention:
    """`attention.CrossAttention` of one adapter: text and image in one kernel."""

    def __init__(self, choice: tuning.CrossAttention):
        self.choice = choice

    def __call__(self, attn: Any, hidden_states: Tensor, encoder_hidden_states: Context, *_: Any, **__: Any) -> Tensor:
        from ipa_cli.backends.inductor.kernels import attention

        text, images, scale = encoder_hidden_states[:3]
        own, any_text = text[0], not isinstance(text[0].shape[3], int)
        query = attn.to_q(hidden_states)
        return attn.to_out[0](attention.cross_attention(query, own, images[0][0], scale, *self.choice, any_text))
