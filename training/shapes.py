"""The shapes of a picture: where they stand, and the distance of each pixel to them."""

from __future__ import annotations

import math
from functools import lru_cache

import torch
import torch.nn.functional as F
from torch import Tensor

from training.captions import BESIDE, KINDS, NONE, UNDER, Content

SLOTS = 4
ATLAS_REACH, ATLAS_SIZE = 1.3, 160
#: Radius by count and size; offsets by count and arrangement, in steps between neighbours.
RADII = ((0.13, 0.21, 0.31), (0.10, 0.15, 0.20), (0.085, 0.112, 0.14), (0.085, 0.115, 0.15))
_ROW3, _ROOF = ((-1, 0), (0, 0), (1, 0)), ((0, -0.5), (-0.5, 0.38), (0.5, 0.38))
_GRID = ((-0.5, -0.5), (0.5, -0.5), (-0.5, 0.5), (0.5, 0.5))
ARRANGEMENTS = (
    (((0, 0),),) * 3,
    (((-0.5, 0), (0.5, 0)), ((0, -0.5), (0, 0.5)), ((-0.42, -0.3), (0.42, 0.3))),
    (_ROW3, _ROOF, tuple((x, -y) for x, y in _ROOF)),
    (_GRID, _GRID, ((0, -0.72), (-0.72, 0), (0.72, 0), (0, 0.72))),
)


def layout(content: Content, wide: float, high: float, generator: torch.Generator):
    """Centres (N, 4, 2), radii (N, 4), angles (N, 4), kinds (N, 4) and presence (N, 4) of the shapes."""
    n, device = len(content), content.kind.device

    def uniform(*shape):
        return torch.rand(n, *shape, generator=generator, device=device)

    pair = content.second != NONE
    shown = torch.where(pair, 2, content.count)
    table = torch.zeros(SLOTS, 3, SLOTS, 2)
    for count, variants in enumerate(ARRANGEMENTS):
        for variant, offsets in enumerate(variants):
            table[count, variant, : len(offsets)] = torch.tensor(offsets)
    variant = torch.where(pair, (content.relation == UNDER).long(), (3 * uniform()).long().clamp(max=2))
    assert BESIDE == 0  # the first two arrangements of two
    offsets = table.to(device)[shown - 1, variant]
    size = torch.where(content.size == NONE, (3 * uniform()).long().clamp(max=2), content.size)
    radius = torch.tensor(RADII, device=device)[shown - 1, size] * (0.94 + 0.12 * uniform())
    offsets = offsets * (2.3 * radius * (1 + 0.12 * uniform()))[:, None, None]
    present = torch.arange(SLOTS, device=device) < shown[:, None]
    reach = offsets.abs().amax(1) + radius[:, None] + 0.02
    extent = torch.tensor([wide, high], device=device)
    low, high_end = torch.minimum(reach, extent / 2), torch.maximum(extent - reach, extent / 2)
    stated = torch.stack([content.place % 3, content.place // 3], -1)
    near = torch.tensor([0.08, 0.5, 0.92], device=device)[stated.clamp(min=0)] + 0.14 * (uniform(2) - 0.5)
    share = torch.where((content.place == NONE)[:, None], uniform(2), near).clamp(0, 1)
    centre = (low + (high_end - low) * share)[:, None] + offsets
    angle = 0.42 * (uniform(SLOTS) - 0.5)
    kinds = torch.where(
        (pair[:, None] & (torch.arange(SLOTS, device=device) == 1)), content.second[:, None], content.kind[:, None]
    )
    return centre, radius[:, None].expand(-1, SLOTS), angle, kinds, present


def signed_distance(kind, centre, radius, angle, ys, xs) -> Tensor:
    """(N, H, W): signed distance to the shape, negative inside."""
    dx = xs - centre[:, 0, None, None]
    dy = ys - centre[:, 1, None, None]
    cos, sin = angle.cos()[:, None, None], angle.sin()[:, None, None]
    scale = 1 / (radius[:, None, None] * ATLAS_REACH)
    grid = torch.stack([(dx * cos + dy * sin) * scale, (dy * cos - dx * sin) * scale], -1)
    tiles = _atlas(str(kind.device))[kind][:, None]
    distance = F.grid_sample(tiles, grid, mode="bilinear", padding_mode="border", align_corners=True)[:, 0]
    return distance * radius[:, None, None]


@lru_cache
def _atlas(device: str) -> Tensor:
    """(kinds, ATLAS_SIZE, ATLAS_SIZE): signed distances of the shapes of radius 1."""
    line = torch.linspace(-ATLAS_REACH, ATLAS_REACH, ATLAS_SIZE)
    points = torch.stack(torch.meshgrid(line, line, indexing="xy"), -1)
    outlines = {
        "circle": _polar(lambda t: 0.9 + 0 * t),
        "square": _corners((-0.8, -0.8), (0.8, -0.8), (0.8, 0.8), (-0.8, 0.8)),
        "triangle": _corners((0, -0.95), (0.95, 0.75), (-0.95, 0.75)),
        "star": _star(5, 1.0, 0.42),
        "heart": _heart(),
        "ring": _polar(lambda t: 0.95 + 0 * t),
        "cross": _cross(0.92, 0.3),
        "crescent": _crescent(),
        "diamond": _corners((0, -1.0), (0.66, 0), (0, 1.0), (-0.66, 0)),
        "flower": _polar(lambda t: 0.66 + 0.3 * torch.cos(5 * t)),
    }
    assert tuple(outlines) == KINDS
    tiles = [_polygon_distance(points, outline) for outline in outlines.values()]
    hole = 0.48 - points.norm(dim=-1)
    tiles[KINDS.index("ring")] = torch.maximum(tiles[KINDS.index("ring")], hole)
    return torch.stack(tiles).to(device)


def _corners(*points) -> Tensor:
    return torch.tensor(points, dtype=torch.float32)


def _polar(radius) -> Tensor:
    t = torch.arange(240) * (2 * math.pi / 240)
    r = radius(t)
    return torch.stack([r * t.sin(), -r * t.cos()], -1)


def _star(points, outer, inner) -> Tensor:
    t = torch.arange(2 * points) * (math.pi / points)
    r = torch.where(torch.arange(2 * points) % 2 == 0, outer, inner)
    return torch.stack([r * t.sin(), -r * t.cos()], -1)


def _heart() -> Tensor:
    t = torch.arange(240) * (2 * math.pi / 240)
    x = 16 * t.sin() ** 3
    y = 13 * t.cos() - 5 * (2 * t).cos() - 2 * (3 * t).cos() - (4 * t).cos()
    return torch.stack([x / 17, -(y + 2.5) / 16], -1)


def _cross(reach, half) -> Tensor:
    quarter = [(half, -reach), (half, -half), (reach, -half)]
    points = []
    for _ in range(4):
        points += quarter
        quarter = [(-y, x) for x, y in quarter]
    return _corners(*points)


def _crescent() -> Tensor:
    outer = torch.linspace(0.9, 2 * math.pi - 0.9, 160)
    tip = torch.stack([outer.cos()[0], outer.sin()[0]])
    centre = torch.tensor([0.52, 0.0])
    reach = (tip - centre).norm()
    start = torch.atan2(tip[1], tip[0] - centre[0])
    inner = torch.linspace(2 * math.pi - start.item(), start.item(), 120)
    points = [torch.stack([outer.cos(), outer.sin()], -1)]
    points.append(torch.stack([centre[0] + reach * inner.cos(), reach * inner.sin()], -1))
    return torch.cat(points) * 0.95 + torch.tensor([0.2, 0.0])


def _polygon_distance(points, corners) -> Tensor:
    """Signed distance of points (H, W, 2) to a closed polygon (M, 2), negative inside."""
    nearest = torch.full(points.shape[:-1], math.inf)
    inside = torch.zeros(points.shape[:-1], dtype=torch.bool)
    for a, b in zip(corners, corners.roll(-1, 0), strict=True):
        edge, to = b - a, points - a
        along = ((to @ edge) / edge.square().sum().clamp(min=1e-12)).clamp(0, 1)
        nearest = torch.minimum(nearest, (to - along[..., None] * edge).square().sum(-1))
        crosses = (a[1] > points[..., 1]) != (b[1] > points[..., 1])
        rise = torch.where(edge[1].abs() < 1e-12, 1e-12, edge[1])
        inside ^= crosses & (points[..., 0] < edge[0] * (points[..., 1] - a[1]) / rise + a[0])
    return torch.where(inside, -nearest.sqrt(), nearest.sqrt())
