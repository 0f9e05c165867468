"""The whole check of a working copy: style, types, tests. `python -m tests`; further arguments go to pytest."""

import subprocess
import sys
from pathlib import Path
from typing import Any

# Beside the tests, which do not keep every core busy: mypy alone reads for half a minute.
CHECKS = (
    ("ruff", "check", "."),
    ("ruff", "format", "--check", "."),
    ("mypy",),
)
TESTS = ("pytest", "-n", "2", "--dist", "worksteal", *sys.argv[1:])


def start(*command: str, **more: Any) -> subprocess.Popen[str]:
    root = Path(__file__).parents[1]
    return subprocess.Popen([sys.executable, "-m", *command], cwd=root, text=True, **more)


def main() -> int:
    checks = {check: start(*check, stdout=subprocess.PIPE, stderr=subprocess.STDOUT) for check in CHECKS}
    print("+", *TESTS, flush=True)
    failed = ["pytest"] if start(*TESTS).wait() else []
    for check, process in checks.items():
        said, _ = process.communicate()
        print("+", *check, f"\n{said}", flush=True)
        if process.returncode:
            failed.append(check[0])
    if failed:
        print("failed:", ", ".join(failed))
    return len(failed)


if __name__ == "__main__":
    sys.exit(main())
