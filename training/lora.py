"""Train the LoRA that comes with the demo model, which draws outlines: `python -m training.lora OUT`.

Shapes are drawn by their outline, in the colour that would fill them; words and references mean what they mean without
it. Only the LoRA is trained; the base and the adapter stay as they are. Two minutes on a GPU. Writes
OUT/outlines.safetensors in diffusers' format, and OUT/outlines.png: references, then pictures without and with it.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

import ipa_cli
from ipa_cli.models import weights
from ipa_cli.networks import image_projection
from training import captions, scenes, styles, textures
from training.captions import COLOURS, NONE, Content
from training.denoising import denoising_loss, noise_levels
from training.evaluate import SEED, embeds, generate, load, pil, program_references
from training.latents import latents_of_half
from training.pools import encode_text, tokenise
from training.styles import Style
from training.styling import normalised, with_images
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
        fill=torch.full_like(style.fill, styles.SOLID),
        line=torch.where(stated, palette[content.colour], style.inks[:, 0]),
        line_width=torch.full_like(style.line_width, LINE_WIDTH),
    )
    return scenes.draw(replace(content, colour=none, ground=none), drawn, height, width, generator, density)


class Shipped(nn.Module):
    """The adapter of the demo model: embeddings to tokens, and the products for keys and values of each layer."""

    def __init__(self, file: Path):
        super().__init__()
        state = weights.nested(load_file(file))
        self.projection = image_projection.of_file(state["image_proj"])
        layers = range(len(state["ip_adapter"]) // 2)
        self.to_k, self.to_v = (
            nn.ModuleList(_linear(state["ip_adapter"][f"{2 * n + 1}.to_{kind}_ip.weight"]) for n in layers)
            for kind in "kv"
        )

    def forward(self, embeds: Tensor) -> Tensor:
        return self.projection(embeds)


def _linear(weight: Tensor) -> nn.Linear:
    layer = nn.Linear(weight.shape[1], weight.shape[0], bias=False)
    layer.weight.data = weight.float()
    return layer


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
            return out + F.linear(F.linear(given[0], self.down), self.up)
        down = F.conv2d(given[0], self.down, None, layer.stride, layer.padding)
        return out + F.conv2d(down, self.up)


def lora_of(unet: nn.Module, rank: int) -> nn.ModuleDict:
    """A LoRA for each of TARGETS, by the name of its layer with `/` for `.`."""
    named = {name: layer for name, layer in unet.named_modules() if name.endswith(TARGETS) and hasattr(layer, "weight")}
    return nn.ModuleDict({name.replace(".", "/"): LowRank(layer, rank) for name, layer in named.items()})


@torch.no_grad()
def batches(pipe, encoder, n: int, side: int, generator) -> Iterator[tuple[Tensor, ...]]:
    """Batches of n pictures: latents, noise, timestep, hidden, pooled, time_ids, embedding of a reference, scale.

    The reference is another scene or a swatch in the style that gives the colours; its scale is 0 in a third of the
    cases, and the words are missing in a tenth.
    """
    device, size = generator.device, encoder.config.image_size
    time_ids = torch.tensor([[side, side, 0, 0, side, side]], device=device, dtype=WORK).repeat(n, 1)
    number = 0
    while True:
        number += 1
        style = styles.sample_styles(n, generator)
        content = scenes.settle(captions.sample_content(n, generator), style)
        half = outlined(content, style, side // 2, side // 2, generator, textures.TEXTURE_UNIT / 2)
        latents = latents_of_half(half)
        tokens = tokenise(captions.captions(content, generator.initial_seed() + number)).to(device)
        hidden, pooled = (part.to(WORK) for part in encode_text(pipe.text_encoder, pipe.text_encoder_2, tokens))
        other, mode = captions.sample_content(n, generator), scenes.sample_modes(n, generator)
        shown = scenes.reference(other, style, mode, size, generator, density=size)
        image = encoder(pixel_values=normalised(shown)).image_embeds.to(WORK)
        chance = torch.rand(2, n, generator=generator, device=device)
        scale = (chance[0] > 0.33).to(WORK)
        hidden, pooled = hidden * (chance[1] > 0.1)[:, None, None], pooled * (chance[1] > 0.1)[:, None]
        noise = torch.randn(latents.shape, generator=generator, device=device)
        place = torch.arange(n, device=device) + torch.rand(n, generator=generator, device=device)
        yield latents, noise, (place / n * 1000).long().clamp(max=999), hidden, pooled, time_ids, image, scale


def train(device: torch.device, seconds: float, n: int, rank: int, seed: int) -> dict[str, Tensor]:
    """The trained LoRA by diffusers' names, in float16; the first third of the time on pictures of half the size."""
    from diffusers import StableDiffusionXLPipeline
    from transformers import CLIPVisionModelWithProjection

    torch.manual_seed(seed)
    generator = torch.Generator(device).manual_seed(seed)
    pipe = StableDiffusionXLPipeline.from_pretrained(DEMO).to(device)
    encoder = CLIPVisionModelWithProjection.from_pretrained(DEMO / "ip_adapter" / "image_encoder").to(device)
    unet = pipe.unet.to(WORK).requires_grad_(False)
    adapter = Shipped(DEMO / "ip_adapter" / "ip-adapter.safetensors")
    adapter.to(device, WORK).requires_grad_(False)
    unet.set_attn_processor(with_images(dict(unet.attn_processors), adapter))
    lora = lora_of(unet, rank).to(device)
    trainer = Trainer([lora], 2e-3)
    alphas = noise_levels(device)
    drawn = {side: batches(pipe, encoder, n, side, generator) for side in (128, 256)}

    def loss_of(latents, noise, timestep, hidden, pooled, time_ids, image, scale):
        context = hidden, adapter(image), scale
        return denoising_loss(unet, latents, noise, timestep, alphas, context, pooled, time_ids).mean()

    clock = Clock(NAME, 1_000_000, seconds)
    for step, spent in clock:
        clock.log(step, trainer.step(loss_of, spent, *next(drawn[128 if spent < 0.33 else 256])))
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
    _, shown = program_references(len(PROMPTS), generator)
    seen, rows = embeds(pipe, shown), [shown]
    for with_lora in (False, True):
        if with_lora:
            pipe.load_lora_weights(file)
        rows += [generate(pipe, list(PROMPTS), seen, scale, 3.5, steps, SEED, (side, side)) for scale in (0.0, 0.8)]
    small = [F.interpolate(row.float(), (128, 128), mode="area").cpu() for row in rows]
    return pil(torch.stack(small).permute(2, 0, 3, 1, 4).reshape(3, len(small) * 128, -1))


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
    seconds = options.seconds or (120 if on_gpu else 900)
    trained = train(device, seconds, 128 if on_gpu else 8, options.rank, options.seed)
    path = options.out / f"{NAME}.safetensors"
    save_file(trained, path, {"format": "pt"})
    print(f"{path.stat().st_size:,} bytes in {path}", flush=True)
    sheet(path, 25 if on_gpu else 12, 256 if on_gpu else 128).save(options.out / f"{NAME}.png")


if __name__ == "__main__":
    main()
