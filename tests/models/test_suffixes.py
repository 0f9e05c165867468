"""Weight files by every suffix that people's files have, in capitals too."""

import shutil

import pytest
from PIL import Image

from ipa_cli.config import Settings, places
from ipa_cli.models.location import ModelError
from ipa_cli.models.lora import tags
from ipa_cli.models.plan import DEMO, make_plan

CONTROL = DEMO / "controlnet" / "diffusion_pytorch_model.safetensors"
FILES = {
    "adapter": DEMO / "ip_adapter" / "ip-adapter.safetensors",
    "encoder": DEMO / "ip_adapter" / "image_encoder" / "model.safetensors",
    "vae": DEMO / "vae" / "diffusion_pytorch_model.safetensors",
    "lora": DEMO / "lora" / "outlines.safetensors",
    "control": CONTROL,
}


@pytest.mark.parametrize("suffix", [".SAFETENSORS", ".sft"])
def test_a_picture_is_drawn_from_files_of_any_suffix(ipa, world, suffix):
    for name, file in FILES.items():
        shutil.copy(file, world.cwd / f"{name}{suffix}")
    shutil.copy(FILES["encoder"].with_name("config.json"), world.cwd)  # the miniature's, which has other widths
    Image.linear_gradient("L").resize((64, 64)).save(world.cwd / "map.png")
    size = ("--size", "64x64", "--steps", 1, "--seed", 7, "--prompt", "a star <lora:lora:0.5>", "--lora-dir", ".")
    named = (
        "--image",
        DEMO / "reference.png",
        "--ip-adapter",
        f"adapter{suffix}",
        "--image-encoder",
        f"encoder{suffix}",
    )
    parts = ("--vae", f"vae{suffix}", "--lora", f"lora{suffix}", "--control", f"control{suffix},image=map.png")
    assert ipa("generate", *size, *named, *parts, "--json").data()["images"]


def test_loras_below_a_folder_are_found_by_any_suffix(tmp_path):
    (tmp_path / "a").mkdir()
    for name in ("one.SAFETENSORS", "two.sft", "three.txt"):
        (tmp_path / "a" / name).touch()
    assert {path.stem for path in tags._files(tmp_path)} == {"one", "two"}


@pytest.mark.parametrize("text", ["a/b.SAFETENSORS", "a/b.sft", "a/b.gguf"])
def test_files_are_not_taken_for_repositories(text):
    assert not places.is_repo_id(text)


def test_a_named_adapter_of_another_suffix_is_no_weight_file(tmp_path):
    for name in ("notes.txt", "NOTES"):
        (tmp_path / name).write_text("a note")
        with pytest.raises(ModelError, match=f"{name} is no weight file: it has another suffix"):
            make_plan(Settings(ip_adapter=str(tmp_path), ip_adapter_weight_name=name))
