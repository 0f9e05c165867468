"""Does a picture's style come nearer to its reference as the scale rises? `python -m training.sweep_rows OUT`.

Sweeps the shipped model with `ipa sweep-scale`: five scales, three references in styles that training never saw, two
sizes; a row of the table is a reference at a size, the mean over two prompts and several seeds. Flags that are not
listed go to the sweep (`--backend eager --guidance-scale 2`). A sweep that was stopped goes on where it was.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
from collections import defaultdict
from itertools import pairwise
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from training import measure
from training.evaluate import SCALES, SEED, SHEET_PROMPTS, pil, program_references

REFERENCES = 3

Row = dict[float, list[float]]  # scale: the distances of all prompts and seeds, always in the same order


def draw_references(out: Path) -> list[Path]:
    out.mkdir(parents=True, exist_ok=True)
    paths = [out / f"reference-{number}.png" for number in range(1, REFERENCES + 1)]
    for path, picture in zip(
        paths, program_references(REFERENCES, torch.Generator().manual_seed(SEED))[1], strict=True
    ):
        pil(picture).save(path)
    return paths


def sweep(out: Path, seeds: int, sizes: list[str], extra: list[str]) -> None:
    axes = {
        "--scales": [",".join(map(str, SCALES))],
        "--image": map(str, draw_references(out)),
        "--prompt": SHEET_PROMPTS,
        "--size": sizes,
        "--seed": map(str, range(seeds)),
    }
    flags = [part for flag, values in axes.items() for value in values for part in (flag, value)]
    command = [sys.executable, "-m", "ipa_cli", "sweep-scale", *flags, "--output", str(out / "sweep"), "--resume"]
    subprocess.run([*command, *extra], check=True)


def features(path: Path) -> tuple[torch.Tensor, torch.Tensor]:
    pixels = torch.from_numpy(np.array(Image.open(path).convert("RGB")))
    return measure.style_features(pixels.permute(2, 0, 1)[None] / 255)


def rows(folder: Path) -> dict[tuple[str, str], Row]:
    """Style distances to the reference by (reference, size)."""
    found: dict[tuple[str, str], Row] = defaultdict(lambda: defaultdict(list))
    points = map(json.loads, (folder / "results.jsonl").read_text(encoding="utf-8").splitlines())
    for point in sorted(points, key=lambda point: point["point"]):
        reference = Path(point["reference"])
        distance = measure.style_distance(features(folder / point["file"]), features(reference)).item()
        found[reference.stem, f"{point['width']}x{point['height']}"][point["scale"]].append(distance)
    return found


def mean(values: list[float], form: str = ".3f") -> str:
    """The mean and its standard error."""
    return f"{statistics.mean(values):{form}} ± {statistics.stdev(values) / len(values) ** 0.5:.3f}"


def rises(row: Row) -> list[str]:
    """The steps between neighbouring scales at which the mean does not fall, with the mean change of a picture."""
    found = []
    for low, high in pairwise(SCALES):
        changes = [after - before for before, after in zip(row[low], row[high], strict=True)]
        if statistics.mean(changes) >= 0:
            found.append(f"{low:g} → {high:g}: {mean(changes, '+.3f')}")
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path, help="a folder for the references and the sweep")
    parser.add_argument("--seeds", type=int, default=4, help="seeds of each prompt")
    parser.add_argument("--size", nargs=2, default=["192x192", "256x256"])
    options, extra = parser.parse_known_args()
    sweep(options.out, options.seeds, options.size, extra)
    table = rows(options.out / "sweep")
    pictures = options.seeds * len(SHEET_PROMPTS)
    print(f"\nstyle distance to the reference, the mean of {pictures} pictures ± its standard error")
    print("| reference | size |", *(f"{scale:g} |" for scale in SCALES), "falls at every step |")
    print("|---|---|" + "---|" * (len(SCALES) + 1))
    for (reference, size), row in table.items():
        verdict = f"no: {'; '.join(rises(row))}" if rises(row) else "yes"
        print(f"| {reference} | {size} |", *(f"{mean(row[scale])} |" for scale in SCALES), f"{verdict} |")
    print(f"{sum(not rises(row) for row in table.values())} of {len(table)} rows fall at every step")


if __name__ == "__main__":
    main()
