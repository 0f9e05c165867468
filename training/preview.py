"""Preview a model, finished or not, with plain diffusers, in half a minute: `python -m training.preview OUT`.

Writes OUT/demo from what there is and OUT/preview.png: the base at guidance 1 and 4 for ten captions, and, where the
adapter has been trained, the same captions with a reference each at scale 0.5 and 1, the references on top. Prints how
the latents are spread: far more than the pictures they are learnt from means that sampling goes astray.
"""

from __future__ import annotations

import sys
from pathlib import Path

import torch

from training.evaluate import SEED, embeds, generate, load, pil, program_references
from training.latents import latents_of
from training.train import assemble

PROMPTS = (
    "a large circle in the middle",
    "a large star at the top left",
    "three hearts",
    "two squares",
    "a small cross at the bottom right",
    "a ring above a triangle",
    "a large red flower on a blue background",
    "a yellow crescent on a black background",
    "four green diamonds",
    "a huge white heart on a red background",
)


@torch.no_grad()
def main() -> None:
    out = Path(sys.argv[1])
    assemble(out)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    pipe = load(out / "demo", device, torch.float16 if device.type == "cuda" else torch.float32)
    side, steps = (256, 25) if device.type == "cuda" else (128, 12)
    generator = torch.Generator(device).manual_seed(SEED)
    _, shown = program_references(len(PROMPTS), generator)
    seen = embeds(pipe, shown)
    adapted = any(out.glob("adapter*.pt"))
    rows = [shown] if adapted else []
    for scale, guidance in ((0.0, 1.0), (0.0, 4.0), (0.5, 4.0), (1.0, 4.0)):
        if scale and not adapted:
            continue
        made = generate(pipe, list(PROMPTS), seen, scale, guidance, steps, SEED, (side, side))
        spread = latents_of(made).std((0, 2, 3)).tolist()
        print(f"scale {scale}, guidance {guidance}: latents spread", [round(x, 2) for x in spread], flush=True)
        rows.append(made)
    print("pictures of the data: latents spread", [round(x, 2) for x in latents_of(shown).std((0, 2, 3)).tolist()])
    small = [torch.nn.functional.interpolate(row.float(), (128, 128), mode="area").cpu() for row in rows]
    pil(torch.stack(small).permute(2, 0, 3, 1, 4).reshape(3, len(small) * 128, -1)).save(out / "preview.png")


if __name__ == "__main__":
    main()
