"""The stages that teach style: the image encoder, then base, adapter and image encoder together."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from training import architecture, styles
from training.denoising import check, denoising_loss, noise_levels
from training.plan import HALF, USUAL, Plan
from training.pools import Batches, Pool
from training.trainer import WORK, Clock, Trainer

IMAGE_MEAN, IMAGE_STD = architecture.PREPROCESSOR["image_mean"], architecture.PREPROCESSOR["image_std"]


def normalised(pictures: Tensor) -> Tensor:
    """What CLIP's image processor makes of pictures in 0 to 1."""
    return torch.stack([(pictures[:, i] - IMAGE_MEAN[i]) / IMAGE_STD[i] for i in range(3)], 1)


# The image encoder


def train_image_encoder(encoder, pool: Pool, plan: Plan, generator) -> None:
    """Train the encoder to tell what a reference shows: palette by area, style, detail."""
    device, n = generator.device, len(pool)
    mean, std = pool.numbers.mean(0), pool.numbers.std(0)
    heads = nn.ModuleDict(
        {
            "numbers": nn.Linear(architecture.IMAGE_EMBED, pool.numbers.shape[1]),
            "classes": nn.Linear(architecture.IMAGE_EMBED, 2 * len(styles.FILLS)),
        }
    ).to(device)
    trainer = Trainer([encoder, heads], 1.5e-3, decay=0.01)
    batch = min(1024, n)

    def predictions(pictures):
        embeds = encoder(pixel_values=normalised(pictures).to(WORK)).image_embeds
        return embeds, heads["numbers"](embeds).float(), heads["classes"](embeds).float()

    def loss_of(pictures, numbers, classes):
        embeds, told, kinds = predictions(pictures)
        classes_loss = F.cross_entropy(kinds.view(-1, len(styles.FILLS)), classes)
        # Of about unit size, so that the adapter's projection starts well.
        size_loss = (embeds.float().square().mean() - 1).square() * 0.01
        return F.smooth_l1_loss(told, numbers) * 4 + 0.5 * classes_loss + size_loss

    clock = Clock("image_encoder", plan.steps["image_encoder"], plan.seconds["image_encoder"])
    kept = max(2, min(2000, n // 16))
    for step, spent in clock:
        index = torch.randint(kept, n, (batch,), generator=generator, device=device)
        pictures = pool.reference[index].float() / 255
        goal = (pool.numbers[index] - mean) / (std + 1e-3)
        clock.log(step, trainer.step(loss_of, spent, pictures, goal, pool.classes[index].flatten()))
    trainer.finish()
    with torch.no_grad():  # on references kept from training
        told = torch.cat(
            [
                heads["numbers"](encoder(pixel_values=normalised(part.float() / 255)).image_embeds)
                for part in pool.reference[:kept].split(500)
            ]
        )
        left = ((told * (std + 1e-3) + mean - pool.numbers[:kept]).square().mean(0) / (std + 1e-3).square()).tolist()
    groups = {"first colour": left[:3], "second": left[3:6], "third": left[6:9], "shares": left[12:16]}
    said = ", ".join(f"{name} {100 * (1 - sum(v) / len(v)):.0f} %" for name, v in groups.items())
    print(f"[image_encoder] variance explained: {said}", flush=True)


# The adapter, with the base

#: How much the encoder's own task, to tell a reference's palette, counts beside the denoising.
TOLD = 0.05


def palettes(pools: list[Pool]) -> list[Tensor]:
    """(N, 12) for each pool: the three largest colours of its references and their shares, as the usual pool's vary."""
    told = [torch.cat([pool.numbers[:, :9], pool.numbers[:, 12:15]], 1) for pool in pools]
    usual = told[USUAL]
    return [(numbers - usual.mean(0)) / (usual.std(0) + 1e-3) for numbers in told]


@torch.no_grad()
def palette_head(encoder, pool: Pool, goals: Tensor, most: int = 4096) -> nn.Linear:
    """What tells `goals` (N, ...) from embeddings, by ridge regression on as many as `most` references."""
    parts = pool.reference[:most].split(256)
    embeds = torch.cat([encoder(pixel_values=normalised(part.float() / 255)).image_embeds for part in parts]).double()
    goals, mean = goals[:most].double(), embeds.mean(0)
    about, ridge = embeds - mean, 3 * torch.eye(embeds.shape[1], dtype=embeds.dtype, device=embeds.device)
    weight = torch.linalg.solve(about.T @ about + ridge, about.T @ goals)
    head = nn.Linear(*weight.shape, device=embeds.device)
    head.weight.copy_(weight.T)
    head.bias.copy_(goals.mean(0) - mean @ weight)
    return head


class PairedAttention:
    """Cross-attention to text and image tokens, as the IP-Adapter has it; the scale (B,) is each picture's own."""

    def __init__(self, key: nn.Linear, value: nn.Linear):
        self.key, self.value = key, value

    def __call__(self, attn, hidden_states, encoder_hidden_states=None, attention_mask=None, temb=None):
        text, image, scale = encoder_hidden_states

        def heads(x):
            return x.unflatten(-1, (attn.heads, -1)).transpose(1, 2)

        query = heads(attn.to_q(hidden_states))
        out = F.scaled_dot_product_attention(query, heads(attn.to_k(text)), heads(attn.to_v(text)))
        seen = F.scaled_dot_product_attention(query, heads(self.key(image)), heads(self.value(image)))
        out = out + scale[:, None, None, None] * seen
        return attn.to_out[0](out.transpose(1, 2).flatten(2))


def with_images(processors: dict, adapter) -> dict:
    """The attention processors, those of the cross-attention layers replaced by `adapter`'s."""
    pairs = iter(zip(adapter.to_k, adapter.to_v, strict=True))
    return {name: PairedAttention(*next(pairs)) if "attn2" in name else kept for name, kept in processors.items()}


def train_adapter(
    models: dict[str, nn.Module], batches: Batches, plan: Plan, again: bool, save: Callable, faster: Callable
) -> None:
    """Train the adapter, and with it the base and the image encoder, on references at scales from 0 to 1.

    At scale 0 the base draws from words alone and keeps doing so. The denoising alone teaches the encoder little of
    which colour is the largest, so telling the palette stays its task. `faster(unet, batches, context)` may compile.
    """
    unet, adapter, encoder = models["unet"], models["adapter"], models["image_encoder"]
    kept = dict(unet.attn_processors)
    goals = palettes(batches.pools)
    head = palette_head(encoder, batches.pools[USUAL], goals[USUAL])
    trainer = Trainer([unet, adapter, encoder, head], 8e-4 if not again else 3e-4)
    unet.set_attn_processor(with_images(kept, adapter))
    net = unet
    alphas = noise_levels(batches.device)

    def embedded(pictures):
        return encoder(pixel_values=normalised(pictures).to(WORK)).image_embeds

    def loss_of(latents, noise, timestep, hidden, pooled, time_ids, pictures, shown, scale, goal):
        embeds = embedded(pictures)
        # Where `shown` (B,) is 0, the tokens of no picture, as guidance has them.
        context = hidden, adapter(embeds * shown[:, None]), scale
        told = F.smooth_l1_loss(head(embeds).float(), goal, beta=0.1)
        return denoising_loss(net, latents, noise, timestep, alphas, context, pooled, time_ids).mean() + TOLD * told

    def conditions(number, index, other):
        _, hidden, pooled, _ = batches.at(number, index)
        pictures = batches.pools[number].reference[other].float() / 255
        scale = batches.pools[number].scale[index].to(WORK)
        return (hidden, adapter(embedded(pictures)), scale), pooled

    clock = Clock("adapter", plan.steps["adapter"], plan.seconds["adapter"])
    for step, spent in clock:
        number = batches.number(step, spent)
        index, (*noised, hidden, pooled, time_ids) = batches.draw(number)
        # Dropped, as in IP-Adapter: the picture, both, the words.
        chance = batches.chance(len(index))
        words = batches.without_words(hidden, pooled, (chance >= 0.04) & (chance < 0.18))
        shown = (chance >= 0.12).to(WORK)
        pool = batches.pools[number]
        pictures, scale = pool.reference[index].float() / 255, pool.scale[index].to(WORK)
        given = pictures, shown, scale, goals[number][index]
        if net is unet and number == USUAL and plan.compile and batches.device.type == "cuda":
            with torch.no_grad():
                seen = adapter(embedded(pictures))
            context = hidden, seen.requires_grad_(), scale
            net = faster(unet, batches, context)
        clock.log(step, trainer.step(loss_of, spent, *noised, *words, time_ids, *given))
        if clock.due():
            save({name: trainer.averages(models[name]) for name in ("unet", "adapter", "image_encoder")})
            with trainer.averaged():
                check("adapter", unet, batches, HALF if spent < plan.early else USUAL, alphas, conditions)
    with trainer.averaged():
        check("adapter", unet, batches, USUAL, alphas, conditions)
    trainer.finish()
    unet.set_attn_processor(kept)
