"""Generators of references for the evaluation alone: training never shows their pictures."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from training.chance import Chance
from training.fields import cube, hashed, painted, turned


def scattered(side: int, chance: Chance, round_: bool) -> Tensor:
    """Discs or rectangles of two colours on a third."""
    palette = cube(chance, near=0)
    picture = palette[:, 0, :, None, None].expand(-1, -1, side, side)
    size = chance.log_uniform(0.05, 0.13)[:, None, None]
    for k in range(26):
        u, v = turned(side, chance.uniform(0, math.pi), chance)
        u, v = u.remainder(1) - 0.5, v.remainder(1) - 0.5
        disc = (u.square() + v.square()).sqrt() - size
        distance = disc if round_ else torch.maximum(u.abs() - size * 1.3, v.abs() - size * 0.6)
        cover = (0.5 - distance * side).clamp(0, 1)[:, None]
        picture = torch.lerp(picture, palette[:, 1 + k % 2, :, None, None].expand_as(picture), cover)
    return picture


def rings(side: int, chance: Chance) -> Tensor:
    u, v = turned(side, chance.uniform(0, math.pi), chance)
    centre = chance.uniform(0.2, 0.8, 2)[..., None, None]
    distance = ((u - centre[:, 0]).square() + (v - centre[:, 1]).square()).sqrt()
    phase = (distance / chance.uniform(0.12, 0.3)[:, None, None]).remainder(1)
    share = torch.tensor([0.55, 0.25, 0.2, 0.0], device=chance.device).expand(chance.n, -1)
    return painted(phase, cube(chance, near=0), share, 0.03)


def tartan(side: int, chance: Chance) -> Tensor:
    u, v = turned(side, torch.where(chance.happens(0.5), 0.0, math.pi / 4), chance)
    period = chance.uniform(0.16, 0.4)[:, None, None]
    palette = cube(chance, near=0)
    warp, weft = ((x / period).remainder(1) for x in (u, v))
    picture = palette[:, 0, :, None, None].expand(-1, -1, side, side)
    for phase in (warp, weft):
        for place, (low, high) in ((1, (0.1, 0.35)), (2, (0.55, 0.65))):
            band = ((phase > low) & (phase < high)).float()[:, None] * 0.6
            picture = torch.lerp(picture, palette[:, place, :, None, None].expand_as(picture), band)
    return picture


def bricks(side: int, chance: Chance) -> Tensor:
    u, v = turned(side, torch.zeros(chance.n, device=chance.device), chance)
    high = chance.uniform(0.07, 0.16)[:, None, None]
    row = (v / high).floor()
    along = u / (2.2 * high) + 0.5 * row.remainder(2)
    joint = ((v / high).remainder(1) < 0.13) | (along.remainder(1) < 0.06)
    value = hashed(row, along.floor(), seed=chance.uniform(0, 99))
    palette = cube(chance, near=0)
    colour = torch.lerp(palette[:, 0, :, None, None], palette[:, 1, :, None, None], (value > 0.72).float()[:, None])
    return torch.where(joint[:, None], palette[:, 2, :, None, None], colour * (0.92 + 0.08 * value[:, None]))


def waves(side: int, chance: Chance) -> Tensor:
    u, v = turned(side, chance.uniform(0, math.pi), chance)
    bend = 0.07 * (2 * math.pi * v / chance.uniform(0.3, 0.6)[:, None, None]).sin()
    phase = ((u + bend) / chance.uniform(0.12, 0.3)[:, None, None]).remainder(1)
    share = torch.tensor([0.5, 0.3, 0.2, 0.0], device=chance.device).expand(chance.n, -1)
    return painted(phase, cube(chance, near=0), share, 0.03)


def arcs(side: int, chance: Chance) -> Tensor:
    """Truchet tiles: quarters of circles joined at random."""
    u, v = (x / chance.uniform(0.14, 0.3)[:, None, None] for x in turned(side, chance.uniform(0, math.pi), chance))
    flip = hashed(u.floor(), v.floor(), seed=chance.uniform(0, 99)) > 0.5
    a, b = u.remainder(1), v.remainder(1)
    a = torch.where(flip, 1 - a, a)
    distance = torch.minimum((a.square() + b.square()).sqrt(), ((1 - a).square() + (1 - b).square()).sqrt())
    palette = cube(chance, near=0)
    line = ((distance - 0.5).abs() < 0.15).float()[:, None]
    return torch.lerp(palette[:, 0, :, None, None].expand(-1, -1, side, side), palette[:, 1, :, None, None], line)


def triangles(side: int, chance: Chance) -> Tensor:
    u, v = (x / chance.uniform(0.12, 0.3)[:, None, None] for x in turned(side, chance.uniform(0, math.pi), chance))
    v = v * 2 / math.sqrt(3)
    u = u - v / 2
    half = (u.remainder(1) + v.remainder(1) > 1).float()
    value = hashed(2 * u.floor() + half, v.floor(), seed=chance.uniform(0, 99))
    share = torch.tensor([0.5, 0.3, 0.2, 0.0], device=chance.device).expand(chance.n, -1)
    return painted(value, cube(chance, near=0), share, 0.01)


GENERATORS: tuple[Callable[[int, Chance], Tensor], ...] = (
    lambda side, chance: scattered(side, chance, True),
    lambda side, chance: scattered(side, chance, False),
    *(rings, tartan, bricks, waves, arcs, triangles),
)


def pictures(n: int, side: int, generator: torch.Generator) -> Tensor:
    """(n, 3, side, side): pictures of the held-out generators in turn."""
    return torch.cat([GENERATORS[k % len(GENERATORS)](side, Chance(1, generator)) for k in range(n)])
