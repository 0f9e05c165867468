"""The campaign from a command line: see `campaign`."""

from __future__ import annotations

import argparse
import sys
import time

from tests.hostile import campaign
from tests.hostile.kinds import KINDS


def main() -> int:
    """Print a line for each bad case as it comes, and the table last; exit status 1 when a case was bad."""
    parser = argparse.ArgumentParser(description=campaign.__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cases", type=int, default=2000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--kinds", default="", help=", ".join(KINDS))
    parser.add_argument("--show", type=int, help="run this case alone and print what it said")
    chosen = parser.parse_args()
    kinds = [name.strip() for name in chosen.kinds.split(",") if name.strip()]
    if chosen.show is not None:
        verdict = campaign.carry_out(chosen.show, chosen.seed, kinds)
        print(campaign.attack(chosen.show, chosen.seed, kinds)[1].arguments, verdict, verdict.said, sep="\n")
        return bool(verdict.bad)
    began, verdicts = time.monotonic(), []
    for verdict in campaign.run(chosen.cases, chosen.seed, chosen.workers, kinds):
        verdicts.append(verdict)
        if verdict.bad:
            print(f"{verdict.number} {verdict.kind}: {verdict.bad}: {verdict.name!r}\n{verdict.said}", flush=True)
    print(campaign.table(verdicts))
    print(f"seed {chosen.seed}, {time.monotonic() - began:.0f} s")
    return any(verdict.bad for verdict in verdicts)


if __name__ == "__main__":
    sys.exit(main())
