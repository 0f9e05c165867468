"""References of every kind, and the style that a picture of any kind asks for.

`GENERATORS` draw the references of training: patterns, noises, patches, collages, scenes like photographs, in colours
from the whole cube. `HELD_OUT` draw those of the evaluation alone. `Photographs` are pictures from a folder, coloured
anew each time. `style_of` reads off any picture what a drawing in its style has: its palette, by area, and its texture.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from training import colours, scenes
from training.scenes import BANDS, BRUSH, CHECKS, DOTS, GRADIENT, MOTTLE, PATCHES, SOLID, STRIPES, Style

MEASURED = -1
#: Periods that the model can draw, in units of the picture's side.
FINEST, WIDEST = 0.08, 0.3
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


class Chance:
    """Random numbers of n rows from one generator."""

    def __init__(self, n: int, generator: torch.Generator):
        self.n, self.generator, self.device = n, generator, generator.device

    def uniform(self, low: float, high: float, *shape: int) -> Tensor:
        return low + (high - low) * torch.rand(self.n, *shape, generator=self.generator, device=self.device)

    def log_uniform(self, low: float, high: float, *shape: int) -> Tensor:
        return self.uniform(math.log(low), math.log(high), *shape).exp()

    def integer(self, low: int, high: int, *shape: int) -> Tensor:
        """low to high - 1."""
        return torch.randint(low, high, (self.n, *shape), generator=self.generator, device=self.device)

    def normal(self, *shape: int) -> Tensor:
        return torch.randn(self.n, *shape, generator=self.generator, device=self.device)

    def happens(self, p: float) -> Tensor:
        return torch.rand(self.n, generator=self.generator, device=self.device) < p


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


# Generators of training


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


# Generators of the evaluation


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


HELD_OUT: tuple[Callable[[int, Chance], Tensor], ...] = (
    lambda side, chance: scattered(side, chance, True),
    lambda side, chance: scattered(side, chance, False),
    *(rings, tartan, bricks, waves, arcs, triangles),
)


def held_out(n: int, side: int, generator: torch.Generator) -> Tensor:
    """(n, 3, side, side): pictures of the held-out generators in turn."""
    return torch.cat([HELD_OUT[k % len(HELD_OUT)](side, Chance(1, generator)) for k in range(n)])


# Photographs


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


def draw(n: int, side: int, generator: torch.Generator, photographs: Photographs | None = None) -> Drawn:
    """n references of training: of each generator as many, and as many photographs as of all generators."""
    makers = [*GENERATORS, *([photographs] * len(GENERATORS) if photographs else [])]
    counts = [n * (k + 1) // len(makers) - n * k // len(makers) for k in range(len(makers))]
    parts = [make(side, Chance(count, generator)) for make, count in zip(makers, counts, strict=True) if count]
    textures = [part[1] for part in parts]
    texture = Texture(*(torch.cat([getattr(t, name) for t in textures]) for name in ("kind", "period", "angle")))
    order = torch.randperm(n, generator=generator, device=generator.device)
    return torch.cat([part[0] for part in parts]).clamp(0, 1)[order], texture.take(order)


# The style of any picture


def style_of(pictures: Tensor, texture: Texture, generator: torch.Generator) -> Style:
    """The style that pictures (N, 3, H, W) ask for.

    The ground is the colour of the largest area, the shapes have the colours that stand out from it, by area, the
    ground's pattern the largest of the others. Where no colour stands out, one is made lighter or darker until it does.
    """
    n, rows = len(pictures), torch.arange(len(pictures), device=pictures.device)
    palette, share = colours.palette(pictures)
    ground, others, area = palette[:, 0], palette[:, 1:], share[:, 1:]
    contrast = scenes.distance(others, ground[:, None])
    score = (area + 0.01).sqrt() * (contrast - 0.22).clamp(min=0.0) * (area > 0.012)
    order = score.argsort(1, descending=True)
    inks = others.gather(1, order[:, :3, None].expand(-1, -1, 3))
    good = score.gather(1, order[:, :3]) > 0
    first = torch.where(good[:, :1], inks[:, 0], torch.where(area[:, :1] > 0, others[:, 0], ground))
    first = scenes.apart(first, ground, 0.34)
    inks = torch.stack([first, *(torch.where(good[:, k : k + 1], inks[:, k], first) for k in (1, 2))], 1)
    alone = area.clone()  # the ground's second colour: the largest that is not the ink
    alone[rows, order[:, 0]] = torch.where(good[:, 0], 0.0, alone[rows, order[:, 0]])
    largest = alone.argmax(1)
    has = alone[rows, largest] > 0.03
    plain = torch.lerp(ground, first, 0.5)
    ground2 = torch.where(has[:, None], others[rows, largest], plain)
    strength = torch.where(scenes.distance(first, ground2) > 0.3, 0.75, 0.4)
    kind, period, angle = _texture_of(pictures, texture)
    patched = texture.kind == MEASURED
    less = share.clone()
    less[rows, 1 + order[:, 0]] *= torch.where(good[:, 0], INK_SHARE, 1.0)
    bands, edges = _bands_of(palette, less)
    seen = torch.lerp(ground, ground2, strength[:, None])
    clear = torch.minimum(scenes.distance(first, ground), scenes.distance(first, seen))
    alike = scenes.distance(bands, first[:, None]).amin(1) < 0.3  # a patch of the ground looks like the shape
    luma = (ground @ torch.tensor([0.30, 0.59, 0.11], device=ground.device))[:, None]
    end = torch.where(luma > 0.45, 0.06, 0.96).expand_as(ground)
    partner = scenes.apart(torch.where(good[:, 1:2], inks[:, 1], torch.lerp(first, ground2, 0.55)), ground, 0.2)
    return replace(
        scenes.sample_styles(n, generator),
        ground=ground,
        ground2=ground2,
        inks=inks,
        partner=partner,
        blend=torch.where(patched, 0.4, torch.full_like(strength, 0.8)),
        vary=good[:, 1] & good[:, 2],
        line=end,
        line_width=torch.where(torch.where(patched, alike, clear < 0.3), 0.02, 0.0),
        fill=kind,
        period=period,
        angle=angle,
        backdrop=torch.where(patched, PATCHES, kind),
        back_period=period,
        back_angle=angle,
        back_strength=strength,
        bands=bands,
        edges=edges,
        patch_weights=detail(pictures)[:, 1:].add(1e-6).sqrt(),
    )


#: How much of its share of the area the shapes' colour keeps in a patched ground.
INK_SHARE = 0.5


def _bands_of(palette: Tensor, share: Tensor) -> tuple[Tensor, Tensor]:
    """Bands and edges of a patched ground (see `Style`): the largest colours of a palette, from dark to bright."""
    area, largest = share.sort(1, descending=True)
    area, largest = area[:, :BANDS], largest[:, :BANDS]
    area = area / area.sum(1, keepdim=True)
    luma = palette @ torch.tensor([0.30, 0.59, 0.11], device=palette.device)
    order = torch.where(area > 0, luma.gather(1, largest), 9.0).argsort(1)
    index = largest.gather(1, order)[..., None].expand(-1, -1, 3)
    return palette.gather(1, index), area.gather(1, order).cumsum(1)[:, :-1]


def detail(pictures: Tensor) -> Tensor:
    """(N, 4): the power of a picture's detail at four scales, fine to coarse."""
    level = F.interpolate(pictures, (128, 128), mode="area")
    power = []
    for _ in range(5):
        lower = F.avg_pool2d(level, 2)
        power.append((level - F.interpolate(lower, scale_factor=2, mode="nearest")).square().mean((1, 2, 3)))
        level = lower
    return torch.stack(power[1:], 1)


def _texture_of(pictures: Tensor, texture: Texture) -> tuple[Tensor, Tensor, Tensor]:
    """Kind, period, angle: those stated, or what the picture's detail says."""
    power = detail(pictures)
    lengths = torch.tensor([0.06, 0.1, 0.18, 0.3], device=pictures.device)
    period = ((power * lengths.log()).sum(1) / power.sum(1).clamp(min=1e-9)).exp()
    kind = torch.where(power.sum(1).sqrt() < 0.02, SOLID, MOTTLE)
    measured = texture.kind == MEASURED
    period = torch.where(measured, period, texture.period).clamp(FINEST, WIDEST)
    return torch.where(measured, kind, texture.kind), period, texture.angle
