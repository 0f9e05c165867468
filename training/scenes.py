"""Pictures made by a program: contents in styles as tensors, drawn in batches on any device.

`draw` paints contents in styles; `abstract` paints a style alone, as a swatch or as something like a photograph.
Lengths are in units of the picture's shorter side, textures in units of 256 pixels, colours RGB in 0 to 1.
"""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from training.captions import COLOURS, NONE, Content
from training.colours import difference
from training.shapes import SLOTS, layout, signed_distance
from training.styles import BRUSH, GRADIENT, MOTTLE, SOLID, Style
from training.textures import TEXTURE_UNIT, fill_pattern, fractal, grounds, pixels

SCENE, SWATCH, PHOTO = range(3)


def settle(content: Content, style: Style) -> Content:
    """Take back stated colours that would leave the shapes unseen in this style."""
    palette = torch.tensor(list(COLOURS.values()), device=style.ground.device)
    ground = torch.where((content.ground == NONE)[:, None], style.ground, palette[content.ground])
    stated = content.ground != NONE
    hidden = stated & (difference(style.inks, ground[:, None]).amin(1) < 0.4)
    kept = torch.where(hidden, NONE, content.ground)
    ground = torch.where(hidden[:, None], style.ground, ground)
    clash = (content.colour != NONE) & (difference(palette[content.colour], ground) < 0.4)
    return replace(content, ground=kept, colour=torch.where(clash, NONE, content.colour))


def draw(content: Content, style: Style, height: int, width: int, generator, density: float = TEXTURE_UNIT):
    """(N, 3, height, width) in 0 to 1; `density`: pixels in one unit of texture."""
    n, device = len(content), style.ground.device
    side = min(height, width)
    centre, radius, angle, kinds, present = layout(content, width / side, height / side, generator)
    palette = torch.tensor(list(COLOURS.values()), device=device)
    jitter = 0.05 * (torch.rand(n, 3, generator=generator, device=device) - 0.5)
    stated = (palette[content.colour] + jitter).clamp(0, 1)
    new_ground = (palette[content.ground] + jitter).clamp(0, 1)
    has_ground = (content.ground != NONE)[:, None]
    shift = style.ground2 - style.ground
    style = replace(
        style,
        ground=torch.where(has_ground, new_ground, style.ground),
        ground2=torch.where(has_ground, (new_ground + 0.5 * shift).clamp(0, 1), style.ground2),
        bands=torch.where(
            has_ground[:, None],
            (new_ground[:, None] + 0.5 * (style.bands - style.ground[:, None])).clamp(0, 1),
            style.bands,
        ),
    )
    fill = fill_pattern(style, height, width, density)
    slots = torch.arange(SLOTS, device=device)
    which = torch.where(style.vary[:, None], slots % 3, 0)
    second = torch.where(content.second != NONE, style.vary.long(), which[:, 1])
    which = torch.cat([which[:, :1], second[:, None], which[:, 2:]], 1)
    inks = style.inks.gather(1, which[..., None].expand(-1, -1, 3))
    own = (content.colour != NONE)[:, None] & ~((content.second != NONE)[:, None] & (slots == 1))
    inks = torch.where(own[..., None], stated[:, None], inks)
    ys, xs = pixels(height, width, side, device)
    distances = [signed_distance(kinds[:, k], centre[:, k], radius[:, k], angle[:, k], ys, xs) for k in range(SLOTS)]
    far = [d + 9.0 * ~present[:, k, None, None] for k, d in enumerate(distances)]
    canvas = grounds(style, height, width, density, torch.stack(far).amin(0))
    for slot, distance in enumerate(distances):
        cover = (0.5 - distance * side).clamp(0, 1) * present[:, slot, None, None]
        thickness = style.line_width * (radius[:, slot] / 0.2).clamp(0.5, 1.2)
        half = thickness[:, None, None] / 2
        border = (0.5 - ((distance + half).abs() - half) * side).clamp(0, 1) * (half > 0)
        ink = inks[:, slot, :, None, None]
        other = torch.lerp(ink, style.partner[..., None, None], style.blend[:, None, None, None])
        paint = torch.lerp(ink, other, fill[:, None])
        paint = torch.lerp(paint, style.line[..., None, None].expand_as(paint), border[:, None])
        canvas = torch.lerp(canvas, paint, cover[:, None])
    return canvas


def abstract(style: Style, photo: Tensor, height: int, width: int, generator, density: float = TEXTURE_UNIT):
    """Pictures of the style without shapes: a swatch, or where `photo` (N,) something like a photograph."""
    n, device = len(style), style.ground.device
    soft = torch.where(photo, 0.35, 0.02)[:, None, None]
    area = fractal(n, height, width, generator, device, coarse=True)
    tone = fractal(n, height, width, generator, device, coarse=True)
    grain = fractal(n, height, width, generator, device, coarse=False)
    canvas = grounds(style, height, width, density)
    fill = fill_pattern(style, height, width, density)
    low, high = ((tone - t).div(soft).add(0.5).clamp(0, 1)[:, None] for t in (-0.35, 0.35))
    inks = style.inks[..., None, None]
    varied = torch.lerp(torch.lerp(inks[:, 1].expand_as(canvas), inks[:, 0], low), inks[:, 2], high)
    ink = torch.where(style.vary[:, None, None, None], varied, inks[:, 0])
    other = torch.lerp(ink, style.partner[..., None, None], style.blend[:, None, None, None])
    threshold = 0.15 + 0.5 * torch.rand(n, 1, 1, generator=generator, device=device)  # the ground has the larger part
    cover = (area - threshold).div(soft).add(0.5).clamp(0, 1)[:, None]
    canvas = torch.lerp(canvas, torch.lerp(ink, other, fill[:, None]), cover)
    lit = canvas * (1 + 0.25 * grain[:, None]) + 0.05 * grain[:, None]
    return torch.where(photo[:, None, None, None], lit, canvas).clamp(0, 1)


def reference(content: Content, style: Style, mode: Tensor, size: int, generator, density: float) -> Tensor:
    """(N, 3, size, size): a scene, a swatch or a photograph-like picture of each style, as `mode` (N,) says.

    Patterns do not survive in something like a photograph, so there patterned styles give a swatch instead. Colours
    that the content states are left out: they are no part of the style.
    """
    content = replace(
        content, colour=torch.full_like(content.colour, NONE), ground=torch.full_like(content.ground, NONE)
    )
    smooth = _is_smooth(style.fill) & _is_smooth(style.backdrop)
    scene = draw(content, style, size, size, generator, density)
    other = abstract(style, (mode == PHOTO) & smooth, size, size, generator, density)
    return torch.where((mode == SCENE)[:, None, None, None], scene, other)


def sample_modes(n: int, generator: torch.Generator) -> Tensor:
    weights = torch.tensor([0.78, 0.22, 0.0], device=generator.device)
    return torch.multinomial(weights, n, replacement=True, generator=generator)


def _is_smooth(fill: Tensor) -> Tensor:
    return (fill == SOLID) | (fill == GRADIENT) | (fill == BRUSH) | (fill == MOTTLE)
