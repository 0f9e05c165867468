"""`--from` of pictures by ComfyUI, InvokeAI and A1111's web UI: the layouts that these programs write."""

import copy
import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from ipa_cli.engine.recorded import read
from ipa_cli.errors import IpaError
from ipa_cli.images import comfyui, encode, invokeai
from ipa_cli.images.metadata import read_settings

PICTURE = Image.new("RGB", (8, 8))
A1111 = "a red fox\nNegative prompt: blurry\nSteps: 20, Sampler: Euler a, CFG scale: 7, Seed: 12, Size: 64x128"
SETTINGS = {"prompt": "日本 fox", "steps": 3, "guidance_scale": 2.0, "seed": 4, "width": 64, "height": 64}

# As the default workflow of ComfyUI with an IP-Adapter is saved.
GRAPH = {
    "3": {
        "inputs": {
            "seed": 156680208700286,
            "steps": 20,
            "cfg": 8,
            "sampler_name": "euler_ancestral",
            "scheduler": "karras",
            "denoise": 1,
            "model": ["12", 0],
            "positive": ["6", 0],
            "negative": ["7", 0],
            "latent_image": ["5", 0],
        },
        "class_type": "KSampler",
        "_meta": {"title": "KSampler"},
    },
    "4": {"inputs": {"ckpt_name": "sd_xl_base_1.0.safetensors"}, "class_type": "CheckpointLoaderSimple"},
    "5": {"inputs": {"width": 832, "height": 1216, "batch_size": 1}, "class_type": "EmptyLatentImage"},
    "6": {"inputs": {"text": "a red fox", "clip": ["4", 1]}, "class_type": "CLIPTextEncode"},
    "7": {"inputs": {"text": "blurry", "clip": ["4", 1]}, "class_type": "CLIPTextEncode"},
    "8": {"inputs": {"samples": ["3", 0], "vae": ["4", 2]}, "class_type": "VAEDecode"},
    "9": {"inputs": {"filename_prefix": "ComfyUI", "images": ["8", 0]}, "class_type": "SaveImage"},
    "10": {"inputs": {"image": "cat.png", "upload": "image"}, "class_type": "LoadImage"},
    "11": {"inputs": {"preset": "PLUS (high strength)", "model": ["4", 0]}, "class_type": "IPAdapterUnifiedLoader"},
    "12": {
        "inputs": {
            "weight": 0.8,
            "weight_type": "style transfer",
            "combine_embeds": "concat",
            "start_at": 0.1,
            "end_at": 0.9,
            "embeds_scaling": "V only",
            "model": ["11", 0],
            "ipadapter": ["11", 1],
            "image": ["10", 0],
        },
        "class_type": "IPAdapterAdvanced",
    },
}
INVOKE = {
    "app_version": "4.2.7",
    "generation_mode": "sdxl_txt2img",
    "positive_prompt": "a red fox",
    "negative_prompt": "blurry",
    "width": 832,
    "height": 1216,
    "seed": 156680208700286,
    "rand_device": "cpu",
    "cfg_scale": 8,
    "cfg_rescale_multiplier": 0,
    "steps": 20,
    "scheduler": "euler_a",
    "model": {"key": "c2e1", "hash": "blake3:00", "name": "stable-diffusion-xl-base", "base": "sdxl", "type": "main"},
    "loras": [{"model": {"name": "ink"}, "weight": 0.7}],
    "ipAdapters": [
        {
            "image": {"image_name": "7f3a.png"},
            "ip_adapter_model": {"name": "ip_adapter_sdxl", "base": "sdxl", "type": "ip_adapter"},
            "clip_vision_model": "ViT-H",
            "method": "style",
            "weight": 0.8,
            "begin_step_percent": 0.1,
            "end_step_percent": 0.9,
        }
    ],
    "controlnets": [],
}
COMMON = {
    "prompt": "a red fox",
    "negative_prompt": "blurry",
    "seed": 156680208700286,
    "steps": 20,
    "guidance_scale": 8.0,
    "scheduler": "euler-a",
    "width": 832,
    "height": 1216,
    "scale": 0.8,
    "ip_start": 0.1,
    "ip_end": 0.9,
    "ip_mode": "style",
}
OF_COMFYUI = {**COMMON, "ip_mode": "style-transfer"}


def carrying(path: Path, **chunks: str) -> Path:
    info = PngInfo()
    for key, text in chunks.items():
        info.add_text(key, text)
    PICTURE.save(path, pnginfo=info)
    return path


def test_a_graph_of_comfyui_is_followed(tmp_path):
    recorded = read(carrying(tmp_path / "a.png", prompt=json.dumps(GRAPH), workflow="{}"))
    assert recorded.values == {**OF_COMFYUI, "num_images": 1, "prompt_syntax": "comfyui"}
    assert recorded.left_out == (
        "model sd_xl_base_1.0.safetensors (name one with --model)",
        "schedule karras",
        "reference picture cat.png (name it with --image)",
    )


def test_how_references_act_is_read_from_a_node_of_tiles(tmp_path):
    (number,) = (number for number, node in GRAPH.items() if node["class_type"].startswith("IPAdapterAdv"))
    node = GRAPH[number]
    how = {
        "weight_type": "ease in-out",
        "combine_embeds": "norm average",
        "sharpening": 0.3,
        "image_negative": ["91", 0],
    }
    graph = {
        **GRAPH,
        number: {"class_type": "IPAdapterTiled", "inputs": {**node["inputs"], **how}},
        "91": {"class_type": "LoadImage", "inputs": {"image": "mud.png"}},
    }
    values, left_out = comfyui.read(json.dumps(graph))
    stated = {name: values[name] for name in ("ip_mode", "image_combine", "fit", "sharpening")}
    assert stated == {"ip_mode": "ease-in-out", "image_combine": "norm-average", "fit": "tiles", "sharpening": 0.3}
    assert "negative picture mud.png (name it with --negative-image)" in left_out


def test_a_comfyui_node_without_a_number_spoils_nothing_else(tmp_path):
    graph = {**GRAPH, "90": {"class_type": "LoadImage", "inputs": {}, "is_changed": [float("nan")]}}
    assert read(carrying(tmp_path / "a.png", prompt=json.dumps(graph))).values["steps"] == 20


def test_the_first_sampler_and_nodes_between_are_understood():
    graph = copy.deepcopy(GRAPH)
    graph["20"] = {"class_type": "KSampler", "inputs": {**graph["3"]["inputs"], "seed": 1, "latent_image": ["21", 0]}}
    graph["21"] = {"class_type": "LatentUpscale", "inputs": {"samples": ["3", 0], "width": 2000, "height": 2000}}
    graph["22"] = {
        "class_type": "ControlNetApplyAdvanced",
        "inputs": {"positive": ["6", 0], "negative": ["7", 0], "strength": 1.0, "image": ["10", 0]},
    }
    graph["3"]["inputs"] |= {"positive": ["22", 0], "negative": ["22", 1], "seed": ["23", 0]}
    graph["23"] = {"class_type": "Seed (rgthree)", "inputs": {"seed": 5}}
    graph["6"]["inputs"]["text"] = ["24", 0]
    graph["24"] = {"class_type": "PrimitiveString", "inputs": {"value": "a blue fox"}}
    values, left_out = comfyui.read(json.dumps(graph))
    assert values == {**OF_COMFYUI, "prompt": "a blue fox", "seed": 5} and left_out[1] == "1 more samplers"


def test_a_sampler_in_parts_is_put_together():
    graph = {key: GRAPH[key] for key in ("4", "5", "6", "7")} | {
        "13": {
            "class_type": "SamplerCustomAdvanced",
            "inputs": {
                "noise": ["25", 0],
                "guider": ["22", 0],
                "sampler": ["16", 0],
                "sigmas": ["17", 0],
                "latent_image": ["5", 0],
            },
        },
        "16": {"class_type": "KSamplerSelect", "inputs": {"sampler_name": "dpmpp_2m"}},
        "17": {
            "class_type": "BasicScheduler",
            "inputs": {"scheduler": "simple", "steps": 9, "denoise": 0.5, "model": ["4", 0]},
        },
        "22": {
            "class_type": "CFGGuider",
            "inputs": {"cfg": 3.5, "model": ["4", 0], "positive": ["6", 0], "negative": ["7", 0]},
        },
        "25": {"class_type": "RandomNoise", "inputs": {"noise_seed": 77}},
    }
    values, left_out = comfyui.read(json.dumps(graph))
    wanted = {"prompt": "a red fox", "negative_prompt": "blurry", "seed": 77, "steps": 9, "guidance_scale": 3.5}
    assert values == {**wanted, "scheduler": "dpm++", "schedule": "trailing", "width": 832, "height": 1216}
    assert left_out == [
        "model sd_xl_base_1.0.safetensors (name one with --model)",
        "denoise 0.5 (add --init-image IMAGE --strength 0.5 --steps 18)",
    ]


def test_of_very_many_things_the_first_are_named(tmp_path):
    graph = copy.deepcopy(GRAPH)
    for number in range(100, 200):
        inputs = {"lora_name": "l" * 300, "model": [str(number + 1), 0]}
        graph[str(number)] = {"class_type": "LoraLoader", "inputs": inputs}
    graph["11"]["inputs"]["model"] = ["100", 0]
    left_out = read(carrying(tmp_path / "a.png", prompt=json.dumps(graph))).left_out
    assert len(left_out) == 21 and left_out[-1] == "82 more" and max(map(len, left_out)) <= 120


def test_what_a_picture_began_with_is_reported():
    graph = copy.deepcopy(GRAPH)
    graph["3"]["inputs"] |= {"latent_image": ["30", 0], "denoise": 0.6}
    graph["30"] = {"class_type": "VAEEncode", "inputs": {"pixels": ["10", 0], "vae": ["4", 2]}}
    values, left_out = comfyui.read(json.dumps(graph))
    assert "width" not in values
    denoise = "denoise 0.6 (add --init-image IMAGE --strength 0.6 --steps 33)"
    assert {denoise, "the initial picture (VAEEncode)"} <= set(left_out)


def test_metadata_of_invokeai_are_read(tmp_path):
    recorded = read(carrying(tmp_path / "a.png", invokeai_metadata=json.dumps(INVOKE), invokeai_graph="{}"))
    assert recorded.values == {**COMMON, "num_images": 1, "prompt_syntax": "literal"}
    assert recorded.left_out == (
        "model stable-diffusion-xl-base (name one with --model)",
        "reference picture 7f3a.png (name it with --image)",
        "loras",
    )


def test_metadata_of_invokeai_3_are_read():
    old = {**INVOKE, "model": {"model_name": "amix", "base_model": "sd-1"}, "scheduler": "dpmpp_2m_sde_k"}
    values, left_out = invokeai.read(json.dumps(old))
    assert (values["scheduler"], values["schedule"]) == ("dpm++-2m-sde", "karras")
    values, left_out = invokeai.read(json.dumps({**old, "scheduler": "dpmpp_9m"}))
    assert "scheduler" not in values
    assert left_out[:2] == ["model amix (name one with --model)", "sampler dpmpp_9m (choose one with --sampler)"]


def exif_of(comment: bytes) -> bytes:
    exif = Image.Exif()
    exif[encode.EXIF_IFD] = {encode.USER_COMMENT: comment}
    return exif.tobytes()


@pytest.mark.parametrize("suffix", ["jpg", "webp", "avif"])
@pytest.mark.parametrize(
    "comment",
    [
        b"UNICODE\0" + A1111.encode("utf-16-be"),
        b"UNICODE\0" + A1111.encode("utf-16-le"),
        b"ASCII\0\0\0" + A1111.encode(),
        b"\0" * 8 + A1111.encode(),
    ],
)
def test_a1111s_text_is_read_from_exif(tmp_path, suffix, comment):
    PICTURE.save(tmp_path / f"a.{suffix}", exif=exif_of(comment))
    values = read(tmp_path / f"a.{suffix}").values
    assert (values["prompt"], values["negative_prompt"], values["seed"]) == ("a red fox", "blurry", 12)
    assert (values["scheduler"], values["width"], values["height"]) == ("euler-a", 64, 128)


def test_comfyuis_webp_is_read(tmp_path):
    exif = Image.Exif()
    exif[0x0110] = f"prompt:{json.dumps(GRAPH)}"
    PICTURE.save(tmp_path / "a.webp", exif=exif.tobytes())
    assert read(tmp_path / "a.webp").values["seed"] == 156680208700286


@pytest.mark.parametrize("suffix", ["png", "jpg", "jpeg", "webp", "avif"])
def test_what_we_write_comes_back_from_every_format(tmp_path, suffix):
    saved = encode.save(tmp_path / f"a.{suffix}", PICTURE, SETTINGS)
    assert read_settings(saved.path) == {**SETTINGS, "schema_version": 1}
    again = encode.save(tmp_path / f"b.{suffix}", PICTURE, SETTINGS)
    assert again.sha256 == saved.sha256
    with Image.open(saved.path) as image:
        if suffix != "png":
            comment = image.getexif().get_ifd(encode.EXIF_IFD)[encode.USER_COMMENT]
            assert comment.startswith(b"UNICODE\0") and comment[8:].decode("utf-16-be").startswith("日本 fox\nSteps: 3")


def test_what_a_jpeg_has_no_room_for_is_reported(tmp_path):
    with pytest.raises(IpaError, match="too many for a JPEG") as caught:
        encode.save(tmp_path / "a.jpg", PICTURE, {**SETTINGS, "prompt": "x" * 30_000})
    assert caught.value.hint == "--format png" and list(tmp_path.iterdir()) == []


def test_quality_counts():
    noise = Image.effect_noise((64, 64), 90).convert("RGB")
    for name in ("JPEG", "WEBP", "AVIF"):
        assert len(encode.encode(noise, SETTINGS, name, 20)) < len(encode.encode(noise, SETTINGS, name, 95))


def test_a_text_too_large_is_reported(tmp_path):
    PICTURE.save(tmp_path / "a.webp", exif=exif_of(b"ASCII\0\0\0" + b"a" * (1 << 20) + b"b"))
    with pytest.raises(IpaError, match="too large for settings"):
        read(tmp_path / "a.webp")


# --- hostile --------------------------------------------------------------------------------------------------


def test_text_in_any_encoding_and_chunk_is_read(tmp_path):
    text = A1111.replace("red", "röd")
    info = PngInfo()
    info.add(b"tEXt", b"parameters\0" + text.encode())  # UTF-8 where the standard wants Latin-1
    PICTURE.save(tmp_path / "a.png", pnginfo=info)
    info = PngInfo()
    info.add(b"tEXt", b"parameters\0" + text.encode("latin-1"))
    PICTURE.save(tmp_path / "b.png", pnginfo=info)
    info = PngInfo()
    info.add_text("parameters", text, zip=True)
    PICTURE.save(tmp_path / "c.png", pnginfo=info)
    info = PngInfo()
    info.add_itxt("parameters", text, zip=True)
    PICTURE.save(tmp_path / "d.png", pnginfo=info)
    for name in "abcd":
        assert read(tmp_path / f"{name}.png").values["prompt"] == "a röd fox"


def test_of_two_texts_the_last_counts(tmp_path):
    info = PngInfo()
    info.add_text("parameters", A1111)
    info.add_text("parameters", A1111.replace("red", "blue"))
    PICTURE.save(tmp_path / "a.png", pnginfo=info)
    assert read(tmp_path / "a.png").values["prompt"] == "a blue fox"


LINKS = ("model", "positive", "latent_image", "seed")
CYCLE = {"1": {"class_type": "KSampler", "inputs": {name: ["1", 0] for name in LINKS}}}
HOSTILE = [
    "",
    "x",
    "[]",
    "{}",
    "null",
    "[" * 100_000,
    '{"a":' * 50_000,
    '{"1": {"class_type": "KSampler", "inputs": []}}',
    '{"1": {"class_type": 3, "inputs": {"latent_image": 1}}}',
    '{"1": {"class_type": "K", "inputs": {"latent_image": ["2", 0], "seed": 1e999, "steps": NaN}}}',
    '{"1": {"class_type": "K", "inputs": {"latent_image": [["1"], 0], "seed": ' + "9" * 5000 + "}}}",
    '{"width": "a", "seed": true, "ipAdapters": [1, {"image": 3, "weight": {}}], "model": {"name": []}}',
    json.dumps(CYCLE),
]


@pytest.mark.parametrize("name", ["prompt", "invokeai_metadata", "parameters"])
@pytest.mark.parametrize("text", HOSTILE, ids=range(len(HOSTILE)))
def test_hostile_texts_become_settings_or_one_line(tmp_path, name, text):
    try:
        recorded = read(carrying(tmp_path / "a.png", **{name: text}))
        assert all("\n" not in said for said in recorded.left_out)
    except IpaError as error:
        assert "\n" not in error.message and error.hint


LEAF = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8) | st.sampled_from("123")
ANY = st.recursive(
    LEAF, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner), max_leaves=5
)
INPUT = st.sampled_from(
    [
        "seed",
        "steps",
        "cfg",
        "model",
        "positive",
        "negative",
        "latent_image",
        "text",
        "value",
        "image",
        "guider",
        "weight",
    ]
)
LINK = st.tuples(st.sampled_from("1234"), st.integers(0, 2)).map(list)
KIND = st.sampled_from(["KSampler", "IPAdapter", "EmptyLatentImage", "LoraLoader"])
NODE = st.fixed_dictionaries({"class_type": KIND | ANY, "inputs": st.dictionaries(INPUT, LINK | ANY) | ANY})
KEYS = st.sampled_from([*INVOKE, "x"])


@given(graph=st.dictionaries(st.sampled_from("1234"), NODE | ANY), metadata=st.dictionaries(KEYS, ANY))
def test_any_json_becomes_settings_or_a_value_error(graph, metadata):
    for reader, found in ((comfyui.read, graph), (invokeai.read, metadata)):
        try:
            values, left_out = reader(json.dumps(found))
            assert None not in values.values() and all(isinstance(said, str) for said in left_out)
        except ValueError:
            pass


@given(st.data())
def test_damaged_exif_gives_settings_or_a_clear_error(tmp_path_factory, data):
    folder = tmp_path_factory.getbasetemp()
    suffix = data.draw(st.sampled_from(["jpg", "webp", "avif"]))
    content = bytearray(encode.encode(PICTURE, SETTINGS, {"jpg": "JPEG"}.get(suffix, suffix.upper())))
    for _ in range(data.draw(st.integers(1, 4))):
        content[data.draw(st.integers(0, min(400, len(content) - 1)))] = data.draw(st.integers(0, 255))
    (folder / f"damaged.{suffix}").write_bytes(content)
    try:
        read(folder / f"damaged.{suffix}")
    except IpaError as error:
        assert error.hint and "\n" not in error.message
