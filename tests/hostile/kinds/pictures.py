"""Pictures as references, masks and records, damaged in their pixels and in what they say."""

from __future__ import annotations

import io
import json
from functools import cache
from pathlib import Path
from random import Random

from tests.hostile.case import SMALL, Attack
from tests.hostile.mutation import damaged, json_damaged

INFOTEXT = (
    "a red star, (best:1.4)\nNegative prompt: text\nSteps: 20, Sampler: Euler a, CFG scale: 7, Seed: 42, Size: 64x64, "
    'Model hash: abc, Model: "a, b", Version: v1.10'
)
NODES = {
    "3": {
        "class_type": "KSampler",
        "inputs": {
            "seed": 5, "steps": 3, "cfg": 6.0, "sampler_name": "euler", "scheduler": "normal", "denoise": 1.0,
            "positive": ["6", 0], "negative": ["7", 0], "latent_image": ["5", 0], "model": ["4", 0],
        },
    },
    "4": {"class_type": "CheckpointLoaderSimple", "inputs": {"ckpt_name": "x.safetensors"}},
    "5": {"class_type": "EmptyLatentImage", "inputs": {"width": 64, "height": 64, "batch_size": 1}},
    "6": {"class_type": "CLIPTextEncode", "inputs": {"text": "a red star", "clip": ["4", 1]}},
    "7": {"class_type": "CLIPTextEncode", "inputs": {"text": ["6", 0], "clip": ["4", 1]}},
}  # fmt: skip
INVOKE = {
    "positive_prompt": "a star",
    "negative_prompt": "",
    "seed": 3,
    "steps": 4,
    "cfg_scale": 5.0,
    "width": 64,
    "height": 64,
}
OURS = {
    "schema_version": 1, "prompt": "a star", "negative_prompt": "", "width": 64, "height": 64, "steps": 2, "seed": 3,
    "guidance_scale": 5.0, "scheduler": "EulerDiscreteScheduler", "model": "demo", "dtype": "float32", "device": "cpu",
    "backend": "eager", "graph": None,
    "adapters": [
        {
            "model": "demo", "scale": 0.6, "mode": "full", "layers": None, "start": 0.0, "end": 1.0, "fit": "pad",
            "images": [{"source": "old.png", "sha256": "0" * 64, "weight": 1.0}], "embeds": None,
            "masks": [{"source": "old.png", "sha256": "0" * 64}],
        }
    ],
    "settings": {
        "mask": [], "adapter": ["own,image=old.png,mask=old.png,scale=0.6"],
        "vae_tiling": False, "scheduler": "euler", "compile_options": None, "vae": None, "embeds": None,
    },
}  # fmt: skip
CHUNKS = {
    "parameters": INFOTEXT,
    "prompt": json.dumps(NODES),
    "invokeai_metadata": json.dumps(INVOKE),
    "ipa": json.dumps(OURS),
}


@cache
def picture(form: str) -> bytes:
    """A small picture with a profile, EXIF and transparency where its format has them."""
    from PIL import Image, ImageCms

    image = Image.new("RGBA", (48, 40), (200, 60, 50, 128))
    image.paste((40, 150, 60, 255), (8, 8, 30, 30))
    exif = Image.Exif()
    exif[0x0112], exif[0x010E] = 6, "words"
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    if form in ("JPEG", "BMP"):
        image = image.convert("RGB")
    more = {} if form in ("BMP", "GIF") else {"exif": exif, "icc_profile": profile}
    buffer = io.BytesIO()
    image.save(buffer, form, **more)
    return buffer.getvalue()


FORMS = {"PNG": "png", "JPEG": "jpg", "WEBP": "webp", "GIF": "gif", "BMP": "bmp", "TIFF": "tif", "AVIF": "avif"}


def reference(random: Random) -> Attack:
    """`ipa embed` of a damaged picture, which decodes and encodes it; at times as a mask."""
    form = random.choice(list(FORMS))
    name, data = f"a.{FORMS[form]}", damaged(picture(form), random)
    mask = random.random() < 0.05
    typed = ("generate", *SMALL, "--mask", name) if mask else ("embed", name, "-o", "e.safetensors", "--device", "cpu")
    return Attack(f"{form} of {len(data)} bytes", typed, lambda folder: (folder / name).write_bytes(data))


def record(random: Random) -> Attack:
    """`--from` a picture that says anything, in our words and in those of other programs."""
    from PIL import PngImagePlugin

    known = random.choice(list(CHUNKS))
    if known == "parameters":
        text = damaged(CHUNKS[known].encode(), random).decode("latin-1")
    else:
        text = json_damaged(CHUNKS[known], random)

    def prepare(folder: Path) -> None:
        from PIL import Image

        info = PngImagePlugin.PngInfo()
        add = info.add_itxt if random.random() < 0.5 else info.add_text
        try:
            add(known, text, zip=random.random() < 0.3)
        except UnicodeError:
            info.add_itxt(known, text.encode("utf-8", "replace").decode())
        Image.new("RGB", (64, 64), "teal").save(folder / "old.png", pnginfo=info)

    # A missing part ends it before a model is loaded; the others draw.
    stops = ("--vae", "missing") if random.random() < 0.8 else ()
    return Attack(
        f"--from {known}: {text[:50]!r}", ("generate", "--from", "old.png", *SMALL, *stops, "--json"), prepare
    )


KINDS = {"pictures": reference, "records": record}
