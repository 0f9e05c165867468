"""What the environment says, and an `ipa.toml` that came with a folder."""

from __future__ import annotations

import json
from pathlib import Path
from random import Random

from ipa_cli.config import FIELDS
from tests.hostile.case import CANARY, SMALL, Attack
from tests.hostile.kinds.arguments import text
from tests.hostile.mutation import VALUES, damaged

TOOL = 'compile_options = \'{"inductor": {"cpp.cxx": ["./tool.sh"]}}\'\nbackend = \'inductor\'\ncompile = true\n'


def environment(random: Random) -> Attack:
    """`IPA_*` variables, known and unknown."""
    names = random.sample([*FIELDS, "frobnicate", "config"], 3)
    environ = {f"IPA_{name.upper()}": text(random) for name in names}
    return Attack(f"env {environ}"[:80], ("config", "show", "--json"), environ=environ)


def project_file(random: Random) -> Attack:
    """Settings of a folder that somebody else filled."""
    lines = []
    for name in random.sample(list(FIELDS), random.randint(1, 5)):
        value = random.choice(VALUES)
        try:
            lines.append(f"{name} = {json.dumps(value)}")
        except ValueError:
            continue
    content = "\n".join(lines).encode("utf-8", "replace")
    match random.randrange(6):
        case 0:
            content = damaged(content, random)
        case 1:
            content = TOOL.encode() + b"device = 'cpu'\n"
        case 2:
            content = b"a" + b".a" * random.choice((10, 1000, 50_000)) + b" = 1\n" + content
    draws = random.random() < 0.15

    def prepare(folder: Path) -> None:
        (folder / "ipa.toml").write_bytes(content)
        tool = folder / "tool.sh"
        tool.write_text(f'#!/bin/sh\necho ran >> "${CANARY}"\nexec c++ "$@"\n')
        tool.chmod(0o755)

    typed = ("generate", *SMALL, "--json", "--no-compile") if draws else ("config", "show", "--json")
    return Attack(f"ipa.toml {content[:60]!r}", typed, prepare)


KINDS = {"environment": environment, "ipa.toml": project_file}
