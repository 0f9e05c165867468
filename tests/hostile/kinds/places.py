"""Working directories that wait for somebody: planted modules, links, pipes, devices and sockets."""

from __future__ import annotations

import os
import socket
from pathlib import Path
from random import Random

from tests.hostile.case import SMALL, Attack, code
from tests.zoo.layouts import DEMO

MODULES = (
    "json",
    "torch",
    "numpy",
    "sitecustomize",
    "usercustomize",
    "triton",
    "typing",
    "rich",
    "PIL",
    "ipa_cli",
    "c++",
)
STARTED = (
    ("doctor", "--json"),
    ("generate", *SMALL, "--json"),
    ("compile", "--size", "64x64", "--device", "cpu", "--json"),
    ("cache", "ls", "--json"),
    ("config", "show", "--json"),
)
FLAGS = (
    ("generate", *SMALL, "--image"),
    ("generate", *SMALL, "--mask"),
    ("generate", *SMALL, "--from"),
    ("generate", *SMALL, "--embeds"),
    ("generate", *SMALL, "--model"),
    ("generate", *SMALL, "--ip-adapter"),
    ("generate", *SMALL, "--vae"),
    ("generate", *SMALL, "--prompts-from"),
    ("generate", *SMALL, "--output"),
    ("generate", *SMALL, "--cache-dir"),
    ("embed",),
    ("cache", "import"),
    ("cache", "export", "--force"),
    ("cache", "ls", "--cache-dir"),
    ("bench", "--backends", "eager", "--runs", "1", "--compare"),
)
NAMES = (
    "sweep/.index.html.tmp", "sweep/.sweep.json.tmp", "sweep/index.html", "sweep/contact-sheet.png",
    "sweep/results.jsonl",
    "sweep/.lock", "sweep/pictures", "sweep/animations", "a.png", ".a.png.tmp", "e.safetensors",
    ".e.safetensors.tmp", "out.tar",
)  # fmt: skip


def module(random: Random) -> Attack:
    """Python files in the working directory that have the names of what `ipa` imports or starts."""
    chosen = random.sample(MODULES, random.randint(1, len(MODULES)))

    def prepare(folder: Path) -> None:
        for name in chosen:
            if random.random() < 0.5 and name != "c++":
                (folder / name).mkdir()
                (folder / name / "__init__.py").write_text(code())
            else:
                path = folder / (name if name == "c++" else f"{name}.py")
                path.write_text(("#!/usr/bin/env python3\n" if name == "c++" else "") + code())
                path.chmod(0o755)

    typed = random.choice(STARTED)
    environ = {"PATH": f":{os.environ['PATH']}"} if random.random() < 0.3 else {}
    if typed[0] == "compile":
        environ["CXX"] = "/bin/false"  # the worker starts, and ends soon
    return Attack(f"planted {chosen}, {typed[0]}", typed, prepare, environ, alone=True)


def special(random: Random) -> Attack:
    """A pipe without a writer, a device, a socket, a folder or a loop of links where a file should be."""
    kind = random.choice(("pipe", "/dev/zero", "/dev/full", "/dev/null", "socket", "folder", "loop", "/proc/self/mem"))
    flag = random.choice(FLAGS)

    def prepare(folder: Path) -> None:
        path = folder / "thing.png"
        if kind == "pipe":
            os.mkfifo(path)
        elif kind == "socket":
            here = os.open(folder, os.O_RDONLY)  # names of sockets are short
            with socket.socket(socket.AF_UNIX) as made:
                made.bind(f"/proc/self/fd/{here}/thing.png")
            os.close(here)
        elif kind == "folder":
            path.mkdir()
        else:
            path.symlink_to(path.name if kind == "loop" else kind)

    return Attack(f"{kind} as {' '.join(flag[-1:])}", (*flag, "thing.png"), prepare)


def link(random: Random) -> Attack:
    """Names that will be written lead to somebody's own file."""
    chosen = random.sample(NAMES, random.randint(1, 5))
    typed = random.choice(
        (
            (
                "sweep-scale",
                "--scales",
                "0,1",
                "--size",
                "64x64",
                "--steps",
                "1",
                "--warmup",
                "0",
                "--device",
                "cpu",
                "-o",
                "sweep",
            ),
            ("generate", *SMALL, "-o", "a.png"),
            ("embed", str(DEMO / "reference.png"), "-o", "e.safetensors", "--device", "cpu"),
            ("cache", "export", "out.tar"),
        )
    )
    force = ("--force",) if random.random() < 0.5 else ()

    def prepare(folder: Path) -> None:
        for name in chosen:
            path = folder / name
            path.parent.mkdir(exist_ok=True)
            path.symlink_to(
                random.choice((folder.parent / "home/notes.txt", folder.parent / "home/.bashrc", "/etc/hostname"))
            )

    return Attack(f"links {chosen}", (*typed, *force), prepare)


KINDS = {"planted modules": module, "special files": special, "links": link}
