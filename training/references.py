"""References of training: pictures of the generators, and photographs, coloured anew each time."""

from __future__ import annotations

import math
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from training.chance import Chance
from training.fields import COLOURS, Drawn, Texture, cube, evened, painted, shares, turned, unknown
from training.generators import GENERATORS


def draw(n: int, side: int, generator: torch.Generator, photographs: Photographs | None = None) -> Drawn:
    """n references of training: of each generator as many, and as many photographs as of all generators."""
    makers = [*GENERATORS, *([photographs] * len(GENERATORS) if photographs else [])]
    counts = [n * (k + 1) // len(makers) - n * k // len(makers) for k in range(len(makers))]
    parts = [make(side, Chance(count, generator)) for make, count in zip(makers, counts, strict=True) if count]
    textures = [part[1] for part in parts]
    texture = Texture(*(torch.cat([getattr(t, name) for t in textures]) for name in ("kind", "period", "angle")))
    order = torch.randperm(n, generator=generator, device=generator.device)
    return torch.cat([part[0] for part in parts]).clamp(0, 1)[order], texture.take(order)


class Photographs:
    """Grey photographs from a folder, as fields that any palette can colour."""

    def __init__(self, folder: Path, device, side: int = 256):
        pictures = [load_picture(path, side, device) for path in sorted(folder.glob("*.jpg"))]
        if not pictures:
            raise FileNotFoundError(f"no .jpg in {folder}")
        self.fields = torch.stack(pictures).mean(1)

    def __call__(self, side: int, chance: Chance) -> Drawn:
        """Coloured by brightness, evened out or as it is, or in areas of another photograph."""
        light = self._part(side, chance)
        toned = light ** chance.log_uniform(0.4, 2.5)[:, None, None]
        areas = F.avg_pool2d(F.pad(self._part(side, chance)[:, None], (8, 8, 8, 8), mode="reflect"), 17, stride=1)[:, 0]
        palette, share, soft = cube(chance, near=0.4), shares(chance), chance.log_uniform(0.1, 1.0)
        muted = chance.uniform(0, 0.85, 1, 1) * chance.happens(0.6)[:, None, None]  # most photographs' colours are
        palette = torch.lerp(palette, palette.mean(-1, keepdim=True), muted)
        order = palette.mean(-1).argsort(1)
        rising = palette.gather(1, order[..., None].expand(-1, -1, 3))
        even = torch.full_like(share, 1 / COLOURS)
        ways = [
            painted(evened(light), palette, share, soft),
            painted(toned, rising, even, soft),
            painted(evened(areas), palette, share, soft) * (0.35 + 1.3 * toned[:, None]),
        ]
        way = chance.integer(0, len(ways))
        return torch.stack(ways)[way, torch.arange(chance.n, device=chance.device)].clamp(0, 1), unknown(chance)

    def _part(self, side: int, chance: Chance) -> Tensor:
        """(N, side, side): parts of photographs, turned, half of them mirrored."""
        which = chance.integer(0, len(self.fields))
        size, angle = chance.uniform(0.3, 0.9), chance.uniform(0, 2 * math.pi)
        u, v = turned(side, angle, chance)
        u, v = (x - x.mean((1, 2), keepdim=True) for x in (u, v))
        u = torch.where(chance.happens(0.5)[:, None, None], -u, u)
        shift = (1 - size)[:, None, None, None] * chance.uniform(-0.7, 0.7, 2, 1, 1)
        grid = torch.stack([u, v], -1) * 2 * size[:, None, None, None] + shift.permute(0, 2, 3, 1)
        return F.grid_sample(self.fields[which, None], grid, padding_mode="reflection", align_corners=False)[:, 0]


def load_picture(path: Path, side: int, device) -> Tensor:
    """(3, side, side) in 0 to 1: the middle of a picture."""
    import numpy as np
    from PIL import Image, ImageOps

    with Image.open(path) as picture:
        fitted = ImageOps.fit(picture.convert("RGB"), (side, side), Image.Resampling.LANCZOS)
    return torch.from_numpy(np.array(fitted)).to(device).permute(2, 0, 1).float() / 255
