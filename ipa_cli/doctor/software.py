"""Python, torch and the backends: what is installed, by its metadata; with `--deep`, whether it works."""

from __future__ import annotations

import json
import platform
import re
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

from ipa_cli import backends
from ipa_cli.doctor.check import Check, Status
from ipa_cli.hardware.gpu import Driver
from ipa_cli.system import child

OLDEST, NEWEST = (3, 10), (3, 13)
RUN_TORCH = """
import json, torch
gpus = torch.cuda.device_count() if torch.cuda.is_available() else 0
for device in ["cpu", *(f"cuda:{n}" for n in range(gpus))]:
    ones = torch.ones(64, 64, device=device)
    assert (ones @ ones).sum().item() == 64**3, f"{device} computes wrongly"
print(json.dumps({"gpus": gpus, "threads": torch.get_num_threads()}))
"""


@dataclass(frozen=True)
class Build:
    """What the installed torch was built for, from its `torch/version.py`."""

    cuda: str | None = None
    hip: str | None = None


def check_python() -> Check:
    """The interpreter and the system it runs on."""
    here = sys.version_info[:2]
    found = f"{platform.python_version()}, {platform.system()} {platform.machine()}"
    if here < OLDEST or here > NEWEST:
        advice = "use Python 3.10 to 3.13: no other is tested"
        return Check("Python", "warning", found, advice, asked=True)
    return Check("Python", "ok", found, "", asked=True)


def torch_build() -> Build:
    """Read the build without importing torch, which takes seconds."""
    spec = find_spec("torch")
    if spec is None or spec.origin is None:
        return Build()
    try:
        text = Path(spec.origin).with_name("version.py").read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError):
        return Build()
    found = dict(re.findall(r"^(cuda|hip)\b[^=\n]*=\s*['\"]([^'\"]+)['\"]", text, re.MULTILINE))
    return Build(**found)


def check_torch(version: str | None, build: Build, driver: Driver, deep: bool) -> Check:
    """Is torch installed and built for this machine's GPUs; with `deep`, does it compute on each?"""
    if version is None:
        return Check("torch", "failure", "not installed", '`pip install "torch>=2.3"`', asked=True)
    kind = f"built for CUDA {build.cuda}" if build.cuda else f"built for ROCm {build.hip}" if build.hip else "CPU only"
    found = f"{version}, {kind}"
    if driver.gpus and not build.cuda:
        advice = "install a torch with CUDA: https://pytorch.org/get-started/locally"
        return Check("torch", "warning", f"{found}, but there is an NVIDIA GPU", advice, asked=True)
    if not deep:
        return Check("torch", "ok", found, "", asked=True)
    ended = child.python(RUN_TORCH, 120)
    if ended.code != 0:
        advice = "install it again: `pip install --force-reinstall torch`"
        return Check("torch", "failure", f"{found}: it does not compute: {ended.why}", advice, asked=True)
    said = json.loads(ended.out.splitlines()[-1])
    if said["gpus"] < len(driver.gpus):
        advice = "update the NVIDIA driver, or install the torch that fits it"
        return Check("torch", "failure", f"{found}: it sees {said['gpus']} of {len(driver.gpus)} GPUs", advice, True)
    gpus = f" and {said['gpus']} GPU{'s' * (said['gpus'] > 1)}" if said["gpus"] else ""
    return Check("torch", "ok", f"{found}; it computes on the CPU ({said['threads']} threads){gpus}", "", asked=True)


def check_backend(name: str, versions: Mapping[str, str | None], asked: bool, deep: bool) -> Check:
    """Do the installed versions suit a backend; with `deep`, do its packages import?"""
    title = f"backend {name}"
    needs = backends.get(name).REQUIREMENTS
    problem = backends.problem(name, versions)
    if problem is not None:
        first = needs.packages[0].name
        if versions.get(first) is None and not asked:
            return Check(title, "skipped", f"{first} is not installed", problem.hint)
        return Check(title, "failure", problem.message, problem.hint, asked)
    found = ", ".join(f"{package.name} {versions[package.name]}" for package in needs.packages)
    if not deep:
        return Check(title, "ok", found, "", asked)
    ended = child.python(needs.imports, 120)
    if ended.code != 0:
        return Check(title, "failure", f"{found}: importing fails: {ended.why}", needs.install, asked)
    return Check(title, "ok", f"{found}: all import", "", asked)


def check_device(name: str, version: str | None, build: Build, driver: Driver) -> Check:
    """Can the requested device be used?"""
    known = re.fullmatch(r"(auto|cpu|cuda|mps)(?::(\d+))?", name)
    if known is None:
        return _device("failure", f"unknown device '{name}'", "choose auto, cpu, cuda, cuda:N or mps")
    kind, index = known[1], int(known[2] or 0)
    if kind == "cuda" and version is not None and not (build.cuda or build.hip):
        advice = "install a torch with CUDA: https://pytorch.org/get-started/locally"
        return _device("failure", f"{name}: this torch ({version}) is built without CUDA", advice)
    if kind == "cuda" and not build.hip and index >= len(driver.gpus):
        have = ", ".join(f"cuda:{n}" for n in range(len(driver.gpus))) or "no GPU"
        return _device("failure", f"{name} is not here; there is {have}", "choose another --device")
    if kind == "mps" and (platform.system(), platform.machine()) != ("Darwin", "arm64"):
        return _device("failure", "mps needs a Mac with Apple silicon", "choose another --device")
    return _device("ok", f"{name} is here", "")


def _device(status: Status, found: str, advice: str) -> Check:
    return Check("device", status, found, advice, asked=True)
