"""The machine: cores and their load, space for temporary files, and search paths."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Mapping
from pathlib import Path

from ipa_cli.doctor import places
from ipa_cli.doctor.check import Check
from ipa_cli.hardware import cores
from ipa_cli.system import child

BUSY = 0.25  # of the cores
ENVIRONMENT = Path("/proc/self/environ")


def check_cores(elsewhere: float, environ: Mapping[str, str]) -> Check:
    """How many cores may be used; a warning when other programs use many of them (`elsewhere`)."""
    name, here = "processor", cores.usable()
    quota = cores.limit()
    found = f"{here} core{'s' * (here > 1)}{f' (a quota of {quota:g})' if quota is not None else ''}"
    chosen = next((f"{each}={environ[each]}" for each in cores.CHOSEN if environ.get(each)), None)
    if chosen is not None:
        found += f", {chosen}"
        count = chosen.partition("=")[2]
        if count.isdecimal() and int(count) > here:
            return Check(
                name, "warning", f"{found}: threads wait for each other", f"`unset {chosen.partition('=')[0]}`"
            )
    if elsewhere >= BUSY * here:
        found += f", of which other programs use {elsewhere:.1f}"
        return Check(name, "warning", f"{found}: drawing on the CPU and compiling are slow", "`top` shows which")
    return Check(name, "ok", found)


def check_temporary() -> Check:
    """Is there space for temporary files? Where the cache cannot be written, compiling needs hundreds of megabytes."""
    name, elsewhere = "temporary files", "set TMPDIR to a folder on another disk"
    try:
        folder = tempfile.gettempdir()
    except OSError as error:
        return Check(name, "warning", error.strerror or str(error), "set TMPDIR to a folder that you can write to")
    return places.room(name, Path(folder), "warning", elsewhere, places.LITTLE, False)


def check_lists(started_with: Mapping[str, str]) -> Check:
    """Do search paths contain the working directory, whose maker could put programs and libraries there?"""
    name, found = "search paths", []
    for variable in child.SEARCHED:
        parts = started_with.get(variable, "").split(os.pathsep)
        relative = [part for part in parts if not Path(part).is_absolute()]
        if started_with.get(variable) and relative:
            found.append(f"{variable} has {repr(relative[0]) if relative[0] else 'an empty entry'}")
    if not found:
        return Check(name, "ok", "only absolute paths")
    text = ", ".join(found)
    return Check(
        name,
        "warning",
        f"{text}: that means the working directory, whose files Python and the system may then load before ipa starts",
        "use absolute paths, and write `export PATH=/a${PATH:+:$PATH}` where the rest may be empty",
    )


def started_with() -> Mapping[str, str]:
    """The environment as this process got it, before `child.shield` changed it."""
    try:
        text = ENVIRONMENT.read_bytes().decode(errors="replace")
    except OSError:
        return os.environ
    return dict(entry.partition("=")[::2] for entry in text.split("\0") if "=" in entry)
