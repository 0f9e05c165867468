"""What the steps begin with: noise by the seeds and the latents of a picture, drawn in the order of diffusers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ipa_cli.hardware import devices

if TYPE_CHECKING:
    import torch
    from PIL.Image import Image
    from torch import Tensor

    from ipa_cli.models.architectures.base import Architecture
    from ipa_cli.pipeline.init_image import Init
    from ipa_cli.pipeline.task import Request

Moments = tuple["Tensor", "Tensor"]  # mean and standard deviation of latents


@dataclass(frozen=True)
class Encoded:
    """A picture to begin with as the VAE sees it, and where it is redrawn; (1, channels, h, w) each.

    `masked` is the picture with grey in the area, for a UNet made for inpainting.
    """

    image: Moments
    mask: Tensor | None = None  # (1, 1, h, w), 1 where it is redrawn
    masked: Moments | None = None


@dataclass(frozen=True)
class Start:
    """Noise with a deviation of 1, (pictures, channels, h, w), and the generators that go on where it ended.

    With a picture to begin with `image` are its latents, for each picture; `mask` is that of `Encoded`, where latents
    are blended; `beside` are the mask and the latents of the masked picture, further channels of the UNet's input.
    """

    noise: Tensor
    generators: Sequence[torch.Generator]
    image: Tensor | None = None
    mask: Tensor | None = None
    beside: Tensor | None = None

    def seen(self, latents: Tensor) -> Tensor:
        """What the UNet sees of latents."""
        import torch

        return latents if self.beside is None else torch.cat([latents, self.beside], dim=1)


def from_noise(
    request: Request, seeds: Sequence[int], architecture: Architecture, device: torch.device, dtype: torch.dtype
) -> Start:
    """Noise is drawn on the CPU, so that a seed means the same on every device."""
    generators = _generators(seeds)
    return Start(devices.sent(_noise(request, generators, architecture, dtype), device), generators)


def example(
    request: Request, architecture: Architecture, unet: Any, device: torch.device, dtype: torch.dtype
) -> Tensor:
    """Something of the shape that the UNet is given for one picture, without encoding any."""
    import torch

    noise = from_noise(request, request.seeds[:1], architecture, device, dtype).noise
    missing = unet.config.in_channels - noise.shape[1]
    return torch.cat([noise, noise[:, :1].expand(-1, missing, -1, -1)], dim=1) if missing else noise


def from_image(
    request: Request,
    encoded: Encoded,
    seeds: Sequence[int],
    architecture: Architecture,
    vae: Any,
    device: torch.device,
    dtype: torch.dtype,
) -> Start:
    """As `prepare_latents` and `prepare_mask_latents` of diffusers' pipelines, which draw in this order.

    First the latents of the picture, from what the VAE says of them; then the noise; then the latents of the masked
    picture, which ordinary UNets do not see.
    """
    import torch

    init, generators = request.init, _generators(seeds)
    assert init is not None
    image = mask = beside = None
    if encoded.masked is None or init.strength < 1:
        image = latents(vae, encoded.image, generators, dtype)
    noise = devices.sent(_noise(request, generators, architecture, dtype), device)
    if encoded.mask is not None:
        masked = latents(vae, encoded.masked or encoded.image, generators, dtype)
        if encoded.masked is None:
            mask = encoded.mask.to(dtype)
        else:
            beside = torch.cat([encoded.mask.to(dtype).expand(len(masked), -1, -1, -1), masked], dim=1)
    return Start(noise, generators, image, mask, beside)


def from_latents(
    request: Request, image: Tensor, seeds: Sequence[int], architecture: Architecture, device: torch.device, dtype: Any
) -> Start:
    """Noise over latents (pictures, channels, h, w), as in diffusers' img2img pipelines when given latents."""
    generators = _generators(seeds)
    return Start(devices.sent(_noise(request, generators, architecture, dtype), device), generators, image)


def from_pictures(
    request: Request,
    pictures: Sequence[Image],
    seeds: Sequence[int],
    architecture: Architecture,
    vae: Any,
    wide: bool,
    device: torch.device,
    dtype: Any,
) -> Start:
    """Noise over a picture for each seed, drawn in the order of `from_image`; `wide` is that of `encode`."""
    import torch

    generators = _generators(seeds)
    each = [
        latents(vae, moments(vae, pixels_of(picture, device, dtype), wide), [own], dtype)
        for picture, own in zip(pictures, generators, strict=True)
    ]
    return Start(devices.sent(_noise(request, generators, architecture, dtype), device), generators, torch.cat(each))


def pixels_of(picture: Image, device: torch.device, dtype: torch.dtype) -> Tensor:
    """A picture as the VAE takes it, (1, 3, h, w) from -1 to 1.

    Its bytes are sent and looked up there, in a table computed in float32: the numbers are the same on every device.
    """
    import numpy as np
    import torch

    values = devices.sent(torch.arange(256, dtype=torch.float32) / 255 * 2 - 1, device, dtype)
    levels = devices.sent(torch.from_numpy(np.array(picture)), device)
    return values[levels.int()].permute(2, 0, 1)[None]


def encode(
    vae: Any, init: Init, factor: int, inpainting: bool, wide: bool, device: torch.device, dtype: Any
) -> Encoded:
    """The moments of a picture's latents, and its mask at their size: as diffusers', by the pixel at each corner.

    `inpainting`: for a UNet that sees the masked picture. `wide`: in float32, for a VAE that would leave fp16.
    """
    import numpy as np
    import torch

    pixels, area = pixels_of(init.picture.image, device, dtype), init.picture.area
    found = moments(vae, pixels, wide)
    if area is None:
        return Encoded(found)
    whole = devices.sent(torch.from_numpy(np.asarray(area, dtype=np.float32) / 255)[None, None].ge(0.5), device)
    grey = moments(vae, pixels * ~whole, wide) if inpainting else None
    return Encoded(found, whole[:, :, ::factor, ::factor].float(), grey)


def moments(vae: Any, pixels: Tensor, wide: bool) -> Moments:
    """Mean and standard deviation of the latents of pixels from -1 to 1, (1, 3, h, w).

    What leaves the range of fp16 is encoded in float32, as is all with `wide`.
    """
    import torch

    offloaded = next(vae.encoder.parameters()).device.type == "meta"  # layer by layer: its weights are not here
    with torch.no_grad():
        if vae.dtype != torch.float32 and wide and not offloaded:
            return _in_float32(vae, pixels)
        found = vae.encode(pixels.to(vae.dtype))
        if vae.dtype == torch.float16 and not offloaded and not all(one.isfinite().all() for one in found):
            return _in_float32(vae, pixels)
        return found


def _in_float32(vae: Any, pixels: Tensor) -> Moments:
    import torch

    dtype, parts = vae.dtype, [part for part in (vae.encoder, vae.quant_conv) if part is not None]
    for part in parts:
        torch.nn.Module.to(part, torch.float32)
    try:
        return vae.encode(pixels.float())
    finally:
        for part in parts:
            torch.nn.Module.to(part, dtype)  # exact: every number came from there


def latents(vae: Any, found: Moments, generators: Sequence[torch.Generator], dtype: Any) -> Tensor:
    """Latents drawn from their moments, scaled as the UNet knows them: one picture for each generator."""
    import torch

    mean, deviation = found
    drawn = [devices.sent(torch.randn(mean.shape, generator=one, dtype=mean.dtype), mean.device) for one in generators]
    sampled = torch.cat([mean + deviation * one for one in drawn]).to(dtype)
    config = vae.config
    if config.latents_mean is None or config.latents_std is None:
        return sampled * config.scaling_factor
    middle, spread = (sampled.new_tensor(one).view(1, -1, 1, 1) for one in (config.latents_mean, config.latents_std))
    return (sampled - middle) * config.scaling_factor / spread


def _generators(seeds: Sequence[int]) -> list[torch.Generator]:
    import torch

    return [torch.Generator("cpu").manual_seed(seed) for seed in seeds]


def _noise(request: Request, generators: Sequence[torch.Generator], architecture: Architecture, dtype: Any) -> Tensor:
    import torch

    factor = architecture.latent_factor
    shape = (1, architecture.latent_channels, request.height // factor, request.width // factor)
    return torch.cat([torch.randn(shape, generator=each, dtype=dtype) for each in generators])
