"""Where a LoRA is: a file, the only one in a folder, or one in a hub repository; fetched if need be."""

from __future__ import annotations

from pathlib import Path, PurePosixPath

from ipa_cli.config import LoraConfig
from ipa_cli.config.places import is_repo_id
from ipa_cli.errors import suggest
from ipa_cli.models import weights
from ipa_cli.models.location import (
    Location,
    ModelError,
    expanded,
    fetched,
    folder_location,
    is_file,
    is_folder,
    repository,
)
from ipa_cli.result import Reporter

SUFFIXES = (".safetensors", ".sft")
USUAL = "pytorch_lora_weights.safetensors"  # diffusers' name
DEMO = "demo"  # the one that comes with the demo model
EXAMPLE = "give a .safetensors file, a folder, or a hub id (owner/name:file)"


def find(config: LoraConfig, reporter: Reporter, shows_bars: bool = False) -> Path:
    """The file of a LoRA on disk; "demo" is the one that comes along.

    Raises ModelError where there is none, or several; HubError.
    """
    if config.source == DEMO:
        return Path(__file__).parents[2] / "demo" / "lora" / "outlines.safetensors"
    path = expanded(config.source)
    if is_file(path):
        return _known(path)
    if is_folder(path):
        location = folder_location(path)
    elif is_repo_id(config.source):
        location = repository(config.source, None)
    else:
        raise ModelError(f"there is no LoRA '{config.source}'", EXAMPLE)
    name = _file(location, config.file)
    folder = location.folder or fetched(location, [name], reporter, shows_bars)
    return _known(folder / name)


def _known(path: Path) -> Path:
    if path.suffix.lower() not in (*SUFFIXES, *weights.PICKLES):
        raise ModelError(f"{path} is no .safetensors file", EXAMPLE)
    return path


def _file(location: Location, wanted: str | None) -> str:
    """The name of the file in a folder or repository: the one wanted, diffusers' usual one, or the only one."""
    if wanted is not None:
        if location.has(wanted):
            return wanted
        folder = str(PurePosixPath(wanted).parent)
        here = location.files("" if folder == "." else folder)
        raise ModelError(f"{location} has no {wanted}{suggest(wanted, here)}", EXAMPLE)
    if location.has(USUAL):
        return USUAL
    here = location.files()
    found = [name for name in here if name.endswith(SUFFIXES)] or [n for n in here if n.endswith(weights.PICKLES)]
    if len(found) == 1:
        return found[0]
    if found:
        shown = ", ".join(found[:10]) + (", …" if len(found) > 10 else "")
        raise ModelError(f"{location} holds several files: {shown}", f"choose one: --lora '{location}:{found[0]}'")
    raise ModelError(f"{location} holds no LoRA", EXAMPLE)
