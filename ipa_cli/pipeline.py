"""From noise to a picture: the denoising loop and the decoder, as in diffusers' SDXL pipeline."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from .errors import IpaError
from .measure import StepClock

if TYPE_CHECKING:
    import torch
    from PIL import Image
    from torch import Tensor

    from .attention import Context
    from .backends import Denoiser


class BrokenPicture(IpaError):
    """The numbers went out of range and there is no picture in them."""


@dataclass(frozen=True)
class Request:
    """One picture to draw; sizes in pixels."""

    width: int
    height: int
    steps: int
    guidance_scale: float
    seed: int

    @property
    def guided(self) -> bool:
        """Whether the UNet sees a negative half too, as in diffusers."""
        return self.guidance_scale > 1


@dataclass(frozen=True)
class Conditions:
    """What steers the UNet, made once per prompt and reference: see `attention.Context`.

    `spans` holds for each row of the context's scale the fractions of the steps between which it counts.
    """

    context: Context
    text_embeds: Tensor
    spans: tuple[tuple[float, float], ...] = ()


def counts(start: float, end: float, step: int, steps: int) -> bool:
    """Whether `step`, from 0, lies wholly between two fractions of the steps, as in diffusers' control guidance."""
    return start <= step / steps and (step + 1) / steps <= end


def scale_at(conditions: Conditions, step: int, steps: int) -> Tensor:
    """The context's scale at one step, (adapters, layers): 0 for what does not count there."""
    scale = conditions.context.scale
    counting = [counts(start, end, step, steps) for start, end in conditions.spans]
    return scale if all(counting) else scale * scale.new_tensor(counting)[:, None]


def unet_inputs(request: Request, conditions: Conditions, sample: Tensor, timestep: Tensor) -> Any:
    """The inputs of one UNet call; `sample` is (1, 4, h, w) and is doubled with guidance."""
    import torch

    from .attention import UNetInputs

    batch = conditions.text_embeds.shape[0]
    size = [request.height, request.width, 0, 0, request.height, request.width]
    time_ids = torch.tensor([size] * batch, dtype=sample.dtype, device=sample.device)
    return UNetInputs(sample.expand(batch, -1, -1, -1), timestep, conditions.text_embeds, time_ids, conditions.context)


def initial_noise(request: Request, channels: int, device: torch.device, dtype: torch.dtype) -> Tensor:
    """(1, channels, h, w) of noise drawn on the CPU, so that a seed means the same on every device."""
    import torch

    generator = torch.Generator("cpu").manual_seed(request.seed)
    shape = (1, channels, request.height // 8, request.width // 8)
    return torch.randn(shape, generator=generator, dtype=dtype).to(device)


def denoise(
    request: Request,
    conditions: Conditions,
    denoiser: Denoiser,
    scheduler: Any,
    latents: Tensor,
    clock: StepClock,
    advance: Callable[[], None],
) -> Tensor:
    """Run the scheduler's steps from pure noise; returns the latents of the picture."""
    import inspect

    import torch

    takes_generator = "generator" in inspect.signature(scheduler.step).parameters
    generator = torch.Generator("cpu").manual_seed(request.seed)
    # As in diffusers one generator serves a picture, and its first numbers went into `latents`.
    torch.randn(latents.shape, generator=generator, dtype=latents.dtype)
    extra = {"generator": generator} if takes_generator else {}
    scheduler.set_timesteps(request.steps, device=latents.device)
    latents = latents * scheduler.init_noise_sigma
    template = None
    clock.mark()
    for step, timestep in enumerate(scheduler.timesteps):
        sample = scheduler.scale_model_input(latents, timestep)
        if template is None:
            template = unet_inputs(request, conditions, sample, timestep)
        batch = template.text_embeds.shape[0]
        context = conditions.context._replace(scale=scale_at(conditions, step, len(scheduler.timesteps)))
        sample = sample.expand(batch, -1, -1, -1)
        noise = denoiser(template._replace(sample=sample, timestep=timestep, context=context))
        if request.guided:
            negative, positive = noise.chunk(2)
            noise = negative + request.guidance_scale * (positive - negative)
        latents = scheduler.step(noise, timestep, latents, **extra, return_dict=False)[0].to(latents.dtype)
        clock.mark()
        advance()
    return latents


def decode(vae: Any, latents: Tensor) -> Image.Image:
    """Turn latents (1, 4, h, w) into a picture. Raises BrokenPicture when they hold NaN or infinity."""
    import torch
    from PIL import Image

    config = vae.config
    latents = latents.to(vae.dtype)
    mean, std = getattr(config, "latents_mean", None), getattr(config, "latents_std", None)
    if mean is not None and std is not None:
        as_column = [torch.tensor(v, dtype=vae.dtype, device=latents.device).view(1, -1, 1, 1) for v in (mean, std)]
        latents = latents * as_column[1] / config.scaling_factor + as_column[0]
    else:
        latents = latents / config.scaling_factor
    with torch.no_grad():
        pixels = vae.decode(latents, return_dict=False)[0]
    pixels = pixels[0].float().div(2).add(0.5)
    if not torch.isfinite(pixels).all():
        raise BrokenPicture(
            "the picture came out as NaN or infinity: numbers left the range of the dtype",
            "try --dtype bfloat16, or --dtype float32",
        )
    array = pixels.clamp(0, 1).mul(255).round().to(torch.uint8).permute(1, 2, 0).cpu().numpy()
    return Image.fromarray(array)
