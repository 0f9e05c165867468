"""Train the LoRA that comes with the demo model, which draws outlines: `python -m training.lora OUT`.

Shapes are drawn by their outline, in the colour that would fill them; words and references mean what they mean without
it. Only the LoRA is trained, in the UNet's products; the base and the adapter stay as they are. Writes
OUT/outlines.safetensors in diffusers' format, and OUT/outlines.png: without and with it, prompts by columns.
"""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor, nn

import ipa_cli
from training import scenes
from training.architecture import Adapter
from training.captions import COLOURS, NONE, Content
from training.evaluate import SEED, embeds, generate, load, pil, references
from training.scenes import Style
from training.train import (
    FULL,
    HALF,
    USUAL,
    Batches,
    Plan,
    denoising_loss,
    noise_levels,
    pools,
    reference_embeds,
    with_images,
)
from training.train import check as check_conditions
from training.trainer import WORK, Clock, Trainer

DEMO = Path(ipa_cli.__file__).parent / "demo"
NAME = "outlines"
PROMPTS = ("a large star in the middle", "three hearts", "a ring above a triangle", "a large red flower", "two squares")
LINE_WIDTH = 0.045  # of the picture's shorter side
TARGETS = ("to_q", "to_k", "to_v", "to_out.0", "ff.net.0.proj", "ff.net.2", "conv1")


def outlined(content: Content, style: Style, height: int, width: int, generator, density: float) -> Tensor:
    """The pictures of `scenes.draw`, their shapes as outlines: see there."""
    palette = torch.tensor(list(COLOURS.values()), device=style.ground.device)
    stated = (content.colour != NONE)[:, None]
    ground = torch.where((content.ground != NONE)[:, None], palette[content.ground], style.ground)
    none = torch.full_like(content.colour, NONE)
    drawn = replace(
        style,
        ground=ground,
        ground2=torch.where((content.ground != NONE)[:, None], ground, style.ground2),
        inks=ground[:, None].expand(-1, 3, -1),
        partner=ground,
        fill=torch.full_like(style.fill, scenes.SOLID),
        line=torch.where(stated, palette[content.colour], style.inks[:, 0]),
        line_width=torch.full_like(style.line_width, LINE_WIDTH),
    )
    return scenes.draw(replace(content, colour=none, ground=none), drawn, height, width, generator, density)


class LowRank(nn.Module):
    """What is added to a product or a convolution; nothing before it is trained."""

    def __init__(self, layer: nn.Module, rank: int):
        super().__init__()
        weight = layer.weight
        self.down = nn.Parameter(torch.randn(rank, *weight.shape[1:]) * (weight[0].numel()) ** -0.5)
        self.up = nn.Parameter(torch.zeros(weight.shape[0], rank, *[1] * (weight.ndim - 2)))
        layer.register_forward_hook(self._add)

    def _add(self, layer: nn.Module, given: tuple[Tensor, ...], out: Tensor) -> Tensor:
        if self.down.ndim == 2:
            return out + nn.functional.linear(nn.functional.linear(given[0], self.down), self.up)
        down = nn.functional.conv2d(given[0], self.down, None, layer.stride, layer.padding)
        return out + nn.functional.conv2d(down, self.up)


def lora_of(unet: nn.Module, rank: int) -> nn.ModuleDict:
    """A LoRA for each of TARGETS, by the name of its layer with `/` for `.`."""
    named = {name: layer for name, layer in unet.named_modules() if name.endswith(TARGETS) and hasattr(layer, "weight")}
    return nn.ModuleDict({name.replace(".", "/"): LowRank(layer, rank) for name, layer in named.items()})


def train(device: torch.device, plan: Plan, rank: int, seed: int) -> dict[str, Tensor]:
    """The trained LoRA by diffusers' names, in float16."""
    from diffusers import StableDiffusionXLPipeline
    from safetensors.torch import load_file
    from transformers import CLIPVisionModelWithProjection

    pipe = StableDiffusionXLPipeline.from_pretrained(DEMO).to(device)
    encoder = CLIPVisionModelWithProjection.from_pretrained(DEMO / "ip_adapter" / "image_encoder").to(device)
    generator = torch.Generator(device).manual_seed(seed)
    torch.manual_seed(seed)
    unet = pipe.unet.to(WORK).requires_grad_(False)
    adapter = Adapter(unet)
    adapter.load_published_state(load_file(DEMO / "ip_adapter" / "ip-adapter.safetensors"))
    adapter.to(device, WORK).requires_grad_(False)
    batches = Batches(pipe.text_encoder, pipe.text_encoder_2, pools(plan, generator, outlined), plan, generator)
    seen = [reference_embeds(encoder, pool, plan, generator) for pool in batches.pools]
    unet.set_attn_processor(with_images(dict(unet.attn_processors), adapter))
    lora = lora_of(unet, rank).to(device)
    trainer = Trainer([lora], 3e-3)
    alphas = noise_levels(device)

    def loss_of(latents, noise, timestep, hidden, pooled, time_ids, image):
        context = hidden, adapter(image)
        return denoising_loss(unet, latents, noise, timestep, alphas, context, pooled, time_ids).mean()

    def conditions(number, index, other):
        _, hidden, pooled, _ = batches.at(number, index)
        return (hidden, adapter(seen[number][other])), pooled

    clock = Clock(NAME, plan.steps["base"], plan.seconds["base"])
    for step, spent in clock:
        index, (*noised, hidden, pooled, time_ids) = batches.draw(number := batches.number(step, spent))
        chance = batches.chance(len(index))
        words = batches.without_words(hidden, pooled, chance < 0.1)
        image = seen[number][index] * (chance >= 0.4).to(WORK)[:, None]  # mostly with a reference, as it is used
        clock.log(step, trainer.step(loss_of, spent, *noised, *words, time_ids, image))
        if clock.due():
            with trainer.averaged():
                check_conditions(NAME, unet, batches, HALF if spent < plan.early else USUAL, alphas, conditions)
    trainer.finish()
    found = {}
    for name, one in lora.items():
        module = name.replace("/", ".")
        found[f"unet.{module}.lora_A.weight"] = one.down.detach().half().cpu().contiguous()
        found[f"unet.{module}.lora_B.weight"] = one.up.detach().half().cpu().contiguous()
    return found


@torch.no_grad()
def sheet(file: Path, steps: int, side: int):
    """Rows without and with the LoRA, at reference scale 0 and 0.8, by plain diffusers."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    pipe = load(DEMO, device, torch.float32)
    generator = torch.Generator(device).manual_seed(SEED)
    _, shown = references(len(PROMPTS), generator)
    seen, rows = embeds(pipe, shown), [shown]
    for with_lora in (False, True):
        if with_lora:
            pipe.load_lora_weights(file)
        rows += [generate(pipe, list(PROMPTS), seen, scale, 2.5, steps, SEED, (side, side)) for scale in (0.0, 0.8)]
    small = [nn.functional.interpolate(row.float(), (128, 128), mode="area").cpu() for row in rows]
    return pil(torch.stack(small).permute(2, 0, 3, 1, 4).reshape(3, len(small) * 128, -1))


#: A minute on a GPU, ten on one CPU core.
ON_CPU = replace(FULL, pictures=3000, other_pictures=300, batch=8, chunk=50, compile=False)
ON_GPU = replace(FULL, pictures=24_000, other_pictures=2_000, batch=128, compile=False)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("out", type=Path)
    parser.add_argument("--seconds", type=float, help="of training")
    parser.add_argument("--rank", type=int, default=2)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    on_gpu = torch.cuda.is_available()
    device = torch.device("cuda" if on_gpu else "cpu")
    plan = ON_GPU if on_gpu else ON_CPU
    plan = replace(plan, seconds={"base": options.seconds or (60 if on_gpu else 600)})
    from safetensors.torch import save_file

    trained = train(device, plan, options.rank, options.seed)
    path = options.out / f"{NAME}.safetensors"
    save_file(trained, path, {"format": "pt"})
    print(f"{path.stat().st_size:,} bytes in {path}", flush=True)
    sheet(path, 25 if on_gpu else 12, 256 if on_gpu else 128).save(options.out / f"{NAME}.png")


if __name__ == "__main__":
    main()
