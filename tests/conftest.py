"""An isolated world for every test: its own home, caches and working directory, no settings, no network."""

from __future__ import annotations

import io
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import hypothesis
import pytest

from tests.chromium import browser  # noqa: F401 - a fixture of all
from tests.hubs import ENDPOINT

if TYPE_CHECKING:
    from tests.compiled import Compiled

WIDTH = "100"

# huggingface_hub reads its variables when it is imported, which is once for all tests of a process.
os.environ["HF_ENDPOINT"] = ENDPOINT
os.environ["HF_HOME"] = HUB_CACHE = tempfile.mkdtemp(prefix="ipa-tests-")
os.environ.pop("HF_HUB_OFFLINE", None)
# One key for the graphs of all tests, whichever process builds or opens them.
os.environ["XDG_STATE_HOME"] = STATE = tempfile.mkdtemp(prefix="ipa-tests-state-")
(KEY := Path(STATE, "ipa", "graph-key")).parent.mkdir(parents=True)
KEY.write_bytes(b"the key of all tests, 32 bytes..")
KEY.chmod(0o600)
# So does torch, which nothing above may import. `ipa` takes fewer threads on a busy machine, and sums in another
# order: without this, pictures that must be equal differ in the last bit.
assert "torch" not in sys.modules or os.environ.get("OMP_NUM_THREADS")
os.environ["OMP_NUM_THREADS"] = "1"

# A busy machine is no failure.
hypothesis.settings.register_profile("patient", deadline=None, suppress_health_check=[hypothesis.HealthCheck.too_slow])
hypothesis.settings.load_profile("patient")


# Fixtures that tell what a test takes time for; further slow tests and modules say so themselves.
MARKED_BY_FIXTURE = {
    "compiled": "compiles",
    "denoiser": "compiles",
    "browser": "browser",
    "ipa_process": "slow",
    "pipe": "slow",
}


def pytest_itemcollected(item: pytest.Item) -> None:
    for fixture in getattr(item, "fixturenames", ()):
        if mark := MARKED_BY_FIXTURE.get(fixture):
            item.add_marker(mark)
    if getattr(getattr(item, "obj", None), "is_hypothesis_test", False):
        item.add_marker("slow")  # many examples


def pytest_runtest_setup(item: pytest.Item) -> None:
    if item.get_closest_marker("campaign") is not None and not os.environ.get("CAMPAIGN"):
        pytest.skip("a quarter of a minute or more: .ci/campaign runs it")
    if item.get_closest_marker("gpu") is not None:
        import torch

        if not torch.cuda.is_available():
            pytest.skip("needs a CUDA GPU")


@dataclass(frozen=True)
class Ran:
    """What one run of `ipa` did."""

    exit_code: int
    stdout: str
    stderr: str

    def json(self) -> dict[str, Any]:
        """The one JSON object on stdout."""
        lines = self.stdout.splitlines()
        assert len(lines) == 1, f"not one line on stdout: {self.stdout!r}\n{self.stderr}"
        envelope = json.loads(lines[0], parse_constant=lambda name: pytest.fail(f"{name} is not JSON"))
        assert set(envelope) == {"schema_version", "command", "status", "data", "error"}
        if envelope["status"] == "ok":
            assert envelope["error"] is None and self.exit_code == 0, envelope
        else:
            assert set(envelope["error"]) == {"type", "message", "hint"} and envelope["error"]["message"], envelope
        return envelope

    def data(self) -> dict[str, Any]:
        """The data of a command that succeeded."""
        envelope = self.json()
        assert self.exit_code == 0, self.stderr
        assert envelope["status"] == "ok", envelope
        return envelope["data"]

    def error(self) -> dict[str, str]:
        """The error of a command that failed."""
        envelope = self.json()
        assert envelope["status"] == "error" and envelope["data"] is None, envelope
        return envelope["error"]


@dataclass(frozen=True)
class World:
    """The folders of one test, and the environment of a process that lives in it."""

    home: Path
    cwd: Path
    environ: dict[str, str]

    def files(self) -> list[str]:
        """Names of everything in the working directory, hidden files too."""
        return sorted(path.relative_to(self.cwd).as_posix() for path in self.cwd.rglob("*"))


def pytest_unconfigure() -> None:
    for folder in (HUB_CACHE, STATE):
        shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture
def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> World:
    return isolated(tmp_path, monkeypatch)


def isolated(folder: Path, monkeypatch: pytest.MonkeyPatch) -> World:
    """A world of its own in `folder`, for as long as `monkeypatch` lasts."""
    home, cwd = folder / "home", folder / "work"
    home.mkdir()
    (home / ".run").mkdir(mode=0o700)
    cwd.mkdir()
    for name in list(os.environ):
        if name.startswith(("IPA_", "XDG_", "FORCE_COLOR")):
            monkeypatch.delenv(name)
    for name, value in {
        "HOME": str(home),
        "XDG_CONFIG_HOME": str(home / ".config"),
        "XDG_CACHE_HOME": str(home / ".cache"),
        "XDG_STATE_HOME": STATE,
        "XDG_RUNTIME_DIR": str(home / ".run"),
        "HF_HOME": HUB_CACHE,
        "HF_ENDPOINT": ENDPOINT,
        "NO_COLOR": "1",
        "COLUMNS": WIDTH,
    }.items():
        monkeypatch.setenv(name, value)
    for name in ("HF_TOKEN", "HF_HUB_OFFLINE", "HF_HUB_CACHE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.chdir(cwd)
    return World(home, cwd, dict(os.environ))


@pytest.fixture(scope="session")
def compiled(tmp_path_factory: pytest.TempPathFactory) -> Compiled:
    """The compiled graph that all tests of all workers share."""
    from tests.compiled import shared

    base = tmp_path_factory.getbasetemp()
    return shared((base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / "compiled")


@pytest.fixture
def ipa(world: World) -> Callable[..., Ran]:
    """Run the real program inside this process: `ipa("generate", "--seed", 1)`."""
    return run_here


def run_here(*arguments: object) -> Ran:
    """Run `ipa` inside this process, in the world as it is."""
    from ipa_cli.app import run

    out, err = io.StringIO(), io.StringIO()
    with redirect_stdout(out), redirect_stderr(err):
        try:
            exit_code = run([str(argument) for argument in arguments])
        except SystemExit as left:  # `--show-completion` leaves by itself
            exit_code = left.code if isinstance(left.code, int) else 1
    return Ran(exit_code, out.getvalue(), err.getvalue())


@pytest.fixture
def ipa_process(world: World) -> Iterator[Callable[..., Ran]]:
    """Run `ipa` as a process of its own: with `environ` on top of the world's, sent `signals` once stderr says so."""

    def call(
        *arguments: object,
        environ: dict[str, str] | None = None,
        interrupt_at: str | None = None,
        signals: Sequence[int] = (signal.SIGINT,),
        timeout: float = 120,
    ) -> Ran:
        command = [sys.executable, "-m", "ipa_cli", *(str(argument) for argument in arguments)]
        with tempfile.TemporaryFile("w+") as out, tempfile.TemporaryFile("w+") as err:
            # A test run in the background ignores SIGINT, and its children would inherit that.
            process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=err,
                env={**world.environ, **(environ or {})},
                preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
            )
            try:
                if interrupt_at is not None:
                    _wait_for(interrupt_at, err.fileno(), process, timeout)
                    for number in signals:
                        process.send_signal(number)
                        time.sleep(0.05)
                process.wait(timeout)
            finally:
                process.kill()
                process.wait()
            out.seek(0)
            err.seek(0)
            return Ran(process.returncode, out.read(), err.read())

    yield call


def _wait_for(text: str, descriptor: int, process: subprocess.Popen[bytes], timeout: float) -> None:
    ends = time.monotonic() + timeout
    while text.encode() not in (seen := os.pread(descriptor, 1 << 20, 0)):
        assert process.poll() is None, f"ended before {text!r}: {seen.decode()}"
        assert time.monotonic() < ends, f"never said {text!r}: {seen.decode()}"
        time.sleep(0.05)


@pytest.fixture
def stdin() -> Iterator[Callable[[int], object]]:
    """Puts a descriptor in the place of stdin."""
    kept = os.dup(0)
    yield lambda descriptor: os.dup2(descriptor, 0)
    os.dup2(kept, 0)
    os.close(kept)
