"""Weights and long prompts against diffusers' pipeline, which is given prompt embeds made by each program's rule."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import ipa_cli

pytestmark = pytest.mark.slow

DEMO = Path(ipa_cli.__file__).parent / "demo"
STEPS, SIDE, SEED, GUIDANCE = 3, 96, 3, 5.0
NEGATIVE = "a small circle"

# A chunk is pieces of text with their weights.
Chunk = list[tuple[str, float]]


@pytest.fixture(scope="module")
def pipeline():
    from diffusers import StableDiffusionXLPipeline

    pipeline = StableDiffusionXLPipeline.from_pretrained(DEMO)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def encoded(pipeline, chunks: list[Chunk], rule: str) -> tuple[torch.Tensor, torch.Tensor]:
    """Hidden states of both encoders, (1, 77 * chunks, dim), and the pooled state of the first chunk."""
    sides, pooled = [], None
    for name in ("", "_2"):
        tokenizer, encoder = getattr(pipeline, f"tokenizer{name}"), getattr(pipeline, f"text_encoder{name}")
        parts = []
        for chunk in chunks:
            ids, weights = [tokenizer.bos_token_id], [1.0]
            for text, weight in chunk:
                own = tokenizer(text, add_special_tokens=False).input_ids
                ids, weights = ids + own, weights + [weight] * len(own)
            ids += [tokenizer.eos_token_id] + [tokenizer.pad_token_id] * (76 - len(ids))
            weights += [1.0] * (77 - len(weights))
            nothing = [tokenizer.bos_token_id, tokenizer.eos_token_id, *[tokenizer.pad_token_id] * 75]
            with torch.no_grad():
                found = encoder(torch.tensor([ids]), output_hidden_states=True)
                states = found.hidden_states[-2]
                empty = encoder(torch.tensor([nothing]), output_hidden_states=True).hidden_states[-2]
            by = torch.tensor(weights)[:, None]
            if rule == "a1111":
                mean = states.mean()
                states = states * by
                states = states * (mean / states.mean())
            else:
                states = (states - empty) * by + empty
            parts.append(states)
            if name and pooled is None:
                pooled = found.text_embeds
        sides.append(torch.cat(parts, 1))
    return torch.cat(sides, -1), pooled


def theirs(pipeline, positive: list[Chunk], rule: str, negative: list[Chunk]) -> np.ndarray:
    hidden, pooled = encoded(pipeline, positive, rule)
    other, other_pooled = encoded(pipeline, negative, rule)
    picture = pipeline(
        prompt_embeds=hidden,
        pooled_prompt_embeds=pooled,
        negative_prompt_embeds=other,
        negative_pooled_prompt_embeds=other_pooled,
        num_inference_steps=STEPS,
        guidance_scale=GUIDANCE,
        height=SIDE,
        width=SIDE,
        generator=torch.Generator("cpu").manual_seed(SEED),
    )
    return np.asarray(picture.images[0], dtype=int)


def ours(ipa, prompt: str, *flags: object) -> np.ndarray:
    size = ("--width", SIDE, "--height", SIDE, "--steps", STEPS, "--warmup", 0, "--ip-adapter", "none")
    settings = ("--prompt", prompt, "--seed", SEED, "--guidance-scale", GUIDANCE, "--backend", "eager")
    (image,) = ipa("generate", *size, *settings, *flags, "--json").data()["images"]
    with Image.open(image["path"]) as picture:
        return np.asarray(picture, dtype=int)


@pytest.mark.parametrize("rule", ["a1111", "comfyui"])
def test_a_weighted_prompt_is_drawn_by_the_rule_of_its_syntax(ipa, pipeline, rule):
    prompt, negative = "a (large:1.4) star in the (((middle)))", "a (small:0.6) circle"
    expected = theirs(
        pipeline,
        [[("a ", 1), ("large", 1.4), (" star in the ", 1), ("middle", 1.1**3)]],
        rule,
        [[("a ", 1), ("small", 0.6), (" circle", 1)]],
    )
    flags = ("--negative-prompt", negative, "--prompt-syntax", rule)
    assert expected.std() > 5
    assert abs(ours(ipa, prompt, *flags) - expected).max() <= 1
    plain = ours(ipa, "a large star in the middle", "--negative-prompt", "a small circle")
    assert abs(plain - expected).max() > 1  # the weights matter


def test_the_two_rules_draw_two_pictures(ipa):
    both = [ours(ipa, "a (large:1.4) star", "--prompt-syntax", rule) for rule in ("a1111", "comfyui")]
    assert abs(both[0] - both[1]).max() > 1


def test_a_long_prompt_counts_to_its_end(ipa, pipeline):
    first, second = "star " * 75, "a large (ring:1.2) in the middle"
    positive = [[(first, 1.0)], [("a large ", 1.0), ("ring", 1.2), (" in the middle", 1.0)]]
    expected = theirs(pipeline, positive, "a1111", [[(NEGATIVE, 1.0)], []])
    assert abs(ours(ipa, f"{first} {second}", "--negative-prompt", NEGATIVE) - expected).max() <= 1
    assert abs(ours(ipa, first, "--negative-prompt", NEGATIVE) - expected).max() > 1


def test_break_and_a_negative_prompt_that_is_longer(ipa, pipeline):
    expected = theirs(
        pipeline,
        [[("a star", 1.0)], [("a ring", 1.0)], []],
        "a1111",
        [[("a circle", 1.0)], [("blue", 1.0)], [("small", 1.0)]],
    )
    negative = ("--negative-prompt", "a circle BREAK blue BREAK small")
    assert abs(ours(ipa, "a star BREAK a ring", *negative) - expected).max() <= 1


def test_an_empty_negative_prompt_is_zeros_as_long_as_the_prompt(ipa, pipeline):
    hidden, pooled = encoded(pipeline, [[("a star", 1.0)], [("a ring", 1.0)]], "a1111")
    arguments = {"num_inference_steps": STEPS, "guidance_scale": GUIDANCE, "height": SIDE, "width": SIDE}
    generator = torch.Generator("cpu").manual_seed(SEED)
    picture = pipeline(prompt_embeds=hidden, pooled_prompt_embeds=pooled, generator=generator, **arguments)
    assert abs(ours(ipa, "a star BREAK a ring") - np.asarray(picture.images[0], dtype=int)).max() <= 1


def test_a_literal_prompt_is_cut_where_diffusers_cuts_it(ipa, pipeline):
    prompt = "(star:1.4) " * 20 + "a ring"
    generator = torch.Generator("cpu").manual_seed(SEED)
    arguments = {"num_inference_steps": STEPS, "guidance_scale": GUIDANCE, "height": SIDE, "width": SIDE}
    expected = np.asarray(pipeline(prompt, generator=generator, **arguments).images[0], dtype=int)
    assert abs(ours(ipa, prompt, "--prompt-syntax", "literal") - expected).max() <= 1


def test_more_chunks_and_what_is_left_out_are_told(ipa):
    flags = ("--steps", 1, "--width", 64, "--height", 64, "--warmup", 0, "--ip-adapter", "none")
    long = "star " * 80 + "ring"
    told = ipa("generate", *flags, "--prompt", long).stderr
    assert "the prompt takes 2 chunks of 77 tokens" in told and "left out" not in told
    told = ipa("generate", *flags, "--prompt", long, "--prompt-syntax", "literal").stderr
    assert "the prompt is longer than 75 tokens; left out: star star star star star ring" in told


def test_a_picture_is_drawn_again_in_the_syntax_it_was_drawn_in(ipa, world):
    flags = ("--width", 64, "--height", 64, "--steps", 1, "--warmup", 0, "--ip-adapter", "none", "--seed", 1)
    for number, syntax in enumerate(("a1111", "comfyui", "literal")):
        drawn = ("--prompt", "a (large:1.6) star", "--prompt-syntax", syntax, "-o", f"{number}.png")
        assert ipa("generate", *flags, *drawn).exit_code == 0
        assert ipa("generate", "--from", f"{number}.png", "-o", f"{number}-again.png").exit_code == 0
    pixels = {path.stem: Image.open(path).tobytes() for path in world.cwd.glob("*.png")}
    assert all(pixels[str(number)] == pixels[f"{number}-again"] for number in range(3))
    assert len(set(pixels.values())) == 3
