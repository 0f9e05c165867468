"""Measure a trained demo model with plain diffusers: `python -m training.evaluate OUT`.

Styles, palettes and seeds are not those of training. Prints the figures, writes them to OUT/figures.json and a sheet
of pictures to OUT/sheet.png.
"""

from __future__ import annotations

import argparse
import json
import time
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

from training import captions, measure, scenes
from training.captions import NONE
from training.train import judged_pictures, latents_of

SCALES = (0.0, 0.25, 0.5, 0.75, 1.0)
REFERENCES = 16
SEED = 20_000
SHEET_PROMPTS = ("a large star in the middle", "three hearts")


def load(folder: Path, device, dtype):
    """The pipeline of plain diffusers, with the adapter."""
    from diffusers import StableDiffusionXLPipeline

    pipe = StableDiffusionXLPipeline.from_pretrained(str(folder), torch_dtype=dtype)
    pipe.load_ip_adapter(
        str(folder), subfolder="ip_adapter", weight_name="ip-adapter.safetensors", image_encoder_folder="image_encoder"
    )
    pipe.set_progress_bar_config(disable=True)
    return pipe.to(device)


def pil(picture: Tensor):
    from PIL import Image

    return Image.fromarray((picture.float().clamp(0, 1) * 255).round().byte().permute(1, 2, 0).cpu().numpy())


def embeds(pipe, pictures: Tensor) -> Tensor:
    """(N, embed): through the image processor, as a user's pictures go."""
    return torch.cat([pipe.encode_image(pil(picture), pipe.device, 1)[0] for picture in pictures])


def generate(pipe, prompts, image_embeds, scale, guidance, steps, seed, size=(256, 256), batch=256) -> Tensor:
    """(N, 3, H, W): one picture for each prompt and image embedding; the noise depends on `seed` alone."""
    pipe.set_ip_adapter_scale(scale)
    noise = torch.randn((len(prompts), 4, size[0] // 8, size[1] // 8), generator=torch.Generator().manual_seed(seed))
    parts = []
    for start in range(0, len(prompts), batch):
        span = slice(start, start + batch)
        seen = image_embeds[span][:, None]
        given = torch.cat([torch.zeros_like(seen), seen]) if guidance > 1 else seen
        # Given as an argument, every picture of a batch would see the references of all (diffusers issue 9813).
        pipe.prepare_ip_adapter_image_embeds = lambda *_, given=given: [given]
        parts.append(
            pipe(
                prompt=prompts[span],
                ip_adapter_image_embeds=[given],
                latents=noise[span].to(pipe.device, pipe.unet.dtype),
                height=size[0],
                width=size[1],
                guidance_scale=guidance,
                num_inference_steps=steps,
                output_type="pt",
            ).images.float()
        )
    pictures = torch.cat(parts)
    assert pictures.isfinite().all()
    return pictures


def references(n: int, generator, mode: int = scenes.SCENE) -> tuple[scenes.Style, Tensor]:
    """n styles not seen in training, and a picture (256 pixels) of each."""
    style = scenes.sample_styles(n, generator, held_out=True)
    modes = torch.full((n,), mode, device=generator.device)
    content = captions.sample_content(n, generator)
    return style, scenes.reference(content, style, modes, 256, generator, scenes.TEXTURE_UNIT)


def nearest_is_right(pictures: Tensor, shown: Tensor, own: Tensor) -> tuple[float, float]:
    """Share of pictures whose nearest reference is their own, and the mean distance to their own."""
    distance = measure.style_distance(measure.style_features(pictures), measure.style_features(shown))
    mine = distance.gather(1, own[:, None]).mean().item()
    return (distance.argmin(1) == own).float().mean().item(), mine


def percent(value: float) -> str:
    return f"{100 * value:.1f} %"


@torch.no_grad()
def evaluate(pipe, judge, samples: int, steps: int, guidance: float, generator) -> dict:
    """All figures; `samples`: pictures at each scale."""
    device = generator.device
    figures: dict = {"samples": samples, "steps": steps, "guidance_scale": guidance}

    pictures, content = judged_pictures(4 * samples, generator, held_out=True)
    predicted = {k: v.argmax(1) for k, v in judge(pictures).items()}
    coloured = content.colour != NONE
    figures["classifier"] = {
        "kind": (predicted["kind"] == content.kind).float().mean().item(),
        "count": (predicted["count"] + 1 == content.count).float().mean().item(),
        "colour": (predicted["colour"] == content.colour)[coloured].float().mean().item(),
    }
    print("classifier on rendered pictures:", figures["classifier"], flush=True)

    style, shown = references(REFERENCES, generator)
    own = torch.arange(samples, device=device) % REFERENCES
    image_embeds = embeds(pipe, shown)[own]
    content = captions.sample_content(samples, generator)
    free = torch.full_like(content.kind, NONE)
    kind = torch.arange(samples, device=device) // 2 % len(captions.KINDS)
    content = replace(content, kind=kind, second=free, relation=free, colour=free, ground=free)
    single = replace(content, count=torch.ones_like(kind))
    prompts = captions.captions(single, SEED)
    rendered = scenes.draw(single, style.take(own), 256, 256, generator)
    latents = latents_of(rendered).to(pipe.vae.dtype).split(64)
    decoded = torch.cat([pipe.vae.decode(part).sample for part in latents]).float().div(2).add(0.5).clamp(0, 1)
    for name, pictures in (("rendered", rendered), ("decoded", decoded)):  # what a perfect base could reach
        drawn = (judge(pictures)["kind"].argmax(1) == kind).float().mean().item()
        right, distance = nearest_is_right(pictures, shown, own)
        figures[name] = {"shape": drawn, "recognised": right, "distance": distance}
        print(
            f"{name} in the style itself: shape {percent(drawn)}, recognised {percent(right)}, distance {distance:.4f}",
            flush=True,
        )
    figures["scales"] = {}
    for scale in SCALES:
        made = generate(pipe, prompts, image_embeds, scale, guidance, steps, SEED)
        drawn = (judge(made)["kind"].argmax(1) == kind).float().mean().item()
        right, distance = nearest_is_right(made, shown, own)
        figures["scales"][scale] = {"shape": drawn, "recognised": right, "distance": distance}
        print(
            f"scale {scale:4}: shape {percent(drawn)}, recognised {percent(right)}, distance {distance:.4f}", flush=True
        )

    for name, mode in (("swatch", scenes.SWATCH), ("photo-like", scenes.PHOTO)):
        _, others = references(REFERENCES, generator, mode)
        made = generate(pipe, prompts, embeds(pipe, others)[own], 1.0, guidance, steps, SEED)
        right, distance = nearest_is_right(made, others, own)
        drawn = (judge(made)["kind"].argmax(1) == kind).float().mean().item()
        figures[name] = {"shape": drawn, "recognised": right, "distance": distance}
        print(f"{name} references, scale 1: shape {percent(drawn)}, recognised {percent(right)}", flush=True)

    # Black on black cannot be judged: the grounds here are the references', and none is stated.
    colour = torch.arange(samples, device=device) % len(captions.COLOURS)
    count = 1 + torch.arange(samples, device=device) // 3 % 4
    stated = replace(content, colour=colour, count=count, place=free, size=free)
    prompts = captions.captions(stated, SEED)
    figures["stated"] = {}
    for scale in (0.0, 0.5, 1.0):
        predicted = judge(generate(pipe, prompts, image_embeds, scale, guidance, steps, SEED + 1))
        share = {
            "kind": (predicted["kind"].argmax(1) == kind).float().mean().item(),
            "count": (predicted["count"].argmax(1) + 1 == count).float().mean().item(),
            "colour": (predicted["colour"].argmax(1) == colour).float().mean().item(),
        }
        figures["stated"][scale] = share
        text = ", ".join(f"{k} {percent(v)}" for k, v in share.items())
        print(f"colour and count stated, scale {scale}: {text}", flush=True)
    return figures


@torch.no_grad()
def sheet(pipe, steps: int, guidance: float, generator, cell: int = 128):
    """Six references (four scenes, a swatch, one like a photograph) down, two prompts at five scales across."""
    from PIL import Image, ImageDraw

    shown = [references(4, generator)[1]]
    shown += [references(1, generator, mode)[1] for mode in (scenes.SWATCH, scenes.PHOTO)]
    shown = torch.cat(shown)
    rows = len(shown)
    seen = embeds(pipe, shown)
    columns = [shown]
    for prompt in SHEET_PROMPTS:
        columns += [generate(pipe, [prompt] * rows, seen, scale, guidance, steps, SEED + 7) for scale in SCALES]
    top = 16
    page = Image.new("RGB", (len(columns) * (cell + 4) + 8, rows * (cell + 4) + 2 * top), "white")
    pen = ImageDraw.Draw(page)
    pen.text((4, top), "reference", fill="black")
    for number, column in enumerate(columns):
        x = number * (cell + 4) + (8 if number else 0)
        if number:
            pen.text((x, top), f"scale {SCALES[(number - 1) % 5]}", fill="black")
            if number % 5 == 1:
                pen.text((x, 2), SHEET_PROMPTS[number // 5], fill="black")
        for row, picture in enumerate(column):
            page.paste(pil(picture).resize((cell, cell), Image.Resampling.LANCZOS), (x, 2 * top + row * (cell + 4)))
    return page


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path, help="the folder that training wrote")
    parser.add_argument("--samples", type=int, default=320, help="pictures at each scale")
    parser.add_argument("--steps", type=int, default=25)
    parser.add_argument("--guidance", type=float, nargs="+", default=[2.5], help="the first counts, others are shown")
    parser.add_argument("--model", type=Path, help="another model folder than OUT/demo")
    options = parser.parse_args()
    begun = time.time()
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    generator = torch.Generator(device).manual_seed(SEED)
    pipe = load(
        options.model or options.out / "demo", device, torch.float16 if device.type == "cuda" else torch.float32
    )
    judge = measure.Judge().to(device)
    judge.load_state_dict(torch.load(options.out / "judge.pt", map_location=device, weights_only=True)["judge"])
    judge.eval()
    guidance, *others = options.guidance
    sheet(pipe, options.steps, guidance, generator).save(options.out / "sheet.png", optimize=True)
    figures = evaluate(pipe, judge, options.samples, options.steps, guidance, generator)
    (options.out / "figures.json").write_text(json.dumps(figures, indent=1) + "\n", encoding="utf-8")
    for other in others:
        print(f"guidance {other}:")
        evaluate(pipe, judge, options.samples, options.steps, other, generator)
    print(f"evaluated in {time.time() - begun:.0f} s", flush=True)


if __name__ == "__main__":
    main()
