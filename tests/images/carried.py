"""Pictures and settings that tests write and read."""

from pathlib import Path

from PIL import Image
from PIL.PngImagePlugin import PngInfo

SETTINGS = {
    "prompt": "a cat, sitting: on a mat",
    "negative_prompt": "blurry",
    "steps": 30,
    "scheduler": "euler",
    "guidance_scale": 7.5,
    "seed": 42,
    "width": 64,
    "height": 32,
    "model": "stabilityai/stable-diffusion-xl-base-1.0",
    "adapters": [{"model": "h94/IP-Adapter", "scale": 0.6, "start": 0.0, "end": 1.0, "image": "cat.jpg"}],
}
PICTURE = Image.linear_gradient("L").resize((64, 32)).convert("RGB")


def listing(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def png_with(path: Path, compress: bool = False, **chunks: str) -> Path:
    info = PngInfo()
    for key, text in chunks.items():
        info.add_text(key, text, zip=compress)
    Image.new("L", (2, 2)).save(path, pnginfo=info)
    return path
