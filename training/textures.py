"""Grounds of pictures and fills of shapes, in a style: stripes, checks, dots, gradients, strokes, mottles, patches."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from training.styles import BANDS, BRUSH, CHECKS, DOTS, GRADIENT, MOTTLE, PATCH_SIZES, PATCHES, STRIPES, Style

TEXTURE_UNIT = 256  # pixels
CLEAR = 0.05  # how far the patches of a ground keep from shapes


def grounds(style: Style, height: int, width: int, density: float = TEXTURE_UNIT, far: Tensor | None = None) -> Tensor:
    """(N, 3, height, width): the grounds of styles, `density` pixels in one unit of texture.

    `far` (N, height, width) is the distance to the nearest shape, of which patches keep clear.
    """
    mix = fill_pattern(style, height, width, density, front=False) * style.back_strength[:, None, None]
    ground, ground2 = (c[..., None, None].expand(-1, -1, height, width) for c in (style.ground, style.ground2))
    plain = torch.lerp(ground, ground2, mix[:, None])
    patched = _patches(style, height, width, density)
    if far is not None:
        patched = torch.lerp(ground, patched, (2 * far / CLEAR - 1).clamp(0, 1)[:, None])
    return torch.where((style.backdrop == PATCHES)[:, None, None, None], patched, plain)


def fill_pattern(style: Style, height: int, width: int, density: float, front: bool = True) -> Tensor:
    """(N, height, width) in 0 to 1: the share of the second colour."""
    kind, period, angle = (
        (style.fill, style.period, style.angle) if front else (style.backdrop, style.back_period, style.back_angle)
    )
    kind, period, angle = (t[:, None, None] for t in (kind, period, angle))
    ys, xs = pixels(height, width, density, style.ground.device)
    ys, xs = ys - height / density / 2, xs - width / density / 2
    u = xs * angle.cos() + ys * angle.sin()
    v = ys * angle.cos() - xs * angle.sin()
    a = u / period + style.phase[:, :1, None]
    b = v / period + style.phase[:, 1:, None]
    sharp = period * density  # pixels in a period
    cos_a, cos_b = (2 * math.pi * a).cos(), (2 * math.pi * b).cos()
    stripes = ((cos_a - 0.2) * sharp / 6 + 0.5).clamp(0, 1)
    # The ground's first colour has the larger part of its pattern.
    less = 0.0 if front else 0.12
    checks = ((cos_a * cos_b - less) * sharp / 6 + 0.5).clamp(0, 1)
    off_a, off_b = a - a.round(), b - b.round()
    dots = ((0.3 - (off_a.square() + off_b.square() + 1e-8).sqrt()) * sharp + 0.5).clamp(0, 1)
    gradient = (0.5 - 1.5 * less + 0.9 * u * density / min(height, width)).clamp(0, 1)
    tile = style.noise[:, :1] if front else style.noise[:, 1:]
    grid = torch.stack([u * 0.9, v * 3.0], -1)  # strokes: long along u
    brush = F.grid_sample(tile, grid, mode="bilinear", padding_mode="reflection", align_corners=False)[:, 0]
    brush = ((brush - 0.5) * 2.5 + 0.5 - less).clamp(0, 1)
    grid = torch.stack([u, v], -1) / period[..., None] / 6  # half a period for each cell of the tile
    mottle = F.grid_sample(tile, grid, mode="bilinear", padding_mode="reflection", align_corners=False)[:, 0]
    mottle = ((mottle - 0.52) * 4 + 0.5 - 2 * less).clamp(0, 1)
    out = torch.zeros_like(stripes)
    patterns = {STRIPES: stripes, CHECKS: checks, DOTS: dots, GRADIENT: gradient, BRUSH: brush, MOTTLE: mottle}
    for index, value in patterns.items():
        out = torch.where(kind == index, value, out)
    return out


def _patches(style, height, width, density, soft: float = 0.12) -> Tensor:
    """(N, 3, height, width): patches of several sizes in the colours of `bands`, each as large as its share."""
    ys, xs = pixels(height, width, density, style.ground.device)
    ys, xs = ys - height / density / 2, xs - width / density / 2
    cos, sin = style.back_angle.cos()[:, None, None], style.back_angle.sin()[:, None, None]
    place = torch.stack([xs * cos + ys * sin, ys * cos - xs * sin], -1)
    field = torch.zeros_like(place[..., 0])
    for k, (size, tile, shift) in enumerate(zip(PATCH_SIZES, (1, 0, 0), (0.0, 0.4, -0.5), strict=True)):
        grid = place * (2 / 24 / size) + shift
        noise = F.grid_sample(
            style.noise[:, tile, None], grid, mode="bicubic", padding_mode="reflection", align_corners=False
        )
        field = field + style.patch_weights[:, k, None, None] * (noise[:, 0] - 0.5)
    mean, std = field.mean((1, 2), keepdim=True), field.std((1, 2), keepdim=True)
    rank = torch.special.ndtr((field - mean) / (std + 1e-6))  # spread evenly over 0 to 1
    picture = style.bands[:, 0, :, None, None].expand(-1, -1, height, width)
    for k in range(1, BANDS):
        mix = ((rank - style.edges[:, k - 1, None, None]) / soft + 0.5).clamp(0, 1)[:, None]
        mix = mix * (style.edges[:, k - 1] < 0.99)[:, None, None, None]
        picture = torch.lerp(picture, style.bands[:, k, :, None, None].expand_as(picture), mix)
    return picture


def fractal(n, height, width, generator, device, coarse) -> Tensor:
    """(N, height, width): noise of several scales, mean 0, standard deviation about 0.5."""
    total = torch.zeros(n, 1, height, width, device=device)
    for cells, weight in ((3, 1.0), (6, 0.5), (12, 0.12)) if coarse else ((8, 0.6), (16, 0.6), (32, 0.5), (64, 0.5)):
        noise = torch.randn(n, 1, cells, cells, generator=generator, device=device)
        total = total + weight * F.interpolate(noise, (height, width), mode="bicubic")
    return 0.6 * total[:, 0]


def pixels(height, width, unit, device):
    ys = (torch.arange(height, device=device) + 0.5) / unit
    xs = (torch.arange(width, device=device) + 0.5) / unit
    return ys[:, None].expand(height, width), xs[None].expand(height, width)
