"""What generated references are made of: palettes, coordinates, noise, and fields cut into bands of colour."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from training.chance import Chance

MEASURED = -1
COLOURS = 4


@dataclass(frozen=True)
class Texture:
    """What a generator knows of its pattern: (N,) kind (an index into FILLS, or MEASURED), period and angle."""

    kind: Tensor
    period: Tensor
    angle: Tensor

    def take(self, index) -> Texture:
        return Texture(self.kind[index], self.period[index], self.angle[index])


Drawn = tuple[Tensor, Texture]


def cube(chance: Chance, near: float = 0.2) -> Tensor:
    """(N, COLOURS, 3): palettes from the whole colour cube; a share `near` of them of shades of one colour."""
    drawn = chance.uniform(-0.08, 1.08, 12, 3).clamp(0, 1)
    chosen = [drawn[:, 0]]
    rows = torch.arange(chance.n, device=chance.device)
    for place in range(1, COLOURS):  # of three candidates the one farthest from those chosen
        group = drawn[:, 3 * place : 3 * place + 3]
        far = torch.cdist(group, torch.stack(chosen, 1)).amin(-1)
        chosen.append(group[rows, far.argmax(1)])
    palette = torch.stack(chosen, 1)
    shades = (palette[:, :1] + 0.22 * chance.normal(COLOURS, 1) + 0.1 * chance.normal(COLOURS, 3)).clamp(0, 1)
    grey = chance.happens(0.06)[:, None, None]
    palette = torch.where(chance.happens(near)[:, None, None], shades, palette)
    return torch.where(grey, palette.mean(-1, keepdim=True).expand_as(palette), palette)


def shares(chance: Chance) -> Tensor:
    """(N, COLOURS): how much of the picture each colour takes; in a half of the cases there are only two or three."""
    weight = chance.uniform(0.05, 1, COLOURS).square() + 0.03
    count = chance.integer(2, 6).clamp(max=COLOURS)
    weight = weight * (torch.arange(COLOURS, device=chance.device) < count[:, None])
    return weight / weight.sum(1, keepdim=True)


def painted(field: Tensor, palette: Tensor, share: Tensor, soft: Tensor | float) -> Tensor:
    """(N, 3, H, W): the field (N, H, W), 0 to 1, cut into bands of the palette's colours, with edges `soft` wide."""
    picture = palette[:, 0, :, None, None].expand(-1, -1, *field.shape[1:])
    edge = share.cumsum(1)
    soft = torch.as_tensor(soft, device=field.device).reshape(-1, 1, 1)
    for place in range(1, COLOURS):
        used = (share[:, place] > 0)[:, None, None, None]
        mix = ((field - edge[:, place - 1, None, None]) / soft + 0.5).clamp(0, 1)[:, None]
        picture = torch.where(used, torch.lerp(picture, palette[:, place, :, None, None], mix), picture)
    return picture


def turned(side: int, angle: Tensor, chance: Chance) -> tuple[Tensor, Tensor]:
    """Coordinates (N, side, side) in units of the side, turned by the angle and shifted at random."""
    line = (torch.arange(side, device=chance.device) + 0.5) / side - 0.5
    ys, xs = line[None, :, None], line[None, None]
    cos, sin = angle.cos()[:, None, None], angle.sin()[:, None, None]
    shift = chance.uniform(0, 1, 2)[..., None, None]
    return xs * cos + ys * sin + shift[:, 0], ys * cos - xs * sin + shift[:, 1]


def evened(noise: Tensor) -> Tensor:
    """A field of noise (N, H, W) made to spread evenly over 0 to 1."""
    mean, std = noise.mean((1, 2), keepdim=True), noise.std((1, 2), keepdim=True)
    return torch.special.ndtr((noise - mean) / (std + 1e-6))


def clouds(side: int, chance: Chance, stretch: bool = False) -> Tensor:
    """(N, side, side): smooth noise of several scales, its coarseness drawn for each."""
    rough = chance.uniform(-1.0, 1.2)
    total = torch.zeros(chance.n, 1, side, side, device=chance.device)
    for octave, cells in enumerate((2, 4, 8, 16, 32, 64)):
        high = max(2, cells // 6) if stretch else cells
        noise = F.interpolate(chance.normal(1, high, cells), (side, side), mode="bicubic")
        total = total + noise * torch.exp(-(1 + rough) * 0.45 * octave)[:, None, None, None]
    return total[:, 0]


def hashed(*cells: Tensor, seed: Tensor) -> Tensor:
    """A number of 0 to 1 for each cell of whole coordinates."""
    total = seed[:, None, None].expand_as(cells[0])
    for k, cell in enumerate(cells):
        total = total + cell * (0.6180339887 + 0.1371 * k) + cell * cell * 0.0271 * (k + 1)
    return (total.sin() * 437.585).remainder(1)


def known(kind: int, period: Tensor, angle: Tensor) -> Texture:
    return Texture(torch.full_like(period, kind, dtype=torch.long), period, angle)


def unknown(chance: Chance) -> Texture:
    return known(MEASURED, chance.uniform(0.1, 0.2), chance.uniform(0, math.pi))
