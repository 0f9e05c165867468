"""Which ControlNets are found and taken, whatever layout they come in, and what is met in their place."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from diffusers.loaders.single_file_utils import convert_controlnet_checkpoint
from safetensors.torch import load_file, save_file

import ipa_cli
from ipa_cli.config import Settings, controls
from ipa_cli.errors import IpaError, UsageError
from ipa_cli.models.controlnet import file
from ipa_cli.models.plan import make_plan
from ipa_cli.unet.control import ControlNet
from tests import controlnets

DEMO = Path(ipa_cli.__file__).parent / "demo"
WEIGHTS = "diffusion_pytorch_model.safetensors"


@pytest.fixture(scope="module")
def folders(tmp_path_factory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("controlnets")
    return {
        "plain": controlnets.save(DEMO, root / "plain"),
        "union": controlnets.save(DEMO, root / "union", kind="union"),
    }


def planned(spec: object):
    return make_plan(Settings(control=(controls.parse(str(spec), "--control"),))).controls


@pytest.mark.parametrize("kind", ["plain", "union"])
def test_a_file_alone_tells_the_configuration_of_its_folder(folders, kind, tmp_path):
    (told,) = planned(shutil.copy(folders[kind] / WEIGHTS, tmp_path))
    (said,) = planned(folders[kind])
    with torch.device("meta"):
        shapes = [{k: v.shape for k, v in ControlNet(one.config).state_dict().items()} for one in (told, said)]
    assert shapes[0] == shapes[1]
    assert told.union == said.union == (kind == "union")
    for key in ("attention_head_dim", "norm_num_groups", "use_linear_projection", "transformer_layers_per_block"):
        one, other = (each.config[key] for each in (told, said))
        assert one == other or set(one) == {other}  # one number for all blocks


def test_a_file_in_its_folder_has_the_configuration_that_is_there(folders, tmp_path):
    """Shapes do not tell that what it adds is pooled."""
    shutil.copytree(folders["plain"], folder := tmp_path / "shuffle")
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "global_pool_conditions": True}))
    assert [planned(place)[0].config["global_pool_conditions"] for place in (folder, folder / WEIGHTS)] == [True, True]
    (folder / "config.json").write_text(json.dumps({"_class_name": "UNet2DConditionModel"}))  # of something else
    assert not planned(folder / WEIGHTS)[0].config.get("global_pool_conditions")


def test_names_of_the_first_code_are_read_as_diffusers_reads_them(folders, tmp_path):
    path = controlnets.as_first_code(folders["plain"], tmp_path / "control.safetensors")
    whole, config = load_file(path), json.loads((folders["plain"] / "config.json").read_text())
    expected = convert_controlnet_checkpoint(dict(whole), config)
    found = file.renamed(whole)
    assert found.keys() == load_file(folders["plain"] / WEIGHTS).keys()
    assert all(torch.equal(found[name], tensor) for name, tensor in expected.items() if tensor is not None)
    without = {name.removeprefix("control_model."): tensor for name, tensor in whole.items()}
    assert file.renamed(without).keys() == found.keys()
    assert planned(path)[0].config["block_out_channels"] == planned(folders["plain"])[0].config["block_out_channels"]


@pytest.mark.parametrize("name", ["control_v11p_sd15_canny.pth", "diffusion_pytorch_model.bin"])
def test_pickles_of_bare_tensors_are_read_and_others_are_not_opened(folders, tmp_path, capfd, name):
    path = controlnets.as_first_code(folders["plain"], tmp_path / "a.safetensors")
    torch.save(load_file(path if name.endswith(".pth") else folders["plain"] / WEIGHTS), pickled := tmp_path / name)
    (found,) = planned(pickled)
    assert found.config == planned(path)[0].config and found.path == pickled
    torch.save({"control_model.input_hint_block.0.weight": Evil()}, pickled)
    with pytest.raises(IpaError, match="is not a pickle of bare tensors"):
        planned(pickled)
    assert "code ran" not in capfd.readouterr().out


class Evil:
    def __reduce__(self):
        return print, ("code ran",)


def test_two_maps_of_one_controlnet_load_it_once(folders):
    one, other = (controls.parse(f"{folders['plain']},image={name}.png", "--control") for name in "ab")
    assert len(make_plan(Settings(control=(one, other))).controls) == 1


def written(path: Path, **tensors: tuple[int, ...]) -> Path:
    save_file({name: torch.zeros(shape) for name, shape in tensors.items()}, path)
    return path


@pytest.mark.parametrize(
    ("names", "words"),
    [
        ({"lora_controlnet": (1,), "input_hint_block.0.weight": (1,)}, "a ControlLoRA"),
        ({"adapter.body.0.resnets.0.block1.weight": (1,)}, "a T2I-Adapter"),
        ({"body.0.block1.weight": (1,)}, "a T2I-Adapter"),
        ({"down_blocks.0.resnets.0.norm1.weight": (1,), "up_blocks.0.resnets.0.norm1.weight": (1,)}, "no ControlNet"),
        ({"model.diffusion_model.output_blocks.0.0.in_layers.0.weight": (1,)}, "a UNet"),
        ({"controlnet_x_embedder.weight": (1,)}, "FLUX or SD 3"),
        ({"lora_unet_x.lora_up.weight": (1,)}, "a LoRA"),
        ({"image_proj.proj.weight": (1,)}, "an IP-Adapter"),
        ({"something": (1,)}, "no ControlNet"),
        ({"controlnet_cond_embedding.conv_in.weight": (1,)}, "no whole ControlNet"),
    ],
)
def test_what_is_no_controlnet_is_told_by_its_header(tmp_path, names, words):
    with pytest.raises(IpaError) as caught:
        planned(written(tmp_path / "some.safetensors", **names))
    assert words in caught.value.message and "\n" not in caught.value.message
    assert "name a whole model" not in caught.value.hint


@pytest.mark.parametrize(
    ("config", "words"),
    [
        ({"cross_attention_dim": 768, "addition_embed_type": None}, "made for SD 1.5, the model is SDXL"),
        ({"cross_attention_dim": 1024, "addition_embed_type": None}, "made for SD 2"),
        ({"block_out_channels": [64, 80, 48]}, "block_out_channels"),
        ({"layers_per_block": 1}, "layers_per_block"),
        ({"in_channels": 9}, "in_channels is 9, not 4"),
        ({"conditioning_channels": 4}, "conditioning_channels is 4"),
        ({"conditioning_embedding_out_channels": [8, 16]}, "2 pixels for each latent pixel"),
        ({"_class_name": "T2IAdapter"}, "T2IAdapter"),
        ({"_class_name": "UNet2DConditionModel"}, "UNet2DConditionModel"),
        ({"down_block_types": ["Evil"] * 3}, "down_block_types"),
        ({"controlnet_conditioning_channel_order": "gbr"}, "controlnet_conditioning_channel_order"),
    ],
)
def test_a_folder_that_does_not_fit_is_refused_by_its_configuration(folders, tmp_path, config, words):
    said = json.loads((folders["plain"] / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps({**said, **config}))
    with pytest.raises(IpaError) as caught:
        planned(tmp_path)
    assert words in caught.value.message and "\n" not in caught.value.message


def test_kinds_of_maps_are_named_or_numbered(folders):
    (union,), (plain,) = planned(folders["union"]), planned(folders["plain"])
    assert [union.kind(mode) for mode in ("openpose", "canny", "lineart", "3", "Depth")] == [0, 3, 3, 3, 1]
    for mode, words in ((None, "is not said"), ("tile", "no mode 'tile'"), ("depht", "did you mean 'depth'")):
        with pytest.raises(UsageError, match=words):
            union.kind(mode)
    assert plain.kind(None) is None
    with pytest.raises(UsageError, match="has no effect"):
        plain.kind("canny")


@pytest.mark.parametrize("spec", ["nobody", "./nothing", "gone.safetensors", "control.pth", "control.gguf"])
def test_what_is_not_there_is_told_in_a_line(world, spec):
    (world.cwd / "control.pth").write_bytes(b"")
    with pytest.raises(IpaError) as caught:
        planned(spec)
    assert "\n" not in caught.value.message
