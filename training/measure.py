"""How unlike two pictures are in style, and what a picture shows: measures that are independent of the model.

Style: colour histograms and Gram matrices of fixed filters. Content: a small classifier, trained on rendered pictures.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from training.captions import COLOURS, COUNTS, KINDS

SIDE = 128
#: The kind of a picture without a shape.
EMPTY = len(KINDS)


def colour_histogram(pictures: Tensor, bins: int) -> Tensor:
    """(N, bins³), rows summing to 1: each pixel of (N, 3, H, W) is shared between its eight nearest bins."""
    n = len(pictures)
    place = pictures.float().clamp(0, 1).flatten(2) * (bins - 1)
    low = place.floor().clamp(max=bins - 2)
    part = place - low
    low = low.long()
    out = torch.zeros(n, bins**3, device=pictures.device)
    for corner in range(8):
        steps = [(corner >> axis) & 1 for axis in range(3)]
        index, weight = 0, 1
        for axis, step in enumerate(steps):
            index = index * bins + low[:, axis] + step
            weight = weight * (part[:, axis] if step else 1 - part[:, axis])
        out.scatter_add_(1, index, weight)
    return out / place.shape[-1]


def waves(device, lengths=(5.0, 8.0, 13.0), directions=6, size=15) -> Tensor:
    """(2 · lengths · directions, size, size): Gabor filters, even and odd, each of mean 0 and norm 1."""
    line = torch.arange(size, device=device) - size // 2
    ys, xs = torch.meshgrid(line, line, indexing="ij")
    filters = []
    for length in lengths:
        window = torch.exp(-(xs.square() + ys.square()) / (2 * (0.5 * length) ** 2))
        for k in range(directions):
            angle = math.pi * k / directions
            phase = 2 * math.pi * (xs * math.cos(angle) + ys * math.sin(angle)) / length
            filters += [window * phase.cos(), window * phase.sin()]
    bank = torch.stack(filters)
    bank = bank - bank.mean((1, 2), keepdim=True)
    return bank / bank.norm(dim=(1, 2), keepdim=True)


def texture_energy(pictures: Tensor) -> Tensor:
    """(N, 3 · filters): the log of the mean response of each filter, in brightness and two colour differences."""
    planes = _opponent(pictures)
    n, c, h, w = planes.shape
    bank = waves(pictures.device)[:, None].to(planes.dtype)
    response = F.conv2d(planes.reshape(n * c, 1, h, w), bank, stride=2).float().abs().mean((2, 3))
    return torch.log(response + 0.02).view(n, -1)


def _opponent(pictures: Tensor) -> Tensor:
    r, g, b = pictures.unbind(1)
    return torch.stack([(r + g + b) / 3, (r - g) / 1.5, (r + g - 2 * b) / 3], 1)


def style_features(pictures: Tensor) -> tuple[Tensor, Tensor]:
    """Square roots of colour histograms (N, 512) and Gram matrices (N, F, F), of pictures resized to 128 pixels."""
    pictures = F.interpolate(pictures.float(), (SIDE, SIDE), mode="area")
    histogram = colour_histogram(pictures, 8).sqrt()
    planes = _opponent(pictures)
    bank = waves(pictures.device, lengths=(4.0, 7.0, 12.0), directions=4, size=13)[:, None]
    grams = []
    for part in planes.split(32):
        n = len(part)
        maps = F.conv2d(part.reshape(n * 3, 1, SIDE, SIDE), bank).view(n, 3 * len(bank), -1)
        grams.append(maps @ maps.transpose(1, 2) / maps.shape[-1])
    return histogram, torch.cat(grams)


def style_distance(a: tuple[Tensor, Tensor], b: tuple[Tensor, Tensor]) -> Tensor:
    """(len(a), len(b)) in 0 to 1: the mean of the histograms' Hellinger distance and the Gram matrices' distance."""
    colours = (1 - a[0] @ b[0].T).clamp(min=0).sqrt()
    first, second = (features[1].flatten(1) for features in (a, b))
    # Square roots, sign kept, so that one strong filter does not outweigh all others.
    first, second = (x.sign() * x.abs().sqrt() for x in (first, second))
    texture = torch.cdist(first, second) / (first.norm(dim=1)[:, None] + second.norm(dim=1)[None] + 1e-6)
    return (colours + texture) / 2


class Judge(nn.Module):
    """Classifies what a picture (N, 3, H, W) shows: logits for kind, count and the shapes' colour.

    Residual blocks with group normalization (He et al. 2016, Wu and He 2018), which are the same in training and after.
    """

    def __init__(self, widths: tuple[int, ...] = (32, 64, 128, 192)):
        super().__init__()
        layers: list[nn.Module] = [nn.Conv2d(3, widths[0], 5, 2, 2)]
        for before, width in zip((widths[0], *widths), widths, strict=False):
            if before != width:
                layers.append(nn.Conv2d(before, width, 3, 2, 1))
            layers += [Residual(width), Residual(width)]
        self.body = nn.Sequential(*layers, nn.GroupNorm(8, widths[-1]), nn.ReLU())
        self.heads = nn.ModuleDict(
            {
                name: nn.Sequential(nn.Linear(2 * widths[-1], 256), nn.ReLU(), nn.Linear(256, len(classes)))
                for name, classes in (("kind", (*KINDS, "nothing")), ("count", COUNTS), ("colour", COLOURS))
            }
        )

    def forward(self, pictures: Tensor) -> dict[str, Tensor]:
        size = [s * SIDE // min(pictures.shape[-2:]) for s in pictures.shape[-2:]]
        maps = self.body(F.interpolate(pictures, size, mode="area") * 2 - 1)
        pooled = torch.cat([maps.amax((2, 3)), maps.mean((2, 3))], 1)
        return {name: head(pooled).float() for name, head in self.heads.items()}


class Residual(nn.Module):
    """Two convolutions, each after a normalization, added to what goes in."""

    def __init__(self, width: int):
        super().__init__()
        self.layers = nn.Sequential(
            *(nn.GroupNorm(8, width), nn.ReLU(), nn.Conv2d(width, width, 3, padding=1, bias=False)),
            *(nn.GroupNorm(8, width), nn.ReLU(), nn.Conv2d(width, width, 3, padding=1, bias=False)),
        )

    def forward(self, maps: Tensor) -> Tensor:
        return maps + self.layers(maps)
