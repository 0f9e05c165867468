"""ComfyUI's weight types against the numbers that its own formulas and tables give for each layer."""

import json
from pathlib import Path

import pytest

import ipa_cli
from ipa_cli.config.modes import WEIGHT_TYPES
from ipa_cli.errors import IpaError
from ipa_cli.unet import layers, weight_types

PRESETS = Path(ipa_cli.__file__).parent / "presets"
SDXL, SD15 = (
    layers.blocks(json.loads((PRESETS / name / "unet" / "config.json").read_text())) for name in ("sdxl", "sd15")
)
# ComfyUI counts transformers in the order of a step: those of the blocks down, of the middle, of the blocks up.
ORDER = {
    "sdxl": ["down.block_1"] * 2 + ["down.block_2"] * 2 + ["mid"] + ["up.block_0"] * 3 + ["up.block_1"] * 3,
    "sd15": [f"down.block_{block}" for block in (0, 0, 1, 1, 2, 2)]
    + ["mid"]
    + [f"up.block_{block}" for block in (1, 1, 1, 2, 2, 2, 3, 3, 3)],
}
KNOWN = {"sdxl": SDXL, "sd15": SD15}
CLEAR_OF_COMPOSITION = [*range(4), *range(9, 16)]
# Tables of `ipadapter_execute`: number of a transformer -> factor of the weight.
TABLES = {
    ("style-transfer", "sdxl"): {6: 1},
    ("composition", "sdxl"): {3: 1},
    ("strong-style-transfer", "sdxl"): dict.fromkeys([0, 1, 2, 4, 5, 6, 7, 8, 9, 10], 1),
    ("style-and-composition", "sdxl"): {3: 1, 6: 1},
    ("style-transfer-precise", "sdxl"): {3: 1, 6: 1},
    ("composition-precise", "sdxl"): {**dict.fromkeys(range(11), 0.1), 3: 1, 6: 1},
    ("style-transfer", "sd15"): dict.fromkeys(CLEAR_OF_COMPOSITION, 1),
    ("composition", "sd15"): {4: 0.25, 5: 1},
    ("strong-style-transfer", "sd15"): dict.fromkeys([*range(4), *range(6, 16)], 1),
    ("style-and-composition", "sd15"): {**dict.fromkeys(CLEAR_OF_COMPOSITION, 1), 4: 0.25, 5: 1},
    ("style-transfer-precise", "sd15"): {**dict.fromkeys(CLEAR_OF_COMPOSITION, 1), 4: 0.25, 5: 1},
    ("composition-precise", "sd15"): {
        **dict.fromkeys(CLEAR_OF_COMPOSITION, 1),
        **{4: 0.25, 5: 1, 6: 0.1, 7: 0.1, 8: 0.1},
    },
}


def comfyui(name: str, preset: str) -> list[float]:
    """The factor of each transformer, in ComfyUI's order."""
    count = {"sdxl": 11, "sd15": 16}[preset]
    if (name, preset) in TABLES:
        return [TABLES[name, preset].get(number, 0) for number in range(count)]
    parts = [block.split(".")[0] for block in ORDER[preset]]
    half = count / 2
    found = {
        "linear": lambda t, part: 1,
        "ease-in": lambda t, part: 0.05 + 0.95 * (1 - t / count),
        "ease-out": lambda t, part: 0.05 + 0.95 * (t / count),
        "ease-in-out": lambda t, part: 0.05 + 0.95 * (1 - abs(t - half) / half),
        "reverse-in-out": lambda t, part: 0.05 + 0.95 * abs(t - half) / half,
        "weak-input": lambda t, part: 0.2 if part == "down" else 1,
        "weak-middle": lambda t, part: 0.2 if part == "mid" else 1,
        "weak-output": lambda t, part: 0.2 if part == "up" else 1,
        "strong-middle": lambda t, part: 1 if part == "mid" else 0.2,
    }[name]
    return [found(number, part) for number, part in enumerate(parts)]


def in_order(pattern: weight_types.Pattern, preset: str) -> list[float]:
    """A pattern in ComfyUI's order."""
    seen: dict[str, int] = {}
    found = []
    for block in ORDER[preset]:
        number = seen[block] = seen.get(block, -1) + 1
        found.append(pattern[block][number] if block in pattern else 0.0)
    return found


@pytest.mark.parametrize("preset", ["sdxl", "sd15"])
@pytest.mark.parametrize("name", WEIGHT_TYPES)
def test_every_layer_has_the_weight_that_comfyui_gives_it(name, preset):
    pattern = layers.of_mode(name, KNOWN[preset], preset == "sdxl")
    assert in_order(pattern, preset) == pytest.approx(comfyui(name, preset), abs=1e-12)


@pytest.mark.parametrize(
    ("name", "preset", "moved"),
    [
        ("style-transfer-precise", "sdxl", [3]),
        ("composition-precise", "sdxl", [0, 1, 2, 4, 5, 6, 7, 8, 9, 10]),
        ("style-transfer-precise", "sd15", [4, 5]),
        ("composition-precise", "sd15", [*range(4), *range(6, 16)]),
        *((name, preset, []) for name in WEIGHT_TYPES[:-2] for preset in KNOWN),
    ],
)
def test_precise_types_move_the_layers_to_the_negative_half_that_comfyui_moves(name, preset, moved):
    found = in_order(weight_types.on_negative(name, KNOWN[preset], preset == "sdxl"), preset)
    assert [number for number, factor in enumerate(found) if factor] == moved


def test_instantstyles_layers_of_sdxl_are_comfyuis():
    for name, same in (("style", "style-transfer"), ("layout", "composition"), ("full", "linear")):
        assert layers.of_mode(name, SDXL) == layers.of_mode(same, SDXL)


def test_a_unet_with_other_blocks_has_the_same_places():
    known = {"down.block_1": 1, "up.block_0": 2, "mid": 1}
    assert layers.of_mode("composition", known) == {"down.block_1": (1.0,)}
    assert layers.of_mode("style-transfer", known) == {"up.block_0": (0.0, 1.0)}
    assert layers.of_mode("ease-out", known)["up.block_0"] == pytest.approx((0.05 + 0.95 / 2, 0.05 + 0.95 * 0.75))


def test_a_unet_without_the_blocks_of_a_style_is_refused():
    with pytest.raises(IpaError, match="no layers for --ip-mode composition"):
        layers.of_mode("composition", {"mid": 1})
