"""The checks as text for an issue, without secrets, user names and home folders."""

from __future__ import annotations

import getpass
import os
import re
from collections.abc import Iterable, Mapping
from pathlib import Path

from ipa_cli import __version__
from ipa_cli.config.privacy import public_text
from ipa_cli.doctor.check import Check
from ipa_cli.doctor.places import expand

_SECRET_NAME = re.compile(r"TOKEN|SECRET|PASSWORD|PASSWD|API_?KEY|CREDENTIAL", re.IGNORECASE)
_SECRET = re.compile(r"\b(hf_|api_org_|gh[pousr]_|github_pat_|sk-)[A-Za-z0-9_-]{8,}")


def text(checks: Iterable[Check], environ: Mapping[str, str]) -> str:
    """A Markdown code block with one line per check, and the advice below warnings and failures."""
    lines = []
    for check in checks:
        lines.append(f"{check.status:<8} {check.name}: {check.found}")
        if check.advice and check.status in ("warning", "failure"):
            lines.append(f"{'':<8} -> {check.advice}")
    said = redact("\n".join(lines), environ, homes(environ), users(environ))
    return f"```text\nipa {__version__} doctor\n{said}\n```"


def redact(said: str, environ: Mapping[str, str], homes: Iterable[str], users: Iterable[str]) -> str:
    """`said` without the values of variables that are named like secrets, things that look like tokens, passwords and
    queries of URLs, home folders (as ~) and user names."""
    secrets = {value for name, value in environ.items() if _SECRET_NAME.search(name) and len(value) >= 6}
    for secret in sorted(secrets, key=len, reverse=True):
        said = said.replace(secret, "<secret>")
    said = public_text(_SECRET.sub("<secret>", said))
    for home in sorted(homes, key=len, reverse=True):
        said = re.sub(rf"{re.escape(home)}(?![\w.-])", "~", said)
    for user in users:
        said = re.sub(rf"(?<![A-Za-z0-9]){re.escape(user)}(?![A-Za-z0-9])", "<user>", said, flags=re.IGNORECASE)
    return said


def homes(environ: Mapping[str, str]) -> set[str]:
    """Every name of the home folder; a home at the root ("/") needs no hiding."""
    named = {environ.get("HOME", ""), environ.get("USERPROFILE", ""), str(expand("~")), _home_by_id()}
    both = {path for name in named if name for path in (name.rstrip("/"), str(Path(name).resolve()))}
    return {path for path in both if len(Path(path).parts) > 1}


def users(environ: Mapping[str, str]) -> set[str]:
    """Every name of the user."""
    try:
        named = {getpass.getuser()}
    except (OSError, KeyError):  # a container may run under a number without a name
        named = set()
    named |= {environ.get(name, "") for name in ("USER", "LOGNAME", "USERNAME", "SUDO_USER")}
    named.add(Path(_home_by_id()).name)
    return {name for name in named if name}


def _home_by_id() -> str:
    try:
        import pwd

        return pwd.getpwuid(os.getuid()).pw_dir
    except (ImportError, KeyError):
        return ""
