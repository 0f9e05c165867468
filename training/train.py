"""Train the demo model from nothing: `python -m training.train OUT`, then `python -m training.evaluate OUT`.

Stages: the picture autoencoder, the image encoder, the classifier that judges, the base (text encoders and UNet), the
adapter. Each stage ends after its steps or its seconds, whichever comes first, and writes its weights at once; a stage
whose weights OUT already holds is skipped, unless `--again` names it, which goes on from them.
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

STAGES = ("vae", "image_encoder", "judge", "base", "adapter")
WORK = torch.bfloat16
OTHER_SIZES = ((192, 192), (320, 320), (192, 256), (256, 192), (256, 320), (320, 256))
IMAGE_MEAN, IMAGE_STD = architecture.PREPROCESSOR["image_mean"], architecture.PREPROCESSOR["image_std"]


@dataclass(frozen=True)
class Plan:
    """How much of everything: steps and seconds by stage, numbers of pictures, batch sizes."""

    steps: dict[str, int]
    seconds: dict[str, float]
    pictures: int
    other_pictures: int
    reference_styles: int
    batch: int
    small_batch: int
    chunk: int


FULL = Plan(
    steps={"vae": 6000, "image_encoder": 6000, "judge": 2500, "text": 600, "base": 12000, "adapter": 6000},
    seconds={"vae": 60, "image_encoder": 35, "judge": 15, "text": 6, "base": 165, "adapter": 65},
    pictures=160_000,
    other_pictures=8_000,
    reference_styles=60_000,
    batch=512,
    small_batch=96,
    chunk=400,
)
SMOKE = Plan(
    steps=dict.fromkeys(FULL.steps, 2),
    seconds=dict.fromkeys(FULL.seconds, 60.0),
    pictures=24,
    other_pictures=4,
    reference_styles=12,
    batch=8,
    small_batch=4,
    chunk=8,
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
        self.average = self.master.clone()
        self.rate, self.keep, self.count = rate, average, 0
        fused = device.type == "cuda"
        self.optimizer = torch.optim.AdamW([self.master], lr=rate, betas=(0.9, 0.99), weight_decay=decay, fused=fused)

    def step(self, loss: Tensor, progress: float) -> None:
        """`progress` 0 to 1: the learning rate follows half a cosine, after a short rise."""
        self.count += 1
        self.gradient.zero_()
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

    def finish(self) -> None:
        """Give the modules the averaged weights, in float32."""
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


def log(name: str, step: int, **values: Tensor) -> None:
    if step % 250 == 0:
        text = " ".join(f"{k} {float(v.detach()):.4f}" for k, v in values.items())
        print(f"[{name}] step {step}: {text}", flush=True)


# Stage 1: the picture autoencoder


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
    pool = picture_pool(min(plan.pictures, 24_000), plan, generator)
    trainer = Trainer([vae], 1.5e-3, average=0.998)
    size = 192
    for step, spent in progress("vae", plan):
        index = torch.randint(len(pool), (plan.small_batch,), generator=generator, device=pool.device)
        top, left = (int(x) for x in torch.randint(64 // 8, (2,)) * 8)
        pictures = pool[index, :, top : top + size, left : left + size].float() / 127.5 - 1
        posterior = vae.encode(pictures.to(WORK)).latent_dist
        mean, logvar = posterior.mean.float(), posterior.logvar.float()
        latents = mean + (0.5 * logvar).exp() * torch.randn_like(mean)
        drawn = vae.decode(latents.to(WORK)).sample.float()
        kl = 0.5 * (mean.square() + logvar.exp() - 1 - logvar).mean()
        error = drawn - pictures
        edges = error.diff(dim=-1).abs().mean() + error.diff(dim=-2).abs().mean()
        loss = error.abs().mean() + error.square().mean() + 0.5 * edges + 5e-4 * kl
        trainer.step(loss, spent)
        log("vae", step, l1=error.abs().mean(), mse=error.square().mean(), kl=kl, std=mean.std())
    trainer.finish()
    with torch.no_grad():
        check = pool[: min(256, len(pool))].float() / 127.5 - 1
        parts = check.split(32)
        posterior = [vae.encode(part).latent_dist for part in parts]
        latents = torch.cat([p.mean for p in posterior])
        drawn = torch.cat([vae.decode(p.mean).sample for p in posterior]).clamp(-1, 1)
        psnr = -10 * ((drawn - check) / 2).square().mean((1, 2, 3)).log10()
        vae.register_to_config(scaling_factor=round(1 / latents.std().item(), 4))
        print(f"[vae] PSNR {psnr.mean():.1f} dB, scaling factor {vae.config.scaling_factor}", flush=True)
        print(f"[vae] channel means {latents.mean((0, 2, 3)).tolist()} stds {latents.std((0, 2, 3)).tolist()}")


# Stage 2: the image encoder


def normalised(pictures: Tensor) -> Tensor:
    """What CLIP's image processor makes of pictures in 0 to 1."""
    mean, std = (torch.tensor(v, device=pictures.device)[:, None, None] for v in (IMAGE_MEAN, IMAGE_STD))
    return (pictures - mean) / std


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
    batch = min(2 * plan.batch, n)
    for step, spent in progress("image_encoder", plan):
        index = torch.randint(n, (batch,), generator=generator, device=device)
        picture = views[index].flatten(0, 1).float() / 255
        embeds = encoder(pixel_values=normalised(picture).to(WORK)).image_embeds
        told = {name: head(embeds).float() for name, head in heads.items()}
        goal = ((numbers[index] - mean) / (std + 1e-3)).repeat_interleave(2, 0)
        of_numbers = F.smooth_l1_loss(told["numbers"], goal)
        goal = classes[index].repeat_interleave(2, 0).flatten()
        of_classes = F.cross_entropy(told["classes"].view(-1, len(scenes.FILLS)), goal)
        of_colours = F.mse_loss(told["colours"], colours[index].flatten(0, 1)) * 100
        goal = ((textures[index] - texture_mean) / (texture_std + 1e-3)).flatten(0, 1)
        of_textures = F.smooth_l1_loss(told["textures"], goal)
        same = F.normalize(told["same"], dim=-1).view(batch, 2, -1)
        logits = same[:, 0] @ same[:, 1].T * 12
        target = torch.arange(batch, device=device)
        of_same = (F.cross_entropy(logits, target) + F.cross_entropy(logits.T, target)) / 2
        # Of about unit size, so that the adapter's projection starts well.
        size_loss = (embeds.float().square().mean() - 1).square() * 0.01
        trainer.step(of_numbers * 2 + of_classes + of_colours + of_textures + 0.3 * of_same + size_loss, spent)
        log(
            "image_encoder",
            step,
            numbers=of_numbers,
            classes=of_classes,
            colours=of_colours,
            textures=of_textures,
            same=of_same,
        )
    trainer.finish()


# The classifier that judges


def judged_pictures(n: int, generator, held_out: bool) -> tuple[Tensor, Content]:
    """Pictures with one kind of shape each, and what they show."""
    style = scenes.sample_styles(n, generator, held_out)
    content = captions.sample_content(n, generator)
    content = Content(**{**vars(content), "second": torch.full_like(content.second, NONE)})
    content = scenes.settle(content, style)
    return scenes.draw(content, style, 256, 256, generator), content


@torch.no_grad()
def through_vae(vae, pictures: Tensor) -> Tensor:
    latents = [vae.encode(part * 2 - 1).latent_dist.mean for part in pictures.to(vae.dtype).split(64)]
    return torch.cat([vae.decode(part).sample for part in latents]).float().add(1).div(2).clamp(0, 1)


def train_judge(judge, vae, plan: Plan, generator) -> None:
    device = generator.device
    n = min(plan.pictures, 40_000)
    pool = torch.empty(n, 3, 128, 128, dtype=torch.uint8, device=device)
    labels = []
    vae.to(WORK)
    for start in range(0, n, plan.chunk):
        pictures, content = judged_pictures(min(plan.chunk, n - start), generator, held_out=False)
        half = len(pictures) // 2
        if half:
            pictures[:half] = through_vae(vae, pictures[:half])
        small = F.interpolate(pictures, (128, 128), mode="area")
        pool[start : start + len(small)] = (small * 255).round().byte()
        labels.append(torch.stack([content.kind, content.count - 1, content.colour], 1))
    labels = torch.cat(labels)
    optimizer = torch.optim.AdamW(judge.parameters(), lr=2e-3, weight_decay=0.02)
    for step, spent in progress("judge", plan):
        index = torch.randint(n, (min(plan.batch, n),), generator=generator, device=device)
        pictures = pool[index].float() / 255
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
        log("judge", step, kind=losses[0], count=losses[1], colour=losses[2])
    judge.eval()


# Stage 3: the base


@dataclass(frozen=True)
class Pool:
    """Encoded pictures of one size: latents' mean and deviation (N, 4, h, w), tokens (N, 77), and their styles."""

    height: int
    width: int
    mean: Tensor
    deviation: Tensor
    tokens: Tensor
    content: Content
    style: Style

    def latents(self, index: Tensor) -> Tensor:
        mean, deviation = self.mean[index].float(), self.deviation[index].float()
        return mean + deviation * torch.randn_like(mean)


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


@torch.no_grad()
def encoded_pool(vae, n: int, height: int, width: int, plan: Plan, generator) -> Pool:
    means, deviations, tokens, contents, styles = [], [], [], [], []
    scale = vae.config.scaling_factor
    vae.to(WORK)
    for start in range(0, n, plan.chunk):
        count = min(plan.chunk, n - start)
        style = scenes.sample_styles(count, generator)
        content = scenes.settle(captions.sample_content(count, generator), style)
        pictures = scenes.draw(content, style, height, width, generator)
        posterior = [vae.encode(part.to(WORK) * 2 - 1).latent_dist for part in pictures.split(200)]
        means.append(torch.cat([p.mean for p in posterior]) * scale)
        deviations.append(torch.cat([p.std for p in posterior]) * scale)
        tokens.append(tokenise(captions.captions(content, generator.initial_seed() + start)))
        contents.append(content)
        styles.append(style)
    joined = [
        kind(*(torch.cat([getattr(row, name) for row in rows]) for name in vars(rows[0])))
        for kind, rows in ((Content, contents), (Style, styles))
    ]
    device = generator.device
    return Pool(height, width, torch.cat(means), torch.cat(deviations), torch.cat(tokens).to(device), *joined)


def pools(vae, plan: Plan, generator) -> list[Pool]:
    begun = time.time()
    result = [encoded_pool(vae, plan.pictures, 256, 256, plan, generator)]
    result += [encoded_pool(vae, plan.other_pictures, h, w, plan, generator) for h, w in OTHER_SIZES]
    print(f"[pools] {sum(len(p.mean) for p in result)} pictures in {time.time() - begun:.0f} s", flush=True)
    return result


def encode_text(first, second, tokens: Tensor) -> tuple[Tensor, Tensor]:
    """(B, 77, context) and (B, pooled), as SDXL's pipeline makes them."""
    one = first(input_ids=tokens, output_hidden_states=True)
    two = second(input_ids=tokens, output_hidden_states=True)
    return torch.cat([one.hidden_states[-2], two.hidden_states[-2]], -1), two.text_embeds


def train_text(first, second, pool: Pool, plan: Plan, generator) -> None:
    """Teach the text encoders to tell what a caption states, before any picture is drawn from it."""
    sizes = {"kind": 10, "second": 10, "count": 5, "relation": 2, "size": 3, "place": 9, "colour": 12, "ground": 12}
    total, width = sum(sizes.values()) + len(sizes), architecture.CONTEXT + architecture.POOLED
    heads = nn.ModuleList([nn.Linear(w, total) for w in (architecture.CONTEXT, architecture.POOLED)])
    heads = heads.to(generator.device)
    trainer = Trainer([first, second, heads], 2e-3)
    assert width == heads[0].in_features + heads[1].in_features
    for step, spent in progress("text", plan):
        index = torch.randint(len(pool.mean), (plan.batch,), generator=generator, device=pool.mean.device)
        hidden, pooled = encode_text(first, second, pool.tokens[index])
        ends = pool.tokens[index].argmax(-1)  # the end token has the highest number
        last = hidden[torch.arange(len(ends), device=ends.device), ends]
        loss = 0
        for told in (heads[0](last).float(), heads[1](pooled).float()):
            for (name, size), logits in zip(sizes.items(), told.split([s + 1 for s in sizes.values()], 1), strict=True):
                goal = getattr(pool.content, name)[index]
                loss = loss + F.cross_entropy(logits, torch.where(goal == NONE, size, goal))
        trainer.step(loss, spent)
        log("text", step, loss=loss)
    trainer.finish()


def noise_levels(device) -> Tensor:
    """(1000,): the share of the signal's power left at each timestep."""
    c = architecture.SCHEDULER
    betas = torch.linspace(c["beta_start"] ** 0.5, c["beta_end"] ** 0.5, c["num_train_timesteps"], device=device)
    return (1 - betas.square()).cumprod(0)


def denoising_loss(unet, latents, alphas, context, pooled, height, width) -> Tensor:
    """Error of the predicted noise, weighted by min(SNR, 5) / SNR (Hang et al. 2023); `context`: all the UNet attends."""
    n, device = len(latents), latents.device
    # Timesteps spread evenly over the batch, as far as chance allows.
    timestep = ((torch.arange(n, device=device) + torch.rand(n, device=device)) / n * 1000).long().clamp(max=999)
    alpha = alphas[timestep][:, None, None, None]
    noise = torch.randn_like(latents)
    noisy = alpha.sqrt() * latents + (1 - alpha).sqrt() * noise
    time_ids = torch.tensor([height, width, 0, 0, height, width], device=device, dtype=WORK).expand(n, 6)
    added = {"text_embeds": pooled, "time_ids": time_ids}
    told = unet(noisy.to(WORK), timestep, context, added_cond_kwargs=added).sample.float()
    snr = (alpha / (1 - alpha)).flatten()
    weight = snr.clamp(max=5) / snr
    return ((told - noise).square().mean((1, 2, 3)) * weight).mean()


def sample_pool(all_pools: list[Pool], plan: Plan, step: int, generator) -> tuple[Pool, Tensor]:
    """Three steps in four the usual size, else the next of the others."""
    pool = all_pools[1 + step // 4 % len(OTHER_SIZES)] if step % 4 == 3 else all_pools[0]
    index = torch.randint(len(pool.mean), (plan.batch,), generator=generator, device=pool.mean.device)
    return pool, index


def train_base(unet, first, second, all_pools: list[Pool], plan: Plan, generator, again: bool) -> None:
    if not again:
        train_text(first, second, all_pools[0], plan, generator)
    trainer = Trainer([unet, first, second], 1e-3 if not again else 5e-4)
    device = generator.device
    alphas = noise_levels(device)
    empty = tokenise([""]).to(device)
    for step, spent in progress("base", plan):
        pool, index = sample_pool(all_pools, plan, step, generator)
        chance = torch.rand(len(index), device=device)
        # Guidance needs the base without words: nothing at all, or the empty caption.
        tokens = torch.where((chance < 0.05)[:, None], empty, pool.tokens[index])
        hidden, pooled = encode_text(first, second, tokens)
        kept = ((chance < 0.05) | (chance > 0.1)).to(WORK)
        hidden, pooled = hidden * kept[:, None, None], pooled * kept[:, None]
        loss = denoising_loss(unet, pool.latents(index), alphas, hidden, pooled, pool.height, pool.width)
        trainer.step(loss, spent)
        log("base", step, loss=loss)
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
    for start in range(0, len(pool.mean), plan.chunk):
        style = pool.style.take(slice(start, start + plan.chunk))
        content = captions.sample_content(len(style), generator)
        mode = scenes.sample_modes(len(style), generator)
        picture = scenes.reference(content, style, mode, size, generator, density=size)
        rows.append(encoder(pixel_values=normalised(picture).to(WORK)).image_embeds)
    return torch.cat(rows)


def train_adapter(adapter, unet, first, second, encoder, all_pools, plan: Plan, generator, again: bool) -> None:
    device = generator.device
    frozen = [unet, first, second, encoder]
    for module in frozen:
        module.to(WORK).requires_grad_(False)
    embeds = [reference_embeds(encoder, pool, plan, generator) for pool in all_pools]
    kept = dict(unet.attn_processors)
    pairs = iter(zip(adapter.to_k, adapter.to_v, strict=True))
    unet.set_attn_processor(
        {name: PairedAttention(*next(pairs)) if name.endswith("attn2.processor") else p for name, p in kept.items()}
    )
    trainer = Trainer([adapter], 1e-3 if not again else 5e-4)
    alphas = noise_levels(device)
    for step, spent in progress("adapter", plan):
        pool, index = sample_pool(all_pools, plan, step, generator)
        with torch.no_grad():
            hidden, pooled = encode_text(first, second, pool.tokens[index])
        chance = torch.rand(len(index), device=device)
        # Dropped, as in IP-Adapter: the picture, the words, both.
        words = ((chance < 0.07) | (chance > 0.17)).to(WORK)
        seen = (chance > 0.12).to(WORK)
        hidden, pooled = hidden * words[:, None, None], pooled * words[:, None]
        image = next(e for e, other in zip(embeds, all_pools, strict=True) if other is pool)[index]
        tokens = adapter(image * seen[:, None])
        loss = denoising_loss(unet, pool.latents(index), alphas, (hidden, tokens), pooled, pool.height, pool.width)
        trainer.step(loss, spent)
        log("adapter", step, loss=loss)
    trainer.finish()
    unet.set_attn_processor(kept)
    for module in frozen:
        module.float()


# All of it


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path, help="folder for the stages' weights")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--smoke", action="store_true", help="a run of seconds, to see that everything works")
    parser.add_argument("--seconds", default="", help="other limits, for example base=120,adapter=60")
    parser.add_argument("--again", default="", help="stages to go on with, for example base,adapter")
    options = parser.parse_args()
    plan = SMOKE if options.smoke else FULL
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
    groups = {"base": ("unet", "text_encoder", "text_encoder_2")}
    cache: dict[str, list[Pool]] = {}

    def train(stage: str, generator, repeat: bool) -> None:
        def all_pools():
            if "pools" not in cache:
                cache["pools"] = pools(models["vae"], plan, generator)
            return cache["pools"]

        texts = models["text_encoder"], models["text_encoder_2"]
        if stage == "vae":
            train_vae(models["vae"], plan, generator)
        elif stage == "image_encoder":
            train_image_encoder(models["image_encoder"], plan, generator)
        elif stage == "judge":
            train_judge(models["judge"], models["vae"], plan, generator)
        elif stage == "base":
            train_base(models["unet"], *texts, all_pools(), plan, generator, repeat)
        else:
            if not repeat:  # its keys and values begin as the trained base's
                models["adapter"] = architecture.Adapter(models["unet"]).to(device)
            parts = models["adapter"], models["unet"], *texts, models["image_encoder"]
            train_adapter(*parts, all_pools(), plan, generator, repeat)

    for number, stage in enumerate(STAGES):
        names = groups.get(stage, (stage,))
        path = out / f"{stage}.pt"
        held = path.exists()
        if held:
            for name, state in torch.load(path, map_location=device, weights_only=True).items():
                if name == "scaling_factor":
                    models["vae"].register_to_config(scaling_factor=state)
                else:
                    models[name].load_state_dict(state)
        if not held or stage in again:
            torch.manual_seed(seed + number)
            generator = torch.Generator(device).manual_seed(1000 * seed + 17 * number + (500 if held else 0))
            train(stage, generator, held)
            saved: dict = {name: _float16(models[name]) for name in names}
            if stage == "vae":
                saved["scaling_factor"] = models["vae"].config.scaling_factor
            torch.save(saved, path)
            print(f"[{stage}] written after {time.time() - begun:.0f} s", flush=True)
    size = publish(out, models)
    print(f"{size:,} bytes of weights in {out / 'demo'}, {time.time() - begun:.0f} s in all", flush=True)


def publish(out: Path, models: dict[str, nn.Module]) -> int:
    """Write the model folder from the stages' files (training rounds the modules themselves further)."""
    for module in models.values():
        module.float()
    for stage in STAGES:
        for name, state in torch.load(out / f"{stage}.pt", map_location="cpu", weights_only=True).items():
            if name != "scaling_factor":
                models[name].load_state_dict(state)
    return architecture.save({k: v for k, v in models.items() if k != "judge"}, out / "demo")


def _float16(module: nn.Module) -> dict[str, Tensor]:
    return {k: v.half() if v.is_floating_point() else v for k, v in module.state_dict().items()}


if __name__ == "__main__":
    main()
