"""The pictures of training, drawn once and kept on the device: latents, words, references; and batches of them."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from training import architecture, captions, colours, picture_style, references, scenes, styles, textures
from training.captions import Content
from training.latents import latents_of_half
from training.plan import HALF, SIZES, USUAL, Plan
from training.styles import Style
from training.trainer import WORK

#: How many of the references are scenes and swatches of the program.
PROGRAM_SHARE = 0.15


@dataclass(frozen=True)
class Pool:
    """N pictures of one size.

    latents (N, 4, h, w); tokens (N, 77) of the captions; content; a reference each, (N, 3, IMAGE_SIZE, IMAGE_SIZE)
    uint8, with what it shows as `numbers` and `classes` (see `facts`); scale (N,): how far its style is the picture's.
    """

    height: int
    width: int
    latents: Tensor
    tokens: Tensor
    content: Content
    reference: Tensor
    numbers: Tensor
    classes: Tensor
    scale: Tensor

    def __len__(self) -> int:
        return len(self.latents)


def tokenise(texts: list[str]) -> Tensor:
    """(N, 77): as the tokenizers do it, for texts of known words (and for those they are a hundred times slower)."""
    vocabulary, _ = architecture.tokenizer_files()
    end = vocabulary[architecture.END]
    known = {word: vocabulary[word + "</w>"] for word in captions.lexicon()}
    rows = []
    for text in texts:
        ids = [vocabulary[architecture.START], *(known[word] for word in text.replace(",", " ,").split()), end]
        rows.append(ids + [end] * (architecture.MAX_TOKENS - len(ids)))
    return torch.tensor(rows)


def facts(pictures: Tensor, style: Style) -> tuple[Tensor, Tensor]:
    """What pictures in a style show, as numbers (N, ...) and as classes (N, 2): palette by area, style, detail."""
    palette, share = colours.palette(pictures)
    patterned = (style.fill != styles.SOLID).float()[:, None], (style.backdrop != styles.SOLID).float()[:, None]
    angles = torch.stack([style.angle, style.back_angle], 1) * 2
    numbers = [palette[:, :4].flatten(1) * (share[:, :4] > 0).float().repeat_interleave(3, 1), share[:, :4]]
    numbers += [style.ground, style.ground2 * patterned[1], style.inks.flatten(1), style.partner * patterned[0]]
    numbers += [style.line * (style.line_width > 0)[:, None], 40 * style.line_width[:, None]]
    numbers += [10 * style.period[:, None] * patterned[0], 5 * style.back_period[:, None] * patterned[1]]
    numbers += [f(angles[:, :1]) * patterned[0] for f in (torch.cos, torch.sin)]
    numbers += [f(angles[:, 1:]) * patterned[1] for f in (torch.cos, torch.sin)]
    numbers += [picture_style.detail(pictures).add(1e-4).log()]
    return torch.cat(numbers, 1), torch.stack([style.fill, style.backdrop], 1)


def drawn_references(n: int, generator, photographs) -> tuple[Tensor, Style]:
    """(n, 3, IMAGE_SIZE, IMAGE_SIZE) and the styles they ask for: a share of scenes and swatches of the program."""
    size, ours = architecture.IMAGE_SIZE, math.ceil(n * PROGRAM_SHARE)
    style = styles.sample_styles(ours, generator)
    content, mode = captions.sample_content(ours, generator), scenes.sample_modes(ours, generator)
    pictures = scenes.reference(content, style, mode, size, generator, density=size)
    others, texture = references.draw(n - ours, 2 * size, generator, photographs)
    others = F.avg_pool2d(others, 2)
    both = style, picture_style.style_of(others, texture, generator)
    joined = Style(*(torch.cat([getattr(s, name) for s in both]) for name in vars(style)))
    return torch.cat([pictures, others]), joined


def sample_scales(n: int, generator) -> Tensor:
    """(n,): 0 in some cases, 1 in half of them, anything between in the others."""
    kind, between = torch.rand(2, n, generator=generator, device=generator.device)
    return torch.where(kind < 0.22, 0.0, torch.where(kind < 0.7, 1.0, between))


def drawn_pool(n: int, height: int, width: int, plan: Plan, generator, photographs) -> Pool:
    rows: list[tuple[Tensor, ...]] = []
    contents = []
    for start in range(0, n, 4 * plan.chunk):
        count = min(4 * plan.chunk, n - start)
        shown, asked = drawn_references(count, generator, photographs)
        scale = sample_scales(count, generator)
        style = styles.between(styles.sample_styles(count, generator), asked, scale, generator)
        content = scenes.settle(captions.sample_content(count, generator), style)
        half = scenes.draw(content, style, height // 2, width // 2, generator, textures.TEXTURE_UNIT / 2)
        tokens = tokenise(captions.captions(content, generator.initial_seed() + start)).to(generator.device)
        numbers, classes = facts(shown, asked)
        shown = (shown * 255).round().byte()
        rows.append((latents_of_half(half).to(WORK), tokens, shown, numbers, classes, scale))
        contents.append(content)
    content = Content(*(torch.cat([getattr(c, name) for c in contents]) for name in vars(contents[0])))
    latents, tokens, *others = (torch.cat(column) for column in zip(*rows, strict=True))
    return Pool(height, width, latents, tokens, content, *others)


def pools(plan: Plan, generator, photographs) -> list[Pool]:
    begun = time.time()
    result = []
    for number, (high, wide) in enumerate(SIZES):
        count = plan.pictures if number in (USUAL, HALF) else plan.other_pictures
        if number == HALF and not plan.early:
            count = plan.other_pictures
        result.append(drawn_pool(count, int(high * plan.size), int(wide * plan.size), plan, generator, photographs))
        print(f"[pools] {count} pictures of {result[-1].height}, {time.time() - begun:.0f} s", flush=True)
    spread = result[USUAL].latents.float().std((0, 2, 3)).tolist()
    print(f"[pools] deviations {spread}", flush=True)
    return result


def encode_text(first, second, tokens: Tensor) -> tuple[Tensor, Tensor]:
    """(B, 77, context) and (B, pooled), as SDXL's pipeline makes them."""
    one = first(input_ids=tokens, output_hidden_states=True)
    two = second(input_ids=tokens, output_hidden_states=True)
    return torch.cat([one.hidden_states[-2], two.hidden_states[-2]], -1), two.text_embeds


class Batches:
    """Latents with their words, already encoded, in batches of one size each."""

    def __init__(self, first, second, all_pools: list[Pool], plan: Plan, generator):
        self.pools, self.plan, self.generator = all_pools, plan, generator
        self.device = generator.device
        for module in (first, second):
            module.to(WORK)
        self.texts = [self._encode(first, second, pool.tokens) for pool in all_pools]
        self.empty = self._encode(first, second, tokenise([""]).to(self.device))
        for module in (first, second):
            module.float()
        self.time_ids = [
            torch.tensor([[p.height, p.width, 0, 0, p.height, p.width]], device=self.device, dtype=WORK)
            for p in all_pools
        ]
        #: Never drawn from in training: the first of each pool.
        self.kept = max(2, min(256, len(all_pools[USUAL]) // 16))

    @staticmethod
    @torch.no_grad()
    def _encode(first, second, tokens):
        parts = [encode_text(first, second, part) for part in tokens.split(4000)]
        return [torch.cat(part) for part in zip(*parts, strict=True)]

    def number(self, step: int, spent: float) -> int:
        """Which size this step has: half the usual one early on, then that one, and one batch in four of another."""
        if spent < self.plan.early:
            return HALF
        return 1 + step // 4 % (len(SIZES) - 1) if step % 4 == 3 else USUAL

    def size(self, number: int) -> int:
        return self.plan.batch * (2 if number == HALF else 1)

    def draw(self, number: int) -> tuple[Tensor, tuple[Tensor, ...]]:
        """Index in the pool, and (latents, noise, timestep, hidden, pooled, time_ids).

        All chance is here, none inside the recorded step.
        """
        # Other sizes are seldom seen; libraries do not try all their kernels for them.
        torch.backends.cudnn.benchmark = number in (USUAL, HALF)
        n, device, generator = self.size(number), self.device, self.generator
        kept, count = min(self.kept, len(self.pools[number]) // 2), len(self.pools[number])
        index = torch.randint(kept, count, (n,), generator=generator, device=device)
        latents, hidden, pooled, time_ids = self.at(number, index)
        noise = torch.randn(latents.shape, generator=generator, device=device)
        # Spread evenly over the batch, as far as chance allows.
        place = torch.arange(n, device=device) + torch.rand(n, generator=generator, device=device)
        timestep = (place / n * 1000).long().clamp(max=999)
        return index, (latents, noise, timestep, hidden, pooled, time_ids)

    def at(self, number: int, index: Tensor) -> tuple[Tensor, ...]:
        """(latents, hidden, pooled, time_ids)."""
        hidden, pooled = self.texts[number]
        time_ids = self.time_ids[number].repeat(len(index), 1)
        return self.pools[number].latents[index].float(), hidden[index], pooled[index], time_ids

    def chance(self, n: int) -> Tensor:
        return torch.rand(n, generator=self.generator, device=self.device)

    def without_words(self, hidden: Tensor, pooled: Tensor, which: Tensor) -> tuple[Tensor, Tensor]:
        """Words left out where `which` (B,): half of them zeros, half the empty caption, as guidance uses either."""
        blank = (self.chance(len(which)) < 0.5).to(hidden.dtype)
        hidden = torch.where(which[:, None, None], self.empty[0] * blank[:, None, None], hidden)
        return hidden, torch.where(which[:, None], self.empty[1] * blank[:, None], pooled)
