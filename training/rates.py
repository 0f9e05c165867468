"""How fast a training step of the base is here, in about a minute: `python -m training.rates`.

For pictures of half and of the usual size, in several batch sizes: launch by launch, recorded as a CUDA graph, and
compiled as well; and where the GPU's time goes. From the table come the seconds, the batch and whether to compile for
`training.train`. The rows that matter most come first. Weights are untrained and inputs random: time does not depend
on them.
"""

from __future__ import annotations

import argparse
import time
from functools import partial

import torch

from training import architecture
from training.denoising import denoising_loss, noise_levels
from training.trainer import WORK, Trainer, compiled


def inputs(batch: int, side: int, device) -> tuple[torch.Tensor, ...]:
    """What `denoising_loss` takes, random, for latents of side x side."""
    latents, noise = torch.randn(2, batch, 4, side, side, device=device)
    timestep = torch.randint(1000, (batch,), device=device)
    hidden = torch.randn(batch, architecture.MAX_TOKENS, architecture.CONTEXT, device=device, dtype=WORK)
    pooled = torch.randn(batch, architecture.POOLED, device=device, dtype=WORK)
    return latents, noise, timestep, hidden, pooled, torch.full((batch, 6), 256.0, device=device, dtype=WORK)


def loss(net, alphas, latents, noise, timestep, hidden, pooled, time_ids) -> torch.Tensor:
    return denoising_loss(net, latents, noise, timestep, alphas, hidden, pooled, time_ids).mean()


def wait(device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize()


def measured(step, seconds: float, device) -> float:
    """Steps a second, over about `seconds`."""
    for _ in range(3):
        step()
    wait(device)
    begun, count = time.time(), 0
    while time.time() - begun < seconds:
        for _ in range(4):
            step()
        wait(device)
        count += 4
    return count / (time.time() - begun)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--batches", type=int, nargs="+", default=[256, 512, 128])
    parser.add_argument("--sides", type=int, nargs="+", default=[32, 16], help="of the latents")
    parser.add_argument("--compile", type=int, default=1, help="how many rows are compiled too, from the first")
    parser.add_argument("--seconds", type=float, default=1.0, help="for each row of the table")
    options = parser.parse_args()
    begun = time.time()
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    torch.backends.cudnn.benchmark = True
    unet = architecture.parts(0)["unet"].to(device)
    trainer = Trainer([unet], 1e-5)
    alphas = noise_levels(device)

    def row(way, net, side, given):
        loss_of = partial(loss, net, alphas)
        plain = partial(one_by_one, trainer, loss_of, given)
        step = plain if way == "one by one" else partial(trainer.step, loss_of, 0.5, *given)
        rate = measured(step, options.seconds, device)
        batch = len(given[0])
        memory = torch.cuda.max_memory_allocated() / 2**30 if device.type == "cuda" else 0.0
        print(f"{way:10} {side:>7} {batch:>6} {rate:>9.1f} {rate * batch:>10,.0f} {memory:>6.1f}", flush=True)
        trainer.recorded.clear()
        trainer.pool = None

    print(f"{'way':10} {'latents':>7} {'batch':>6} {'steps/s':>9} {'samples/s':>10} {'GiB':>6}", flush=True)
    for number, (side, batch) in enumerate((side, batch) for side in options.sides for batch in options.batches):
        given = inputs(batch, side, device)
        if batch == options.batches[0]:
            row("one by one", unet, side, given)
        if number == 0 and device.type == "cuda":
            profile(partial(one_by_one, trainer, partial(loss, unet, alphas), given))
        if device.type == "cuda":
            row("recorded", unet, side, given)
        if number < options.compile:
            row("compiled", compiled_for(unet, given), side, given)
    print(f"{time.time() - begun:.0f} s in all")


def one_by_one(trainer: Trainer, loss_of, given) -> None:
    trainer.gradient.zero_()
    loss_of(*given).backward()


def compiled_for(unet, given):
    latents, _, timestep, hidden, pooled, time_ids = given
    added = {"text_embeds": pooled, "time_ids": time_ids}
    return compiled(unet, (latents.to(WORK), timestep, hidden), {"added_cond_kwargs": added})


def profile(step) -> None:
    """The ten operations of a step that take the GPU longest."""
    from torch.profiler import ProfilerActivity

    step()
    with torch.profiler.profile(activities=[ProfilerActivity.CPU, ProfilerActivity.CUDA]) as seen:
        step()
        torch.cuda.synchronize()
    rows = sorted(seen.key_averages(), key=lambda row: -row.self_device_time_total)
    for row in rows[:10]:
        print(f"  {row.self_device_time_total / 1000:7.2f} ms {row.count:>4} x {row.key[:90]}")


if __name__ == "__main__":
    main()
