"""What the network denoises and how its error is measured: noise levels, the loss, the check on the way."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from training import architecture
from training.trainer import WORK

if TYPE_CHECKING:
    from training.pools import Batches


def noise_levels(device) -> Tensor:
    """(1000,): the share of the signal's power left at each timestep."""
    c = architecture.SCHEDULER
    betas = torch.linspace(c["beta_start"] ** 0.5, c["beta_end"] ** 0.5, c["num_train_timesteps"], device=device)
    return (1 - betas.square()).cumprod(0)


def denoising_loss(net, latents, noise, timestep, alphas, context, pooled, time_ids) -> Tensor:
    """(B,): squared error of the predicted velocity (Salimans and Ho 2022); `context`: what the network attends to."""
    alpha = alphas[timestep][:, None, None, None]
    noisy = alpha.sqrt() * latents + (1 - alpha).sqrt() * noise
    velocity = alpha.sqrt() * noise - (1 - alpha).sqrt() * latents
    added = {"text_embeds": pooled, "time_ids": time_ids}
    predicted = net(noisy.to(WORK), timestep, context, added_cond_kwargs=added).sample.float()
    return (predicted - velocity).square().mean((1, 2, 3))


#: Times at which the check looks: nearly clean, where shapes are decided, where the layout is, nearly noise.
CHECK_TIMES = (150, 450, 700, 900)


@torch.no_grad()
def check(name: str, net, batches: Batches, number: int, alphas, conditions: Callable) -> None:
    """Print the error on pictures kept from training at fixed noise, given the right condition and another's.

    `conditions(number, index, other)` -> (context, pooled) for the pictures `index`, from those of `other`.
    """
    index = torch.arange(min(batches.kept, len(batches.pools[number]) // 2), device=batches.device)
    latents, *_, time_ids = batches.at(number, index)
    noise = torch.randn(latents.shape, generator=torch.Generator().manual_seed(0)).to(latents)
    right, wrong = [], []
    for time_ in CHECK_TIMES:
        timestep = torch.full_like(index, time_)
        for errors, other in ((right, index), (wrong, index.roll(1))):
            context, pooled = conditions(number, index, other)
            error = denoising_loss(net, latents, noise, timestep, alphas, context, pooled, time_ids)
            errors.append(error.mean().item())
    more = " ".join(f"{100 * (b / a - 1):+.1f} %" for a, b in zip(right, wrong, strict=True))
    own = " ".join(f"{a:.4f}" for a in right)
    size = f"{batches.pools[number].height} pixels"
    print(f"[{name}] check, {size}, times {CHECK_TIMES}: {own}; with another's condition: {more}", flush=True)
