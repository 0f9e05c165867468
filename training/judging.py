"""The stage that trains the classifier which judges shapes: on pictures of every style, blurred as models draw them."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from training import captions, measure, pools, scenes, styles, textures
from training.captions import NONE, Content
from training.latents import latents_of
from training.plan import Plan
from training.trainer import WORK, Clock, Trainer

#: Shares of the pictures: without a shape; as the autoencoder draws them, from latents with errors.
EMPTY_SHARE, DECODED_SHARE = 0.08, 0.5
#: The largest deviation of those errors; that of a finished model's latents is below 0.2.
ERROR = 0.3
HEADS = ("kind", "count", "colour")


def judged_pictures(n: int, generator, held_out: bool) -> tuple[Tensor, Content]:
    """Pictures of 256 pixels with one kind of shape each, and what they show."""
    return drawn(styles.sample_styles(n, generator, held_out), generator)


def drawn(style: styles.Style, generator) -> tuple[Tensor, Content]:
    """Pictures (N, 3, 256, 256) in these styles with one kind of shape each, and what they show."""
    n = len(style)
    content = captions.sample_content(n, generator)
    content = Content(**{**vars(content), "second": torch.full_like(content.second, NONE)})
    content = scenes.settle(content, style)
    return scenes.draw(content, style, 256, 256, generator), content


@torch.no_grad()
def decoded(pictures: Tensor, vae, generator) -> Tensor:
    """The pictures as the autoencoder draws them from their latents with smooth and rough errors."""
    latents = latents_of(pictures)
    size = torch.rand(len(latents), 1, 1, 1, generator=generator, device=generator.device) * ERROR
    coarse = [side // 2 for side in latents.shape[-2:]]
    rough = torch.randn(latents.shape, generator=generator, device=generator.device)
    smooth = torch.randn(*latents.shape[:2], *coarse, generator=generator, device=generator.device)
    smooth = F.interpolate(smooth, latents.shape[-2:], mode="bilinear")
    parts = (latents + size * (0.5 * rough + smooth)).split(64)
    return torch.cat([vae.decode(part).sample / 2 + 0.5 for part in parts]).clamp(0, 1)


def labelled(n: int, vae, plan: Plan, generator, photographs) -> tuple[Tensor, Tensor]:
    """Pictures (n, 3, SIDE, SIDE) uint8 and their classes (n, 3), in the order of HEADS."""
    device = generator.device
    pool = torch.empty(n, 3, measure.SIDE, measure.SIDE, dtype=torch.uint8, device=device)
    labels = torch.empty(n, len(HEADS), dtype=torch.long, device=device)
    for start in range(0, n, plan.chunk):
        style = pools.drawn_references(min(plan.chunk, n - start), generator, photographs)[1]
        pictures, content = drawn(style, generator)
        empty, made = torch.rand(2, len(style), generator=generator, device=device)
        empty, made = empty < EMPTY_SHARE, made < DECODED_SHARE
        pictures = torch.where(empty[:, None, None, None], textures.grounds(style, 256, 256), pictures)
        pictures[made] = decoded(pictures[made], vae, generator)
        small = F.interpolate(pictures, (measure.SIDE, measure.SIDE), mode="area")
        pool[start : start + len(small)] = (small * 255).round().byte()
        known = torch.stack([content.kind, content.count - 1, content.colour], 1)
        nothing = torch.tensor([measure.EMPTY, NONE, NONE], device=device)
        labels[start : start + len(small)] = torch.where(empty[:, None], nothing, known)
    return pool, labels


def augmented(pictures: Tensor, generator) -> Tensor:
    """Pictures (N, 3, H, W) in 0 to 1, each mirrored or not, bent a little, blurred or not, and with noise."""
    n, device = len(pictures), generator.device

    def uniform(*shape):
        return torch.rand(n, *shape, generator=generator, device=device)

    bent = torch.randn(n, 2, 6, 6, generator=generator, device=device) * 0.03 * uniform(1, 1, 1)
    bent = F.interpolate(bent, pictures.shape[-2:], mode="bicubic").movedim(1, -1)
    frame = torch.eye(2, 3, device=device).repeat(n, 1, 1)
    frame[:, 0, 0] = torch.where(uniform() < 0.5, -1.0, 1.0)
    grid = F.affine_grid(frame, list(pictures.shape), align_corners=False) + bent
    pictures = F.grid_sample(pictures, grid, padding_mode="reflection", align_corners=False)
    blurred = F.avg_pool2d(pictures, 3, stride=1, padding=1, count_include_pad=False)
    pictures = pictures.lerp(blurred, uniform(1, 1, 1))
    noise = torch.randn(pictures.shape, generator=generator, device=device)
    return pictures + 0.03 * uniform(1, 1, 1) * noise


def train_judge(judge, vae, plan: Plan, generator, photographs) -> None:
    """Train the classifier on pictures of the program in styles of every kind, as drawn and as decoded by `vae`."""
    device = generator.device
    pool, labels = labelled(min(plan.pictures, 60_000), vae, plan, generator, photographs)
    check = max(2, min(1000, len(pool) // 16))  # kept from training
    trainer = Trainer([judge], 2e-3, decay=0.02)

    def loss_of(pictures, goals):
        told = judge(pictures.to(WORK))
        losses = [
            F.cross_entropy(told[name].float(), goals[:, i], ignore_index=NONE, reduction="sum")
            / (goals[:, i] != NONE).sum().clamp(min=1)
            for i, name in enumerate(HEADS)
        ]
        return losses[0] + 0.3 * (losses[1] + losses[2])

    clock = Clock("judge", plan.steps["judge"], plan.seconds["judge"])
    for step, spent in clock:
        index = torch.randint(check, len(pool), (plan.batch,), generator=generator, device=device)
        pictures = augmented(pool[index].float() / 255, generator)
        clock.log(step, trainer.step(loss_of, spent, pictures, labels[index]))
    trainer.finish()
    judge.eval()
    with torch.no_grad():
        told = torch.cat([judge(part.float() / 255)["kind"].argmax(1) for part in pool[:check].split(100)])
    print(f"[judge] kind told right: {100 * (told == labels[:check, 0]).float().mean():.1f} %", flush=True)
