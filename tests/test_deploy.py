"""What deploy/ and the examples in docs/ name is there: flags, variables, paths, extras, routes, fields."""

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
SCALE_OUT = (ROOT / "docs" / "scale-out.md").read_text(encoding="utf-8")
RAYJOB = yaml.safe_load((ROOT / "deploy" / "rayjob.yaml").read_text(encoding="utf-8"))
# Fields that KubeRay's ray.io/v1 and Kubernetes' pods have, below each that the manifest uses; "*" is any name. By
# KubeRay's CustomResourceDefinition of 2026-08, against which the whole manifest was checked.
OF_A_CONTAINER = {
    "name": str,
    "image": str,
    "resources": {"limits": {"*": str}, "requests": {"*": str}},
    "env": [{"name": str, "value": str}],
    "envFrom": [{"secretRef": {"name": str}, "configMapRef": {"name": str}}],
    "volumeMounts": [{"name": str, "mountPath": str, "readOnly": bool}],
}
OF_A_POD = {
    "spec": {
        "containers": [OF_A_CONTAINER],
        "volumes": [{"name": str, "configMap": {"name": str}, "emptyDir": {"medium": str}}],
        "tolerations": [{"key": str, "operator": str, "effect": str, "value": str}],
        "nodeSelector": {"*": str},
    }
}
OF_A_RAYJOB = {
    "apiVersion": str,
    "kind": str,
    "metadata": {"name": str, "namespace": str},
    "spec": {
        "entrypoint": str,
        "shutdownAfterJobFinishes": bool,
        "ttlSecondsAfterFinished": int,
        "backoffLimit": int,
        "submissionMode": str,
        "rayClusterSpec": {
            "rayVersion": str,
            "headGroupSpec": {"rayStartParams": {"*": str}, "template": OF_A_POD},
            "workerGroupSpecs": [
                {
                    "groupName": str,
                    "replicas": int,
                    "minReplicas": int,
                    "maxReplicas": int,
                    "rayStartParams": {"*": str},
                    "template": OF_A_POD,
                }
            ],
        },
    },
}
# Fields of a task of SkyPilot, by its get_task_schema and _get_single_resources_schema.
OF_A_TASK = {
    "name": str,
    "workdir": str,
    "num_nodes": int,
    "setup": str,
    "run": str,
    "envs": {"*": str},
    "file_mounts": {"*": str},
    "resources": {"accelerators": str, "use_spot": bool, "infra": str, "cpus": str, "memory": str, "disk_size": int},
}


def flags_of(name: str) -> set[str]:
    command = typer.main.get_command(app).commands[name]  # type: ignore[attr-defined]
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
    assert {word for word in arguments if word.startswith("--")} <= flags_of("serve")


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


def unknown(found: object, known: object, where: str = "") -> list[str]:
    """The places in `found` that `known` has no field or another type for."""
    if isinstance(known, dict) and isinstance(found, dict):
        each = ((f"{where}.{name}", value, known.get(name, known.get("*"))) for name, value in found.items())
        return [place for name, value, of in each for place in ([name] if of is None else unknown(value, of, name))]
    if isinstance(known, list) and isinstance(found, list):
        return [place for at, one in enumerate(found) for place in unknown(one, known[0], f"{where}[{at}]")]
    return [] if isinstance(known, type) and type(found) is known else [where]


def words_of(command: str) -> list[str]:
    """The words of an example of `ipa batch`, whose flags there are."""
    words = shlex.split(command)
    assert words[:2] == ["ipa", "batch"] and {one for one in words if one.startswith("--")} <= flags_of("batch")
    return words


def test_the_ray_job_has_fields_that_there_are_and_fits_together():
    assert (RAYJOB["apiVersion"], RAYJOB["kind"], unknown(RAYJOB, OF_A_RAYJOB)) == ("ray.io/v1", "RayJob", [])
    spec = RAYJOB["spec"]
    words = words_of(spec["entrypoint"])
    assert {"--ray", "--resume"} <= set(words), "what backoffLimit starts anew goes on"
    cluster = spec["rayClusterSpec"]
    constraints = (ROOT / "constraints.txt").read_text(encoding="utf-8")
    assert re.search(rf"^ray=={re.escape(cluster['rayVersion'])}\b", constraints, re.M)
    pods = [group["template"]["spec"] for group in (cluster["headGroupSpec"], *cluster["workerGroupSpecs"])]
    assert len({pod["containers"][0]["image"] for pod in pods}) == 1
    for pod in pods:
        mounts = {one["name"]: one["mountPath"] for one in pod["containers"][0]["volumeMounts"]}
        assert set(mounts) == {one["name"] for one in pod["volumes"]}
        assert words[2].startswith(mounts["jobs"])
    named = set(re.findall(r"kubectl create (?:secret generic|configmap) (\S+)", SCALE_OUT))
    container = pods[0]["containers"][0]
    assert named == {container["envFrom"][0]["secretRef"]["name"], pods[0]["volumes"][0]["configMap"]["name"]}


def test_the_task_of_skypilot_has_fields_that_there_are():
    (block,) = re.findall(r"^```yaml\n(.*?)^```", SCALE_OUT, re.MULTILINE | re.DOTALL)
    task = yaml.safe_load(block)
    assert unknown(task, OF_A_TASK) == []
    words = words_of(task["run"])
    count = int(task["resources"]["accelerators"].partition(":")[2])
    assert words[words.index("--devices") + 1] == ",".join(f"cuda:{number}" for number in range(count))
    assert "--resume" in words


@pytest.mark.parametrize("wrong", [{"spec": {"backofflimit": 3}}, {"spec": {"backoffLimit": "3"}}])
def test_a_field_that_is_not_there_or_has_another_type_is_found(wrong):
    assert unknown(wrong, OF_A_RAYJOB) in ([".spec.backofflimit"], [".spec.backoffLimit"])


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
