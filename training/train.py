"""Train the demo model from nothing: `python -m training.train OUT`, then `python -m training.evaluate OUT`.

Stages: the image encoder, the classifier that judges, the picture autoencoder, the text encoders, the base, the
adapter. Each ends after its steps or its seconds, whichever comes first, and writes its weights at once; a stage whose
weights OUT already holds is skipped, unless `--again` names it, which goes on from them. Base and adapter also write
what they have every half minute: a run that was cut goes on from there.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from training import architecture, captions, measure, scenes
from training.captions import NONE, Content
from training.scenes import Style
from training.trainer import WORK, Clock, Trainer, compiled

STAGES = ("image_encoder", "judge", "vae", "text", "base", "adapter")
#: Sizes seen in training, as shares of the usual height and width: the usual one, the one to begin with, others.
SIZES = ((1, 1), (0.5, 0.5), (0.75, 0.75), (1, 1.25), (1.25, 1))
USUAL, HALF = 0, 1
IMAGE_MEAN, IMAGE_STD = architecture.PREPROCESSOR["image_mean"], architecture.PREPROCESSOR["image_std"]


@dataclass(frozen=True)
class Plan:
    """The size of the training: steps and seconds by stage, numbers of pictures, batch sizes.

    early: the share of base and adapter spent on pictures of half the size (a quarter of the work, in batches twice as
    large): what words mean and where things stand is learnt there.
    """

    steps: dict[str, int]
    seconds: dict[str, float]
    size: int
    pictures: int
    other_pictures: int
    reference_styles: int
    batch: int
    small_batch: int
    chunk: int
    early: float
    compile: bool


FULL = Plan(
    steps={"image_encoder": 6000, "judge": 2500, "vae": 6000, "text": 1500, "base": 60000, "adapter": 20000},
    seconds={"image_encoder": 40, "judge": 40, "vae": 100, "text": 15, "base": 480, "adapter": 150},
    size=256,
    pictures=192_000,
    other_pictures=12_000,
    reference_styles=60_000,
    batch=256,
    small_batch=96,
    chunk=400,
    early=0.4,
    compile=True,
)
SMOKE = Plan(
    steps=dict.fromkeys(FULL.steps, 2),
    seconds=dict.fromkeys(FULL.seconds, 60.0),
    size=128,
    pictures=24,
    other_pictures=4,
    reference_styles=12,
    batch=8,
    small_batch=4,
    chunk=8,
    early=0.5,
    compile=False,
)
#: What two CPU cores can do in half an hour: the same path, smaller pictures, a rough result.
MODEST = Plan(
    steps=FULL.steps,
    seconds={"image_encoder": 300, "judge": 120, "text": 60, "base": 880, "adapter": 560, "vae": 330},
    size=128,
    pictures=8_000,
    other_pictures=600,
    reference_styles=4_000,
    batch=24,
    small_batch=12,
    chunk=40,
    early=0.5,
    compile=False,
)


# Stage 2: the image encoder


def normalised(pictures: Tensor) -> Tensor:
    """What CLIP's image processor makes of pictures in 0 to 1."""
    return torch.stack([(pictures[:, i] - IMAGE_MEAN[i]) / IMAGE_STD[i] for i in range(3)], 1)


def style_targets(style: Style) -> tuple[Tensor, Tensor]:
    """The parameters of the style that its pictures show, as numbers (N, 28) and as classes (N, 2)."""
    angles = torch.stack([style.angle, style.back_angle], 1) * 2
    patterned = (style.fill != scenes.SOLID).float()[:, None], (style.backdrop != scenes.SOLID).float()[:, None]
    numbers = [style.ground, style.ground2 * patterned[1], style.inks.flatten(1), style.partner * patterned[0]]
    numbers += [style.line * (style.line_width > 0)[:, None], 40 * style.line_width[:, None]]
    numbers += [10 * style.period[:, None] * patterned[0], 5 * style.back_period[:, None] * patterned[1]]
    numbers += [angles[:, :1].cos() * patterned[0], angles[:, :1].sin() * patterned[0]]
    numbers += [angles[:, 1:].cos() * patterned[1], angles[:, 1:].sin() * patterned[1]]
    return torch.cat(numbers, 1), torch.stack([style.fill, style.backdrop], 1)


def train_image_encoder(encoder, plan: Plan, generator) -> None:
    device = generator.device
    n, size = plan.reference_styles, architecture.IMAGE_SIZE
    views = torch.empty(n, 2, 3, size, size, dtype=torch.uint8, device=device)
    numbers, classes, colours, textures = [], [], [[], []], [[], []]
    for start in range(0, n, plan.chunk):
        count = min(plan.chunk, n - start)
        style = scenes.sample_styles(count, generator)
        for view in range(2):
            content = captions.sample_content(count, generator)
            mode = scenes.sample_modes(count, generator) * (view > 0)
            picture = scenes.reference(content, style, mode, size, generator, density=size)
            views[start : start + count, view] = (picture * 255).round().byte()
            colours[view].append(measure.colour_histogram(picture, 5).sqrt())
            textures[view].append(measure.texture_energy(picture.to(WORK)))
        a, b = style_targets(style)
        numbers.append(a)
        classes.append(b)
    numbers, classes = torch.cat(numbers), torch.cat(classes)
    colours = torch.stack([torch.cat(c) for c in colours], 1)
    textures = torch.stack([torch.cat(t) for t in textures], 1)
    mean, std = (f(numbers, 0) for f in (torch.mean, torch.std))
    texture_mean, texture_std = textures.mean((0, 1)), textures.std((0, 1))
    heads = nn.ModuleDict(
        {
            "numbers": nn.Linear(architecture.IMAGE_EMBED, numbers.shape[1]),
            "classes": nn.Linear(architecture.IMAGE_EMBED, 2 * len(scenes.FILLS)),
            "colours": nn.Linear(architecture.IMAGE_EMBED, colours.shape[-1]),
            "textures": nn.Linear(architecture.IMAGE_EMBED, textures.shape[-1]),
            "same": nn.Linear(architecture.IMAGE_EMBED, 64),
        }
    ).to(device)
    trainer = Trainer([encoder, heads], 1.5e-3, decay=0.01)
    batch = min(1024, n)
    target = torch.arange(batch, device=device)

    def loss_of(pictures, numbers, classes, colours, textures):
        embeds = encoder(pixel_values=normalised(pictures).to(WORK)).image_embeds
        predicted = {name: head(embeds).float() for name, head in heads.items()}
        numbers_loss = F.smooth_l1_loss(predicted["numbers"], numbers)
        classes_loss = F.cross_entropy(predicted["classes"].view(-1, len(scenes.FILLS)), classes)
        colours_loss = F.mse_loss(predicted["colours"], colours) * 100
        textures_loss = F.smooth_l1_loss(predicted["textures"], textures)
        same = F.normalize(predicted["same"], dim=-1).view(batch, 2, -1)
        logits = same[:, 0] @ same[:, 1].T * 12
        same_loss = (F.cross_entropy(logits, target) + F.cross_entropy(logits.T, target)) / 2
        # Of about unit size, so that the adapter's projection starts well.
        size_loss = (embeds.float().square().mean() - 1).square() * 0.01
        return numbers_loss * 2 + classes_loss + colours_loss + textures_loss + 0.3 * same_loss + size_loss

    clock = Clock("image_encoder", plan.steps["image_encoder"], plan.seconds["image_encoder"])
    for step, spent in clock:
        index = torch.randint(n, (batch,), generator=generator, device=device)
        loss = trainer.step(
            loss_of,
            spent,
            views[index].flatten(0, 1).float() / 255,
            ((numbers[index] - mean) / (std + 1e-3)).repeat_interleave(2, 0),
            classes[index].repeat_interleave(2, 0).flatten(),
            colours[index].flatten(0, 1),
            ((textures[index] - texture_mean) / (texture_std + 1e-3)).flatten(0, 1),
        )
        clock.log(step, loss)
    trainer.finish()


# The classifier that judges


def judged_pictures(n: int, generator, held_out: bool) -> tuple[Tensor, Content]:
    """Pictures with one kind of shape each, and what they show."""
    style = scenes.sample_styles(n, generator, held_out)
    content = captions.sample_content(n, generator)
    content = Content(**{**vars(content), "second": torch.full_like(content.second, NONE)})
    content = scenes.settle(content, style)
    return scenes.draw(content, style, 256, 256, generator), content


def train_judge(judge, plan: Plan, generator) -> None:
    device = generator.device
    n = min(plan.pictures, 40_000)
    pool = torch.empty(n, 3, 128, 128, dtype=torch.uint8, device=device)
    labels = []
    for start in range(0, n, plan.chunk):
        pictures, content = judged_pictures(min(plan.chunk, n - start), generator, held_out=False)
        small = F.interpolate(pictures, (128, 128), mode="area")
        pool[start : start + len(small)] = (small * 255).round().byte()
        labels.append(torch.stack([content.kind, content.count - 1, content.colour], 1))
    labels = torch.cat(labels)
    optimizer = torch.optim.AdamW(judge.parameters(), lr=2e-3, weight_decay=0.02)
    clock = Clock("judge", plan.steps["judge"], plan.seconds["judge"])
    for step, spent in clock:
        index = torch.randint(n, (min(128, n),), generator=generator, device=device)
        pictures = pool[index].float() / 255
        if step % 2:  # blurred, as drawn pictures can be
            pictures = F.avg_pool2d(pictures, 3, stride=1, padding=1, count_include_pad=False)
        pictures = pictures + 0.03 * torch.rand(1, device=device) * torch.randn_like(pictures)
        with torch.autocast(device.type, dtype=WORK):
            predicted = judge(pictures)
        losses = [
            F.cross_entropy(predicted[name].float(), labels[index, i], ignore_index=NONE)
            for i, name in enumerate(("kind", "count", "colour"))
        ]
        optimizer.zero_grad()
        losses[0].add(losses[1]).add(torch.nan_to_num(losses[2])).backward()
        for group in optimizer.param_groups:
            group["lr"] = 2e-3 * (1 - spent)
        optimizer.step()
        clock.log(step, losses[0])
    judge.eval()


# Stage 3: the base


@dataclass(frozen=True)
class Pool:
    """Pictures of one size: latents (N, 4, h, w), the output of the text encoders for the captions, and the styles."""

    height: int
    width: int
    latents: Tensor
    tokens: Tensor
    content: Content
    style: Style

    def __len__(self) -> int:
        return len(self.latents)


#: Brightness and two colour differences of a block of 8 x 8 pixels, each brought to about unit deviation.
COLOUR_AXES = ((0.577, 0.577, 0.577), (0.707, -0.707, 0.0), (0.408, 0.408, -0.816))
AXIS_GAIN = (1.2, 2.2, 2.2)


def latents_of(pictures: Tensor) -> Tensor:
    """(N, 4, h/8, w/8) of pictures in 0 to 1: mean colour of each block of 8 x 8 pixels, and its unevenness.

    Given by a formula instead of learnt: a smooth space in which colours are plain, ready before any training.
    """
    return latents_of_half(F.avg_pool2d(pictures, 2))


def latents_of_half(pictures: Tensor) -> Tensor:
    """The latents of the picture twice as large."""
    axes = torch.stack([sum(w * pictures[:, i] for i, w in enumerate(axis)) for axis in COLOUR_AXES], 1)
    mean = F.avg_pool2d(axes, 4)
    bright = axes[:, :1] - F.interpolate(mean[:, :1], scale_factor=4, mode="nearest")
    uneven = F.avg_pool2d(bright.square(), 4).clamp(min=1e-6).sqrt()
    offset = sum(COLOUR_AXES[0]) / 2
    planes = [(mean[:, i : i + 1] - (offset if i == 0 else 0)) * 2 * AXIS_GAIN[i] for i in range(3)]
    return torch.cat([*planes, uneven * 8 - 0.5], 1)


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


def drawn_pool(n: int, height: int, width: int, plan: Plan, generator) -> Pool:
    latents, tokens, contents, styles = [], [], [], []
    for start in range(0, n, 4 * plan.chunk):
        count = min(4 * plan.chunk, n - start)
        style = scenes.sample_styles(count, generator)
        content = scenes.settle(captions.sample_content(count, generator), style)
        half = scenes.draw(content, style, height // 2, width // 2, generator, scenes.TEXTURE_UNIT / 2)
        latents.append(latents_of_half(half).to(WORK))
        tokens.append(tokenise(captions.captions(content, generator.initial_seed() + start)))
        contents.append(content)
        styles.append(style)
    joined = [
        kind(*(torch.cat([getattr(row, name) for row in rows]) for name in vars(rows[0])))
        for kind, rows in ((Content, contents), (Style, styles))
    ]
    return Pool(height, width, torch.cat(latents), torch.cat(tokens).to(generator.device), *joined)


def pools(plan: Plan, generator) -> list[Pool]:
    begun = time.time()
    result = []
    for number, (high, wide) in enumerate(SIZES):
        count = plan.pictures if number in (USUAL, HALF) else plan.other_pictures
        result.append(drawn_pool(count, int(high * plan.size), int(wide * plan.size), plan, generator))
    spread = result[USUAL].latents.float().std((0, 2, 3)).tolist()
    print(f"[pools] {sum(map(len, result))} pictures in {time.time() - begun:.0f} s, deviations {spread}", flush=True)
    return result


def encode_text(first, second, tokens: Tensor) -> tuple[Tensor, Tensor]:
    """(B, 77, context) and (B, pooled), as SDXL's pipeline makes them."""
    one = first(input_ids=tokens, output_hidden_states=True)
    two = second(input_ids=tokens, output_hidden_states=True)
    return torch.cat([one.hidden_states[-2], two.hidden_states[-2]], -1), two.text_embeds


def train_text(first, second, pool: Pool, plan: Plan, generator) -> None:
    """Train the text encoders to predict what a caption states; they are frozen for the later stages."""
    sizes = {"kind": 10, "second": 10, "count": 5, "relation": 2, "size": 3, "place": 9, "colour": 12, "ground": 12}
    total = sum(sizes.values()) + len(sizes)
    heads = nn.ModuleList([nn.Linear(w, total) for w in (architecture.CONTEXT, architecture.POOLED)])
    heads = heads.to(generator.device)
    trainer = Trainer([first, second, heads], 2e-3)
    splits = [size + 1 for size in sizes.values()]

    def loss_of(tokens, goals):
        hidden, pooled = encode_text(first, second, tokens)
        ends = tokens.argmax(-1)  # the end token has the highest number
        last = hidden[torch.arange(len(ends), device=ends.device), ends]
        predicted = [head(x).float().split(splits, 1) for head, x in zip(heads, (last, pooled), strict=True)]
        return sum(F.cross_entropy(part[i], goals[i]) for part in predicted for i in range(len(sizes)))

    clock = Clock("text", plan.steps["text"], plan.seconds["text"])
    for step, spent in clock:
        index = torch.randint(len(pool), (plan.batch,), generator=generator, device=pool.latents.device)
        stated = [getattr(pool.content, name)[index] for name in sizes]
        goals = [torch.where(goal == NONE, size, goal) for goal, size in zip(stated, sizes.values(), strict=True)]
        clock.log(step, trainer.step(loss_of, spent, pool.tokens[index], torch.stack(goals)))
    trainer.finish()
    with torch.no_grad():  # on captions of its own
        content = captions.sample_content(1000, generator)
        predicted = heads[1](
            encode_text(first, second, tokenise(captions.captions(content, 1)).to(generator.device))[1]
        )
    shares = []
    for (name, size), part in zip(sizes.items(), predicted.split(splits, 1), strict=True):
        goal = getattr(content, name)
        shares.append(f"{name} {100 * (part.argmax(1) == torch.where(goal == NONE, size, goal)).float().mean():.1f} %")
    print(f"[text] predicted correctly: {', '.join(shares)}", flush=True)


def noise_levels(device) -> Tensor:
    """(1000,): the share of the signal's power left at each timestep."""
    c = architecture.SCHEDULER
    betas = torch.linspace(c["beta_start"] ** 0.5, c["beta_end"] ** 0.5, c["num_train_timesteps"], device=device)
    return (1 - betas.square()).cumprod(0)


def denoising_loss(net, latents, noise, timestep, alphas, context, pooled, time_ids) -> Tensor:
    """(B,): squared error of the predicted velocity (Salimans and Ho 2022); `context`: what the network attends to."""
    alpha = alphas[timestep][:, None, None, None]
    noisy = alpha.sqrt() * latents + (1 - alpha).sqrt() * noise
    velocity = alpha.sqrt() * noise - (1 - alpha).sqrt() * latents
    added = {"text_embeds": pooled, "time_ids": time_ids}
    predicted = net(noisy.to(WORK), timestep, context, added_cond_kwargs=added).sample.float()
    return (predicted - velocity).square().mean((1, 2, 3))


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


#: Times at which the check looks: nearly clean, where shapes are decided, where the layout is, nearly noise.
CHECK_TIMES = (150, 450, 700, 900)


@torch.no_grad()
def check(name: str, net, batches: Batches, number: int, alphas, conditions: Callable) -> None:
    """Print the error on pictures kept from training at fixed noise, given the right condition and another's.

    `conditions(number, index, other)` -> (context, pooled) for the pictures `index`, from those of `other`.
    """
    index = torch.arange(min(batches.kept, len(batches.pools[number]) // 2), device=batches.device)
    latents, *_, time_ids = batches.at(number, index)
    noise = torch.randn(latents.shape, generator=torch.Generator().manual_seed(0)).to(latents)
    right, wrong = [], []
    for time_ in CHECK_TIMES:
        timestep = torch.full_like(index, time_)
        for errors, other in ((right, index), (wrong, index.roll(1))):
            context, pooled = conditions(number, index, other)
            error = denoising_loss(net, latents, noise, timestep, alphas, context, pooled, time_ids)
            errors.append(error.mean().item())
    more = " ".join(f"{100 * (b / a - 1):+.1f} %" for a, b in zip(right, wrong, strict=True))
    own = " ".join(f"{a:.4f}" for a in right)
    size = f"{batches.pools[number].height} pixels"
    print(f"[{name}] check, {size}, times {CHECK_TIMES}: {own}; with another's condition: {more}", flush=True)


def quick(unet, batches: Batches) -> Callable:
    """The network compiled by torch.compile for pictures of the usual size, which take most of the time."""
    _, (latents, _, timestep, hidden, pooled, time_ids) = batches.draw(USUAL)
    added = {"text_embeds": pooled, "time_ids": time_ids}
    return compiled(unet, (latents.to(WORK), timestep, hidden), {"added_cond_kwargs": added})


def train_base(unet, batches: Batches, plan: Plan, again: bool, save: Callable) -> None:
    trainer = Trainer([unet], 1e-3 if not again else 6e-4)
    net = unet
    alphas = noise_levels(batches.device)

    def loss_of(latents, noise, timestep, hidden, pooled, time_ids):
        return denoising_loss(net, latents, noise, timestep, alphas, hidden, pooled, time_ids).mean()

    def conditions(number, index, other):
        return batches.at(number, other)[1:3]

    clock = Clock("base", plan.steps["base"], plan.seconds["base"])
    for step, spent in clock:
        number = batches.number(step, spent)
        if net is unet and number == USUAL and plan.compile and batches.device.type == "cuda":
            net = quick(unet, batches)
        _, (*noised, hidden, pooled, time_ids) = batches.draw(number)
        words = batches.without_words(hidden, pooled, batches.chance(len(hidden)) < 0.1)
        clock.log(step, trainer.step(loss_of, spent, *noised, *words, time_ids))
        if clock.due():
            save({"unet": trainer.averages(unet)})
            with trainer.averaged():
                check("base", unet, batches, HALF if spent < plan.early else USUAL, alphas, conditions)
    with trainer.averaged():
        check("base", unet, batches, USUAL, alphas, conditions)
    trainer.finish()


# Stage 4: the adapter


class PairedAttention:
    """Cross-attention to (text, image tokens), as the IP-Adapter has it, at scale 1."""

    def __init__(self, key: nn.Linear, value: nn.Linear):
        self.key, self.value = key, value

    def __call__(self, attn, hidden_states, encoder_hidden_states=None, attention_mask=None, temb=None):
        text, image = encoder_hidden_states

        def heads(x):
            return x.unflatten(-1, (attn.heads, -1)).transpose(1, 2)

        query = heads(attn.to_q(hidden_states))
        out = F.scaled_dot_product_attention(query, heads(attn.to_k(text)), heads(attn.to_v(text)))
        out = out + F.scaled_dot_product_attention(query, heads(self.key(image)), heads(self.value(image)))
        return attn.to_out[0](out.transpose(1, 2).flatten(2))


def with_images(processors: dict, adapter) -> dict:
    """The attention processors, those of the cross-attention layers replaced by `adapter`'s."""
    pairs = iter(zip(adapter.to_k, adapter.to_v, strict=True))
    return {name: PairedAttention(*next(pairs)) if "attn2" in name else kept for name, kept in processors.items()}


@torch.no_grad()
def reference_embeds(encoder, pool: Pool, plan: Plan, generator) -> Tensor:
    """(N, embed): for each picture of the pool, another picture in its style, as the image encoder sees it."""
    size, rows = architecture.IMAGE_SIZE, []
    encoder.to(WORK)
    for start in range(0, len(pool), 4 * plan.chunk):
        style = pool.style.take(slice(start, start + 4 * plan.chunk))
        content = captions.sample_content(len(style), generator)
        mode = scenes.sample_modes(len(style), generator)
        picture = scenes.reference(content, style, mode, size, generator, density=size)
        rows.append(encoder(pixel_values=normalised(picture).to(WORK)).image_embeds)
    return torch.cat(rows)


def train_adapter(adapter, unet, encoder, batches: Batches, plan: Plan, again: bool, save: Callable) -> None:
    embeds = [reference_embeds(encoder, pool, plan, batches.generator) for pool in batches.pools]
    unet.to(WORK).requires_grad_(False)
    kept = dict(unet.attn_processors)
    trainer = Trainer([adapter], 1.5e-3 if not again else 7e-4)
    unet.set_attn_processor(with_images(kept, adapter))
    alphas = noise_levels(batches.device)

    def loss_of(latents, noise, timestep, hidden, pooled, time_ids, image):
        context = hidden, adapter(image)
        return denoising_loss(unet, latents, noise, timestep, alphas, context, pooled, time_ids).mean()

    def conditions(number, index, other):
        _, hidden, pooled, _ = batches.at(number, index)
        return (hidden, adapter(embeds[number][other])), pooled

    clock = Clock("adapter", plan.steps["adapter"], plan.seconds["adapter"])
    for step, spent in clock:
        index, (*noised, hidden, pooled, time_ids) = batches.draw(number := batches.number(step, spent))
        # Dropped, as in IP-Adapter: the picture, both, the words.
        chance = batches.chance(len(index))
        words = batches.without_words(hidden, pooled, (chance >= 0.07) & (chance < 0.17))
        image = embeds[number][index] * (chance >= 0.12).to(WORK)[:, None]
        clock.log(step, trainer.step(loss_of, spent, *noised, *words, time_ids, image))
        if clock.due():
            save({"adapter": trainer.averages(adapter)})
            with trainer.averaged():
                check("adapter", unet, batches, HALF if spent < plan.early else USUAL, alphas, conditions)
    with trainer.averaged():
        check("adapter", unet, batches, USUAL, alphas, conditions)
    trainer.finish()
    unet.set_attn_processor(kept)
    unet.float()


# The picture autoencoder


def picture_pool(n: int, plan: Plan, generator) -> Tensor:
    """(n, 3, 256, 256) uint8: mostly scenes, some swatches and photograph-like pictures."""
    out = torch.empty(n, 3, 256, 256, dtype=torch.uint8, device=generator.device)
    for start in range(0, n, plan.chunk):
        count = min(plan.chunk, n - start)
        style = scenes.sample_styles(count, generator)
        content = scenes.settle(captions.sample_content(count, generator), style)
        pictures = scenes.draw(content, style, 256, 256, generator)
        part = count // 6
        if part:
            photo = torch.rand(part, generator=generator, device=generator.device) < 0.6
            pictures[:part] = scenes.abstract(style.take(slice(part)), photo, 256, 256, generator)
        out[start : start + count] = (pictures * 255).round().byte()
    return out


def train_vae(vae, plan: Plan, generator) -> None:
    """Train the decoder to reconstruct pictures from `latents_of` them, and the encoder to predict those."""
    device = generator.device
    pool = picture_pool(min(plan.pictures // 4, 12_000), plan, generator)
    trainer = Trainer([vae], 1.5e-3, average=0.998)
    size = 128

    def loss_of(pictures, latents, blurred):
        error = vae.decode(blurred.to(WORK)).sample.float() - (pictures * 2 - 1)
        edges = error.diff(dim=-1).abs().mean() + error.diff(dim=-2).abs().mean()
        predicted = vae.encode((pictures * 2 - 1).to(WORK)).latent_dist.parameters.float()
        goal = torch.cat([latents, torch.full_like(latents, -6.0)], 1)  # a deviation of 0.05
        encoder_loss = F.smooth_l1_loss(predicted, goal)
        return error.abs().mean() + error.square().mean() + 0.5 * edges + 0.2 * encoder_loss

    clock = Clock("vae", plan.steps["vae"], plan.seconds["vae"])
    for step, spent in clock:
        index = torch.randint(len(pool), (plan.small_batch,), generator=generator, device=device)
        top, left = (8 * int(x) for x in torch.randint(1 + (256 - size) // 8, (2,)))
        pictures = pool[index, :, top : top + size, left : left + size].float() / 255
        latents = latents_of(pictures)
        jitter = torch.randn(latents.shape, generator=generator, device=device)
        clock.log(step, trainer.step(loss_of, spent, pictures, latents, latents + 0.05 * jitter))
    trainer.finish()
    with torch.no_grad():
        check = pool[: min(192, len(pool))].float() / 255
        drawn = torch.cat([vae.decode(latents_of(part)).sample for part in check.split(32)])
        predicted = torch.cat([vae.encode(part * 2 - 1).latent_dist.mean for part in check.split(32)])
        error = (drawn / 2 + 0.5).clamp(0, 1) - check
        psnr = -10 * error.square().mean((1, 2, 3)).log10()
        off = (predicted - latents_of(check)).square().mean().sqrt()
        print(f"[vae] decoder PSNR {psnr.mean():.1f} dB, encoder's error {off:.3f}", flush=True)


# All of it


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path, help="folder for the stages' weights")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--smoke", action="store_true", help="a run of seconds, to see that everything works")
    parser.add_argument("--modest", action="store_true", help="half an hour without a GPU, a rough result")
    parser.add_argument("--seconds", default="", help="other limits, for example base=120,adapter=60")
    parser.add_argument("--stages", default=",".join(STAGES), help="which to do, for example text,base")
    parser.add_argument("--batch", type=int, help="another batch size for base and adapter")
    parser.add_argument("--early", type=float, help="another share of base and adapter at half the size")
    parser.add_argument("--no-compile", action="store_true", help="the base as it is, without torch.compile")
    parser.add_argument("--again", default="", help="stages to go on with, for example base,adapter")
    options = parser.parse_args()
    plan = SMOKE if options.smoke else MODEST if options.modest else FULL
    for pair in filter(None, options.seconds.split(",")):
        name, value = pair.split("=")
        plan.seconds[name] = float(value)
    plan = replace(
        plan,
        batch=options.batch or plan.batch,
        early=plan.early if options.early is None else options.early,
        compile=plan.compile and not options.no_compile,
    )
    named = (tuple(filter(None, names.split(","))) for names in (options.stages, options.again))
    run(options.out, options.seed, plan, *named)


def run(out: Path, seed: int, plan: Plan, stages: tuple[str, ...] = STAGES, again: tuple[str, ...] = ()) -> None:
    begun = time.time()
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = True
    torch.backends.cudnn.benchmark = True
    models = architecture.parts(seed) | {"judge": measure.Judge()}
    for model in models.values():
        model.to(device)
    out.mkdir(parents=True, exist_ok=True)
    groups = {"text": ("text_encoder", "text_encoder_2"), "base": ("unet",)}
    cache: dict = {}

    def pools_of(generator):
        if "pools" not in cache:
            cache["pools"] = pools(plan, generator)
        return cache["pools"]

    def batches(generator):
        if "batches" not in cache:
            texts = models["text_encoder"], models["text_encoder_2"]
            cache["batches"] = Batches(*texts, pools_of(generator), plan, generator)
        return cache["batches"]

    def train(stage: str, generator, repeat: bool, save: Callable) -> None:
        if stage == "vae":
            train_vae(models["vae"], plan, generator)
        elif stage == "image_encoder":
            train_image_encoder(models["image_encoder"], plan, generator)
        elif stage == "judge":
            train_judge(models["judge"], plan, generator)
        elif stage == "text":
            train_text(models["text_encoder"], models["text_encoder_2"], pools_of(generator)[0], plan, generator)
        elif stage == "base":
            train_base(models["unet"], batches(generator), plan, repeat, save)
        else:
            load("image_encoder")  # another process may have trained it meanwhile
            if not repeat:  # its keys and values begin as the trained base's
                models["adapter"] = architecture.Adapter(models["unet"]).to(device)
            parts = models["adapter"], models["unet"], models["image_encoder"]
            train_adapter(*parts, batches(generator), plan, repeat, save)

    def load(stage: str) -> Path | None:
        held = next((p for p in (out / f"{stage}.partial.pt", out / f"{stage}.pt") if p.exists()), None)
        if held:
            for name, state in torch.load(held, map_location=device, weights_only=True).items():
                models[name].load_state_dict(state)
        return held

    for number, stage in enumerate(STAGES):
        names = groups.get(stage, (stage,))
        path, cut = out / f"{stage}.pt", out / f"{stage}.partial.pt"
        held = load(stage)
        if stage in stages and (held != path or stage in again):
            torch.manual_seed(seed + number)
            generator = torch.Generator(device).manual_seed(1000 * seed + 17 * number + (500 if held else 0))
            train(stage, generator, bool(held), partial(_write, cut))
            _write(path, {name: models[name].state_dict() for name in names})
            cut.unlink(missing_ok=True)
            print(f"[{stage}] written after {time.time() - begun:.0f} s", flush=True)
    size = assemble(out)
    print(f"{size:,} bytes of weights in {out / 'demo'}, {time.time() - begun:.0f} s in all", flush=True)


def assemble(out: Path) -> int:
    """Write the model folder OUT/demo from the stages' files, finished or cut, and return the weights' bytes."""
    models = architecture.parts()
    for stage in STAGES:
        for path in (out / f"{stage}.pt", out / f"{stage}.partial.pt"):
            if path.exists():
                for name, state in torch.load(path, map_location="cpu", weights_only=True).items():
                    if name in models:
                        models[name].load_state_dict(state)
    return architecture.save(models, out / "demo")


def _write(path: Path, states: dict[str, dict[str, Tensor]]) -> None:
    """In float16, by an atomic replacement."""
    half = {
        name: {k: v.detach().half() if v.is_floating_point() else v for k, v in state.items()}
        for name, state in states.items()
    }
    beside = path.with_suffix(".part")
    torch.save(half, beside)
    beside.replace(path)


if __name__ == "__main__":
    main()
