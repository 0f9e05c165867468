"""The demo model's parts and its folder: SDXL's shape in miniature, in the layout diffusers reads.

`parts()` builds the networks with random weights; `save` writes the folder, weights in float16.
Run as a script it writes an untrained model: `python -m training.architecture FOLDER`.
"""

from __future__ import annotations

import itertools
import json
import sys
from collections import Counter
from functools import lru_cache
from pathlib import Path

import torch
from torch import Tensor, nn

from training import captions

TEXT_WIDTH = 64
CONTEXT = 2 * TEXT_WIDTH
POOLED = 128
IMAGE_EMBED = 256
IMAGE_TOKENS = 4  # as diffusers takes them of an adapter with one linear projection
IMAGE_SIZE = 128
MAX_TOKENS = 77
START, END = "<|startoftext|>", "<|endoftext|>"

UNET = {
    "sample_size": 32,
    "in_channels": 4,
    "out_channels": 4,
    "block_out_channels": (64, 80, 96),
    "layers_per_block": 2,
    "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
    "up_block_types": ("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
    "transformer_layers_per_block": 1,
    "attention_head_dim": (4, 5, 6),  # diffusers means the number of heads: 16 wide each
    "norm_num_groups": 16,
    "use_linear_projection": True,
    "cross_attention_dim": CONTEXT,
    "addition_embed_type": "text_time",
    "addition_time_embed_dim": 32,
    "projection_class_embeddings_input_dim": 6 * 32 + POOLED,
}
VAE = {
    "in_channels": 3,
    "out_channels": 3,
    "latent_channels": 4,
    "block_out_channels": (16, 32, 64, 64),
    "layers_per_block": 1,
    "norm_num_groups": 8,
    "down_block_types": ("DownEncoderBlock2D",) * 4,
    "up_block_types": ("UpDecoderBlock2D",) * 4,
    "sample_size": 256,
    "scaling_factor": 1.0,
    "force_upcast": False,
}
TEXT = {
    "hidden_size": TEXT_WIDTH,
    "intermediate_size": 4 * TEXT_WIDTH,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "max_position_embeddings": MAX_TOKENS,
    "projection_dim": POOLED,
}
VISION = {
    "hidden_size": 160,
    "intermediate_size": 512,
    "num_hidden_layers": 4,
    "num_attention_heads": 5,
    "image_size": IMAGE_SIZE,
    "patch_size": 8,
    "projection_dim": IMAGE_EMBED,
}
#: SDXL's schedule, but ending in more noise: at 32 x 32 latents SDXL's own end still shows the mean colour. There a
#: network that tells the noise says next to nothing of the picture: its errors grow by the ratio of noise to picture
#: (66 at the end), and colours come out wild. So this one tells the velocity, as SDXL models retrained for it do.
SCHEDULER = {
    "_class_name": "EulerDiscreteScheduler",
    "num_train_timesteps": 1000,
    "beta_start": 0.00085,
    "beta_end": 0.02,
    "beta_schedule": "scaled_linear",
    "prediction_type": "v_prediction",
    "clip_sample": False,
    "interpolation_type": "linear",
    "timestep_spacing": "trailing",
    "steps_offset": 1,
    "use_karras_sigmas": False,
}
PREPROCESSOR = {
    "image_processor_type": "CLIPImageProcessor",
    "feature_extractor_type": "CLIPFeatureExtractor",
    "do_convert_rgb": True,
    "do_resize": True,
    "do_center_crop": True,
    "do_rescale": True,
    "do_normalize": True,
    "rescale_factor": 1 / 255,
    "resample": 3,
    "size": {"shortest_edge": IMAGE_SIZE},
    "crop_size": {"height": IMAGE_SIZE, "width": IMAGE_SIZE},
    "image_mean": [0.48145466, 0.4578275, 0.40821073],
    "image_std": [0.26862954, 0.26130258, 0.27577711],
}


class Adapter(nn.Module):
    """An IP-Adapter for `unet`: the image projection, and keys and values for each cross-attention layer."""

    def __init__(self, unet):
        super().__init__()
        self.proj = nn.Linear(IMAGE_EMBED, IMAGE_TOKENS * CONTEXT)
        self.norm = nn.LayerNorm(CONTEXT)
        layers = cross_attentions(unet)
        self.to_k = nn.ModuleList(nn.Linear(CONTEXT, a.inner_dim, bias=False) for a in layers)
        self.to_v = nn.ModuleList(nn.Linear(CONTEXT, a.inner_dim, bias=False) for a in layers)
        for mine, theirs in zip(
            (*self.to_k, *self.to_v), (*(a.to_k for a in layers), *(a.to_v for a in layers)), strict=False
        ):
            mine.weight.data.copy_(theirs.weight.data)

    def forward(self, embeds: Tensor) -> Tensor:
        """(B, IMAGE_EMBED) -> (B, IMAGE_TOKENS, CONTEXT)."""
        return self.norm(self.proj(embeds).unflatten(-1, (IMAGE_TOKENS, CONTEXT)))

    def published_state(self) -> dict[str, Tensor]:
        """The weights under the names of the published IP-Adapter files."""
        state = {f"image_proj.{k}": v for k, v in self.state_dict().items() if k.split(".")[0] in ("proj", "norm")}
        for i, (k, v) in enumerate(zip(self.to_k, self.to_v, strict=True)):
            state[f"ip_adapter.{2 * i + 1}.to_k_ip.weight"] = k.weight
            state[f"ip_adapter.{2 * i + 1}.to_v_ip.weight"] = v.weight
        return state

    def load_published_state(self, state: dict[str, Tensor]) -> None:
        """The inverse of `published_state`."""
        mine = self.published_state()
        assert mine.keys() == state.keys()
        for name, tensor in mine.items():
            tensor.data.copy_(state[name])


def cross_attentions(unet) -> list:
    """The cross-attention layers, in the order of the UNet's `attn_processors` (and of the published files)."""
    modules = dict(unet.named_modules())
    names = (name.removesuffix(".processor") for name in unet.attn_processors)
    return [modules[name] for name in names if name.endswith("attn2")]


@lru_cache
def tokenizer_files() -> tuple[dict[str, int], list[tuple[str, str]]]:
    """Vocabulary and merges of a byte-level BPE (CLIP's kind) in which every word of the captions is one token."""
    alphabet = list(_byte_characters())
    vocabulary = alphabet + [c + "</w>" for c in alphabet]
    words = [[*word[:-1], word[-1] + "</w>"] for word in captions.lexicon()]
    merges: list[tuple[str, str]] = []
    while any(len(word) > 1 for word in words):
        pairs = Counter(pair for word in words for pair in itertools.pairwise(word))
        best = min(pairs, key=lambda pair: (-pairs[pair], pair))
        merges.append(best)
        words = [_merged(word, best) for word in words]
    vocabulary += dict.fromkeys(map("".join, merges))
    vocabulary += [START, END]
    return {token: i for i, token in enumerate(vocabulary)}, merges


def _merged(word: list[str], pair: tuple[str, str]) -> list[str]:
    out: list[str] = []
    for symbol in word:
        if out and (out[-1], symbol) == pair:
            out[-1] += symbol
        else:
            out.append(symbol)
    return out


def _byte_characters():
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    yield from map(chr, printable)
    yield from (chr(256 + i) for i in range(256 - len(printable)))


def parts(seed: int = 0) -> dict[str, nn.Module]:
    """The networks, randomly initialised: vae, text_encoder, text_encoder_2, unet, image_encoder, adapter."""
    from diffusers import AutoencoderKL, UNet2DConditionModel
    from transformers import (
        CLIPTextConfig,
        CLIPTextModel,
        CLIPTextModelWithProjection,
        CLIPVisionConfig,
        CLIPVisionModelWithProjection,
    )

    vocabulary, _ = tokenizer_files()
    text = dict(
        TEXT,
        vocab_size=len(vocabulary),
        bos_token_id=vocabulary[START],
        eos_token_id=vocabulary[END],
        pad_token_id=vocabulary[END],
    )
    torch.manual_seed(seed)
    unet = UNet2DConditionModel(**UNET)
    return {
        "vae": AutoencoderKL(**VAE),
        "text_encoder": CLIPTextModel(CLIPTextConfig(**text, hidden_act="quick_gelu")),
        "text_encoder_2": CLIPTextModelWithProjection(CLIPTextConfig(**text, hidden_act="gelu")),
        "unet": unet,
        "image_encoder": CLIPVisionModelWithProjection(CLIPVisionConfig(**VISION, hidden_act="gelu")),
        "adapter": Adapter(unet),
    }


def save(parts: dict[str, nn.Module], folder: Path) -> int:
    """Write the model folder and return the weights' size in bytes; the parts come back in float16."""
    from safetensors.torch import load_file, save_file

    def write_json(name, value):
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(value, indent=2) + "\n", encoding="utf-8")

    for name, model in parts.items():
        model.half()
        if name == "adapter":
            (folder / "ip_adapter").mkdir(parents=True, exist_ok=True)
            state = {k: v.detach().cpu().contiguous() for k, v in model.published_state().items()}
            save_file(state, folder / "ip_adapter" / "ip-adapter.safetensors")
        elif name == "image_encoder":
            model.save_pretrained(folder / "ip_adapter" / name)
        else:
            model.save_pretrained(folder / name)
    # transformers 5 drops this prefix, transformers 4 needs it, both read it.
    path = folder / "text_encoder" / "model.safetensors"
    state = {f"text_model.{k.removeprefix('text_model.')}": v for k, v in load_file(path).items()}
    save_file(state, path, metadata={"format": "pt"})
    for name in ("text_encoder", "text_encoder_2", "ip_adapter/image_encoder"):
        # transformers 5 would take float16 from here unasked, while diffusers loads the rest in float32.
        config = json.loads((folder / name / "config.json").read_text(encoding="utf-8"))
        write_json(f"{name}/config.json", config | {"dtype": "float32"})
    write_json("ip_adapter/image_encoder/preprocessor_config.json", PREPROCESSOR)
    write_json("scheduler/scheduler_config.json", SCHEDULER)
    vocabulary, merges = tokenizer_files()
    for name in ("tokenizer", "tokenizer_2"):
        write_json(f"{name}/vocab.json", vocabulary)
        text = "#version: 0.2\n" + "".join(f"{a} {b}\n" for a, b in merges)
        (folder / name / "merges.txt").write_text(text, encoding="utf-8")
        special = {"bos_token": START, "eos_token": END, "pad_token": END, "unk_token": END}
        write_json(f"{name}/special_tokens_map.json", special)
        settings = dict(special, tokenizer_class="CLIPTokenizer", model_max_length=MAX_TOKENS, do_lower_case=True)
        write_json(f"{name}/tokenizer_config.json", settings)
    write_json(
        "model_index.json",
        {
            "_class_name": "StableDiffusionXLPipeline",
            "_diffusers_version": "0.30.0",
            "feature_extractor": [None, None],
            "force_zeros_for_empty_prompt": True,
            "image_encoder": [None, None],
            "scheduler": ["diffusers", "EulerDiscreteScheduler"],
            "text_encoder": ["transformers", "CLIPTextModel"],
            "text_encoder_2": ["transformers", "CLIPTextModelWithProjection"],
            "tokenizer": ["transformers", "CLIPTokenizer"],
            "tokenizer_2": ["transformers", "CLIPTokenizer"],
            "unet": ["diffusers", "UNet2DConditionModel"],
            "vae": ["diffusers", "AutoencoderKL"],
        },
    )
    return sum(path.stat().st_size for path in folder.rglob("*.safetensors"))


if __name__ == "__main__":
    models = parts()
    for name, model in models.items():
        print(f"{name:15} {sum(p.numel() for p in model.parameters()):>9,} parameters")
    print(f"{save(models, Path(sys.argv[1])):,} bytes of weights")
