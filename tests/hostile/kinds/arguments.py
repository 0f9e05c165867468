"""What is typed: combinations of flags that are right up to the work itself, and words that are never right."""

from __future__ import annotations

import json
from pathlib import Path
from random import Random

from ipa_cli.config import FIELDS
from tests.hostile.case import Attack, replace
from tests.hostile.kinds.weights import encoded
from tests.hostile.mutation import VALUES
from tests.images.carried import PICTURE, SETTINGS
from tests.zoo.layouts import DEMO, linked

# Names in the folder that `furnish` fills.
CAT, DRAWN, MASK, PROMPTS, MODEL = "cat.png", "drawn.png", "mask.png", "prompts.txt", "model"
EMBEDS = "ip-adapter.safetensors"
SMALL = ("--warmup", "0", "--device", "cpu", "--no-compile", "--json")
# Flags with values that work in that folder, and some that only just do.
DRAWING = {
    "--scale": ("0", "0.6", "1e-30", "10"),
    "--steps": ("1", "2", "3"),
    "--guidance-scale": ("0", "1", "1.0000001", "7.5", "100"),
    "--negative-prompt": ("", "blurry", "ü\u202e👍", "x " * 400),
    "--scheduler": ("euler", "euler-a", "ddim", "dpm++", "unipc", "lcm", "heun", "dpm2", "pndm"),
    "--fit": ("pad", "crop", "stretch"),
    "--ip-mode": ("full", "style", "layout", "style-layout"),
    "--ip-layers": ('{"down": 0.5}', '{"up": {"block_0": [0, 1, 0]}}', '{"mid": 1}'),
    "--ip-start": ("0", "0.5", "1"),
    "--ip-end": ("0", "0.5", "1"),
    "--mask": (MASK,),
    "--adapter": (f"own,image={CAT},scale=0.4", f"own,image={CAT},image={MASK},mode=style,start=0.5"),
    "--model": ("demo", MODEL),
    "--vae": (f"{MODEL}/vae", f"{MODEL}/vae/diffusion_pytorch_model.safetensors"),
    "--ip-adapter": ("none", f"{MODEL}/ip_adapter"),
    "--image-encoder": (f"{MODEL}/ip_adapter/image_encoder",),
    "--dtype": ("auto", "float32", "bfloat16", "float16"),
    "--load-format": ("auto", "dummy"),
    "--offload": ("none", "model", "sequential"),
    "--backend": ("auto", "eager", "inductor"),
    "--cache-max-size": ("0", "1", "20GB"),
}
GENERATE = DRAWING | {
    "--image": (CAT, ".", "*.png"),
    "--image-weight": ("0", "0.5", "10"),
    "--embeds": (EMBEDS,),
    "--prompt": ("a star", "", "@prompts.txt", "(a:1.2) [b] BREAK AND", "x" * 5000, "{seed}{0.__class__}%s"),
    "--prompts-from": (PROMPTS,),
    "--width": ("64", "72", "128"),
    "--height": ("64", "200"),
    "--seed": ("0", "7", str(2**63 - 1)),
    "--num-images": ("1", "2"),
    "--batch-size": ("1", "2", "64"),
    "--output": ("out/{seed}.png", "out/", "{prompt}-{index}.webp", "a b.jpg", f"{'x' * 240}.png", CAT),
    "--format": ("png", "jpg", "webp", "avif"),
    "--quality": ("1", "100"),
    "--from": (DRAWN, CAT),
}
SWEEP = DRAWING | {
    "--image": (CAT, MASK),
    "--embeds": (EMBEDS,),
    "--prompt": ("a star", ""),
    "--scales": ("0", "0,1", "0.1,0.1", "1,0,0.5"),
    "--size": ("64x64", "64x72"),
    "--seed": ("0", str(2**63 - 1)),
    "--output": ("out", "."),
}
EMBED = {name: DRAWING[name] for name in ("--fit", "--image-encoder", "--dtype")} | {
    "--ip-adapter": (f"{MODEL}/ip_adapter",),
    "--model": ("demo", MODEL),
    "--output": ("e.safetensors", "out/e.safetensors", EMBEDS),
}
SWITCHES = ("--force", "--vae-tiling", "--vae-slicing", "--quiet", "--verbose")
COMMANDS = (
    ("generate",), ("sweep-scale",), ("embed",), ("config", "show"), ("config", "get"), ("config", "set"),
    ("cache", "ls"),
    ("cache", "clear"), ("cache", "verify"), ("cache", "export"), ("cache", "import"), ("cache", "dir"),
    ("nothing",), (),
)  # fmt: skip


def text(random: Random) -> str:
    """A value as one word of a command line."""
    value = random.choice(VALUES)
    word = value if isinstance(value, str) else json.dumps(value)
    return word.replace("\0", "").encode("utf-8", "surrogatepass").decode("utf-8", "replace")[:2000]


def furnish(folder: Path) -> None:
    """A picture, one that `ipa` drew, a mask, embeddings, prompts and a model."""
    from ipa_cli.images.encode import save

    save(folder / DRAWN, PICTURE, {**SETTINGS, "steps": 2, "height": 64, "model": "demo", "adapters": []})
    replace(folder / CAT, (DEMO / "reference.png").read_bytes())
    replace(folder / MASK, (DEMO / "reference.png").read_bytes())
    replace(folder / EMBEDS, encoded())
    (folder / PROMPTS).write_text('a star\n{"prompt": "a moon", "seed": 3}\n')
    linked(folder / MODEL)


def combination(random: Random) -> Attack:
    """Flags that work, most of them together; at times one has a value that does not."""
    command, known, basic, least = random.choice(
        (
            *[("generate", GENERATE, {"--width": "64", "--height": "64", "--steps": "1", "--prompt": "a star"}, 2)] * 3,
            ("sweep-scale", SWEEP, {"--size": "64x64", "--steps": "1", "--scales": "0,1", "--image": CAT}, 1),
            ("embed", EMBED, {"--output": "e.safetensors"}, 0),
        )
    )
    chosen = basic | {name: random.choice(known[name]) for name in random.sample(list(known), random.randint(least, 5))}
    if random.random() < 0.25:
        chosen[random.choice(list(chosen))] = text(random)
    words = [command, *([CAT] if command == "embed" else SMALL), *(word for pair in chosen.items() for word in pair)]
    if command != "embed":
        words += random.sample(SWITCHES, random.randint(0, 2))
    return Attack(" ".join(words)[:200], tuple(words), furnish)


def any_words(random: Random) -> Attack:
    """Any command with flags that say anything."""
    words = list(random.choice(COMMANDS))
    for _ in range(random.randint(1, 4)):
        name = random.choice([*FIELDS, "from", "size", "json", "force", "yes", "resume", "scales", "frobnicate"])
        words += [f"--{name.replace('_', '-')}", text(random)]
    if random.random() < 0.3:
        words.append(text(random))
    if words[:1] == ["generate"]:
        words += ["--width", "64", "--height", "64", "--steps", "1", *SMALL]
    return Attack(" ".join(words)[:80], tuple(words))


KINDS = {"arguments": combination, "words": any_words}
