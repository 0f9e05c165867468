"""Train the ControlNet of the demo model, which turns outlines into shapes: `python -m training.control OUT`.

A map has the outlines of the shapes, white on black; words and references say the colours and all else. Only the
ControlNet is trained, a small one without attention, for 150 seconds on a GPU: the base and the adapter stay as they
are. Writes OUT/config.json and OUT/diffusion_pytorch_model.safetensors, a folder that --control takes and that is
`controlnet` of the demo model, and OUT/outlines.jpg: references, maps, then pictures without and with them.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from training import captions, scenes, styles, textures
from training.captions import NONE, Content
from training.denoising import denoising_loss, noise_levels
from training.evaluate import SEED, pil, program_references
from training.latents import latents_of_half
from training.lora import DEMO, Shipped
from training.pools import encode_text, tokenise
from training.styles import Style
from training.styling import normalised, with_images
from training.trainer import WORK, Clock, Trainer

NAME = "control"
COLUMNS = 6  # of the sheet
LINE_WIDTH = 0.05  # of the picture's shorter side
WIDTHS = (8, 16, 24, 32)  # of the convolutions that read a map


def outlines(content: Content, style: Style, side: int, generator: torch.Generator) -> Tensor:
    """Maps (N, 3, side, side): white outlines on black; laid out as `scenes.draw` does with the same generator."""
    black, white = torch.zeros_like(style.ground), torch.ones_like(style.ground)
    none = torch.full_like(content.colour, NONE)
    drawn = replace(
        style,
        ground=black,
        ground2=black,
        inks=torch.zeros_like(style.inks),
        partner=black,
        fill=torch.full_like(style.fill, styles.SOLID),
        line=white,
        line_width=torch.full_like(style.line_width, LINE_WIDTH),
    )
    return scenes.draw(replace(content, colour=none, ground=none), drawn, side, side, generator)


@torch.no_grad()
def batches(pipe: Any, encoder: Any, n: int, side: int, generator: torch.Generator) -> Iterator[tuple[Tensor, ...]]:
    """Batches of n pictures: latents, noise, timestep, hidden, pooled, time_ids, embedding of a reference, scale, map.

    The reference is another scene in the style that gives the colours; its scale is 0 in a third of the cases. The
    words are missing in a third, so that the map alone says what is drawn.
    """
    device, size = generator.device, encoder.config.image_size
    time_ids = torch.tensor([[side, side, 0, 0, side, side]], device=device, dtype=WORK).repeat(n, 1)
    number = 0
    while True:
        number += 1
        style = styles.sample_styles(n, generator)
        content = scenes.settle(captions.sample_content(n, generator), style)
        layout = generator.get_state()
        half = scenes.draw(content, style, side // 2, side // 2, generator, textures.TEXTURE_UNIT / 2)
        again = torch.Generator(device)
        again.set_state(layout)
        followed = outlines(content, style, side, again).to(WORK)
        tokens = tokenise(captions.captions(content, generator.initial_seed() + number)).to(device)
        hidden, pooled = (part.to(WORK) for part in encode_text(pipe.text_encoder, pipe.text_encoder_2, tokens))
        other, mode = captions.sample_content(n, generator), scenes.sample_modes(n, generator)
        shown = scenes.reference(other, style, mode, size, generator, density=size)
        image = encoder(pixel_values=normalised(shown)).image_embeds.to(WORK)
        chance = torch.rand(2, n, generator=generator, device=device)
        scale, said = (chance[0] > 0.33).to(WORK), (chance[1] > 0.33).to(WORK)
        latents = latents_of_half(half)
        noise = torch.randn(latents.shape, generator=generator, device=device)
        place = torch.arange(n, device=device) + torch.rand(n, generator=generator, device=device)
        timestep = (place / n * 1000).long().clamp(max=999)
        words = hidden * said[:, None, None], pooled * said[:, None]
        yield latents, noise, timestep, *words, time_ids, image, scale, followed


def beside(unet: Any) -> Any:
    """A ControlNet of the UNet's widths, without attention; it begins as the UNet's own blocks."""
    from diffusers import ControlNetModel

    kept = ControlNetModel.from_unet(unet, load_weights_from_unet=False).config
    config = {key: value for key, value in unet.config.items() if key in kept and not key.startswith("_")}
    config["down_block_types"] = ["DownBlock2D"] * len(unet.config.down_block_types)
    config |= {"mid_block_type": "UNetMidBlock2D", "conditioning_embedding_out_channels": WIDTHS}
    made = ControlNetModel(**config)
    known, own = unet.state_dict(), made.state_dict()
    made.load_state_dict({**own, **{k: known[k] for k in own if k in known and known[k].shape == own[k].shape}})
    return made


def train(device: torch.device, seconds: float, n: int, seed: int) -> Any:
    """The trained ControlNet; the first third of the time on pictures of half the size."""
    from diffusers import StableDiffusionXLPipeline
    from transformers import CLIPVisionModelWithProjection

    torch.manual_seed(seed)
    generator = torch.Generator(device).manual_seed(seed)
    pipe = StableDiffusionXLPipeline.from_pretrained(DEMO, torch_dtype=torch.float32).to(device)
    encoder = CLIPVisionModelWithProjection.from_pretrained(DEMO / "ip_adapter" / "image_encoder").to(device)
    control = beside(pipe.unet).to(device)
    unet = pipe.unet.to(WORK).requires_grad_(False)
    adapter = Shipped(DEMO / "ip_adapter" / "ip-adapter.safetensors")
    adapter.to(device, WORK).requires_grad_(False)
    unet.set_attn_processor(with_images(dict(unet.attn_processors), adapter))
    trainer = Trainer([control], 1e-3)
    alphas = noise_levels(device)
    drawn = {side: batches(pipe, encoder, n, side, generator) for side in (128, 256)}

    def loss_of(latents, noise, timestep, hidden, pooled, time_ids, image, scale, followed):
        def net(noisy, timestep, context, added_cond_kwargs):
            given = noisy, timestep, hidden, followed
            down, mid = control(*given, added_cond_kwargs=added_cond_kwargs, return_dict=False)
            return unet(
                noisy,
                timestep,
                context,
                added_cond_kwargs=added_cond_kwargs,
                down_block_additional_residuals=down,
                mid_block_additional_residual=mid,
            )

        context = hidden, adapter(image), scale
        return denoising_loss(net, latents, noise, timestep, alphas, context, pooled, time_ids).mean()

    clock = Clock(NAME, 1_000_000, seconds)
    for step, spent in clock:
        clock.log(step, trainer.step(loss_of, spent, *next(drawn[128 if spent < 0.33 else 256])))
    trainer.finish()
    return control


def sheet(folder: Path, steps: int, side: int) -> Any:
    """Rows of references, of maps, of pictures by words alone, with the map, and with the reference too, by `ipa`.

    The words name what the map shows, neither its place nor its size.
    """
    from PIL import Image

    import ipa_cli

    generator = torch.Generator("cpu").manual_seed(SEED)
    style, shown = program_references(COLUMNS, generator)
    content = captions.sample_content(COLUMNS, generator)
    maps = [pil(one) for one in outlines(content, style, 256, generator)]
    free = torch.full_like(content.kind, NONE)
    prompts = captions.captions(replace(content, size=free, place=free, colour=free, ground=free), SEED)
    seen, size = [pil(one) for one in shown], {"width": side, "height": side, "steps": steps, "seed": SEED}
    rows: list[list[Any]] = [seen, maps, [], [], []]
    with ipa_cli.open(control=[str(folder)], progress=False) as engine:
        for prompt, followed, image in zip(prompts, maps, seen, strict=True):
            control = [{"image": followed}]
            rows[2].append(engine.draw(prompt, image=image, scale=0.0, **size).image)
            rows[3].append(engine.draw(prompt, image=image, scale=0.0, control=control, **size).image)
            rows[4].append(engine.draw(prompt, image=image, scale=0.8, control=control, **size).image)
    whole = Image.new("RGB", (128 * COLUMNS, 128 * len(rows)))
    for down, row in enumerate(rows):
        for across, one in enumerate(row):
            whole.paste(one.resize((128, 128)), (128 * across, 128 * down))
    return whole


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("out", type=Path)
    parser.add_argument("--seconds", type=float, help="of training")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    on_gpu = torch.cuda.is_available()
    seconds = options.seconds or (150 if on_gpu else 900)
    trained = train(torch.device("cuda" if on_gpu else "cpu"), seconds, 128 if on_gpu else 8, options.seed)
    trained.to("cpu", torch.float16).save_pretrained(options.out)
    size = sum(path.stat().st_size for path in options.out.glob("*.safetensors"))
    print(f"{size:,} bytes in {options.out}", flush=True)
    sheet(options.out, 25 if on_gpu else 8, 256 if on_gpu else 128).save(options.out / "outlines.jpg", quality=90)


if __name__ == "__main__":
    main()
