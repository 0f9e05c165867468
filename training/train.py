"""Train the demo model from nothing: `python -m training.train OUT`, then `python -m training.evaluate OUT`.

Stages: the image encoder, the classifier that judges, the text encoders, the base, the adapter, and last the picture
autoencoder, which nothing waits for: the latents are given by a formula, see `latents_of`. Each stage ends after its
steps or its seconds, whichever comes first, and writes its weights at once; a stage whose weights OUT already holds is
skipped, unless `--again` names it, which goes on from them.
"""

from __future__ import annotations

import argparse
import math
import time
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from training import architecture, captions, measure, scenes
from training.captions import NONE, Content
from training.scenes import Style

STAGES = ("image_encoder", "judge", "text", "base", "adapter", "vae")
WORK = torch.bfloat16 if torch.cuda.is_available() else torch.float32
#: Other sizes seen in training, as shares of the usual height and width.
OTHER_SIZES = ((0.75, 0.75), (1, 1.25), (1.25, 1))
IMAGE_MEAN, IMAGE_STD = architecture.PREPROCESSOR["image_mean"], architecture.PREPROCESSOR["image_std"]


@dataclass(frozen=True)
class Plan:
    """How much of everything: steps and seconds by stage, numbers of pictures, batch sizes."""

    steps: dict[str, int]
    seconds: dict[str, float]
    size: int
    pictures: int
    other_pictures: int
    reference_styles: int
    batch: int
    small_batch: int
    chunk: int


FULL = Plan(
    steps={"vae": 6000, "image_encoder": 6000, "judge": 2500, "text": 600, "base": 12000, "adapter": 6000},
    seconds={"image_encoder": 35, "judge": 20, "text": 6, "base": 250, "adapter": 70, "vae": 80},
    size=256,
    pictures=96_000,
    other_pictures=4_000,
    reference_styles=60_000,
    batch=192,
    small_batch=96,
    chunk=400,
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
)


class Trainer:
    """AdamW on float32 weights that `modules` compute with in `WORK`, gradient clipping, a moving average.

    All weights live in one flat tensor each (working copy, gradients, masters, average).
    """

    def __init__(self, modules: list[nn.Module], rate: float, average: float = 0.999, decay: float = 0.0):
        parameters = [p for module in modules for p in module.parameters()]
        sizes = [-(-p.numel() // 64) * 64 for p in parameters]  # aligned, as the fast kernels want it
        device = parameters[0].device
        self.master = torch.zeros(sum(sizes), device=device)
        self.work = torch.zeros_like(self.master, dtype=WORK)
        self.gradient = torch.zeros_like(self.work)
        start = 0
        for p, size in zip(parameters, sizes, strict=True):
            span = slice(start, start + p.numel())
            self.master[span] = p.data.flatten()
            p.data = self.work[span].view(p.shape)
            p.grad = self.gradient[span].view(p.shape)
            start += size
        for module in modules:
            for buffer in module.buffers():
                if buffer.is_floating_point():
                    buffer.data = buffer.data.to(WORK)
        self.work.copy_(self.master)
        self.parameters = parameters
        self.graphs: dict = {}
        self.average = self.master.clone()
        self.rate, self.keep, self.count = rate, average, 0
        fused = device.type == "cuda"
        self.optimizer = torch.optim.AdamW([self.master], lr=rate, betas=(0.9, 0.99), weight_decay=decay, fused=fused)

    def step(self, loss_of, progress: float, *inputs: Tensor) -> Tensor:
        """One step down `loss_of(*inputs)`, a scalar; on a GPU it is recorded once for each function and shape.

        `progress` 0 to 1: the learning rate follows half a cosine, after a short rise.
        """
        self.count += 1
        self.gradient.zero_()
        if self.master.is_cuda:  # the launches of so small a network would cost more than its work
            loss = self._replay(loss_of, inputs)
        else:
            loss = loss_of(*inputs)
            loss.backward()
        gradient = self.gradient.float()
        norm = gradient.norm()
        # Not a number or infinite: a step of nothing instead of a ruined model.
        gradient = torch.where(norm.isfinite(), gradient * (1 / norm.clamp(min=1)), torch.zeros_like(gradient))
        self.master.grad = gradient
        rise = min(1.0, self.count / 100)
        rate = self.rate * rise * (0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * min(1.0, progress))))
        self.optimizer.param_groups[0]["lr"] = rate
        self.optimizer.step()
        self.work.copy_(self.master)
        keep = min(self.keep, self.count / (10 + self.count))
        self.average.lerp_(self.master, 1 - keep)
        return loss.detach()

    def _replay(self, loss_of, inputs: tuple[Tensor, ...]) -> Tensor:
        key = (loss_of, *(x.shape for x in inputs))
        if key not in self.graphs:
            static = [x.clone() for x in inputs]
            side = torch.cuda.Stream()
            side.wait_stream(torch.cuda.current_stream())
            with torch.cuda.stream(side):
                for _ in range(2):
                    loss_of(*static).backward()
            torch.cuda.current_stream().wait_stream(side)
            graph = torch.cuda.CUDAGraph()
            try:
                with torch.cuda.graph(graph):
                    loss = loss_of(*static)
                    loss.backward()
                self.graphs[key] = graph, static, loss
            except RuntimeError as error:
                print(f"steps are not recorded but run one by one: {error}", flush=True)
                self.graphs[key] = None
            self.gradient.zero_()
        if self.graphs[key] is None:
            loss = loss_of(*inputs)
            loss.backward()
            return loss
        graph, static, loss = self.graphs[key]
        for mine, given in zip(static, inputs, strict=True):
            mine.copy_(given)
        graph.replay()
        return loss

    def finish(self) -> None:
        """Give the modules the averaged weights, in float32."""
        self.graphs.clear()
        start = 0
        for p in self.parameters:
            p.grad = None
            p.data = self.average[start : start + p.numel()].view(p.shape).clone()
            start += -(-p.numel() // 64) * 64


def progress(name: str, plan: Plan):
    """Yield (step, progress) until the stage's steps or seconds are used up; say how far it came."""
    begun, steps, seconds = time.time(), plan.steps[name], plan.seconds[name]
    step = 0
    while True:
        spent = max(step / steps, (time.time() - begun) / seconds)
        if spent >= 1:
            break
        yield step, spent
        step += 1
        if step % 64 == 0 and torch.cuda.is_available():
            torch.cuda.synchronize()  # so that the clock sees the work, not only its launch
    print(f"[{name}] {step} steps in {time.time() - begun:.0f} s", flush=True)


def log(name: str, step: int, loss: Tensor) -> None:
    if step % (250 if loss.is_cuda else 20) == 0:
        print(f"[{name}] step {step}: loss {loss.item():.4f}", flush=True)


# Stage 2: the image encoder


def normalised(pictures: Tensor) -> Tensor:
    """What CLIP's image processor makes of pictures in 0 to 1."""
    return torch.stack([(pictures[:, i] - IMAGE_MEAN[i]) / IMAGE_STD[i] for i in range(3)], 1)


def style_targets(style: Style) -> tuple[Tensor, Tensor]:
    """What the image tells of its style, as numbers (N, 28) and as classes (N, 2)."""
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
        told = {name: head(embeds).float() for name, head in heads.items()}
        of_numbers = F.smooth_l1_loss(told["numbers"], numbers)
        of_classes = F.cross_entropy(told["classes"].view(-1, len(scenes.FILLS)), classes)
        of_colours = F.mse_loss(told["colours"], colours) * 100
        of_textures = F.smooth_l1_loss(told["textures"], textures)
        same = F.normalize(told["same"], dim=-1).view(batch, 2, -1)
        logits = same[:, 0] @ same[:, 1].T * 12
        of_same = (F.cross_entropy(logits, target) + F.cross_entropy(logits.T, target)) / 2
        # Of about unit size, so that the adapter's projection starts well.
        of_size = (embeds.float().square().mean() - 1).square() * 0.01
        return of_numbers * 2 + of_classes + of_colours + of_textures + 0.3 * of_same + of_size

    for step, spent in progress("image_encoder", plan):
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
        log("image_encoder", step, loss)
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
    for step, spent in progress("judge", plan):
        index = torch.randint(n, (min(128, n),), generator=generator, device=device)
        pictures = pool[index].float() / 255
        if step % 2:  # blurred, as drawn pictures can be
            pictures = F.avg_pool2d(pictures, 3, stride=1, padding=1, count_include_pad=False)
        pictures = pictures + 0.03 * torch.rand(1, device=device) * torch.randn_like(pictures)
        with torch.autocast(device.type, dtype=WORK):
            told = judge(pictures)
        losses = [
            F.cross_entropy(told[name].float(), labels[index, i], ignore_index=NONE)
            for i, name in enumerate(("kind", "count", "colour"))
        ]
        optimizer.zero_grad()
        losses[0].add(losses[1]).add(torch.nan_to_num(losses[2])).backward()
        for group in optimizer.param_groups:
            group["lr"] = 2e-3 * (1 - spent)
        optimizer.step()
        log("judge", step, losses[0])
    judge.eval()


# Stage 3: the base


@dataclass(frozen=True)
class Pool:
    """Pictures of one size: latents (N, 4, h, w), what the text encoders make of the captions, and the styles."""

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
    result = [drawn_pool(plan.pictures, plan.size, plan.size, plan, generator)]
    for high, wide in OTHER_SIZES:
        size = int(high * plan.size), int(wide * plan.size)
        result.append(drawn_pool(plan.other_pictures, *size, plan, generator))
    spread = result[0].latents.float().std((0, 2, 3)).tolist()
    print(f"[pools] {sum(map(len, result))} pictures in {time.time() - begun:.0f} s, deviations {spread}", flush=True)
    return result


def encode_text(first, second, tokens: Tensor) -> tuple[Tensor, Tensor]:
    """(B, 77, context) and (B, pooled), as SDXL's pipeline makes them."""
    one = first(input_ids=tokens, output_hidden_states=True)
    two = second(input_ids=tokens, output_hidden_states=True)
    return torch.cat([one.hidden_states[-2], two.hidden_states[-2]], -1), two.text_embeds


def train_text(first, second, pool: Pool, plan: Plan, generator) -> None:
    """Teach the text encoders to tell what a caption states, before any picture is drawn from it; then they rest."""
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
        told = [head(x).float().split(splits, 1) for head, x in zip(heads, (last, pooled), strict=True)]
        return sum(F.cross_entropy(part[i], goals[i]) for part in told for i in range(len(sizes)))

    for step, spent in progress("text", plan):
        index = torch.randint(len(pool), (plan.batch,), generator=generator, device=pool.latents.device)
        stated = [getattr(pool.content, name)[index] for name in sizes]
        goals = [torch.where(goal == NONE, size, goal) for goal, size in zip(stated, sizes.values(), strict=True)]
        log("text", step, trainer.step(loss_of, spent, pool.tokens[index], torch.stack(goals)))
    trainer.finish()


def noise_levels(device) -> Tensor:
    """(1000,): the share of the signal's power left at each timestep."""
    c = architecture.SCHEDULER
    betas = torch.linspace(c["beta_start"] ** 0.5, c["beta_end"] ** 0.5, c["num_train_timesteps"], device=device)
    return (1 - betas.square()).cumprod(0)


def denoising_loss(unet, latents, alphas, context, pooled, time_ids) -> Tensor:
    """Error of the predicted noise, weighted by min(SNR, 5) / SNR (Hang et al. 2023); `context`: what it attends to."""
    n, device = len(latents), latents.device
    # Timesteps spread evenly over the batch, as far as chance allows.
    timestep = ((torch.arange(n, device=device) + torch.rand(n, device=device)) / n * 1000).long().clamp(max=999)
    alpha = alphas[timestep][:, None, None, None]
    noise = torch.randn_like(latents)
    noisy = alpha.sqrt() * latents + (1 - alpha).sqrt() * noise
    added = {"text_embeds": pooled, "time_ids": time_ids}
    told = unet(noisy.to(WORK), timestep, context, added_cond_kwargs=added).sample.float()
    snr = (alpha / (1 - alpha)).flatten()
    weight = snr.clamp(max=5) / snr
    return ((told - noise).square().mean((1, 2, 3)) * weight).mean()


class Batches:
    """Latents with their words, already encoded: three batches in four of the usual size, else of the others."""

    def __init__(self, first, second, all_pools: list[Pool], plan: Plan, generator):
        self.pools, self.size, self.generator = all_pools, plan.batch, generator
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

    @staticmethod
    @torch.no_grad()
    def _encode(first, second, tokens):
        parts = [encode_text(first, second, part) for part in tokens.split(4000)]
        return [torch.cat(part) for part in zip(*parts, strict=True)]

    def __call__(self, step: int):
        """Number of the pool, index in it, latents, hidden, pooled, time_ids."""
        number = 1 + step // 4 % len(OTHER_SIZES) if step % 4 == 3 else 0
        pool, (hidden, pooled) = self.pools[number], self.texts[number]
        index = torch.randint(len(pool), (self.size,), generator=self.generator, device=self.device)
        time_ids = self.time_ids[number].expand(self.size, 6)
        return number, index, pool.latents[index].float(), hidden[index], pooled[index], time_ids


def train_base(unet, batches: Batches, plan: Plan, again: bool) -> None:
    trainer = Trainer([unet], 1e-3 if not again else 8e-4)
    alphas = noise_levels(batches.device)

    def loss_of(latents, hidden, pooled, time_ids):
        chance = torch.rand(len(latents), device=latents.device)
        # Guidance needs the base without words: nothing at all, or the empty caption.
        empty = chance < 0.05
        hidden = torch.where(empty[:, None, None], batches.empty[0], hidden)
        pooled = torch.where(empty[:, None], batches.empty[1], pooled)
        kept = (empty | (chance > 0.1)).to(WORK)
        context = hidden * kept[:, None, None]
        return denoising_loss(unet, latents, alphas, context, pooled * kept[:, None], time_ids)

    for step, spent in progress("base", plan):
        torch.backends.cudnn.benchmark = step % 4 < 3
        log("base", step, trainer.step(loss_of, spent, *batches(step)[2:]))
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


def train_adapter(adapter, unet, encoder, batches: Batches, plan: Plan, again: bool) -> None:
    embeds = [reference_embeds(encoder, pool, plan, batches.generator) for pool in batches.pools]
    unet.to(WORK).requires_grad_(False)
    kept = dict(unet.attn_processors)
    trainer = Trainer([adapter], 1.5e-3 if not again else 7e-4)
    pairs = iter(zip(adapter.to_k, adapter.to_v, strict=True))
    unet.set_attn_processor(
        {name: PairedAttention(*next(pairs)) if name.endswith("attn2.processor") else p for name, p in kept.items()}
    )
    alphas = noise_levels(batches.device)

    def loss_of(latents, hidden, pooled, time_ids, image):
        chance = torch.rand(len(latents), device=latents.device)
        # Dropped, as in IP-Adapter: the picture, both, the words.
        words = ((chance < 0.07) | (chance > 0.17)).to(WORK)
        seen = (chance > 0.12).to(WORK)
        context = hidden * words[:, None, None], adapter(image * seen[:, None])
        return denoising_loss(unet, latents, alphas, context, pooled * words[:, None], time_ids)

    for step, spent in progress("adapter", plan):
        torch.backends.cudnn.benchmark = step % 4 < 3
        number, index, *rest = batches(step)
        log("adapter", step, trainer.step(loss_of, spent, *rest, embeds[number][index]))
    trainer.finish()
    unet.set_attn_processor(kept)
    unet.float()


# The last stage: the picture autoencoder


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
    """The decoder learns to draw from `latents_of` a picture, the encoder to tell them."""
    device = generator.device
    pool = picture_pool(min(plan.pictures // 4, 12_000), plan, generator)
    trainer = Trainer([vae], 1.5e-3, average=0.998)
    size = 128

    def loss_of(pictures, latents):
        blurred = latents + 0.05 * torch.randn_like(latents)
        error = vae.decode(blurred.to(WORK)).sample.float() - (pictures * 2 - 1)
        edges = error.diff(dim=-1).abs().mean() + error.diff(dim=-2).abs().mean()
        told = vae.encode((pictures * 2 - 1).to(WORK)).latent_dist.parameters.float()
        goal = torch.cat([latents, torch.full_like(latents, -6.0)], 1)  # a deviation of 0.05
        of_encoder = F.smooth_l1_loss(told, goal)
        return error.abs().mean() + error.square().mean() + 0.5 * edges + 0.2 * of_encoder

    for step, spent in progress("vae", plan):
        index = torch.randint(len(pool), (plan.small_batch,), generator=generator, device=device)
        top, left = (8 * int(x) for x in torch.randint(1 + (256 - size) // 8, (2,)))
        pictures = pool[index, :, top : top + size, left : left + size].float() / 255
        log("vae", step, trainer.step(loss_of, spent, pictures, latents_of(pictures)))
    trainer.finish()
    with torch.no_grad():
        check = pool[: min(192, len(pool))].float() / 255
        drawn = torch.cat([vae.decode(latents_of(part)).sample for part in check.split(32)])
        told = torch.cat([vae.encode(part * 2 - 1).latent_dist.mean for part in check.split(32)])
        error = (drawn / 2 + 0.5).clamp(0, 1) - check
        psnr = -10 * error.square().mean((1, 2, 3)).log10()
        off = (told - latents_of(check)).square().mean().sqrt()
        print(f"[vae] decoder PSNR {psnr.mean():.1f} dB, encoder's error {off:.3f}", flush=True)


# All of it


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path, help="folder for the stages' weights")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--smoke", action="store_true", help="a run of seconds, to see that everything works")
    parser.add_argument("--modest", action="store_true", help="half an hour without a GPU, a rough result")
    parser.add_argument("--seconds", default="", help="other limits, for example base=120,adapter=60")
    parser.add_argument("--again", default="", help="stages to go on with, for example base,adapter")
    options = parser.parse_args()
    plan = SMOKE if options.smoke else MODEST if options.modest else FULL
    for pair in filter(None, options.seconds.split(",")):
        name, value = pair.split("=")
        plan.seconds[name] = float(value)
    run(options.out, options.seed, plan, tuple(filter(None, options.again.split(","))))


def run(out: Path, seed: int, plan: Plan, again: tuple[str, ...]) -> None:
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

    def train(stage: str, generator, repeat: bool) -> None:
        if stage == "vae":
            cache.clear()
            train_vae(models["vae"], plan, generator)
        elif stage == "image_encoder":
            train_image_encoder(models["image_encoder"], plan, generator)
        elif stage == "judge":
            train_judge(models["judge"], plan, generator)
        elif stage == "text":
            train_text(models["text_encoder"], models["text_encoder_2"], pools_of(generator)[0], plan, generator)
        elif stage == "base":
            train_base(models["unet"], batches(generator), plan, repeat)
        else:
            if not repeat:  # its keys and values begin as the trained base's
                models["adapter"] = architecture.Adapter(models["unet"]).to(device)
            train_adapter(models["adapter"], models["unet"], models["image_encoder"], batches(generator), plan, repeat)

    for number, stage in enumerate(STAGES):
        names = groups.get(stage, (stage,))
        path = out / f"{stage}.pt"
        held = path.exists()
        if held:
            for name, state in torch.load(path, map_location=device, weights_only=True).items():
                models[name].load_state_dict(state)
        if not held or stage in again:
            torch.manual_seed(seed + number)
            generator = torch.Generator(device).manual_seed(1000 * seed + 17 * number + (500 if held else 0))
            train(stage, generator, held)
            torch.save({name: _float16(models[name]) for name in names}, path)
            print(f"[{stage}] written after {time.time() - begun:.0f} s", flush=True)
    size = publish(out, models)
    print(f"{size:,} bytes of weights in {out / 'demo'}, {time.time() - begun:.0f} s in all", flush=True)


def publish(out: Path, models: dict[str, nn.Module]) -> int:
    """Write the model folder from the stages' files (training rounds the modules themselves further)."""
    for module in models.values():
        module.float()
    for stage in STAGES:
        for name, state in torch.load(out / f"{stage}.pt", map_location="cpu", weights_only=True).items():
            models[name].load_state_dict(state)
    return architecture.save({k: v for k, v in models.items() if k != "judge"}, out / "demo")


def _float16(module: nn.Module) -> dict[str, Tensor]:
    return {k: v.half() if v.is_floating_point() else v for k, v in module.state_dict().items()}


if __name__ == "__main__":
    main()
