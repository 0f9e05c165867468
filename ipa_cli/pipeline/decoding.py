"""From latents to pictures: sent to the device one after the other, fetched when they are wanted."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from ipa_cli.errors import IpaError
from ipa_cli.hardware import devices

if TYPE_CHECKING:
    import torch
    from PIL import Image
    from torch import Tensor

Decode = Callable[["Tensor"], "Tensor"]  # latents that are no longer scaled to pixels, as `AutoencoderKL.decode`


class BrokenPicture(IpaError):
    """The numbers went out of range and there is no picture in them."""


def check_memory(vae: Any, width: int, height: int, device: torch.device) -> None:
    """Raise OutOfMemory where a CPU has no room to decode a picture of this size, before it is drawn.

    It takes at least the widest states at full size twice: before and after a convolution.
    """
    if device.type == "cpu" and not vae.tiling:
        channels = max(vae.config.block_out_channels[:2])
        devices.check_memory(2 * channels * width * height * vae.dtype.itemsize, f"decoding {width}x{height}")


class Decoding:
    """A picture of latents (1, channels, h, w), which a GPU decodes while others may be drawn.

    `by` does what `AutoencoderKL.decode` does, for latents of this size.
    """

    def __init__(self, vae: Any, latents: Tensor, by: Decode | None = None):
        self._vae, self._latents = vae, latents
        pixels, finite = _decoded(vae, latents, by or vae.decode)
        self._pixels, self._finite = devices.fetched(pixels), devices.fetched(finite)
        self._fetched = _event(latents.device)

    def wait(self) -> bool:
        """Wait for the device; whether all numbers are in range."""
        if self._fetched is not None:
            self._fetched.synchronize()
        return bool(self._finite)

    def picture(self, warn: Callable[[str], None], loras: Sequence[str] = ()) -> Image.Image:
        """The picture; what leaves the range of fp16 is decoded again in fp32, with a word.

        Raises BrokenPicture, which names the LoRAs it was drawn with, when it holds NaN or infinity.
        """
        import torch
        from PIL import Image

        vae, pixels, finite = self._vae, self._pixels, self.wait()
        # Offloaded layer by layer, its weights are not here.
        again = vae.dtype == torch.float16 and vae.device.type != "meta"
        if not finite and again and torch.isfinite(self._latents).all():
            warn("the decoder left the range of float16: this picture is decoded again in float32")
            torch.nn.Module.to(vae, torch.float32)
            try:
                pixels, in_range = (made.cpu() for made in _decoded(vae, self._latents, vae.decode))
                finite = bool(in_range)
            finally:
                torch.nn.Module.to(vae, torch.float16)  # exact: every number came from there
        if not finite:
            drawn = f" with the LoRA{'s' * (len(loras) > 1)} {', '.join(loras)}" if loras else ""
            weaker = "draw without the LoRA or with a lower weight, or " if loras else ""
            raise BrokenPicture(
                f"the picture{drawn} came out as NaN or infinity: numbers left the range of the dtype",
                f"{weaker}try --dtype bfloat16, or --dtype float32",
            )
        return Image.fromarray(pixels.numpy())


def decode(
    vae: Any, latents: Tensor, warn: Callable[[str], None], loras: Sequence[str] = (), by: Decode | None = None
) -> list[Image.Image]:
    """Turn latents (pictures, 4, h, w) into pictures, one after the other, which takes the memory of one.

    Raises BrokenPicture: see `Decoding`.
    """
    return [Decoding(vae, one, by).picture(warn, loras) for one in latents.split(1)]


def _decoded(vae: Any, latents: Tensor, decode: Decode) -> tuple[Tensor, Tensor]:
    """Values from 0 to 255, (h, w, 3), and whether all that they came from are in range."""
    import torch

    config = vae.config
    latents = latents.to(vae.dtype)
    mean, std = getattr(config, "latents_mean", None), getattr(config, "latents_std", None)
    if mean is not None and std is not None:
        as_column = [
            devices.sent(torch.tensor(v, dtype=vae.dtype), latents.device).view(1, -1, 1, 1) for v in (mean, std)
        ]
        latents = latents * as_column[1] / config.scaling_factor + as_column[0]
    else:
        latents = latents / config.scaling_factor
    with torch.no_grad():
        pixels = decode(latents).float().div(2).add(0.5)
    rounded = pixels[0].clamp(0, 1).mul(255).round().to(torch.uint8)
    return rounded.permute(1, 2, 0).contiguous(), torch.isfinite(pixels).all()


def _event(device: torch.device) -> Any:
    """What a GPU passes once all that was sent to it by now is done."""
    import torch

    if device.type != "cuda":
        return None
    event = torch.cuda.Event(blocking=True)
    event.record(torch.cuda.current_stream(device))
    return event
