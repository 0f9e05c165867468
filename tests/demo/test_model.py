"""The shipped model: loads in plain diffusers, is small, and reads its own words."""

from __future__ import annotations

import json

from tests.zoo.layouts import DEMO

MOST_BYTES = 24_000_000


def test_the_weights_are_small_half_precision_and_no_pickles():
    from safetensors import safe_open

    files = [path for path in DEMO.rglob("*") if path.is_file()]
    weights = [path for path in files if path.suffix == ".safetensors"]
    assert len(weights) == 8  # two of them a LoRA and a ControlNet
    assert sum(path.stat().st_size for path in weights) <= MOST_BYTES
    assert {path.suffix for path in files} <= {".safetensors", ".json", ".txt", ".md", ".png"}
    for path in weights:
        with safe_open(path, "pt") as stored:
            floats = {stored.get_slice(key).get_dtype() for key in stored.keys()} - {"I64"}  # noqa: SIM118
        assert floats == {"F16"}, path


def test_it_has_the_shape_of_sdxl(pipe):
    unet, vae = pipe.unet.config, pipe.vae
    assert unet.addition_embed_type == "text_time"
    assert unet.down_block_types == ["DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"]
    widths = pipe.text_encoder.config.hidden_size + pipe.text_encoder_2.config.hidden_size
    assert unet.cross_attention_dim == widths
    assert 2 ** (len(vae.config.block_out_channels) - 1) == pipe.vae_scale_factor == 8
    assert pipe.unet.encoder_hid_proj.image_projection_layers[0].num_image_text_embeds == 4


def test_every_word_of_the_captions_is_one_token_and_others_are_spelled(pipe):
    from training import captions

    for tokenizer in (pipe.tokenizer, pipe.tokenizer_2):
        for word in captions.lexicon():
            start, token, end = tokenizer(word).input_ids
            assert tokenizer.decode([token]).strip() == word
            assert (start, end) == (tokenizer.bos_token_id, tokenizer.eos_token_id)
        assert len(tokenizer("xylophone é").input_ids) > 4
        assert max(tokenizer("xylophone é").input_ids) == tokenizer.eos_token_id < pipe.text_encoder.config.vocab_size


def test_the_defaults_name_a_picture_that_is_there():
    from PIL import Image

    defaults = json.loads((DEMO / "defaults.json").read_text(encoding="utf-8"))
    names = {"about", "prompt", "negative_prompt", "width", "height", "steps", "guidance_scale", "scale", "reference"}
    assert set(defaults) == names
    with Image.open(DEMO / defaults["reference"]) as picture:
        assert picture.mode == "RGB" and min(picture.size) >= 128
