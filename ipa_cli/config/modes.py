"""How references act: what `--ip-mode`, `--image-combine` and `--fit` may be."""

from __future__ import annotations

INSTANTSTYLE = ("full", "style", "layout", "style-layout")  # as in diffusers' guide
COMFYUI = (
    *("linear", "ease in", "ease out", "ease in-out", "reverse in-out"),
    *("weak input", "weak output", "weak middle", "strong middle"),
    *("style transfer", "composition", "strong style transfer", "style and composition"),
    *("style transfer precise", "composition precise"),
)
WEIGHT_TYPES = tuple(name.replace(" ", "-") for name in COMFYUI)
MODES = (*INSTANTSTYLE, *WEIGHT_TYPES)
CONCAT = "concat"
COMBINES = (CONCAT, "average", "norm-average", "add", "subtract")  # ComfyUI's `combine_embeds`
TILES = "tiles"
FITS = ("pad", "crop", "stretch", TILES)
