"""`ipa doctor`: looks at everything, stops at nothing, and its status says whether what was asked for can work."""

import getpass
import importlib.metadata
import json
import re
import shutil
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from packaging.requirements import Requirement

from ipa_cli import doctor

REPOSITORY = Path(__file__).parents[2]
# Of ipa's dependencies those that are small: no torch, no diffusers, no numpy.
LIGHT = ("typer", "rich", "platformdirs", "filelock", "tomli", "packaging")
NAMES = {
    "Python",
    "torch",
    "NVIDIA driver",
    "GPU",
    "Triton",
    "C++ compiler",
    "backend eager",
    "backend inductor",
    "backend nexfort",
    "backend oneflow",
    "model and adapter",
    "graph cache",
    "model cache",
    "hub",
    "hub token",
    "settings",
    "shell completion",
    "server",
    "temporary files",
    "search paths",
    "processor",
}


def found(ran) -> dict[str, dict]:
    """The checks by name, of a run with `--json` whose status fits what it found."""
    envelope = ran.json()
    assert envelope["command"] == "doctor"
    listed = envelope["data"]["checks"]
    assert all(set(check) == {"name", "status", "found", "advice", "asked"} for check in listed)
    assert {check["status"] for check in listed} <= {"ok", "warning", "failure", "skipped"}
    failed = any(check["status"] == "failure" and check["asked"] for check in listed)
    assert ran.exit_code == int(failed) and envelope["status"] == ("error" if failed else "ok")
    assert all(check["advice"] for check in listed if check["status"] == "failure")
    return {check["name"].replace("GPU 0", "GPU"): check for check in listed}


def metadata(site: Path, **versions: str) -> dict[str, str]:
    """An environment in whose Python packages of these versions are installed, as far as their metadata goes."""
    for name, version in versions.items():
        folder = site / f"{name}-{version}.dist-info"
        folder.mkdir(parents=True)
        (folder / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")
    return {"PYTHONPATH": f"{site}:{REPOSITORY}"}


def test_everything_is_looked_at(ipa, world):
    checked = found(ipa("doctor", "--json"))
    assert set(checked) >= NAMES
    assert checked["torch"]["status"] == "ok"
    assert (
        checked["hub"]["status"] == "warning" and world.environ["HF_ENDPOINT"] in checked["hub"]["found"]
    )  # a closed port
    assert checked["model and adapter"]["status"] == "ok"
    assert world.files() == [] and not (world.home / ".cache").exists()


def test_people_see_a_table_and_what_to_type(ipa):
    ran = ipa("doctor")
    lines = ran.stdout.splitlines()
    assert ran.exit_code == 0
    rows = [line.split("\t") for line in lines if "\t" in line]
    assert rows[0] == ["status", "check", "found"]
    assert {row[1] for row in rows[1:]} >= NAMES - {"GPU"}
    below = lines[len(rows) :]
    assert below[0].startswith("warning: hub: ")  # what is not well comes first
    assert (
        "backend nexfort: in an environment of its own, with Python 3.10 or 3.11, from a clone of ipa: "
        'pip install -c constraints-nexfort.txt ".[nexfort]"' in below
    )
    assert "ok" in below[-1] and "--deep" in below[-1]


def test_a_backend_is_a_failure_only_when_asked_for(ipa, ipa_process, tmp_path):
    absent = found(ipa("doctor", "--json"))["backend nexfort"]
    assert absent["status"] == "skipped" and not absent["asked"]
    asked = found(ipa("doctor", "--json", "--backend", "nexfort"))["backend nexfort"]
    assert asked["status"] == "failure" and asked["asked"]
    assert "nexfort==0.1.dev262" in asked["found"] and ".[nexfort]" in asked["advice"]
    by_variable = ipa_process("doctor", "--json", environ={"IPA_BACKEND": "nexfort"})
    assert by_variable.exit_code == 1 and found(by_variable)["backend nexfort"]["asked"]


@pytest.mark.skipif(sys.version_info >= (3, 12), reason="nexfort has no builds for this Python")
def test_a_wrong_torch_for_nexfort(ipa_process, tmp_path):
    right = {
        "nexfort": "0.1.dev262",
        "onediff": "1.2.0",
        "diffusers": "0.30.3",
        "transformers": "4.44.2",
        "numpy": "1.26.4",
        "huggingface_hub": "0.25.2",
    }
    asked = ("doctor", "--json", "--backend", "nexfort")
    wrong = found(ipa_process(*asked, environ=metadata(tmp_path / "wrong", torch="2.4.0", **right)))["backend nexfort"]
    assert wrong["status"] == "failure" and "torch==2.3.1 (2.4.0 is installed)" in wrong["found"]
    assert "diffusers" not in wrong["found"]  # only what is wrong
    fits = found(ipa_process(*asked, environ=metadata(tmp_path / "right", torch="2.3.1", **right)))["backend nexfort"]
    assert fits["status"] == "ok" and "torch 2.3.1" in fits["found"]


def test_a_oneflow_that_cannot_work_is_a_failure_of_the_doctor_only_when_it_is_asked_for(ipa_process, tmp_path):
    environ = metadata(tmp_path, oneflow="0.9.0", numpy="2.2.6")
    unasked = ipa_process("doctor", "--json", environ=environ)
    oneflow = found(unasked)["backend oneflow"]
    assert unasked.exit_code == 0 and oneflow["status"] == "failure"
    missing = "nvidia-cudnn-cu11" if sys.version_info < (3, 11) else "3.10 is the newest it works with"
    assert missing in oneflow["found"] and "constraints-oneflow.txt" in oneflow["advice"]
    assert ipa_process("doctor", "--backend", "oneflow", environ=environ).exit_code == 1


def test_a_corrupt_config_is_one_failure_among_all_checks(ipa, world):
    (world.cwd / "ipa.toml").write_text("backend = [")
    checked = found(ipa("doctor", "--json"))
    assert set(checked) >= NAMES
    assert checked["settings"]["status"] == "failure" and "ipa.toml" in checked["settings"]["found"]
    assert checked["torch"]["status"] == "ok"


def test_a_device_that_is_not_here(ipa):
    device = found(ipa("doctor", "--json", "--device", "cuda:63"))["device"]
    assert device["status"] == "failure" and device["asked"]
    assert found(ipa("doctor", "--json", "--device", "cpu"))["device"]["status"] == "ok"


def test_a_model_that_needs_the_hub_when_there_is_none(ipa_process, world):
    ran = ipa_process("doctor", "--json", "--model", "sdxl")
    model = found(ran)["model and adapter"]
    assert ran.exit_code == 1 and model["status"] == "failure" and world.environ["HF_ENDPOINT"] in model["found"]


def test_a_silent_hub_is_not_asked_again_for_the_model(ipa_process):
    with socket.create_server(("127.0.0.1", 0)) as silent:
        endpoint = f"http://127.0.0.1:{silent.getsockname()[1]}"
        checked = found(ipa_process("doctor", "--json", "--model", "sdxl", environ={"HF_ENDPOINT": endpoint}))
        assert checked["hub"]["status"] == "warning" and checked["model and adapter"]["status"] == "failure"
        silent.settimeout(0)
        silent.accept()
        with pytest.raises(BlockingIOError):
            silent.accept()


def test_a_password_in_the_hub_s_address_is_reported_nowhere(ipa_process):
    ran = ipa_process("doctor", "--json", "--model", "sdxl", environ={"HF_ENDPOINT": "http://me:hunter2@127.0.0.1:9"})
    assert "127.0.0.1:9" in found(ran)["model and adapter"]["found"]
    assert "hunter2" not in ran.stdout


def test_an_adapter_that_does_not_fit_the_model(ipa, tmp_path):
    import numpy
    from safetensors.numpy import save_file

    zeros = numpy.zeros((8, 768), "float32")  # SD 1.5's width
    save_file({"ip_adapter.1.to_k_ip.weight": zeros, "image_proj.proj.weight": zeros}, tmp_path / "sd15.safetensors")
    other = tmp_path / "model"  # unlike the demo it has no reference picture of its own
    weights = shutil.ignore_patterns("*.safetensors", "ip_adapter")
    shutil.copytree(REPOSITORY / "ipa_cli" / "demo", other, ignore=weights)
    for name in ("demo", other):
        ran = ipa("doctor", "--json", "--model", name, "--ip-adapter", tmp_path / "sd15.safetensors")
        model = found(ran)["model and adapter"]
        assert ran.exit_code == 1 and model["status"] == "failure" and "width 768" in model["found"]


def test_a_cache_that_cannot_be_used_counts_when_it_was_named(ipa, world, tmp_path):
    foreign = tmp_path / "graphs"
    foreign.mkdir(mode=0o777)
    foreign.chmod(0o777)
    named = ipa("doctor", "--json", "--cache-dir", foreign)
    assert named.exit_code == 1 and "everybody may write" in found(named)["graph cache"]["found"]
    (world.home / ".cache" / "ipa").mkdir(parents=True)
    (world.home / ".cache" / "ipa").chmod(0o777)
    default = ipa("doctor", "--json")
    assert default.exit_code == 0 and found(default)["graph cache"]["status"] == "failure"


def test_an_unknown_backend_is_a_failure(ipa):
    ran = ipa("doctor", "--json", "--backend", "tensorrt")
    assert ran.exit_code == 1 and "inductor" in found(ran)["backend tensorrt"]["advice"]


def test_a_wrong_flag_is_wrong_usage(ipa):
    assert ipa("doctor", "--load-format", "banana").exit_code == 2
    assert ipa("doctor", "--no-such-flag").exit_code == 2


def test_the_report_names_no_secret_no_user_and_no_home(ipa_process, world):
    secret = "hf_averysecrettoken"
    model = world.home / "models" / "mine"
    environ = {
        "HF_TOKEN": secret,
        "HF_ENDPOINT": "http://anna:hunter2@127.0.0.1:9",
        "USER": "annasmith",
        "LOGNAME": "annasmith",
        "SHELL": "/bin/bash",
        "IPA_PROMPT": "private words",
        "IPA_MODEL": str(model),
        "IPA_CACHE_DIR": str(world.cwd / "annasmith" / "graphs"),
    }
    ran = ipa_process("doctor", "--report", environ=environ)
    assert ran.stdout.startswith("```") and ran.stdout.rstrip().endswith("```")
    for private in (secret, "hunter2", "annasmith", str(world.home), "private words", getpass.getuser()):
        assert private not in ran.stdout, private
    for told in ("HF_TOKEN", "~/models/mine", "<user>/graphs", "prompt (IPA_PROMPT)", "torch", "->"):
        assert told in ran.stdout, told
    with_json = ipa_process("doctor", "--report", "--json", environ=environ)
    # Other programs use the disk and the cores between the two runs.
    reports = (with_json.json()["data"]["report"], ran.stdout.rstrip("\n"))
    assert len({re.sub(r"[\d.]+ GiB free|\w+ +processor:.*(\n +->.*)?", "", report) for report in reports}) == 1
    assert secret not in with_json.stdout and "hunter2" not in with_json.stdout


@pytest.mark.slow
def test_a_quick_look_imports_nothing_heavy(world):
    code = (
        "import sys, json; from ipa_cli.app import run; code = run(['doctor', '--json']); "
        "print(json.dumps([code, sorted(m for m in sys.modules if '.' not in m)]), file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=world.environ, check=True)
    exit_code, loaded = json.loads(done.stderr.splitlines()[-1])
    assert exit_code == 0, done.stderr
    assert not set(loaded) & {"torch", "diffusers", "transformers", "accelerate", "PIL", "huggingface_hub"}


def with_dependencies(names) -> list[importlib.metadata.Distribution]:
    """The installed distributions of these names and all they need."""
    waiting, seen = list(names), {}
    while waiting:
        name = waiting.pop()
        try:
            distribution = importlib.metadata.distribution(name)
        except importlib.metadata.PackageNotFoundError:
            continue  # needed by other Pythons
        if distribution.name not in seen:
            seen[distribution.name] = distribution
            needs = [Requirement(text) for text in distribution.requires or ()]
            waiting += [need.name for need in needs if not need.marker or need.marker.evaluate({"extra": ""})]
    return list(seen.values())


@pytest.fixture
def bare(world, tmp_path):
    """Run `ipa` in a Python that has nothing but it and its light packages."""
    site = tmp_path / "site"
    site.mkdir()
    (site / "ipa_cli").symlink_to(REPOSITORY / "ipa_cli")
    for distribution in with_dependencies(LIGHT):
        for top in {file.parts[0] for file in distribution.files or ()} - {"..", "__pycache__"}:
            if not (site / top).exists():
                (site / top).symlink_to(distribution.locate_file(top))
    environ = {**world.environ, "PYTHONPATH": str(site)}

    def call(*arguments: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-S", "-m", "ipa_cli", *arguments]
        return subprocess.run(command, capture_output=True, text=True, env=environ)

    blocked = subprocess.run([sys.executable, "-S", "-c", "import torch"], env=environ, capture_output=True)
    assert blocked.returncode == 1  # else the tests below say nothing
    return call


@pytest.mark.slow
def test_a_machine_with_nothing_but_python_and_ipa(bare):
    ran = bare("doctor", "--json")
    assert ran.stderr == "" and ran.returncode == 1
    checked = {check["name"]: check for check in json.loads(ran.stdout)["data"]["checks"]}
    assert set(checked) >= NAMES - {"GPU"}
    assert checked["torch"]["status"] == "failure" and "pip install" in checked["torch"]["advice"]
    assert "diffusers>=0.30 (not installed)" in checked["backend eager"]["found"]
    assert checked["backend inductor"]["status"] == "skipped"
    assert checked["graph cache"]["status"] == "ok"
    assert "No module named 'safetensors'" in checked["model and adapter"]["found"]


@pytest.mark.slow
@pytest.mark.parametrize(
    "arguments",
    [
        ("--report",),
        ("--backend", "inductor", "--device", "cuda"),
        ("--model", "sdxl"),
        ("--model", "owner/name", "--ip-adapter", "owner/adapter"),
    ],
)
def test_nothing_asked_of_a_bare_machine_is_a_traceback(bare, arguments):
    ran = bare("doctor", *arguments)
    assert ran.returncode == 1 and "Traceback" not in ran.stderr and "bug" not in ran.stderr
    assert "pip install" in ran.stdout


def test_a_deep_look_builds_and_runs(ipa_process):
    ran = ipa_process("doctor", "--deep", "--json", "--backend", "inductor", timeout=280)
    checked = found(ran)
    assert ran.json()["data"]["deep"] is True
    assert "computes" in checked["torch"]["found"]
    assert "all import" in checked["backend inductor"]["found"]
    assert checked["C++ compiler"]["asked"] and "beside torch" in checked["C++ compiler"]["found"]


def test_the_checks_are_plain_data():
    check = doctor.Check("name", "ok", "found")
    with pytest.raises(AttributeError):
        check.status = "failure"
