"""Generators of references for training: patterns, noises, patches, collages, scenes like photographs."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from training.chance import Chance
from training.fields import COLOURS, Drawn, clouds, cube, evened, hashed, known, painted, shares, turned, unknown
from training.styles import BRUSH, CHECKS, DOTS, GRADIENT, STRIPES


def stripes(side: int, chance: Chance) -> Drawn:
    period, angle = chance.log_uniform(0.025, 0.5), chance.uniform(0, math.pi)
    u, _ = turned(side, angle, chance)
    soft = (1.5 / side / period).clamp(min=0.02) + 0.2 * chance.happens(0.25)
    phase = (u / period[:, None, None]).remainder(1)
    return painted(phase, cube(chance), shares(chance), soft), known(STRIPES, period, angle)


def dots(side: int, chance: Chance) -> Drawn:
    period, angle = chance.log_uniform(0.04, 0.4), chance.uniform(0, math.pi)
    u, v = (x / period[:, None, None] for x in turned(side, angle, chance))
    radius = chance.uniform(0.18, 0.46)[:, None, None]
    distance = ((u - u.round()).square() + (v - v.round()).square()).sqrt()
    cover = ((radius - distance) * period[:, None, None] * side + 0.5).clamp(0, 1)[:, None]
    palette = cube(chance)
    two = chance.happens(0.5)[:, None, None] & ((u.round() + v.round()).remainder(2) > 0.5)
    dot = torch.where(two[:, None], palette[:, 2, :, None, None], palette[:, 1, :, None, None])
    return torch.lerp(palette[:, 0, :, None, None].expand_as(dot), dot, cover), known(DOTS, period, angle)


def checks(side: int, chance: Chance) -> Drawn:
    period, angle = chance.log_uniform(0.05, 0.5), chance.uniform(0, math.pi)
    angle = torch.where(chance.happens(0.4), 0.0, angle)
    u, v = (2 * x / period[:, None, None] for x in turned(side, angle, chance))
    mosaic = chance.happens(0.5)[:, None, None]
    board = 0.1 + 0.8 * ((u.floor() + v.floor()).remainder(2) > 0.5).float()
    field = torch.where(mosaic, hashed(u.floor(), v.floor(), seed=chance.uniform(0, 99)), board)
    share = shares(chance)
    half = torch.tensor([0.5, 0.5, 0.0, 0.0], device=chance.device).expand_as(share)
    return painted(field, cube(chance), torch.where(mosaic[..., 0], share, half), 0.01), known(CHECKS, period, angle)


def patches(side: int, chance: Chance) -> Drawn:
    """Cells about points at random."""
    places, count = chance.uniform(0, 1, 56, 2), chance.log_uniform(5, 56)
    places = places + 9.0 * (torch.arange(56, device=chance.device) >= count[:, None])[..., None]
    line = (torch.arange(side, device=chance.device) + 0.5) / side
    points = torch.stack(torch.meshgrid(line, line, indexing="xy"), -1).view(1, -1, 2)
    nearest = torch.cdist(points.expand(chance.n, -1, -1), places).argmin(-1)
    value = chance.uniform(0, 1, 56).gather(1, nearest).view(chance.n, side, side)
    return painted(value, cube(chance), shares(chance), 0.01), unknown(chance)


def gradients(side: int, chance: Chance) -> Drawn:
    angle = chance.uniform(0, math.pi)
    u, v = turned(side, angle, chance)
    radial = ((u - u.mean((1, 2), keepdim=True)).square() + (v - v.mean((1, 2), keepdim=True)).square()).sqrt()
    field = torch.where(chance.happens(0.4)[:, None, None], radial, u)
    low, high = field.amin((1, 2), keepdim=True), field.amax((1, 2), keepdim=True)
    field = (field - low) / (high - low)
    return painted(field, cube(chance), shares(chance), chance.uniform(0.15, 0.7)), known(
        GRADIENT, chance.uniform(0.1, 0.2), angle
    )


def soft_noise(side: int, chance: Chance) -> Drawn:
    return painted(evened(clouds(side, chance)), cube(chance), shares(chance), chance.log_uniform(0.05, 0.6)), unknown(
        chance
    )


def blotches(side: int, chance: Chance) -> Drawn:
    return painted(evened(clouds(side, chance)), cube(chance), shares(chance), 0.015), unknown(chance)


def strokes(side: int, chance: Chance) -> Drawn:
    """Noise drawn out along one axis."""
    noise, flip = evened(clouds(side, chance, stretch=True)), chance.happens(0.5)
    field = torch.where(flip[:, None, None], noise.transpose(1, 2), noise)
    angle = torch.where(flip, 0.0, math.pi / 2)
    return painted(field, cube(chance), shares(chance), chance.log_uniform(0.02, 0.4)), known(
        BRUSH, chance.uniform(0.1, 0.2), angle
    )


def grain(side: int, chance: Chance) -> Drawn:
    """Pixels of 1 to 16 at random."""
    sizes = [1, 2, 4, 8, 16]
    layers = [F.interpolate(chance.uniform(0, 1, 1, side // s, side // s), (side, side), mode="nearest") for s in sizes]
    field = torch.cat(layers, 1)[torch.arange(chance.n, device=chance.device), chance.integer(0, len(sizes))]
    return painted(field, cube(chance), shares(chance), 0.01), unknown(chance)


def collage(side: int, chance: Chance) -> Drawn:
    """The plane cut by lines."""
    code = torch.zeros(chance.n, side, side, device=chance.device)
    count = chance.integer(1, 8)
    for k in range(7):
        u, _ = turned(side, chance.uniform(0, 2 * math.pi), chance)
        cut = (u - u.mean((1, 2), keepdim=True)) > chance.uniform(-0.45, 0.45)[:, None, None]
        code = code + (cut & (count > k)[:, None, None]) * float(2**k)
    value = hashed(code, seed=chance.uniform(0, 99))
    return painted(value, cube(chance), shares(chance), 0.01), unknown(chance)


def landscapes(side: int, chance: Chance) -> Drawn:
    """Layers with ragged edges one over the other, each shaded, as hills under a sky."""
    palette = cube(chance, near=0.3)
    line = (torch.arange(side, device=chance.device) + 0.5) / side
    sky = clouds(side, chance)
    fade = (line[None, :, None] + 0.25 * sky).clamp(0, 1)[:, None]
    fade = fade * chance.uniform(0, 1, 1, 1, 1)
    picture = torch.lerp(palette[:, 0, :, None, None], palette[:, 1, :, None, None], fade)
    for place, height in ((1, (0.25, 0.7)), (2, (0.45, 0.85)), (3, (0.6, 1.3))):
        ridge = clouds(side, chance)[:, side // 2]  # (N, side)
        ridge = chance.uniform(*height, 1) + 0.12 * ridge * chance.uniform(0.1, 1, 1)
        soft = chance.log_uniform(0.008, 0.08)[:, None, None]
        cover = ((line[None, :, None] - ridge[:, None]) / soft).clamp(0, 1)[:, None]
        shade = 1 + 0.3 * clouds(side, chance)[:, None] * chance.uniform(0, 1, 1, 1, 1)
        picture = torch.lerp(picture, (palette[:, place, :, None, None] * shade).clamp(0, 1), cover)
    return developed(picture, chance), unknown(chance)


def still_lifes(side: int, chance: Chance) -> Drawn:
    """Round things lit from one side on a ground out of focus."""
    palette = cube(chance, near=0.3)
    line = (torch.arange(side, device=chance.device) + 0.5) / side
    ys, xs = line[None, :, None], line[None, None]
    blur = evened(clouds(side, chance))
    share = torch.tensor([0.62, 0.38, 0.0, 0.0], device=chance.device).expand(chance.n, -1)
    picture = painted(blur, palette, share, chance.uniform(0.3, 1.2))
    count = chance.integer(1, 8)
    light = chance.uniform(0, 2 * math.pi)
    for k in range(7):
        x, y = chance.uniform(0, 1, 1, 1), chance.uniform(0, 1, 1, 1)
        wide, high = chance.log_uniform(0.05, 0.4, 1, 1), chance.log_uniform(0.6, 1.5, 1, 1)
        dx, dy = (xs - x) / wide, (ys - y) / (wide * high)
        distance = (dx.square() + dy.square()).sqrt()
        soft = chance.log_uniform(0.02, 0.3)[:, None, None]
        cover = ((1 - distance) / soft).clamp(0, 1) * (count > k)[:, None, None]
        lit = dx * light.cos()[:, None, None] + dy * light.sin()[:, None, None]
        colour = palette[torch.arange(chance.n, device=chance.device), chance.integer(1, COLOURS)]
        body = (colour[..., None, None] * (1 + 0.45 * lit[:, None])).clamp(0, 1)
        picture = torch.lerp(picture, body, cover[:, None])
    return developed(picture, chance), unknown(chance)


def developed(picture: Tensor, chance: Chance) -> Tensor:
    """As a camera gives it: uneven light, detail at every scale, grain, blur."""
    side = picture.shape[-1]
    light = 1 + 0.2 * clouds(side, chance)[:, None] * chance.uniform(0, 1.2, 1, 1, 1)
    detail = 0.07 * chance.normal(1, side, side) * chance.uniform(0, 1, 1, 1, 1)
    sharp = (picture * light + detail).clamp(0, 1)
    blurred = F.avg_pool2d(F.pad(sharp, (2, 2, 2, 2), mode="reflect"), 5, stride=1)
    return torch.where(chance.happens(0.5)[:, None, None, None], blurred, sharp)


GENERATORS: tuple[Callable[[int, Chance], Drawn], ...] = (
    *(stripes, dots, checks, patches, gradients, soft_noise, blotches, strokes, grain, collage),
    *(landscapes, still_lifes, landscapes, still_lifes),
)
