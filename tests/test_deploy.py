"""What deploy/ and the examples in docs/serve.md name is there: flags, variables, paths, extras, routes."""

from __future__ import annotations

import json
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import typer
import yaml

from ipa_cli.app import app
from ipa_cli.config import FIELDS
from tests.conftest import run_here

ROOT = Path(__file__).parents[1]
UNIT = (ROOT / "deploy" / "ipa-serve.service").read_text(encoding="utf-8")
DOCKERFILE = (ROOT / "deploy" / "Dockerfile").read_text(encoding="utf-8")
PAGE = (ROOT / "docs" / "serve.md").read_text(encoding="utf-8")


def flags_of_serve() -> set[str]:
    command = typer.main.get_command(app).commands["serve"]  # type: ignore[attr-defined]
    return {flag for parameter in command.params for flag in parameter.opts}


def directives(name: str) -> list[str]:
    return re.findall(rf"^{name}=(.*)$", UNIT, re.MULTILINE)


def pod() -> dict:
    """The example for Kubernetes."""
    (block,) = re.findall(r"^```yaml\n(.*?)^```", PAGE, re.MULTILINE | re.DOTALL)
    return yaml.safe_load(block)


def commands() -> dict[str, list[str]]:
    """The arguments of `ipa serve` in each file."""
    (unit,) = directives("ExecStart")
    found = {"unit": shlex.split(unit)[1:], "image": json.loads(re.findall(r"^CMD (\[.*\])$", DOCKERFILE, re.M)[0])}
    found["pod"] = pod()["containers"][0]["args"]
    for number, line in enumerate(re.findall(r"ipa serve (--.*)", PAGE + DOCKERFILE)):
        found[f"line {number}"] = ["serve", *shlex.split(re.split(r" [<|&#`]|`", line)[0])]
    return found


@pytest.mark.parametrize("where", commands())
def test_commands_have_flags_that_there_are(where):
    arguments = commands()[where]
    assert arguments[0] == "serve"
    assert {word for word in arguments if word.startswith("--")} <= flags_of_serve()


def test_variables_are_those_of_settings():
    named = set(re.findall(r"\bIPA_([A-Z_]+)=", UNIT + DOCKERFILE))
    assert "CACHE_DIR" in named and {name.lower() for name in named} <= set(FIELDS)


def test_what_is_copied_and_installed_is_there():
    copied = [word for line in re.findall(r"^COPY (?!--)(.*)$", DOCKERFILE, re.M) for word in line.split()[:-1]]
    kept = re.findall(r"^!(.*)$", (ROOT / "deploy" / "Dockerfile.dockerignore").read_text(encoding="utf-8"), re.M)
    assert set(copied) == set(kept) and all((ROOT / name).exists() for name in copied)
    project = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    extras = set(re.findall(r"(?:ipa-cli|\.)\[(\w+)\]", UNIT + DOCKERFILE))
    assert extras == {"serve"} and re.search(r"^serve = \[", project, re.M)
    assert len(re.findall(r"^torch==", (ROOT / "constraints.txt").read_text(encoding="utf-8"), re.M)) == 1
    assert set(re.findall(r"FROM (\S+)", DOCKERFILE)) == {"docker.io/library/python:${PYTHON}-slim"}
    last = DOCKERFILE.rpartition("FROM ")[2]
    assert last.index("USER ipa") < last.index("ENTRYPOINT")


def test_health_is_asked_where_no_token_is_needed():
    from ipa_cli.serve.guard import OPEN as OF_THE_GUARD

    container = pod()["containers"][0]
    probes = {container[f"{name}Probe"]["httpGet"]["path"] for name in ("liveness", "readiness")}
    assert len(probes) == 2 and {*probes, *re.findall(r"http://127\.0\.0\.1:8188(/\w+)", DOCKERFILE)} <= set(
        OF_THE_GUARD
    )


def test_the_pod_runs_as_the_user_and_with_the_volume_of_the_image():
    container = pod()["containers"][0]
    assert f"--uid {container['securityContext']['runAsUser']} " in DOCKERFILE
    assert container["volumeMounts"][0]["mountPath"] == re.findall(r"^VOLUME (\S+)$", DOCKERFILE, re.M)[0]
    assert f"EXPOSE {container['ports'][0]['containerPort']}\n" in DOCKERFILE


def test_the_unit_ends_as_the_server_does():
    assert directives("SuccessExitStatus") == ["143"] and directives("KillMode") == ["mixed"]
    assert directives("LoadCredential") == ["token:/etc/ipa/token"] and "%d/token" in directives("ExecStart")[0]
    assert "MemoryDenyWriteExecute" not in re.findall(r"^(\w+)=", UNIT, re.M)


@pytest.mark.slow
def test_systemd_accepts_the_unit(tmp_path):
    analyze = shutil.which("systemd-analyze")
    if analyze is None:
        pytest.skip("needs systemd-analyze")
    unit = tmp_path / "ipa-serve.service"
    unit.write_text(UNIT.replace("/opt/ipa/bin/ipa", sys.executable))
    done = subprocess.run([analyze, "verify", unit], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")


def test_a_token_in_a_credential_is_read(world):
    Path("token").write_text("short\n")
    ran = run_here("serve", "--token-file", "token")
    assert ran.exit_code == 2 and "5 characters" in ran.stderr
