"""The small language of the demo model: what a picture holds, as integers and as words.

A `Content` says what is drawn, one row per picture; `captions` words it, in many ways, and leaves unsaid what the
scene left free. Only the content is stated: the style is never put into words, apart from a colour now and then.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from random import Random

import torch
from torch import Tensor

KINDS = ("circle", "square", "triangle", "star", "heart", "ring", "cross", "crescent", "diamond", "flower")
SYNONYMS = {
    "circle": ("circle", "circle", "disc", "ball"),
    "square": ("square", "square", "box"),
    "ring": ("ring", "ring", "donut"),
    "cross": ("cross", "cross", "plus"),
    "crescent": ("crescent", "crescent", "moon"),
    "diamond": ("diamond", "diamond", "rhombus"),
}
PLURALS = {"box": "boxes", "cross": "crosses", "plus": "pluses", "rhombus": "rhombuses"}
COUNTS = ("one", "two", "three", "four")
SIZES = (("small", "little", "tiny"), ("medium",), ("large", "big", "huge"))
SMALL, MEDIUM, LARGE = range(3)
#: Places on a 3 x 3 grid, row by row; 4 is the middle.
PLACES = (
    ("at the top left", "in the top left corner", "in the upper left corner"),
    ("at the top", "near the top"),
    ("at the top right", "in the top right corner", "in the upper right corner"),
    ("on the left", "on the left side", "at the left"),
    ("in the middle", "in the center", "in the centre"),
    ("on the right", "on the right side", "at the right"),
    ("at the bottom left", "in the bottom left corner", "in the lower left corner"),
    ("at the bottom", "near the bottom"),
    ("at the bottom right", "in the bottom right corner", "in the lower right corner"),
)
#: How a second shape stands to the first: beside it (first on the left) or under it.
BESIDE, UNDER = range(2)
RELATIONS = (("left of", "to the left of", "next to", "and"), ("above", "over", "and"))
COLOURS = {
    "red": (0.86, 0.12, 0.12),
    "orange": (0.96, 0.54, 0.08),
    "yellow": (0.97, 0.86, 0.14),
    "green": (0.14, 0.62, 0.22),
    "turquoise": (0.16, 0.76, 0.74),
    "blue": (0.13, 0.28, 0.84),
    "purple": (0.50, 0.18, 0.68),
    "pink": (0.97, 0.52, 0.72),
    "brown": (0.45, 0.27, 0.13),
    "black": (0.07, 0.07, 0.07),
    "white": (0.96, 0.96, 0.96),
    "gray": (0.52, 0.52, 0.52),
}
COLOUR_NAMES = tuple(COLOURS)
OPENINGS = (
    "",
    "",
    "",
    "",
    "a picture of ",
    "a drawing of ",
    "an image of ",
    "an illustration of ",
    "a painting of ",
)
NONE = -1


@dataclass(frozen=True)
class Content:
    """What N pictures hold: integer tensors of shape (N,); `NONE` where the caption leaves it free or there is none.

    kind, second: index into KINDS (second: another shape, or NONE); count 1 to 4 (of `kind`; 1 if there is a second);
    relation: BESIDE or UNDER, where there is a second; size, place, colour, ground: as stated in the caption.
    """

    kind: Tensor
    second: Tensor
    count: Tensor
    relation: Tensor
    size: Tensor
    place: Tensor
    colour: Tensor
    ground: Tensor

    def __len__(self) -> int:
        return len(self.kind)

    def to(self, device) -> Content:
        return Content(*(getattr(self, f.name).to(device) for f in fields(self)))

    def take(self, index) -> Content:
        return Content(*(getattr(self, f.name)[index] for f in fields(self)))


def sample_content(n: int, generator: torch.Generator) -> Content:
    """N contents, drawn on the generator's device."""
    device = generator.device

    def integer(high, *shape):
        return torch.randint(high, shape or (n,), generator=generator, device=device)

    def chance(p):
        return torch.rand(n, generator=generator, device=device) < p

    def maybe(p, value):
        return torch.where(chance(p), value, NONE)

    kind = integer(len(KINDS))
    pair = chance(0.15)
    second = torch.where(pair, (kind + 1 + integer(len(KINDS) - 1)) % len(KINDS), NONE)
    weights = torch.tensor([0.55, 0.17, 0.15, 0.13], device=device)
    count = 1 + torch.multinomial(weights, n, replacement=True, generator=generator)
    count = torch.where(pair, 1, count)
    relation = torch.where(pair, integer(2), NONE)
    size = maybe(0.45, integer(3))
    place = torch.where(pair, NONE, maybe(0.45, integer(9)))
    colour = maybe(0.3, integer(len(COLOURS)))
    ground = torch.where(chance(0.12), integer(len(COLOURS)), NONE)
    ground = torch.where(ground == colour, NONE, ground)
    return Content(kind, second, count, relation, size, place, colour, ground)


def captions(content: Content, seed: int) -> list[str]:
    """One caption for each content, the wording drawn from `seed`."""
    random = Random(seed)
    columns = [getattr(content, f.name).tolist() for f in fields(content)]
    return [_caption(random, *row) for row in zip(*columns, strict=True)]


def _caption(random, kind, second, count, relation, size, place, colour, ground) -> str:
    def thing(kind, count, size, colour):
        words = []
        if size != NONE:
            words.append(random.choice(SIZES[size]))
        if colour != NONE:
            words.append(COLOUR_NAMES[colour])
        noun = random.choice(SYNONYMS.get(KINDS[kind], (KINDS[kind],)))
        words.append(PLURALS.get(noun, noun + "s") if count > 1 else noun)
        if count > 1 or random.random() < 0.1:
            words.insert(0, COUNTS[count - 1])
        else:
            words.insert(0, "an" if words[0][0] in "aeiou" else "a")
        return " ".join(words)

    text = thing(kind, count, size, colour)
    if second != NONE:
        text = f"{text} {random.choice(RELATIONS[relation])} {thing(second, 1, NONE, NONE)}"
    if place != NONE:
        where = random.choice(PLACES[place])
        text = f"{where}, {text}" if random.random() < 0.15 else f"{text} {where}"
    else:
        where = ""
    if not where or not text.startswith(where):
        text = random.choice(OPENINGS) + text
    if ground != NONE:
        text += f" on a {COLOUR_NAMES[ground]} background".replace(" a orange", " an orange")
    return text


def lexicon() -> list[str]:
    """Every word a caption can hold, singular and plural, each once."""
    words = ["a", "an", "and", "of", "on", "the", "background", ",", *COUNTS, *COLOUR_NAMES]
    words += [w for choices in (*SIZES, *PLACES, *RELATIONS, OPENINGS) for c in choices for w in c.split()]
    for kind in KINDS:
        for noun in SYNONYMS.get(kind, (kind,)):
            words += [noun, PLURALS.get(noun, noun + "s")]
    return sorted(set(words))
