"""Styles: what the captions never tell of a picture, its palette, fill of the shapes, outline and backdrop."""

from __future__ import annotations

import math
from dataclasses import dataclass, fields, replace

import torch
from torch import Tensor

from training.chance import Chance
from training.colours import apart, difference, from_hsv, hue

FILLS = ("solid", "stripes", "checks", "dots", "gradient", "brush", "mottle", "patches")
SOLID, STRIPES, CHECKS, DOTS, GRADIENT, BRUSH, MOTTLE, PATCHES = range(8)
#: Colours of a patched ground, and the sizes of its patches, in units of texture.
BANDS, PATCH_SIZES = 3, (1 / 16, 1 / 8, 1 / 4)
HUE_BINS = 12
BACKDROP = ("backdrop", "back_period", "back_angle", "back_strength", "edges", "patch_weights")


@dataclass(frozen=True)
class Style:
    """N styles.

    ground, ground2, partner, line: (N, 3); inks (N, 3, 3); fill, backdrop: (N,) indices into FILLS; period, angle,
    phase, back_period, back_angle, back_strength, blend, line_width: (N,); vary: (N,) bool; noise: (N, 2, 24, 24).
    Of a patched ground: bands (N, BANDS, 3), its colours from dark to bright; edges (N, BANDS - 1), the share of the
    area that the bands below each take; patch_weights (N, 3), how much patches of each size count.
    """

    ground: Tensor
    ground2: Tensor
    inks: Tensor
    partner: Tensor
    blend: Tensor
    vary: Tensor
    line: Tensor
    line_width: Tensor
    fill: Tensor
    period: Tensor
    angle: Tensor
    phase: Tensor
    backdrop: Tensor
    back_period: Tensor
    back_angle: Tensor
    back_strength: Tensor
    noise: Tensor
    bands: Tensor
    edges: Tensor
    patch_weights: Tensor

    def __len__(self) -> int:
        return len(self.ground)

    def take(self, index) -> Style:
        return Style(*(getattr(self, f.name)[index] for f in fields(self)))


def sample_styles(n: int, generator: torch.Generator, held_out: bool = False) -> Style:
    """N styles whose pair of hues (ground, first ink) is, or is not, among those kept from training."""
    count = 16 + (12 * n if held_out else int(1.4 * n))
    keep = [_colours(count, generator, ground=True)]
    keep.append(_contrasting(keep[0], 0.5, generator))
    ground, ink = keep
    index = (is_held_out(ground, ink) == held_out).nonzero()[:n, 0]
    assert len(index) == n
    ground, ink = ground[index], ink[index]
    device = generator.device
    chance = Chance(n, generator)

    def choice(*weights):
        weights = torch.tensor(weights, device=device)
        return torch.multinomial(weights, n, replacement=True, generator=generator)

    inks = torch.stack([ink, _contrasting(ground, 0.5, generator), _contrasting(ground, 0.5, generator)], 1)
    shade = (ground + torch.where(chance.happens(0.5), 0.3, -0.3)[:, None]).clamp(0, 1)
    ground2 = torch.where(chance.happens(0.5)[:, None], shade, _nearby(ground, generator))
    dark = torch.where(chance.happens(0.75)[:, None], 0.08, 0.97) * torch.ones_like(ground)
    line = torch.where(chance.happens(0.6)[:, None], dark, _contrasting(ground, 0.4, generator))
    width = torch.tensor([0.0, 0.014, 0.026], device=device)[choice(0.4, 0.35, 0.25)]
    return Style(
        ground=ground,
        ground2=ground2,
        inks=inks,
        partner=_contrasting(ground, 0.25, generator),
        blend=chance.uniform(0.6, 1.0),
        vary=chance.happens(0.4),
        line=line,
        line_width=width,
        fill=choice(0.22, 0.18, 0.14, 0.16, 0.12, 0.12, 0.06),
        period=chance.log_uniform(0.08, 0.28),
        angle=chance.uniform(0, math.pi),
        phase=chance.uniform(0, 1, 2),
        backdrop=choice(0.35, 0.12, 0.1, 0.1, 0.15, 0.1, 0.08),
        back_period=chance.log_uniform(0.08, 0.3),
        back_angle=chance.uniform(0, math.pi),
        back_strength=chance.uniform(0.5, 1.0),
        noise=torch.rand(n, 2, 24, 24, generator=generator, device=device),
        bands=ground[:, None].expand(-1, BANDS, -1),
        edges=torch.ones(n, BANDS - 1, device=device),
        patch_weights=torch.ones(n, len(PATCH_SIZES), device=device),
    )


def is_held_out(ground: Tensor, ink: Tensor) -> Tensor:
    """Whether the pair of hues is kept for evaluation: one sixth of the 12 x 12 cells."""
    first, second = (hue(c).mul(HUE_BINS).long().clamp(max=HUE_BINS - 1) for c in (ground, ink))
    return (5 * first + 7 * second) % 6 == 0


def between(own: Style, given: Style, scale: Tensor, generator) -> Style:
    """Styles on the way from `own` (scale 0) to `given` (scale 1), for scale (N,).

    Ground, shapes, and the patterns of each pass over at different scales, drawn at random; colours gradually. Where
    the pattern stands stays `own`'s. Colours of two styles may come to look alike on the way: there shapes are made to
    stand out, and those like a part of their ground have an outline.
    """
    n, device = len(own), scale.device
    start = torch.rand(n, 4, generator=generator, device=device)
    weight = ((1 - (1 - scale) ** 1.5)[:, None] * 1.4 - 0.2 - start).div(0.4).add(0.5).clamp(0, 1)
    weight = torch.where(scale[:, None] >= 1, 1.0, torch.where(scale[:, None] <= 0, 0.0, weight))
    back, front, fill, backdrop = weight.unbind(1)

    def mixed(name, part):
        a, b = getattr(own, name), getattr(given, name)
        return torch.lerp(a, b, part.view(-1, *[1] * (a.ndim - 1)))

    def chosen(name, part):
        a, b = getattr(own, name), getattr(given, name)
        return torch.where(part.view(-1, *[1] * (a.ndim - 1)) > 0.5, b, a)

    on_the_way = (scale > 0) & (scale < 1)
    ground, ground2, bands = (mixed(name, back) for name in ("ground", "ground2", "bands"))
    under = ground[:, None].expand(-1, 3, -1)
    inks = apart(mixed("inks", front), under, 0.3)
    inks = torch.where(on_the_way[:, None, None], apart(inks, under, 0.42), inks)
    line, line_width = mixed("line", front), chosen("line_width", front)
    patterns = {name: chosen(name, backdrop) for name in BACKDROP}
    patched = (patterns["backdrop"] == PATCHES)[:, None, None]
    around = torch.where(patched, bands, ground2[:, None])
    alike = (difference(around[:, :, None], inks[:, None]).amin((1, 2)) < 0.35) & (patterns["backdrop"] != SOLID)
    return replace(
        own,
        ground=ground,
        ground2=ground2,
        bands=bands,
        inks=inks,
        partner=mixed("partner", front),
        line=torch.where(on_the_way[:, None], apart(line, ground, 0.42), line),
        line_width=torch.where(on_the_way & alike, line_width.clamp(min=0.02), line_width),
        vary=chosen("vary", front),
        **{name: chosen(name, fill) for name in ("fill", "period", "angle", "blend")},
        **patterns,
    )


def _colours(n, generator, ground=False) -> Tensor:
    hue, s, v, pick = torch.rand(4, n, generator=generator, device=generator.device)
    if ground:  # pale, vivid or dark
        saturation = torch.where(pick < 0.45, 0.3 * s, 0.35 + 0.6 * s)
        value = torch.where(pick < 0.45, 0.8 + 0.2 * v, torch.where(pick < 0.75, 0.45 + 0.5 * v, 0.06 + 0.25 * v))
    else:
        saturation = torch.where(pick < 0.8, 0.5 + 0.5 * s, 0.3 * s)
        value = torch.where(pick < 0.8, 0.35 + 0.65 * v, v)
    return from_hsv(hue, saturation, value)


def _contrasting(ground, least, generator, tries=8) -> Tensor:
    drawn = _colours(tries * len(ground), generator).unflatten(0, (len(ground), tries))
    far = difference(drawn, ground[:, None])
    first = torch.where((far > least).any(1), (far > least).long().argmax(1), far.argmax(1))
    return drawn[torch.arange(len(ground), device=ground.device), first]


def _nearby(colour, generator) -> Tensor:
    return (colour + 0.5 * (torch.rand(colour.shape, generator=generator, device=colour.device) - 0.5)).clamp(0, 1)
