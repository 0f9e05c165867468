"""`<lora:name:0.8>` in a prompt, as in A1111's web UI, and the files of a folder that it names."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from pathlib import Path

from ipa_cli.config import LoraConfig
from ipa_cli.config.checks import inside, short
from ipa_cli.config.loras import WEIGHT
from ipa_cli.errors import UsageError, suggest
from ipa_cli.models.location import ModelError, expanded, is_file, is_folder
from ipa_cli.models.weights import SAFETENSORS, is_safetensors

MOST_FILES = 100_000
# With the blanks before it, which are looked at once: all of them, from the first.
_TAG = re.compile(r"(?<!\s)\s*<(?:lora|lyco):([^<>:]+)((?::[^<>:]*)*)>")


def split(prompt: str, folder: str) -> tuple[str, tuple[LoraConfig, ...]]:
    """A prompt without its LoRAs, and these, each a file below `folder`.

    As in A1111's web UI one number is the weight, of two the first is that in the text encoders; `te=` and `unet=` name
    them. Raises UsageError for a weight that is none, ModelError where no file has the name, or several.
    """
    tags = list(_TAG.finditer(prompt))
    if not tags:
        return prompt, ()
    root = expanded(folder)
    if not is_folder(root):
        raise ModelError(f"there is no folder {root}", "check the path given with --lora-dir")
    found = [_config(tag[1].strip(), tag[2].split(":")[1:], tag[0].strip(), root) for tag in tags]
    return without(prompt), tuple(found)


def without(prompt: str) -> str:
    """A prompt without its LoRAs."""
    return _TAG.sub("", prompt).strip() if _TAG.search(prompt) else prompt


def named(name: str) -> str:
    """A name without what ends it in a tag or in A1111's list of hashes."""
    return re.sub(r"[<>:,]", "_", name)


def written(name: str, weight: float, text_weight: float) -> str:
    """The tag of a LoRA, with two numbers where its weights differ."""
    name = named(name)
    return f"<lora:{name}:{weight:g}>" if weight == text_weight else f"<lora:{name}:{text_weight:g}:{weight:g}>"


def _config(name: str, options: list[str], tag: str, root: Path) -> LoraConfig:
    positional = [one for one in options if "=" not in one and one]
    named = dict(one.split("=", 1) for one in options if "=" in one)
    if len(positional) > 2 or set(named) - {"te", "unet"}:
        raise UsageError(f"{short(tag)} in a prompt is not understood", "write <lora:name:0.8>")
    text = _weight(named.get("te", positional[0] if positional else "1"), tag)
    unet = _weight(named["unet"], tag) if "unet" in named else _weight(positional[-1], tag) if positional else text
    return LoraConfig(str(_file(name, root)), None, unet, None if text == unet else text)


def _weight(text: str, tag: str) -> float:
    try:
        weight = float(text)
    except ValueError:
        raise UsageError(f"{short(tag)} in a prompt: '{short(text)}' is no weight", "write <lora:name:0.8>") from None
    if problem := WEIGHT(weight):
        raise UsageError(f"{short(tag)} in a prompt: {problem}", "write <lora:name:0.8>")
    return weight


def _file(name: str, root: Path) -> Path:
    if inside(name) is None:
        for suffix in ("", *SAFETENSORS):
            path = root / f"{name}{suffix}"
            if is_safetensors(path) and is_file(path):
                return path
    everything = list(_files(root))
    found = [path for path in everything if path.stem == name]
    if len(found) == 1:
        return found[0]
    if found:
        shown = ", ".join(str(path.relative_to(root)) for path in found[:5])
        raise ModelError(f"{root} has several LoRAs '{name}': {shown}", "write its folder too: <lora:folder/name:0.8>")
    known = [path.stem for path in everything]
    raise ModelError(f"{root} has no LoRA '{short(name)}'{suggest(name, known)}", "--lora-dir names another folder")


def _files(root: Path) -> Iterator[Path]:
    """Those below a folder, links followed, each folder once."""
    count, seen = 0, set()
    for folder, folders, files in os.walk(root, followlinks=True):
        count += 1 + len(files)
        if count > MOST_FILES:
            raise ModelError(f"{root} has more than {MOST_FILES} files", "--lora-dir names a folder of LoRAs")
        real = os.path.realpath(folder)
        if real in seen:  # a link in a circle
            folders.clear()
            continue
        seen.add(real)
        for name in files:
            if is_safetensors(name):
                yield Path(folder, name)
