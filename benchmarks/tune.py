"""`ipa bench --tune` on this GPU, twice: do the two agree, and is the choice not slower than the table's first?

python benchmarks/tune.py FOLDER            # about 60 s on an H100, most of it imports and compiling kernels
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from subprocess import run

sys.path[0] = str(Path(__file__).resolve().parent.parent)

from benchmarks.results import folder  # noqa: E402


def main() -> int:
    """Tune twice; 1 where a choice is slower than the table's first."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", metavar="FOLDER", type=folder)
    out = parser.parse_args().out
    worst, lines = 0.0, []
    for number in (1, 2):
        command = [sys.executable, "-m", "ipa_cli", "--json", "bench", "--tune", "--device", "cuda"]
        done = run(command, capture_output=True, text=True)
        (out / f"tune-{number}.json").write_text(done.stdout + done.stderr)
        if done.returncode:
            print(done.stdout, done.stderr)
            return 1
        data = json.loads(done.stdout)["data"]
        for one in data["kernels"]:
            times = {json.dumps(choice): ms for choice, ms in one["measured"]}
            first, chosen = one["measured"][0][1], times[json.dumps(one["choice"])]
            worst = max(worst, chosen / first if first else 0.0)
            lines.append(f"{number}  {one['kernel']}  {one['choice']}  {chosen:.3f} ms  first {first} ms  {times}")
    print("run  kernel  choice  time  first  all")
    print("\n".join(lines))
    print(f"worst ratio of choice to the table's: {worst:.3f}")
    return int(worst > 1)


if __name__ == "__main__":
    sys.exit(main())
