"""Colours: how different two look, CIE Lab, and the palette of a picture by the area of each colour."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

#: Clusters to begin with; those nearer to each other than ALIKE (CIE76) are one colour.
CLUSTERS, ALIKE, ROUNDS, SAMPLED = 6, 14.0, 8, 40


def luma(rgb: Tensor) -> Tensor:
    """The brightness of colours (..., 3)."""
    return rgb @ torch.tensor([0.30, 0.59, 0.11], device=rgb.device)


def difference(a: Tensor, b: Tensor) -> Tensor:
    """How different two colours look: brightness counts most."""
    between = a - b
    return (luma(between).square() * 1.5 + 0.5 * between.square().mean(-1)).sqrt() * 1.2


def apart(colour: Tensor, ground: Tensor, least: float) -> Tensor:
    """Colours (..., 3) that look at least `least` unlike their grounds: made lighter or darker where they do not."""
    end = torch.where(luma(ground)[..., None] > 0.5, 0.0, 1.0).expand_as(colour)
    moved = colour
    for part in (0.15, 0.3, 0.45, 0.6, 0.75):
        near = (difference(moved, ground) < least)[..., None]
        moved = torch.where(near, torch.lerp(colour, end, part), moved)
    return moved


def hue(rgb: Tensor) -> Tensor:
    r, g, b = rgb.unbind(-1)
    return torch.atan2(math.sqrt(3) * (g - b), 2 * r - g - b).div(2 * math.pi).remainder(1)


def from_hsv(hue: Tensor, saturation: Tensor, value: Tensor) -> Tensor:
    k = (torch.tensor([5.0, 3.0, 1.0], device=hue.device) + 6 * hue[:, None]).remainder(6)
    return value[:, None] * (1 - saturation[:, None] * torch.minimum(k, 4 - k).clamp(0, 1))


def lab(rgb: Tensor) -> Tensor:
    """CIE Lab (D65) of sRGB colours (..., 3) in 0 to 1."""
    rgb = rgb.float().clamp(0, 1)
    linear = torch.where(rgb <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4)
    to_xyz = [[0.4124564, 0.3575761, 0.1804375], [0.2126729, 0.7151522, 0.0721750], [0.0193339, 0.1191920, 0.9503041]]
    white = torch.tensor([0.95047, 1.0, 1.08883], device=rgb.device)
    xyz = (linear[..., None, :] * torch.tensor(to_xyz, device=rgb.device)).sum(-1) / white
    cut = (6 / 29) ** 3
    x, y, z = torch.where(xyz > cut, xyz.clamp(min=1e-9) ** (1 / 3), xyz / (3 * (6 / 29) ** 2) + 4 / 29).unbind(-1)
    return torch.stack([116 * y - 16, 500 * (x - y), 200 * (y - z)], -1)


def palette(pictures: Tensor) -> tuple[Tensor, Tensor]:
    """Colours (N, CLUSTERS, 3) of pictures (N, 3, H, W) and their shares of the area (N, CLUSTERS), largest first.

    k-means in CIE Lab over a grid of pixels, begun at colours far apart; like colours are joined, leaving shares of 0.
    """
    height, width = (min(SAMPLED, side) for side in pictures.shape[-2:])
    rgb = F.interpolate(pictures.float(), (height, width), mode="nearest-exact").flatten(2).transpose(1, 2)
    return clusters(rgb)


def clusters(rgb: Tensor) -> tuple[Tensor, Tensor]:
    """As `palette`, of pixels (N, P, 3)."""
    points = lab(rgb)
    rows = torch.arange(len(points), device=points.device)
    first = torch.cdist(points, points.median(1, keepdim=True)[0])[..., 0].argmin(1)
    centres = [points[rows, first]]
    nearest = (points - centres[0][:, None]).norm(dim=-1)
    for _ in range(CLUSTERS - 1):
        centres.append(points[rows, nearest.argmax(1)])
        nearest = torch.minimum(nearest, (points - centres[-1][:, None]).norm(dim=-1))
    centre = torch.stack(centres, 1)
    for _ in range(ROUNDS):
        member = F.one_hot(torch.cdist(points, centre).argmin(-1), CLUSTERS).float()
        count = member.sum(1)
        mean = member.transpose(1, 2) @ points / count[..., None].clamp(min=1)
        centre = torch.where(count[..., None] > 0, mean, centre)
    member = F.one_hot(torch.cdist(points, centre).argmin(-1), CLUSTERS).float()
    share = member.mean(1)
    colour = member.transpose(1, 2) @ rgb.float() / member.sum(1)[..., None].clamp(min=1)
    for one in range(CLUSTERS):
        for other in range(one + 1, CLUSTERS):
            a, b = lab(colour[:, one]), lab(colour[:, other])
            alike = ((a - b).norm(dim=-1) < ALIKE) & (share[:, one] > 0) & (share[:, other] > 0)
            both = share[:, one] + share[:, other]
            part = (share[:, other] / both.clamp(min=1e-6))[:, None]
            joined = torch.lerp(colour[:, one], colour[:, other], part)
            colour[:, one] = torch.where(alike[:, None], joined, colour[:, one])
            share[:, one] = torch.where(alike, both, share[:, one])
            share[:, other] = torch.where(alike, 0.0, share[:, other])
    order = share.argsort(1, descending=True)
    return colour.gather(1, order[..., None].expand(-1, -1, 3)), share.gather(1, order)


def ground(pictures: Tensor) -> Tensor:
    """(N, 3): the colour that fills most of a frame of an eighth of the side along the pictures' edges."""
    side = pictures.shape[-1] // 8
    across = torch.cat([pictures[..., :side, ::3], pictures[..., -side:, ::3]], -2)
    down = torch.cat([pictures[..., ::3, :side], pictures[..., ::3, -side:]], -1)
    pixels = torch.cat([part.flatten(2) for part in (across, down)], -1)[..., ::4]
    return clusters(pixels.transpose(1, 2))[0][:, 0]
