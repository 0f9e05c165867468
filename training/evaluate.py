"""Measure a trained demo model with plain diffusers: `python -m training.evaluate OUT --photographs FOLDER`.

References of three kinds: scenes of the program in styles kept from training, pictures of generators kept from
training, photographs that training never saw. Prints the figures as a table, writes them to OUT/figures.json and
sheets of pictures to OUT/sheet.png and OUT/photographs.png.
"""

from __future__ import annotations

import argparse
import json
import time
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor

from training import captions, colours, held_out, measure, scenes, styles, textures
from training.captions import NONE
from training.judging import judged_pictures
from training.references import load_picture

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


def program_references(n: int, generator, mode: int = scenes.SCENE) -> tuple[styles.Style, Tensor]:
    """n styles not seen in training, and a picture (256 pixels) of each."""
    style = styles.sample_styles(n, generator, held_out=True)
    modes = torch.full((n,), mode, device=generator.device)
    content = captions.sample_content(n, generator)
    return style, scenes.reference(content, style, modes, 256, generator, textures.TEXTURE_UNIT)


@dataclass(frozen=True)
class Kind:
    """References of one kind: REFERENCES pictures (N, 3, 256, 256), and their embeddings."""

    name: str
    shown: Tensor
    embeds: Tensor


def kinds_of(pipe, photographs: Path | None, generator) -> list[Kind]:
    shown = {
        "program": program_references(REFERENCES, generator)[1],
        "held-out": held_out.pictures(REFERENCES, 256, generator),
    }
    if photographs:
        files = sorted(photographs.glob("*.jpg"))[:REFERENCES]
        shown["photographs"] = torch.stack([load_picture(path, 256, generator.device) for path in files])
    return [Kind(name, pictures, embeds(pipe, pictures)) for name, pictures in shown.items()]


def measured(kind: Kind, made: Tensor, judge, shapes: Tensor, own: Tensor) -> dict[str, float]:
    """Shares of pictures: with the right shape, empty, nearest of all references to their own; mean distances to it.

    distance: of style; lab: CIE76, between the ground asked (the reference's largest colour) and drawn.
    """
    predicted = torch.cat([judge(part)["kind"].argmax(1) for part in made.split(256)])
    distance = measure.style_distance(measure.style_features(made), measure.style_features(kind.shown))
    asked = colours.lab(colours.palette(kind.shown)[0][:, 0])[own]
    values = {
        "shape": (predicted == shapes).float(),
        "empty": (predicted == measure.EMPTY).float(),
        "recognised": (distance.argmin(1) == own).float(),
        "distance": distance.gather(1, own[:, None]),
        "lab": (colours.lab(colours.ground(made)) - asked).norm(dim=-1),
    }
    return {name: value.mean().item() for name, value in values.items()}


@torch.no_grad()
def evaluate(pipe, judge, kinds: list[Kind], samples: int, steps: int, guidance: float, generator) -> dict:
    """All figures; `samples`: pictures of each kind at each scale, four times as many for the search for empty ones."""
    device = generator.device
    figures: dict = {"samples": samples, "steps": steps, "guidance_scale": guidance, "scales": {}}

    def asked(n: int) -> tuple[list[str], Tensor, Tensor]:
        """Captions of one shape each, the shapes, and the reference that each picture has."""
        row = torch.arange(n, device=device)
        content = captions.sample_content(n, generator)
        free, shapes = torch.full_like(content.kind, NONE), row // 2 % len(captions.KINDS)
        rest = dict.fromkeys(("second", "relation", "colour", "ground"), free)
        content = replace(content, kind=shapes, count=torch.ones_like(free), **rest)
        return captions.captions(content, SEED), shapes, row % REFERENCES

    prompts, shapes, own = asked(samples)
    for scale in SCALES:
        for kind in kinds:
            if scale not in (0.0, 0.5, 1.0) and kind.name != "program":
                continue
            made = generate(pipe, prompts, kind.embeds[own], scale, guidance, steps, SEED)
            figures["scales"][f"{scale} {kind.name}"] = measured(kind, made, judge, shapes, own)
    prompts, shapes, own = asked(4 * samples)
    thirds = torch.cat([kind.embeds for kind in kinds])
    each = thirds[torch.arange(len(prompts), device=device) % len(thirds)]
    made = generate(pipe, prompts, each, 0.5, guidance, steps, SEED + 2)
    predicted = torch.cat([judge(part)["kind"].argmax(1) for part in made.split(256)])
    figures["empty"] = {"pictures": len(made), "empty": int((predicted == measure.EMPTY).sum().item())}

    # Black on black cannot be judged: the grounds here are the references', and none is stated.
    row = torch.arange(samples, device=device)
    content = captions.sample_content(samples, generator)
    free = torch.full_like(content.kind, NONE)
    kind, colour, count = row // 2 % len(captions.KINDS), row % len(captions.COLOURS), 1 + row // 3 % 4
    rest = dict.fromkeys(("second", "relation", "ground", "place", "size"), free)
    prompts = captions.captions(replace(content, kind=kind, colour=colour, count=count, **rest), SEED)
    figures["stated"] = {}
    for scale in (0.0, 0.5, 1.0):
        seen = kinds[0].embeds[row % REFERENCES]
        predicted = judge(generate(pipe, prompts, seen, scale, guidance, steps, SEED + 1))
        goals = {"kind": kind, "count": count - 1, "colour": colour}
        figures["stated"][scale] = {
            name: (predicted[name].argmax(1) == goal).float().mean().item() for name, goal in goals.items()
        }
    return figures


def table(name: str, figures: dict) -> str:
    """The figures of one model, a line for each scale and kind of reference."""
    lines = [
        f"{name}: {figures['samples']} pictures a line, {figures['steps']} steps, guidance {figures['guidance_scale']}",
        "scale references    shape  empty  recognised  distance  Lab",
    ]
    for key, row in figures["scales"].items():
        scale, kind = key.split()
        lines.append(
            f"{scale:5} {kind:12} {percent(row['shape']):>7} {percent(row['empty']):>6}"
            f" {percent(row['recognised']):>11} {row['distance']:>9.3f} {row['lab']:>5.1f}"
        )
    lines.append("empty at 0.5: {empty} of {pictures}".format(**figures["empty"]))
    for scale, row in figures["stated"].items():
        shares = ", ".join(f"{key} {percent(value)}" for key, value in row.items())
        lines.append(f"stated, scale {scale}: {shares}")
    return "\n".join(lines)


def percent(value: float) -> str:
    return f"{100 * value:.1f} %"


@torch.no_grad()
def sheet(pipe, shown: Tensor, steps: int, guidance: float, cell: int = 128):
    """References down, two prompts at five scales across."""
    from PIL import Image, ImageDraw

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


#: The photographs of the sheet: scikit-image's, CC0 or in the public domain, and scikit-learn's `china`, CC BY 2.0.
SHEET_PHOTOGRAPHS = ("astronaut", "chelsea", "coffee", "hubble_deep_field", "china", "rocket")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path, help="the folder that training wrote")
    parser.add_argument("--samples", type=int, default=128, help="pictures of each kind of reference at each scale")
    parser.add_argument("--steps", type=int, default=25)
    parser.add_argument("--guidance", type=float, nargs="+", default=[3.5], help="the first has the sheets")
    parser.add_argument("--photographs", type=Path, help="folder of photographs (.jpg) that training never saw")
    parser.add_argument("--model", type=Path, nargs="+", help="other model folders than OUT/demo, one after the other")
    options = parser.parse_args()
    begun = time.time()
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    judge = measure.Judge().to(device)
    judge.load_state_dict(torch.load(options.out / "judge.pt", map_location=device, weights_only=True)["judge"])
    judge.eval()
    tables, everything = [], {}
    with torch.no_grad():
        generator = torch.Generator(device).manual_seed(SEED)
        pictures, content = judged_pictures(2 * options.samples, generator, held_out=True)
        right = (judge(pictures)["kind"].argmax(1) == content.kind).float().mean().item()
    tables.append(f"classifier on rendered pictures: {percent(right)}")
    for place, folder in enumerate(options.model or [options.out / "demo"]):
        pipe = load(folder, device, torch.float16 if device.type == "cuda" else torch.float32)
        for guidance in options.guidance:
            generator = torch.Generator(device).manual_seed(SEED)
            with torch.no_grad():
                kinds = kinds_of(pipe, options.photographs, generator)
            if not place and guidance == options.guidance[0]:
                sheets(pipe, kinds, options, guidance, device)
            figures = evaluate(pipe, judge, kinds, options.samples, options.steps, guidance, generator)
            everything[f"{folder} {guidance}"] = figures
            (options.out / "figures.json").write_text(json.dumps(everything, indent=1) + "\n", encoding="utf-8")
            tables.append(table(str(folder), figures))
            print(tables[-1], flush=True)
    print("\n\n".join(["", *tables]))
    print(f"evaluated in {time.time() - begun:.0f} s", flush=True)


def sheets(pipe, kinds: list[Kind], options, guidance: float, device) -> None:
    """Six references of the program and of generators; six photographs."""
    shown = torch.cat([kinds[0].shown[:3], kinds[1].shown[:3]])
    sheet(pipe, shown, options.steps, guidance).save(options.out / "sheet.png", optimize=True)
    if options.photographs:
        files = [options.photographs / f"{name}.jpg" for name in SHEET_PHOTOGRAPHS]
        shown = torch.stack([load_picture(path, 256, device) for path in files])
        sheet(pipe, shown, options.steps, guidance).save(options.out / "photographs.png", optimize=True)


if __name__ == "__main__":
    main()
