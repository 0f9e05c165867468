"""Pictures made by a program: contents and styles as tensors, drawn in batches on any device.

A style is what the captions never tell: palette, fill of the shapes, outline, backdrop. `draw` paints contents in
styles; `abstract` paints a style alone, as a swatch or as something like a photograph. Lengths are in units of the
picture's shorter side, textures in units of 256 pixels, colours RGB in 0 to 1.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, fields, replace
from functools import lru_cache

import torch
import torch.nn.functional as F
from torch import Tensor

from training.captions import BESIDE, COLOURS, KINDS, NONE, UNDER, Content

FILLS = ("solid", "stripes", "checks", "dots", "gradient", "brush", "mottle", "patches")
SOLID, STRIPES, CHECKS, DOTS, GRADIENT, BRUSH, MOTTLE, PATCHES = range(8)
#: Colours of a patched ground; the sizes of its patches, in units of texture; how far it keeps clear of shapes.
BANDS, PATCH_SIZES, CLEAR = 3, (1 / 16, 1 / 8, 1 / 4), 0.05
SLOTS = 4
TEXTURE_UNIT = 256
HUE_BINS = 12
ATLAS_REACH, ATLAS_SIZE = 1.3, 160
SCENE, SWATCH, PHOTO = range(3)


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

    def uniform(low, high, *shape):
        return low + (high - low) * torch.rand(n, *shape, generator=generator, device=device)

    def chance(p):
        return torch.rand(n, generator=generator, device=device) < p

    def choice(*weights):
        weights = torch.tensor(weights, device=device)
        return torch.multinomial(weights, n, replacement=True, generator=generator)

    inks = torch.stack([ink, _contrasting(ground, 0.5, generator), _contrasting(ground, 0.5, generator)], 1)
    shade = (ground + torch.where(chance(0.5), 0.3, -0.3)[:, None]).clamp(0, 1)
    ground2 = torch.where(chance(0.5)[:, None], shade, _nearby(ground, generator))
    dark = torch.where(chance(0.75)[:, None], 0.08, 0.97) * torch.ones_like(ground)
    line = torch.where(chance(0.6)[:, None], dark, _contrasting(ground, 0.4, generator))
    width = torch.tensor([0.0, 0.014, 0.026], device=device)[choice(0.4, 0.35, 0.25)]
    return Style(
        ground=ground,
        ground2=ground2,
        inks=inks,
        partner=_contrasting(ground, 0.25, generator),
        blend=uniform(0.6, 1.0),
        vary=chance(0.4),
        line=line,
        line_width=width,
        fill=choice(0.22, 0.18, 0.14, 0.16, 0.12, 0.12, 0.06),
        period=uniform(math.log(0.08), math.log(0.28)).exp(),
        angle=uniform(0, math.pi),
        phase=uniform(0, 1, 2),
        backdrop=choice(0.35, 0.12, 0.1, 0.1, 0.15, 0.1, 0.08),
        back_period=uniform(math.log(0.08), math.log(0.3)).exp(),
        back_angle=uniform(0, math.pi),
        back_strength=uniform(0.5, 1.0),
        noise=torch.rand(n, 2, 24, 24, generator=generator, device=device),
        bands=ground[:, None].expand(-1, BANDS, -1),
        edges=torch.ones(n, BANDS - 1, device=device),
        patch_weights=torch.ones(n, len(PATCH_SIZES), device=device),
    )


def is_held_out(ground: Tensor, ink: Tensor) -> Tensor:
    """Whether the pair of hues is kept for evaluation: one sixth of the 12 x 12 cells."""
    first, second = (_hue(c).mul(HUE_BINS).long().clamp(max=HUE_BINS - 1) for c in (ground, ink))
    return (5 * first + 7 * second) % 6 == 0


def settle(content: Content, style: Style) -> Content:
    """Take back stated colours that would leave the shapes unseen in this style."""
    palette = torch.tensor(list(COLOURS.values()), device=style.ground.device)
    ground = torch.where((content.ground == NONE)[:, None], style.ground, palette[content.ground])
    stated = content.ground != NONE
    hidden = stated & (distance(style.inks, ground[:, None]).amin(1) < 0.4)
    kept = torch.where(hidden, NONE, content.ground)
    ground = torch.where(hidden[:, None], style.ground, ground)
    clash = (content.colour != NONE) & (distance(palette[content.colour], ground) < 0.4)
    return replace(content, ground=kept, colour=torch.where(clash, NONE, content.colour))


def draw(content: Content, style: Style, height: int, width: int, generator, density: float = TEXTURE_UNIT):
    """(N, 3, height, width) in 0 to 1; `density`: pixels in one unit of texture."""
    n, device = len(content), style.ground.device
    side = min(height, width)
    centre, radius, angle, kinds, present = _layout(content, width / side, height / side, generator)
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
    fill = _texture(style, height, width, density, front=True)
    slots = torch.arange(SLOTS, device=device)
    which = torch.where(style.vary[:, None], slots % 3, 0)
    second = torch.where(content.second != NONE, style.vary.long(), which[:, 1])
    which = torch.cat([which[:, :1], second[:, None], which[:, 2:]], 1)
    inks = style.inks.gather(1, which[..., None].expand(-1, -1, 3))
    own = (content.colour != NONE)[:, None] & ~((content.second != NONE)[:, None] & (slots == 1))
    inks = torch.where(own[..., None], stated[:, None], inks)
    ys, xs = _pixels(height, width, side, device)
    distances = [_shape(kinds[:, k], centre[:, k], radius[:, k], angle[:, k], ys, xs) for k in range(SLOTS)]
    far = [d + 9.0 * ~present[:, k, None, None] for k, d in enumerate(distances)]
    canvas = _backdrop(style, height, width, density, torch.stack(far).amin(0))
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
    area = _fractal(n, height, width, generator, device, coarse=True)
    tone = _fractal(n, height, width, generator, device, coarse=True)
    grain = _fractal(n, height, width, generator, device, coarse=False)
    canvas = _backdrop(style, height, width, density)
    fill = _texture(style, height, width, density, front=True)
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


# Colours


def _colours(n, generator, ground=False) -> Tensor:
    hue, s, v, pick = torch.rand(4, n, generator=generator, device=generator.device)
    if ground:  # pale, vivid or dark
        saturation = torch.where(pick < 0.45, 0.3 * s, 0.35 + 0.6 * s)
        value = torch.where(pick < 0.45, 0.8 + 0.2 * v, torch.where(pick < 0.75, 0.45 + 0.5 * v, 0.06 + 0.25 * v))
    else:
        saturation = torch.where(pick < 0.8, 0.5 + 0.5 * s, 0.3 * s)
        value = torch.where(pick < 0.8, 0.35 + 0.65 * v, v)
    return _from_hsv(hue, saturation, value)


def _contrasting(ground, least, generator, tries=8) -> Tensor:
    drawn = _colours(tries * len(ground), generator).unflatten(0, (len(ground), tries))
    far = distance(drawn, ground[:, None])
    first = torch.where((far > least).any(1), (far > least).long().argmax(1), far.argmax(1))
    return drawn[torch.arange(len(ground), device=ground.device), first]


def _nearby(colour, generator) -> Tensor:
    return (colour + 0.5 * (torch.rand(colour.shape, generator=generator, device=colour.device) - 0.5)).clamp(0, 1)


def distance(a, b) -> Tensor:
    """How different two colours look: brightness counts most."""
    difference = a - b
    luma = difference @ torch.tensor([0.30, 0.59, 0.11], device=a.device)
    return (luma.square() * 1.5 + 0.5 * difference.square().mean(-1)).sqrt() * 1.2


def apart(colour: Tensor, ground: Tensor, least: float) -> Tensor:
    """Colours (..., 3) that look at least `least` unlike their grounds: made lighter or darker where they do not."""
    luma = (ground @ torch.tensor([0.30, 0.59, 0.11], device=ground.device))[..., None]
    end = torch.where(luma > 0.5, 0.0, 1.0).expand_as(colour)
    moved = colour
    for part in (0.15, 0.3, 0.45, 0.6, 0.75):
        near = (distance(moved, ground) < least)[..., None]
        moved = torch.where(near, torch.lerp(colour, end, part), moved)
    return moved


BACKDROP = ("backdrop", "back_period", "back_angle", "back_strength", "edges", "patch_weights")


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
    alike = (distance(around[:, :, None], inks[:, None]).amin((1, 2)) < 0.35) & (patterns["backdrop"] != SOLID)
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


def _hue(rgb) -> Tensor:
    r, g, b = rgb.unbind(-1)
    return torch.atan2(math.sqrt(3) * (g - b), 2 * r - g - b).div(2 * math.pi).remainder(1)


def _from_hsv(hue, saturation, value) -> Tensor:
    k = (torch.tensor([5.0, 3.0, 1.0], device=hue.device) + 6 * hue[:, None]).remainder(6)
    return value[:, None] * (1 - saturation[:, None] * torch.minimum(k, 4 - k).clamp(0, 1))


# Textures


def grounds(style: Style, height: int, width: int, density: float = TEXTURE_UNIT) -> Tensor:
    """(N, 3, height, width): the styles' grounds, with nothing on them."""
    return _backdrop(style, height, width, density)


def _pixels(height, width, unit, device):
    ys = (torch.arange(height, device=device) + 0.5) / unit
    xs = (torch.arange(width, device=device) + 0.5) / unit
    return ys[:, None].expand(height, width), xs[None].expand(height, width)


def _backdrop(style, height, width, density, far: Tensor | None = None) -> Tensor:
    """The grounds; `far` (N, height, width): the distance to the nearest shape, of which patches keep clear."""
    mix = _texture(style, height, width, density, front=False) * style.back_strength[:, None, None]
    ground, ground2 = (c[..., None, None].expand(-1, -1, height, width) for c in (style.ground, style.ground2))
    plain = torch.lerp(ground, ground2, mix[:, None])
    patched = _patches(style, height, width, density)
    if far is not None:
        patched = torch.lerp(ground, patched, (2 * far / CLEAR - 1).clamp(0, 1)[:, None])
    return torch.where((style.backdrop == PATCHES)[:, None, None, None], patched, plain)


def _patches(style, height, width, density, soft: float = 0.12) -> Tensor:
    """(N, 3, height, width): patches of several sizes in the colours of `bands`, each as large as its share."""
    ys, xs = _pixels(height, width, density, style.ground.device)
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


def _texture(style, height, width, density, front) -> Tensor:
    """(N, height, width) in 0 to 1: the share of the second colour."""
    kind, period, angle = (
        (style.fill, style.period, style.angle) if front else (style.backdrop, style.back_period, style.back_angle)
    )
    kind, period, angle = (t[:, None, None] for t in (kind, period, angle))
    ys, xs = _pixels(height, width, density, style.ground.device)
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


def _fractal(n, height, width, generator, device, coarse) -> Tensor:
    """(N, height, width): noise of several scales, mean 0, standard deviation about 0.5."""
    total = torch.zeros(n, 1, height, width, device=device)
    for cells, weight in ((3, 1.0), (6, 0.5), (12, 0.12)) if coarse else ((8, 0.6), (16, 0.6), (32, 0.5), (64, 0.5)):
        noise = torch.randn(n, 1, cells, cells, generator=generator, device=device)
        total = total + weight * F.interpolate(noise, (height, width), mode="bicubic")
    return 0.6 * total[:, 0]


# Shapes and where they stand


def _shape(kind, centre, radius, angle, ys, xs) -> Tensor:
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


def _layout(content, wide, high, generator):
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
