"""The folders of caches: can this user write there, can others, and is there space?"""

from __future__ import annotations

import os
import shlex
import shutil
import tempfile
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from ipa_cli import config
from ipa_cli.backends import PREFERRED
from ipa_cli.cache import Store, check_owner, signature
from ipa_cli.config import Settings
from ipa_cli.doctor.check import Check, Status
from ipa_cli.engine import tuned
from ipa_cli.errors import IpaError
from ipa_cli.system.ownership import other_writer, writable_by_others

GIB = 2**30
LITTLE = 1 * GIB
SDXL = 12 * GIB  # the sdxl preset's parameters, adapter and image encoder included, are 11.3 GB in half precision


def hub_home(environ: Mapping[str, str]) -> Path:
    """Hugging Face's own folder, as huggingface_hub finds it."""
    return expand(environ.get("HF_HOME") or f"{environ.get('XDG_CACHE_HOME') or '~/.cache'}/huggingface")


def hub_cache(environ: Mapping[str, str]) -> Path:
    """Where huggingface_hub keeps models."""
    named = environ.get("HF_HUB_CACHE") or environ.get("HUGGINGFACE_HUB_CACHE")
    return expand(named) if named else hub_home(environ) / "hub"


def expand(path: str) -> Path:
    """A path with its "~" and "$NAME" filled in; unlike Path.expanduser, a user without a home raises nothing."""
    return Path(os.path.expanduser(os.path.expandvars(path)))  # noqa: PTH111


def graphs(settings: Settings, asked: bool) -> Check:
    """The cache of compiled graphs: without it nothing compiled outlives its process."""
    name, elsewhere = "graph cache", "name another folder with --cache-dir"
    try:
        root = config.cache_dir(settings)
        check_owner(Store(root))
        signature.existing_key()
    except IpaError as error:
        return Check(name, "failure", error.message, error.hint, asked)
    check = room(name, root, "failure", elsewhere, LITTLE, asked)
    try:
        found = tuned.kept(settings, PREFERRED)
    except IpaError as error:
        return check if check.status != "ok" else Check(name, "warning", error.message, error.hint, asked)
    return check if found is None else replace(check, found=f"{check.found}; {tuned.described(found)}")


def models(environ: Mapping[str, str]) -> Check:
    """Hugging Face's cache; models in it can be used even when none can be added."""
    name, root = "model cache", hub_cache(environ)
    check = room(name, root, "warning", "set HF_HOME to a folder on another disk", SDXL, False)
    if check.status != "ok" or not root.is_dir():
        return check
    try:
        others, places = other_writer(root), writable_by_others(root)
    except OSError as error:
        return Check(name, "warning", f"cannot look into {root}: {error.strerror}", "set HF_HOME to another folder")
    if others is None:
        return check
    advice = f"`chmod go-w {shlex.join(map(str, places))}`" if places else "set HF_HOME to a folder of your own"
    return Check(name, "warning", f"{others}: models there may be replaced", advice)


def room(name: str, root: Path, broken: Status, elsewhere: str, enough: int, asked: bool) -> Check:
    """Try to write where `root` is or would be, and look at the free space; leaves nothing behind."""
    here = next(path for path in (root, *root.parents) if os.path.lexists(path))  # Path.exists may raise
    place = str(root) if here == root else f"{root} (not there yet)"
    try:
        with tempfile.TemporaryFile(dir=here) as file:
            file.write(bytes(4096))
            file.flush()
        free = shutil.disk_usage(here).free
    except OSError as error:
        return Check(name, broken, f"cannot write to {place}: {error.strerror}", elsewhere, asked)
    found = f"{place}, {free / GIB:.1f} GiB free"
    if free < enough:
        return Check(name, "warning", f"{found}: that is little", f"free some space, or {elsewhere}", asked)
    return Check(name, "ok", found, "", asked)
