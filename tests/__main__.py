"""The whole check of a working copy: style, types, tests. `python -m tests`; further arguments go to pytest."""

import subprocess
import sys
from pathlib import Path

CHECKS = (
    ("ruff", "check", "."),
    ("ruff", "format", "--check", "."),
    ("mypy",),
    ("pytest", "-n", "2", "--dist", "worksteal", *sys.argv[1:]),
)


def main() -> int:
    failed = []
    for name, *arguments in CHECKS:
        print("+", name, *arguments, flush=True)
        if subprocess.run([sys.executable, "-m", name, *arguments], cwd=Path(__file__).parents[1]).returncode:
            failed.append(name)
    if failed:
        print("failed:", ", ".join(failed))
    return len(failed)


if __name__ == "__main__":
    sys.exit(main())
