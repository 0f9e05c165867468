"""What is said of a place that holds no model: addresses, links to nothing, unfinished downloads, folders of others."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

from ipa_cli.config.checks import short
from ipa_cli.errors import UsageError
from ipa_cli.models import broken, weights
from ipa_cli.models.location import Location, ModelError, expanded, is_file
from ipa_cli.system.inputs import leads_nowhere

HUB = re.compile(
    r"https?://(?:www\.)?(?:huggingface\.co|hf\.co)/(?P<repo>[\w.-]+/[\w.-]+)"
    r"(?:/(?:resolve|blob|tree)/[^/?]+(?:/(?P<file>[^?]+))?)?/?(?:\?.*)?"
)
UNFINISHED = (".part", ".crdownload", ".download", ".tmp", ".incomplete", ".aria2")
# Where ComfyUI and A1111's web UI have models in one file.
CHECKPOINTS = ("", "checkpoints", "models/checkpoints", "Stable-diffusion", "models/Stable-diffusion")
# Flags that take a file of a repository as owner/name:file.
WITH_FILES = ("--lora", "--control", "--embedding", "--image-encoder")


def check(text: str, flag: str) -> None:
    """Raise UsageError for an address, ModelError for a link to nothing and for a file that is no weight file's name.

    For what a flag names: it says more of it than that there is nothing.
    """
    if "://" in text:
        raise UsageError(f"{short(text)} is an address, and {flag} takes none", _of_address(text, flag))
    path = expanded(text)
    if leads_nowhere(path):
        words = f"{path} is a link to {path.readlink()}, which is not there"
        raise ModelError(words, "download it again, or mend the link")
    if is_file(path) and path.name.lower().endswith(UNFINISHED):
        raise ModelError(f"{path} is an unfinished download", "let it finish, or download it again")
    if is_file(path) and not (weights.is_safetensors(path) or weights.is_pickle(path)):
        usual = "it has another suffix", "give it that suffix if it is one"
        what, hint = broken.of_another_kind(path) or usual
        raise ModelError(f"{path} is no .safetensors file: {what}", hint)


def of_folder(location: Location) -> str | None:
    """What to type for a folder that is none of diffusers, and holds models below it."""
    if location.folder is None:
        return None
    folder = location.folder
    for snapshots in (folder / "snapshots", folder):  # of the hub's cache
        for found in _files_in(snapshots, "*/model_index.json"):
            return f"name the folder in it: --model {shlex.quote(str(found.parent))}"
    for part in CHECKPOINTS:
        files = [name for name in location.files(part) if weights.is_safetensors(name)]
        if files:
            return f"name a file in it: --model {shlex.quote(str(folder / files[0]))}"
    return None


def _files_in(folder: Path, pattern: str) -> list[Path]:
    """The files that match, newest first."""
    try:
        return sorted(folder.glob(pattern), key=lambda path: -path.stat().st_mtime)
    except OSError:
        return []


def _of_address(text: str, flag: str) -> str:
    found = HUB.fullmatch(text)
    if found is None:
        return f"download it, and name the file with {flag}"
    repo, file = found["repo"], found["file"]
    if file is None:
        return f"say {flag} {repo}"
    if flag in WITH_FILES:
        return f"say {flag} {shlex.quote(f'{repo}:{file}')}"
    if flag == "--ip-adapter":
        folder, _, name = file.rpartition("/")
        subfolder = f" --ip-adapter-subfolder {shlex.quote(folder)}" if folder else ""
        return f"say --ip-adapter {repo}{subfolder} --ip-adapter-weight-name {shlex.quote(name)}"
    if not weights.is_safetensors(file):  # a folder of the repository
        return f"say {flag} {repo}"
    return f'download it: {flag} "$(hf download {repo} {shlex.quote(file)})"'
