"""Train the demo model from nothing: `python -m training.train OUT`, then `python -m training.evaluate OUT`.

Stages: the picture autoencoder, the classifier that judges, the text encoders, the base, the image encoder, and the
adapter with base and image encoder. Each ends after its steps or its seconds, whichever comes first, and writes its
weights at once; a stage whose weights OUT already holds is skipped, unless `--again` names it, which goes on from them.
Base and adapter also write what they have every half minute: a run that was cut goes on from there.
"""

from __future__ import annotations

import argparse
import math
import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from training import architecture, captions, judging, measure, pools, references, scenes, styles, styling
from training.captions import NONE
from training.denoising import check, denoising_loss, noise_levels
from training.latents import latents_of
from training.plan import FULL, HALF, MODEST, SMOKE, STAGES, USUAL, Plan
from training.pools import Batches, Pool, encode_text, tokenise
from training.trainer import WORK, Clock, Trainer, compiled

# Text encoders and base


def train_text(first, second, pool: Pool, plan: Plan, generator) -> None:
    """Train the text encoders to predict what a caption states; they are frozen for the later stages."""
    sizes = {"kind": 10, "second": 10, "count": 5, "relation": 2, "size": 3, "place": 9, "colour": 12, "ground": 12}
    total = sum(sizes.values()) + len(sizes)
    heads = nn.ModuleList([nn.Linear(w, total) for w in (architecture.CONTEXT, architecture.POOLED)])
    heads = heads.to(generator.device)
    trainer = Trainer([first, second, heads], 2e-3)
    splits = [size + 1 for size in sizes.values()]

    def loss_of(tokens, goals):
        hidden, pooled = encode_text(first, second, tokens)
        ends = tokens.argmax(-1)  # the end token has the highest number
        last = hidden[torch.arange(len(ends), device=ends.device), ends]
        predicted = [head(x).float().split(splits, 1) for head, x in zip(heads, (last, pooled), strict=True)]
        return sum(F.cross_entropy(part[i], goals[i]) for part in predicted for i in range(len(sizes)))

    clock = Clock("text", plan.steps["text"], plan.seconds["text"])
    for step, spent in clock:
        index = torch.randint(len(pool), (plan.batch,), generator=generator, device=pool.latents.device)
        stated = [getattr(pool.content, name)[index] for name in sizes]
        goals = [torch.where(goal == NONE, size, goal) for goal, size in zip(stated, sizes.values(), strict=True)]
        clock.log(step, trainer.step(loss_of, spent, pool.tokens[index], torch.stack(goals)))
    trainer.finish()
    with torch.no_grad():  # on captions of its own
        content = captions.sample_content(1000, generator)
        predicted = heads[1](
            encode_text(first, second, tokenise(captions.captions(content, 1)).to(generator.device))[1]
        )
    shares = []
    for (name, size), part in zip(sizes.items(), predicted.split(splits, 1), strict=True):
        goal = getattr(content, name)
        shares.append(f"{name} {100 * (part.argmax(1) == torch.where(goal == NONE, size, goal)).float().mean():.1f} %")
    print(f"[text] predicted correctly: {', '.join(shares)}", flush=True)


def quick(unet, batches: Batches, context: Any) -> Callable:
    """The network compiled by torch.compile for pictures of the usual size, which take most of the time."""
    _, (latents, _, timestep, _, pooled, time_ids) = batches.draw(USUAL)
    added = {"text_embeds": pooled, "time_ids": time_ids}
    return compiled(unet, (latents.to(WORK), timestep, context), {"added_cond_kwargs": added})


def train_base(unet, batches: Batches, plan: Plan, again: bool, save: Callable) -> None:
    trainer = Trainer([unet], 1e-3 if not again else 6e-4)
    net = unet
    alphas = noise_levels(batches.device)

    def loss_of(latents, noise, timestep, hidden, pooled, time_ids):
        return denoising_loss(net, latents, noise, timestep, alphas, hidden, pooled, time_ids).mean()

    def conditions(number, index, other):
        return batches.at(number, other)[1:3]

    clock = Clock("base", plan.steps["base"], plan.seconds["base"])
    for step, spent in clock:
        number = batches.number(step, spent)
        if net is unet and number == USUAL and plan.compile and batches.device.type == "cuda":
            net = quick(unet, batches, batches.draw(USUAL)[1][3])
        _, (*noised, hidden, pooled, time_ids) = batches.draw(number)
        words = batches.without_words(hidden, pooled, batches.chance(len(hidden)) < 0.1)
        clock.log(step, trainer.step(loss_of, spent, *noised, *words, time_ids))
        if clock.due():
            save({"unet": trainer.averages(unet)})
            with trainer.averaged():
                check("base", unet, batches, HALF if spent < plan.early else USUAL, alphas, conditions)
    with trainer.averaged():
        check("base", unet, batches, USUAL, alphas, conditions)
    trainer.finish()


# The picture autoencoder


def picture_pool(n: int, plan: Plan, generator) -> Tensor:
    """(n, 3, 256, 256) uint8: mostly scenes, some swatches and photograph-like pictures."""
    out = torch.empty(n, 3, 256, 256, dtype=torch.uint8, device=generator.device)
    for start in range(0, n, plan.chunk):
        count = min(plan.chunk, n - start)
        style = styles.sample_styles(count, generator)
        content = scenes.settle(captions.sample_content(count, generator), style)
        pictures = scenes.draw(content, style, 256, 256, generator)
        part = count // 6
        if part:
            photo = torch.rand(part, generator=generator, device=generator.device) < 0.6
            pictures[:part] = scenes.abstract(style.take(slice(part)), photo, 256, 256, generator)
        out[start : start + count] = (pictures * 255).round().byte()
    return out


def train_vae(vae, plan: Plan, generator) -> None:
    """Train the decoder to reconstruct pictures from `latents_of` them, and the encoder to predict those."""
    device = generator.device
    pool = picture_pool(min(plan.pictures // 4, 12_000), plan, generator)
    trainer = Trainer([vae], 1.5e-3, average=0.998)
    size = 128

    def loss_of(pictures, latents, blurred):
        error = vae.decode(blurred.to(WORK)).sample.float() - (pictures * 2 - 1)
        edges = error.diff(dim=-1).abs().mean() + error.diff(dim=-2).abs().mean()
        predicted = vae.encode((pictures * 2 - 1).to(WORK)).latent_dist.parameters.float()
        goal = torch.cat([latents, torch.full_like(latents, -6.0)], 1)  # a deviation of 0.05
        encoder_loss = F.smooth_l1_loss(predicted, goal)
        return error.abs().mean() + error.square().mean() + 0.5 * edges + 0.2 * encoder_loss

    clock = Clock("vae", plan.steps["vae"], plan.seconds["vae"])
    for step, spent in clock:
        index = torch.randint(len(pool), (plan.small_batch,), generator=generator, device=device)
        top, left = (8 * int(x) for x in torch.randint(1 + (256 - size) // 8, (2,)))
        pictures = pool[index, :, top : top + size, left : left + size].float() / 255
        latents = latents_of(pictures)
        jitter = torch.randn(latents.shape, generator=generator, device=device)
        clock.log(step, trainer.step(loss_of, spent, pictures, latents, latents + 0.05 * jitter))
    trainer.finish()
    with torch.no_grad():
        check = pool[: min(192, len(pool))].float() / 255
        drawn = torch.cat([vae.decode(latents_of(part)).sample for part in check.split(32)])
        predicted = torch.cat([vae.encode(part * 2 - 1).latent_dist.mean for part in check.split(32)])
        error = (drawn / 2 + 0.5).clamp(0, 1) - check
        psnr = -10 * error.square().mean((1, 2, 3)).log10()
        off = (predicted - latents_of(check)).square().mean().sqrt()
        print(f"[vae] decoder PSNR {psnr.mean():.1f} dB, encoder's error {off:.3f}", flush=True)


# All of it


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path, help="folder for the stages' weights")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--smoke", action="store_true", help="a run of seconds, to see that everything works")
    parser.add_argument("--modest", action="store_true", help="half an hour without a GPU, a rough result")
    parser.add_argument("--seconds", default="", help="other limits, for example base=120,adapter=60")
    parser.add_argument("--stages", default=",".join(STAGES), help="which to do, for example text,base")
    parser.add_argument("--until", type=float, default=math.inf, help="seconds in all after which the adapter ends")
    parser.add_argument("--batch", type=int, help="another batch size for base and adapter")
    parser.add_argument("--early", type=float, help="another share of base and adapter at half the size")
    parser.add_argument("--no-compile", action="store_true", help="the base as it is, without torch.compile")
    parser.add_argument("--photographs", type=Path, help="folder of grey .jpg files, which references are made of too")
    parser.add_argument("--start", type=Path, help="a model folder whose VAE, text encoders and base are taken")
    parser.add_argument("--again", default="", help="stages to go on with, for example base,adapter")
    options = parser.parse_args()
    plan = SMOKE if options.smoke else MODEST if options.modest else FULL
    for pair in filter(None, options.seconds.split(",")):
        name, value = pair.split("=")
        plan.seconds[name] = float(value)
    plan = replace(
        plan,
        batch=options.batch or plan.batch,
        early=plan.early if options.early is None else options.early,
        compile=plan.compile and not options.no_compile,
    )
    named = (tuple(filter(None, names.split(","))) for names in (options.stages, options.again))
    if options.start and not (options.out / "base.pt").exists():
        begin_from(options.start, options.out)
    run(options.out, options.seed, plan, *named, photographs=options.photographs, until=options.until)


#: The networks that a stage trains, where they are not one of its name.
NETWORKS = {
    "text": ("text_encoder", "text_encoder_2"),
    "base": ("unet",),
    "adapter": ("unet", "adapter", "image_encoder"),
}


def run(
    out: Path,
    seed: int,
    plan: Plan,
    stages: tuple[str, ...] = STAGES,
    again: tuple[str, ...] = (),
    photographs: Path | None = None,
    until: float = math.inf,
) -> None:
    begun = time.time()
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = True
    torch.backends.cudnn.benchmark = True
    models = architecture.parts(seed) | {"judge": measure.Judge()}
    for model in models.values():
        model.to(device)
    out.mkdir(parents=True, exist_ok=True)
    given = references.Photographs(photographs, device) if photographs else None
    cache: dict = {}

    def drawn(generator):
        if "pools" not in cache:
            cache["pools"] = pools.pools(plan, generator, given)
        return cache["pools"]

    def batches(generator):
        if "batches" not in cache:
            texts = models["text_encoder"], models["text_encoder_2"]
            cache["batches"] = Batches(*texts, drawn(generator), plan, generator)
        return cache["batches"]

    def train(stage: str, generator, repeat: bool, save: Callable) -> None:
        if stage == "vae":
            train_vae(models["vae"], plan, generator)
        elif stage == "judge":
            judging.train_judge(models["judge"], models["vae"], plan, generator, given)
        elif stage == "text":
            train_text(models["text_encoder"], models["text_encoder_2"], drawn(generator)[USUAL], plan, generator)
        elif stage == "base":
            train_base(models["unet"], batches(generator), plan, repeat, save)
        elif stage == "image_encoder":
            styling.train_image_encoder(models["image_encoder"], drawn(generator)[USUAL], plan, generator)
        else:
            if not repeat:  # its keys and values begin as the trained base's
                models["adapter"] = architecture.Adapter(models["unet"]).to(device)
            ready = batches(generator)
            left = max(1.0, min(plan.seconds[stage], until - (time.time() - begun)))
            limited = replace(plan, seconds={**plan.seconds, stage: left})
            styling.train_adapter(models, ready, limited, repeat, save, quick)

    def load(stage: str) -> Path | None:
        held = next((p for p in (out / f"{stage}.partial.pt", out / f"{stage}.pt") if p.exists()), None)
        if held:
            for name, state in torch.load(held, map_location=device, weights_only=True).items():
                models[name].load_state_dict(state)
        return held

    for number, stage in enumerate(STAGES):
        path, cut = out / f"{stage}.pt", out / f"{stage}.partial.pt"
        held = load(stage)
        if stage in stages and (held != path or stage in again):
            torch.manual_seed(seed + number)
            generator = torch.Generator(device).manual_seed(1000 * seed + 17 * number + (500 if held else 0))
            train(stage, generator, bool(held), partial(_write, cut))
            _write(path, {name: models[name].state_dict() for name in NETWORKS.get(stage, (stage,))})
            cut.unlink(missing_ok=True)
            print(f"[{stage}] written after {time.time() - begun:.0f} s", flush=True)
    size = assemble(out)
    print(f"{size:,} bytes of weights in {out / 'demo'}, {time.time() - begun:.0f} s in all", flush=True)


def begin_from(folder: Path, out: Path) -> None:
    """Write the stages vae, text and base from a model folder."""
    from safetensors.torch import load_file

    files = {"unet": "unet/diffusion_pytorch_model", "vae": "vae/diffusion_pytorch_model"}
    models = architecture.parts()
    out.mkdir(parents=True, exist_ok=True)
    for stage in ("vae", "text", "base"):
        states = {}
        for name in NETWORKS.get(stage, (stage,)):
            found = load_file(folder / f"{files.get(name, name + '/model')}.safetensors")
            wanted = models[name].state_dict().keys()
            bare = {k.removeprefix("text_model."): v for k, v in found.items()}
            states[name] = found if found.keys() == wanted else {k: bare[k.removeprefix("text_model.")] for k in wanted}
        _write(out / f"{stage}.pt", states)


def assemble(out: Path) -> int:
    """Write the model folder OUT/demo from the stages' files, finished or cut, and return the weights' bytes."""
    models = architecture.parts()
    for stage in STAGES:
        for path in (out / f"{stage}.pt", out / f"{stage}.partial.pt"):
            if path.exists():
                for name, state in torch.load(path, map_location="cpu", weights_only=True).items():
                    if name in models:
                        models[name].load_state_dict(state)
    return architecture.save(models, out / "demo")


def _write(path: Path, states: dict[str, dict[str, Tensor]]) -> None:
    """In float16, by an atomic replacement."""
    half = {
        name: {k: v.detach().half() if v.is_floating_point() else v for k, v in state.items()}
        for name, state in states.items()
    }
    beside = path.with_suffix(".part")
    torch.save(half, beside)
    beside.replace(path)


if __name__ == "__main__":
    main()
