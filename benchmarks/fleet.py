"""From a compile on one machine to a picture on the next: seconds for each step, and that nothing is compiled twice.

    python benchmarks/fleet.py --model sdxl --load-format dummy --size 1024x1024 --steps 20

The machines are processes on this one, each with a home, cache and keys of its own; the place that they share is a
folder, or `--url`, such as file:///shared/graphs. The first makes a key, compiles, signs and pushes. The second is
refused what it pulls until it trusts the key, then pulls and draws; the third is only told where the place is. The
compilers of these two fail, so that they could not compile if they tried, and each says that its graph came from the
cache. Pictures of all three have to be equal byte by byte; the status is 1 where they are not, or a graph was compiled
again. Needs `ipa-cli[remote]`.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

sys.path[0] = str(Path(__file__).resolve().parent.parent)

import ipa_cli  # noqa: E402
from benchmarks.timed_process import Record, run_ipa  # noqa: E402

LIMIT = 580.0
REFERENCE = Path(ipa_cli.__file__).parent / "demo" / "reference.png"


class Machine:
    """A home with a cache and keys; `run` starts `ipa` there."""

    def __init__(self, folder: Path, compiles: bool):
        self.folder = folder
        folder.mkdir()
        kept = {name: value for name, value in os.environ.items() if not name.startswith(("IPA_", "XDG_"))}
        kept.setdefault("HF_HOME", str(Path("~/.cache/huggingface").expanduser()))  # weights are shared
        self.environment = {**kept, "HOME": str(folder), "XDG_STATE_HOME": str(folder / "state")}
        self.environment["IPA_CACHE_DIR"] = str(folder / "cache")
        if not compiles:
            self.environment |= {"CC": "/bin/false", "CXX": "/bin/false"}

    def run(self, *arguments: Any) -> dict[str, Any]:
        """What one command answers. Ends this program when it fails."""
        command = [sys.executable, "-m", "ipa_cli", *map(str, arguments), "--json"]
        done = run_ipa(command, self.environment, LIMIT)
        if "failure" in done:
            raise SystemExit(f"{' '.join(map(str, arguments))}: {done['failure']}")
        return done


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="sdxl")
    parser.add_argument("--load-format", default="dummy")
    parser.add_argument("--size", default="1024x1024")
    parser.add_argument("--steps", default="20")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--url", help="the place that they share, in place of a new folder")
    parser.add_argument("--more", default="", help="further flags of compile and generate, such as '--precision fp8'")
    given = parser.parse_args(arguments)
    width, height = given.size.split("x")
    common = ["--model", given.model, "--load-format", given.load_format, "--device", given.device, *given.more.split()]
    drawing = [*common, "--backend", "inductor", "--no-compile", "--steps", given.steps, "--seed", 1]
    drawing += ["--prompt", "a red fox", "--image", REFERENCE, "--width", width, "--height", height]
    record = Record("fleet.json")
    with tempfile.TemporaryDirectory(prefix="ipa-fleet-") as base:
        place = given.url or str(Path(base, "place"))
        first, second, third = (
            Machine(Path(base, name), compiles) for name, compiles in (("ci", True), ("worker", False), ("told", False))
        )
        rows: list[tuple[str, str, float, str]] = []

        def step(machine: str, what: str, done: dict[str, Any], more: str = "") -> dict[str, Any]:
            record.add(f"{machine}: {what}", {name: value for name, value in done.items() if name != "images"})
            rows.append((machine, what, done["wall_s"], more))
            return done

        again: list[str] = []  # machines that compiled

        def drawn(machine: Machine, name: str, *flags: Any) -> str:
            picture = machine.folder / "picture.png"
            done = machine.run("generate", *drawing, *flags, "--output", picture)
            times, origin = done["timings"], done["graph"]["origin"]
            opened, compiled = times["graph_open_s"], times["graph_compile_s"]
            step(name, "draw", done, f"graph from the {origin}, opened in {opened:.2f} s, compiled in {compiled:.2f} s")
            if compiled or origin != "cache":
                again.append(name)
            return hashlib.sha256(picture.read_bytes()).hexdigest()

        key = first.run("cache", "keygen")["key"]
        compiled = step("ci", "compile", first.run("compile", *common, "--backend", "inductor", "--size", given.size))
        sent = first.run("cache", "push", place)
        step("ci", "sign and push", sent, f"{sent['sent'] / 1e6:.1f} MB")
        digests = [drawn(first, "ci")]
        stranger = second.run("cache", "pull", place)
        record.add("worker: pull before it trusts the key", {name: stranger[name] for name in ("pulled", "refused")})
        if stranger["pulled"] or not stranger["refused"]:
            raise SystemExit("a graph of an unknown key is not refused")
        for machine in (second, third):
            machine.run("cache", "trust", key, "--name", "ci", "--yes")
        pulled = second.run("cache", "pull", place)
        step("worker", "pull and check", pulled, f"{pulled['received'] / 1e6:.1f} MB")
        digests.append(drawn(second, "worker"))
        digests.append(drawn(third, "told", "--cache-remote", place))
    same = len(set(digests)) == 1
    graphs = [one["id"] for one in compiled["graphs"]]
    record.add("same pictures", {"same": same, "graphs": graphs, "compiled_again": again})
    print("\n| machine | step | process, s | |\n|---|---|---|---|")
    for machine, what, seconds, more in rows:
        print(f"| {machine} | {what} | {seconds:.2f} | {more} |")
    print(f"\npictures {'equal byte by byte' if same else 'DIFFER'}; compiled again: {', '.join(again) or 'nothing'}")
    raise SystemExit(0 if same and not again else 1)


if __name__ == "__main__":
    main()
