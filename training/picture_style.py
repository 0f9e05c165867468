"""The style that a picture of any kind asks for: its palette, by area, and its texture."""

from __future__ import annotations

from dataclasses import replace

import torch
import torch.nn.functional as F
from torch import Tensor

from training import colours, styles
from training.colours import apart, difference, luma
from training.fields import MEASURED, Texture
from training.styles import BANDS, MOTTLE, PATCHES, SOLID, Style

#: Periods that the model can draw, in units of the picture's side.
FINEST, WIDEST = 0.08, 0.3
#: How much of its share of the area the shapes' colour keeps in a patched ground.
INK_SHARE = 0.5


def style_of(pictures: Tensor, texture: Texture, generator: torch.Generator) -> Style:
    """The style that pictures (N, 3, H, W) ask for.

    The ground is the colour of the largest area, the shapes have the colours that stand out from it, by area, the
    ground's pattern the largest of the others. Where no colour stands out, one is made lighter or darker until it does.
    """
    n, rows = len(pictures), torch.arange(len(pictures), device=pictures.device)
    palette, share = colours.palette(pictures)
    ground, others, area = palette[:, 0], palette[:, 1:], share[:, 1:]
    contrast = difference(others, ground[:, None])
    score = (area + 0.01).sqrt() * (contrast - 0.22).clamp(min=0.0) * (area > 0.012)
    order = score.argsort(1, descending=True)
    inks = others.gather(1, order[:, :3, None].expand(-1, -1, 3))
    good = score.gather(1, order[:, :3]) > 0
    first = torch.where(good[:, :1], inks[:, 0], torch.where(area[:, :1] > 0, others[:, 0], ground))
    first = apart(first, ground, 0.34)
    inks = torch.stack([first, *(torch.where(good[:, k : k + 1], inks[:, k], first) for k in (1, 2))], 1)
    alone = area.clone()  # the ground's second colour: the largest that is not the ink
    alone[rows, order[:, 0]] = torch.where(good[:, 0], 0.0, alone[rows, order[:, 0]])
    largest = alone.argmax(1)
    has = alone[rows, largest] > 0.03
    plain = torch.lerp(ground, first, 0.5)
    ground2 = torch.where(has[:, None], others[rows, largest], plain)
    strength = torch.where(difference(first, ground2) > 0.3, 0.75, 0.4)
    kind, period, angle = _texture_of(pictures, texture)
    patched = texture.kind == MEASURED
    less = share.clone()
    less[rows, 1 + order[:, 0]] *= torch.where(good[:, 0], INK_SHARE, 1.0)
    bands, edges = _bands_of(palette, less)
    seen = torch.lerp(ground, ground2, strength[:, None])
    clear = torch.minimum(difference(first, ground), difference(first, seen))
    alike = difference(bands, first[:, None]).amin(1) < 0.3  # a patch of the ground looks like the shape
    end = torch.where(luma(ground)[:, None] > 0.45, 0.06, 0.96).expand_as(ground)
    partner = apart(torch.where(good[:, 1:2], inks[:, 1], torch.lerp(first, ground2, 0.55)), ground, 0.2)
    return replace(
        styles.sample_styles(n, generator),
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


def _bands_of(palette: Tensor, share: Tensor) -> tuple[Tensor, Tensor]:
    """Bands and edges of a patched ground (see `Style`): the largest colours of a palette, from dark to bright."""
    area, largest = share.sort(1, descending=True)
    area, largest = area[:, :BANDS], largest[:, :BANDS]
    area = area / area.sum(1, keepdim=True)
    order = torch.where(area > 0, luma(palette).gather(1, largest), 9.0).argsort(1)
    index = largest.gather(1, order)[..., None].expand(-1, -1, 3)
    return palette.gather(1, index), area.gather(1, order).cumsum(1)[:, :-1]


def _texture_of(pictures: Tensor, texture: Texture) -> tuple[Tensor, Tensor, Tensor]:
    """Kind, period, angle: those stated, or what the picture's detail says."""
    power = detail(pictures)
    lengths = torch.tensor([0.06, 0.1, 0.18, 0.3], device=pictures.device)
    period = ((power * lengths.log()).sum(1) / power.sum(1).clamp(min=1e-9)).exp()
    kind = torch.where(power.sum(1).sqrt() < 0.02, SOLID, MOTTLE)
    measured = texture.kind == MEASURED
    period = torch.where(measured, period, texture.period).clamp(FINEST, WIDEST)
    return torch.where(measured, kind, texture.kind), period, texture.angle


def detail(pictures: Tensor) -> Tensor:
    """(N, 4): the power of a picture's detail at four scales, fine to coarse."""
    level = F.interpolate(pictures, (128, 128), mode="area")
    power = []
    for _ in range(5):
        lower = F.avg_pool2d(level, 2)
        power.append((level - F.interpolate(lower, scale_factor=2, mode="nearest")).square().mean((1, 2, 3)))
        level = lower
    return torch.stack(power[1:], 1)
