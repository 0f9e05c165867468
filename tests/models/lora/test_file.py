"""LoRA files: what fits is read, what is broken or made for something else is one clear line."""

from __future__ import annotations

import hashlib
import json
import pickle
from pathlib import Path

import pytest
import torch
from safetensors.torch import save

import ipa_cli
from ipa_cli.config import LoraConfig
from ipa_cli.errors import IpaError
from ipa_cli.models.lora import change, file, find, targets
from ipa_cli.models.lora.file import read
from ipa_cli.result import NullReporter
from tests import hubs, loras

PRESETS = Path(ipa_cli.__file__).parent / "presets"


def targets_of(folder: Path, architecture: str) -> targets.Targets:
    parts = ("unet", "text_encoder", *(("text_encoder_2",) if architecture == "SDXL" else ()))
    configs = {part: json.loads((folder / part / "config.json").read_text()) for part in parts}
    return targets._of(architecture, json.dumps(configs))


@pytest.fixture(scope="module")
def demo():
    return targets_of(PRESETS.parent / "demo", "SDXL"), "SDXL"


@pytest.fixture(scope="module")
def sdxl():
    return targets_of(PRESETS / "sdxl", "SDXL"), "SDXL"


@pytest.fixture(scope="module")
def sd15():
    return targets_of(PRESETS / "sd15", "SD 1.5"), "SD 1.5"


Q = "unet.mid_block.attentions.0.transformer_blocks.0.attn1.to_q"
P = "unet.mid_block.attentions.0.proj_in"


def of_demo(**changed: torch.Tensor | None) -> dict[str, torch.Tensor]:
    """A good LoRA with some tensors changed, by `q_down`, `q_up`, or left out."""
    names = {"q_down": f"{Q}.lora_A.weight", "q_up": f"{Q}.lora_B.weight"}
    tensors = loras.of_demo()
    for name, tensor in changed.items():
        if tensor is None:
            del tensors[names[name]]
        else:
            tensors[names[name]] = tensor
    return tensors


def test_a_file_is_known_by_its_digest_and_by_a1111s(tmp_path, demo):
    path = loras.write(tmp_path / "style.safetensors", of_demo(), {"modelspec.trigger_phrase": "in ink"})
    found, data = read(path, *demo), path.read_bytes()
    assert found.trigger == "in ink"
    assert found.name == "style" and found.sha256 == hashlib.sha256(data).hexdigest()
    header = 8 + int.from_bytes(data[:8], "little")
    assert found.data_sha256 == hashlib.sha256(data[header:]).hexdigest()
    assert {part: set(modules) for part, modules in found.changes.items()} == {"unet": {Q[5:], P[5:]}}
    assert read(path, *demo) is found  # read once


def test_a_pickle_of_tensors_is_read_and_one_with_code_is_not(tmp_path, demo):
    good, evil = tmp_path / "a.bin", tmp_path / "b.bin"
    for content in (of_demo(), {"state_dict": of_demo()}):
        torch.save(content, good)
        assert read(good, *demo).changes["unet"].keys() == {Q[5:], P[5:]}

    class Evil:
        def __reduce__(self):
            return (exec, (f"open({str(tmp_path / 'ran')!r}, 'w')",))

    evil.write_bytes(pickle.dumps({"a": Evil()}))
    with pytest.raises(IpaError, match="not a pickle of bare tensors"):
        read(evil, *demo)
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize(
    ("tensors", "words"),
    [
        ({}, "not a whole"),
        ({"x": torch.zeros(2, 8)}, "holds no LoRA: it has no"),
        (of_demo(q_up=None), "is not whole"),
        (of_demo(q_down=torch.full((4, 96), float("nan"))), "NaN or infinity"),
        (of_demo(q_up=torch.full((96, 4), float("inf"))), "NaN or infinity"),
        (of_demo(q_down=torch.zeros(0, 96), q_up=torch.zeros(96, 0)), "rank 0"),
        (of_demo(q_down=torch.zeros(4, 96, dtype=torch.int8)), "int8, not floating-point"),
        (of_demo(q_down=torch.zeros(4, 95)), "does not fit"),
        (of_demo(q_down=torch.zeros(5, 96)), "does not fit"),
        (of_demo(q_down=torch.zeros(())), "does not fit"),
        ({**of_demo(), f"{Q}.alpha": torch.tensor([1.0, 2.0])}, "not one number"),
        ({**of_demo(), f"{Q}.lora_magnitude_vector": torch.ones(7)}, "7 magnitudes"),
        ({**of_demo(), f"{Q}.lora_down.weight": torch.zeros(4, 96)}, "twice"),
        ({**of_demo(), f"{Q}.hada_w1_a": torch.zeros(4, 96)}, "is not whole"),
        (
            {**of_demo(), "unet.nowhere.lora_A.weight": torch.zeros(4, 96)},
            "changes what this model has not: unet.nowhere",
        ),
        ({**of_demo(), "lora_unet_conv_in.diff": torch.zeros(4)}, "whole weights or biases"),
        ({**of_demo(), f"{Q}.oft_blocks": torch.zeros(4)}, "OFT"),
        ({**of_demo(), f"{Q}.lora_down.scale_weight": torch.ones(1)}, "scaled fp8"),
        ({"transformer.single_transformer_blocks.0.attn.to_q.lora_A.weight": torch.zeros(4, 96)}, "is a LoRA for FLUX"),
        ({"lora_unet_double_blocks_0_img_attn_qkv.lora_down.weight": torch.zeros(4, 96)}, "is a LoRA for FLUX"),
        ({"lora_te3_encoder_block_0.lora_down.weight": torch.zeros(4, 96)}, "is a LoRA for SD 3"),
    ],
)
def test_what_is_no_good_is_one_line_that_says_why(tmp_path, demo, tensors, words):
    path = loras.write(tmp_path / "a.safetensors", tensors)
    with pytest.raises(IpaError, match=words) as caught:
        read(path, *demo)
    assert str(path) in caught.value.message and "\n" not in caught.value.message and len(caught.value.message) < 600


@pytest.mark.parametrize(
    ("name", "words", "flag"),
    [
        ("emb_params", "an embedding", "--embedding"),
        ("ip_adapter.0.to_q_lora.down.weight", "an IP-Adapter", "--ip-adapter"),  # FaceID, with its LoRA inside
        ("controlnet_cond_embedding.conv_in.weight", "a ControlNet", "--control"),
        ("lora_controlnet", "a ControlLoRA", "--lora"),
        ("lllite_unet_x.down.0.weight", "a ControlNet-LLLite", "--lora"),
        ("cond_stage_model.transformer.x", "a whole model", "--model"),
        ("decoder.conv_in.weight", "a VAE", "--vae"),
    ],
)
@pytest.mark.parametrize("ending", [".safetensors", ".pt"])
def test_a_file_of_another_kind_is_called_by_its_name(tmp_path, demo, name, words, flag, ending):
    path, tensors = tmp_path / f"a{ending}", {name: torch.zeros(2, 2)}
    loras.write(path, tensors) if ending == ".safetensors" else torch.save(tensors, path)
    with pytest.raises(IpaError, match=f"holds no LoRA: it is {words}") as caught:
        read(path, *demo)
    assert flag in caught.value.hint


def test_a_whole_model_in_the_place_of_a_lora_is_not_read(tmp_path, demo, monkeypatch):
    path = loras.write(tmp_path / "model.safetensors", {"cond_stage_model.transformer.x": torch.zeros(2)})
    monkeypatch.setattr(file.inputs, "read_bytes", lambda *_: pytest.fail("it is read"))
    with pytest.raises(IpaError, match="it is a whole model"):
        read(path, *demo)


@pytest.mark.parametrize("data", [b"", b"\0" * 8, save(of_demo())[:-100], b"\xff" * 100])
def test_a_truncated_file_is_named(tmp_path, demo, data):
    (path := tmp_path / "a.safetensors").write_bytes(data)
    with pytest.raises(IpaError, match=r"not a whole \.safetensors file"):
        read(path, *demo)


def kohya(unet: str, width: int, prefix: str = "lora_unet_") -> dict[str, torch.Tensor]:
    name = f"{prefix}{unet}_transformer_blocks_0_attn2_to_k"
    return {f"{name}.lora_down.weight": torch.ones(4, width), f"{name}.lora_up.weight": torch.ones(1280, 4)}


OF_SDXL = kohya("middle_block_1", 2048)
OF_SD15 = kohya("mid_block_attentions_0", 768)
OF_SD2 = kohya("mid_block_attentions_0", 1024)


def test_a_lora_is_told_by_its_family(tmp_path, sdxl, sd15):
    files = {name: loras.write(tmp_path / f"{name}.safetensors", tensors) for name, tensors in FAMILIES.items()}
    assert read(files["sdxl"], *sdxl).changes["unet"].keys() == {
        "mid_block.attentions.0.transformer_blocks.0.attn2.to_k"
    }
    assert read(files["sd15"], *sd15).changes["unet"].keys() == {
        "mid_block.attentions.0.transformer_blocks.0.attn2.to_k"
    }
    for name, family, (known, model) in (
        ("sdxl", "SDXL", sd15),
        ("sd15", "SD 1.5", sdxl),
        ("sd2", "SD 2", sdxl),
        ("sd2", "SD 2", sd15),
    ):
        with pytest.raises(IpaError, match=f"is a LoRA for {family}, and the model is {model}"):
            read(files[name], known, model)


FAMILIES = {"sdxl": OF_SDXL, "sd15": OF_SD15, "sd2": OF_SD2}


L1 = "text_model.encoder.layers.0.mlp.fc1"
FLAT_Q, FLAT_L1 = Q[5:].replace(".", "_"), L1.replace(".", "_")
OF_LDM = "middle_block.1.transformer_blocks.0.attn1.to_q"


@pytest.mark.parametrize(
    ("modules", "ends"),
    [
        ((Q, f"text_encoder.{L1}", f"text_encoder_2.{L1}"), ("lora_A.style", "lora_B.style")),  # PEFT's adapter "style"
        ((f"base_model.model.{Q[5:]}", None, None), ("lora_A", "lora_B")),  # a UNet saved by PEFT
        ((f"unet.base_model.model.{Q[5:]}", None, None), ("lora_A.default", "lora_B.default")),
        ((f"lycoris_{FLAT_Q}", None, None), ("lora_down", "lora_up")),  # SimpleTuner
        ((f"unet.{OF_LDM}", f"clip_l.{L1}", f"clip_g.{L1}"), ("lora_down", "lora_up")),  # OneTrainer, "OMI"
        (
            (f"diffusion_model.{OF_LDM}", *(f"text_encoders.{one}.transformer.{L1}" for one in ("clip_l", "clip_g"))),
            ("lora_down", "lora_up"),  # ComfyUI
        ),
        ((f"lora_unet_{FLAT_Q}", f"lora_te_{FLAT_L1}", f"lora_te2_{FLAT_L1}"), ("lora_down", "lora_up")),
    ],
)
def test_the_names_of_every_trainer_are_read(tmp_path, demo, modules, ends):
    known, _ = demo
    expected, tensors = {("unet", Q[5:])}, {}
    for part, module in zip(("unet", "text_encoder", "text_encoder_2"), modules, strict=True):
        if module is not None:
            target = (part, Q[5:] if part == "unet" else L1)
            expected.add(target)
            out, given = known.shapes[target]
            tensors |= {
                f"{module}.{ends[0]}.weight": torch.ones(2, given),
                f"{module}.{ends[1]}.weight": torch.ones(out, 2),
            }
    found = read(loras.write(tmp_path / "a.safetensors", tensors), *demo)
    assert {(part, module) for part, changes in found.changes.items() for module in changes} == expected
    assert found.unused == ()


@pytest.mark.parametrize(
    "name", ["transformer_blocks.0.attn.to_k", "lora_unet_blocks_0_cross_attn_k", "base_model.model.layers.0.to_k"]
)
def test_a_lora_of_a_transformer_is_called_so_by_every_name(tmp_path, demo, name):
    tensors = {f"{name}.lora_A.weight": torch.ones(4, 8), f"{name}.lora_B.weight": torch.ones(8, 4)}
    with pytest.raises(IpaError, match="is a LoRA for a transformer, and the model is SDXL"):
        read(loras.write(tmp_path / "a.safetensors", tensors), *demo)


def test_metadata_tells_the_family_where_names_do_not(tmp_path, sd15):
    name = "lora_te2_text_model_encoder_layers_31_mlp_fc1"
    tensors = {f"{name}.lora_down.weight": torch.ones(4, 1280), f"{name}.lora_up.weight": torch.ones(5120, 4)}
    path = loras.write(tmp_path / "a.safetensors", tensors, {"ss_base_model_version": "sdxl_base_v1-0"})
    with pytest.raises(IpaError, match=r"is a LoRA for SDXL, and the model is SD 1\.5"):
        read(path, *sd15)


def test_tensors_of_no_weight_are_named(tmp_path, demo):
    tensors = {**of_demo(), "bundle_emb.word.clip_l": torch.zeros(2, 8)}
    assert read(loras.write(tmp_path / "a.safetensors", tensors), *demo).unused == ("bundle_emb.word.clip_l",)


@pytest.mark.parametrize(
    ("metadata", "scale"),
    [
        ({}, 1.0),
        ({"unet.lora_alpha": 8}, 2.0),
        ({"unet.lora_alpha": 8, "unet.use_rslora": True}, 4.0),
        ({"unet.lora_alpha": 8, "unet.alpha_pattern": {"attn1.to_q": 2}}, 0.5),
        ({"unet.lora_alpha": "much"}, 1.0),
        ({"lora_alpha": 8}, 2.0),  # of a UNet saved by itself
        ({"text_encoder.lora_alpha": 8}, 1.0),
    ],
)
def test_alpha_is_that_of_pefts_configuration(tmp_path, demo, metadata, scale):
    said = {"lora_adapter_metadata": json.dumps(metadata)}
    found = read(loras.write(tmp_path / "a.safetensors", of_demo(), said), *demo)
    assert found.changes["unet"][Q[5:]].scale == scale


def test_what_is_beside_a_file_of_peft_tells_its_alpha(tmp_path, demo):
    tensors = {name.replace("unet.", "base_model.model."): tensor for name, tensor in of_demo().items()}
    (settings := tmp_path / "adapter_config.json").write_text(json.dumps({"lora_alpha": 8, "r": 4}))
    assert read(loras.write(tmp_path / "other.safetensors", tensors), *demo).changes["unet"][Q[5:]].scale == 1.0
    file = loras.write(tmp_path / "adapter_model.safetensors", tensors)
    assert read(file, *demo).changes["unet"][Q[5:]].scale == 2.0
    settings.write_text(json.dumps({"lora_alpha": 16, "r": 4, "use_rslora": True}))  # it is looked at again
    assert read(file, *demo).changes["unet"][Q[5:]].scale == 8.0


def test_what_is_beside_a_file_of_peft_comes_with_it_from_the_hub(tmp_path, demo):
    tensors = {name.replace("unet.", "base_model.model."): tensor.contiguous() for name, tensor in of_demo().items()}
    said = json.dumps({"lora_alpha": 8, "r": 4}).encode()
    files = {
        "unet/adapter_model.safetensors": save(tensors),
        "unet/adapter_config.json": said,
        "adapter_config.json": b"{",
    }
    with hubs.serving(hubs.Hub({"me/of-peft": files})):
        path = find.find(LoraConfig("me/of-peft", "unet/adapter_model.safetensors"), NullReporter())
    assert read(path, *demo).changes["unet"][Q[5:]].scale == 2.0


def test_the_alpha_of_pefts_lokr_counts_for_whole_matrices_too(tmp_path, demo):
    module = f"base_model.model.{Q[5:]}"
    tensors = {f"{module}.lokr_w1": torch.ones(8, 8), f"{module}.lokr_w2": torch.ones(12, 12)}
    (tmp_path / "adapter_config.json").write_text(json.dumps({"alpha": 4, "r": 16}))
    assert (
        read(loras.write(tmp_path / "adapter_model.safetensors", tensors), *demo).changes["unet"][Q[5:]].scale == 0.25
    )
    assert read(loras.write(tmp_path / "lycoris.safetensors", tensors), *demo).changes["unet"][Q[5:]].scale == 1.0


@pytest.mark.parametrize("alpha", [torch.tensor(2.0), torch.tensor(2, dtype=torch.int64)])
def test_alpha_is_divided_by_the_rank(tmp_path, demo, alpha):
    tensors = {**of_demo(), f"{Q}.alpha": alpha}
    found = read(loras.write(tmp_path / "a.safetensors", tensors), *demo)
    assert found.changes["unet"][Q[5:]].scale == 0.5 and found.changes["unet"][P[5:]].scale == 1.0


# --- what the kinds add --------------------------------------------------------------------------------------------


def random(*shape: int) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(sum(shape)))


def added(kind: str, shape: tuple[int, ...], **tensors: torch.Tensor) -> torch.Tensor:
    return change.Change(kind, tensors, 0.5).added(shape, torch.device("cpu"))


def test_a_convolution_with_a_core_does_what_its_three_layers_do():
    down, mid, up = random(3, 8, 1, 1), random(3, 3, 3, 3), random(6, 3, 1, 1)
    picture = random(1, 8, 5, 5)
    conv = torch.nn.functional.conv2d
    expected = conv(conv(conv(picture, down), mid, padding=1), up) * 0.5
    weight = added("LoRA", (6, 8, 3, 3), down=down, mid=mid, up=up)
    assert torch.allclose(conv(picture, weight, padding=1), expected, atol=1e-4)


def test_loha_and_lokr_add_what_peft_adds():
    pytest.importorskip("peft")
    from peft.tuners.loha.layer import make_weight as loha
    from peft.tuners.loha.layer import make_weight_cp as loha_cp

    a1, b1, a2, b2 = random(6, 3), random(3, 8), random(7, 3)[:6], random(3, 9)[:, :8]
    parts = {"hada_w1_a": a1, "hada_w1_b": b1, "hada_w2_a": a2, "hada_w2_b": b2}
    assert torch.allclose(added("LoHa", (6, 8), **parts), loha(a1, b1, a2, b2, torch.tensor(0.5)))
    t1, t2 = random(3, 3, 2, 2), random(3, 3, 2, 2) * 2
    parts |= {"hada_w1_a": a1.T, "hada_w2_a": a2.T, "hada_t1": t1, "hada_t2": t2}
    expected = loha_cp(t1, a1.T, b1, t2, a2.T, b2, torch.tensor(0.5))
    assert torch.allclose(added("LoHa", (6, 8, 2, 2), **parts), expected, atol=1e-5)

    from peft.tuners.lokr.layer import make_kron, make_weight_cp

    w1, w2 = random(2, 4), random(3, 2, 3, 3)
    assert torch.allclose(added("LoKr", (6, 8, 3, 3), lokr_w1=w1, lokr_w2=w2), make_kron(w1, w2, 0.5))
    a, b = random(3, 2), random(2, 2)
    assert torch.allclose(
        added("LoKr", (6, 8), lokr_w1_a=w1[:, :2], lokr_w1_b=random(2, 4), lokr_w2_a=a, lokr_w2_b=b),
        make_kron(w1[:, :2] @ random(2, 4), a @ b, 0.5),
    )
    t, p, r = random(2, 2, 3, 3), random(2, 3), random(2, 2)
    expected = make_kron(w1, make_weight_cp(t, p, r), 0.5)
    assert torch.allclose(
        added("LoKr", (6, 8, 3, 3), lokr_w1=w1, lokr_t2=t, lokr_w2_a=p, lokr_w2_b=r), expected, atol=1e-5
    )


def test_every_end_of_a_name_is_found():
    ends = [end for end, _ in file._ENDS]
    assert len(ends) == len(set(ends))
    for number, end in enumerate(ends):  # an earlier, shorter end would hide it
        assert not any(end.endswith(before) for before in ends[:number])


def test_the_lora_that_comes_along_draws_another_picture(ipa):
    flags = ("generate", "--seed", 8, "--size", "64x64", "--steps", 2, "--json")
    [plain] = ipa(*flags, "--output", "plain.png").data()["images"]
    [outlined] = ipa(*flags, "--lora", "demo", "--output", "outlined.png").data()["images"]
    [again] = ipa("generate", "--from", "outlined.png", "--output", "again.png", "--json").data()["images"]
    assert plain["sha256"] != outlined["sha256"] == again["sha256"]
