"""Put a trained model where `ipa` ships it: `python -m training.publish OUT ipa_cli/demo`.

Copies the model folder, writes the defaults, and draws the default reference, where there is none, in a style that
training never saw.
"""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path

import torch

from training import captions, scenes, styles, textures
from training.evaluate import pil

#: A style of striking colours among those kept from training, chosen by eye.
REFERENCE_SEED, REFERENCE_NUMBER = 7, 13
DEFAULTS = {
    "about": "the demo model, which comes with ipa",
    "prompt": "a large star in the middle",
    "negative_prompt": "",
    "width": 256,
    "height": 256,
    "steps": 25,
    "guidance_scale": 3.5,
    "scale": 0.8,
    "reference": "reference.png",
}


def reference_candidates(n: int) -> torch.Tensor:
    """(n, 3, 256, 256): scenes in styles kept from training."""
    generator = torch.Generator().manual_seed(REFERENCE_SEED)
    style = styles.sample_styles(n, generator, held_out=True)
    content = captions.sample_content(n, generator)
    return scenes.reference(content, style, torch.full((n,), scenes.SCENE), 256, generator, textures.TEXTURE_UNIT)


def main() -> None:
    out, demo = (Path(argument) for argument in sys.argv[1:3])
    shutil.copytree(out / "demo", demo, dirs_exist_ok=True)
    reference = demo / DEFAULTS["reference"]
    if not reference.exists():
        pil(reference_candidates(24)[REFERENCE_NUMBER]).save(reference, optimize=True)
    (demo / "defaults.json").write_text(json.dumps(DEFAULTS, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
