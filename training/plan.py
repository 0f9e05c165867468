"""How long the training is, and how large: stages, steps, seconds, numbers of pictures."""

from __future__ import annotations

from dataclasses import dataclass

STAGES = ("vae", "judge", "text", "base", "image_encoder", "adapter")
#: Sizes seen in training, as shares of the usual height and width: the usual one, the one to begin with, others.
SIZES = ((1, 1), (0.5, 0.5), (0.75, 0.75), (1, 1.25), (1.25, 1))
USUAL, HALF = 0, 1


@dataclass(frozen=True)
class Plan:
    """The size of the training: steps and seconds by stage, numbers of pictures, batch sizes.

    early: the share of base and adapter spent on pictures of half the size (a quarter of the work, in batches twice as
    large): what words mean and where things stand is learnt there.
    """

    steps: dict[str, int]
    seconds: dict[str, float]
    size: int
    pictures: int
    other_pictures: int
    batch: int
    small_batch: int
    chunk: int
    early: float
    compile: bool


FULL = Plan(
    steps={"judge": 20000, "vae": 6000, "text": 1500, "base": 60000, "image_encoder": 6000, "adapter": 40000},
    seconds={"judge": 90, "vae": 100, "text": 15, "base": 480, "image_encoder": 45, "adapter": 600},
    size=256,
    pictures=120_000,
    other_pictures=8_000,
    batch=256,
    small_batch=96,
    chunk=400,
    early=0.35,
    compile=True,
)
SMOKE = Plan(
    steps=dict.fromkeys(FULL.steps, 2),
    seconds=dict.fromkeys(FULL.seconds, 60.0),
    size=128,
    pictures=24,
    other_pictures=4,
    batch=8,
    small_batch=4,
    chunk=8,
    early=0.5,
    compile=False,
)
#: What two CPU cores can do in half an hour: the same path, smaller pictures, a rough result.
MODEST = Plan(
    steps=FULL.steps,
    seconds={"judge": 120, "vae": 330, "text": 60, "base": 800, "image_encoder": 200, "adapter": 640},
    size=128,
    pictures=8_000,
    other_pictures=600,
    batch=24,
    small_batch=12,
    chunk=40,
    early=0.5,
    compile=False,
)
