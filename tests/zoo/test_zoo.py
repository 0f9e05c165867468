"""Every layout that people bring, through every command that takes a model."""

from collections.abc import Iterator
from contextlib import nullcontext

import numpy as np
import pytest
from PIL import Image

from ipa_cli.engine.engine import Engine
from ipa_cli.errors import IpaError
from tests import checkpoints
from tests.zoo import layouts
from tests.zoo.layouts import DEMO, DRAWN, REFUSED, ROUNDED, WITH_FACES, WITHOUT_CONFIGURATIONS

pytestmark = pytest.mark.slow

REFERENCE = ("--image", DEMO / "reference.png")
SMALL = ("--steps", 2, "--width", 64, "--height", 64, "--seed", 7, "--warmup", 0, "--prompt", "a star")
ALIKE = ("--scale", 0.8, "--guidance-scale", 5)  # for which the demo has defaults of its own


@pytest.fixture(scope="module")
def drawn() -> dict[str, np.ndarray]:
    return {}


def pixels(path: str) -> np.ndarray:
    with Image.open(path) as picture:
        return np.asarray(picture, dtype=int)


def draw(ipa, *flags: object) -> np.ndarray:
    (image,) = ipa("generate", *SMALL, *REFERENCE, *ALIKE, *flags, "--json").data()["images"]
    return pixels(image["path"])


@pytest.fixture
def configured(tmp_path, request) -> Iterator[None]:
    """The miniature's configurations in place of SDXL's, for a layout that brings none."""
    needed = request.getfixturevalue("layout") in WITHOUT_CONFIGURATIONS
    with checkpoints.presets(tmp_path / "presets", "sdxl", DEMO) if needed else nullcontext():
        yield


@pytest.mark.usefixtures("configured")
@pytest.mark.parametrize("layout", DRAWN, ids=lambda layout: layout.__name__)
def test_a_layout_is_taken_by_every_command(ipa, world, drawn, monkeypatch, layout):
    flags = layout(world.cwd)
    if not drawn:
        drawn["plain"] = draw(ipa, *layouts.plain(world.cwd / "plain"))
    difference = abs(draw(ipa, *flags) - drawn["plain"])
    assert difference.mean() < 1 if layout in ROUNDED else not difference.any()

    checks = {check["name"]: check for check in ipa("doctor", *flags, "--json").data()["checks"]}
    assert checks["model and adapter"]["status"] == "ok"
    encoder = [flag for flag in flags if flag not in ("--variant", "fp16")]
    assert ipa("embed", DEMO / "reference.png", *encoder, "--output", "e.safetensors", "--json").data()["shape"]
    size = ("--size", "64x64", "--steps", 1, "--seed", 7, "--prompt", "a star", "--scales", "0,0.8")
    assert ipa("sweep-scale", *size, *REFERENCE, *flags, "--json").data()["drawn"] == 2

    def planned(settings: object, plan: object, *_: object) -> None:
        raise IpaError(f"would compile {plan.name}", "")

    monkeypatch.setattr(Engine, "open", planned)
    compiled = ipa("compile", "--size", "64x64", *flags, "--json")
    assert compiled.error()["message"].startswith("would compile ")


@pytest.mark.parametrize("layout", WITH_FACES, ids=lambda layout: layout.__name__)
def test_a_layout_of_a_face_adapter_is_taken(ipa, world, layout):
    flags = layout(world.cwd)
    drawn = [ipa("generate", *SMALL, *ALIKE, *flags, *more, "--json").data() for more in ((), ("--ip-lora", 0))]
    first, without = (pixels(one["images"][0]["path"]) for one in drawn)
    assert abs(first - without).max() > 8  # the LoRA inside is there
    checks = {check["name"]: check for check in ipa("doctor", *flags[:-2], "--json").data()["checks"]}
    assert checks["model and adapter"]["status"] == "ok"


@pytest.mark.parametrize("layout", REFUSED, ids=lambda layout: layout.__name__)
def test_a_layout_that_cannot_be_drawn_with_is_reported(ipa, world, layout):
    error = ipa("generate", *SMALL, *REFERENCE, *layout(world.cwd), "--json").error()
    assert error["type"] == "ModelError" and REFUSED[layout] in error["message"] and error["hint"]
    assert "\n" not in error["message"] + error["hint"]
