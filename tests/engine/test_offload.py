"""`--offload model` and `sequential` draw what is drawn without, whatever else is asked for: the CPU is the device."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image, ImageDraw
from safetensors.numpy import load_file, save_file

import ipa_cli
from ipa_cli.config import Settings, adapter_options, controls, loras, regions
from ipa_cli.engine.engine import Engine
from ipa_cli.models.lora.lora import load
from ipa_cli.models.plan import make_plan
from ipa_cli.pipeline.references import load_references
from ipa_cli.pipeline.task import make_request
from ipa_cli.result import NullReporter
from tests import controlnets, faceid
from tests import loras as lora_files

pytest.importorskip("accelerate")
pytestmark = pytest.mark.slow
DEMO = Path(ipa_cli.__file__).parent / "demo"
ENCODER = DEMO / "ip_adapter" / "image_encoder"


class Offloading(Engine):
    """An engine that takes the CPU for a GPU, as far as weights are concerned that wait in main memory."""

    def __init__(self, settings, *more):
        super().__init__(settings, *more)
        self.offload = self._access.offload = settings.offload


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    folder, unet = tmp_path_factory.mktemp("files"), lora_files.demo_unet()
    width = load_file(ENCODER / "model.safetensors")["vision_model.embeddings.class_embedding"].shape[0]
    states = np.random.default_rng(3).standard_normal((2, 1, 17, width)).astype(np.float32)
    np.save(folder / "face.npy", faceid.embedding(1))
    save_file({"id_embeds": faceid.embedding(2), "clip_embeds": states}, folder / "face.safetensors")
    drawing = Image.new("L", (64, 64))
    ImageDraw.Draw(drawing).ellipse((8, 8, 40, 56), fill=255)
    drawing.save(folder / "shape.png")
    return SimpleNamespace(
        folder=folder,
        shape=str(folder / "shape.png"),
        face=faceid.write(folder / "ip-adapter-faceid_sdxl.bin", unet),
        plus=faceid.write(folder / "ip-adapter-faceid-plusv2_sdxl.bin", unet, states=width),
        lora=lora_files.write(folder / "style.safetensors", lora_files.of_demo()),
        network=controlnets.save(DEMO, folder / "network"),
    )


def opened(files, kind: type[Engine] = Engine, **more) -> Engine:
    adapters = (
        f"{files.face},embeds={files.folder / 'face.npy'}",
        f"{files.plus},embeds={files.folder / 'face.safetensors'},encoder={ENCODER}",
        f"own,image={files.shape},mask={files.shape}",
    )
    control = f"{files.network},image={files.shape},scale=0.5"
    settings = Settings(
        **{"prompt": "a star", "width": 64, "height": 64, "steps": 2, "seed": 7, "device": "cpu", "backend": "eager"},
        adapter=tuple(adapter_options.parse(one, "--adapter") for one in adapters),
        control=(controls.parse(control, "--control"),),
        vae_tiling=True,
        cache_dir=files.folder / "cache",
        **more,
    )
    engine = kind.open(settings, make_plan(settings), NullReporter())
    engine.model.vae.config.sample_size = 32  # so that 64 pixels are tiles
    return engine


@pytest.fixture(scope="module")
def plain(files):
    return opened(files)


def pixels(engine: Engine, **changes) -> np.ndarray:
    settings = replace(engine.settings, **changes)
    found = load(settings.lora, engine.plan, NullReporter())
    request = make_request(settings, engine.plan, load_references(settings, NullReporter()), found)
    return np.asarray(engine.draw(request).images[0], dtype=int)


@pytest.mark.parametrize("offload", ["model", "sequential"])
def test_an_offloaded_model_draws_the_same_pictures_one_after_the_other(files, plain, offload):
    begun, area = {"init_image": files.shape}, {"inpaint_mask": files.shape}
    style = (loras.parse(str(files.lora), "--lora"),)
    place = (regions.parse(f"mask={files.shape},prompt=a moon", "--region"),)
    engine = opened(files, Offloading, offload=offload)
    assert engine.model.unet.conv_in.weight.is_meta == (offload == "sequential")
    before = None
    for changes in (
        {},
        {"lora": style},
        {**begun, "strength": 0.5, "hires": "1.5", "hires_strength": 0.5},
        {**begun, **area, "lora": style},
        {"region": place, "guidance_scale": 1.0},
        {"step_cache": "deep:2", "num_images": 2, "batch_size": 2},
    ):
        expected = pixels(plain, **changes)
        assert (pixels(engine, **changes) == expected).all(), changes
        assert before is None or (expected.shape, expected.tobytes()) != before, changes
        before = expected.shape, expected.tobytes()
    assert (pixels(engine) == pixels(plain)).all()  # as if there had been no LoRA
