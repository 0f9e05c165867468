"""Which server is meant, whether it draws what is asked for, and what is said when it cannot be asked."""

from __future__ import annotations

import json
import os
import signal
import threading
import time
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from ipa_cli.client.connection import Busy, Connection
from ipa_cli.client.jobs import Jobs
from ipa_cli.errors import IpaError, UsageError
from ipa_cli.result import NullReporter
from tests.serve.server import serving

pytestmark = pytest.mark.slow

FAST = ("--steps", 1, "--size", "64x64", "-o", "a.png")
TOKEN = "0123456789abcdef0123456789abcdef"


def refused(ran, exit_code: int = 1) -> str:
    """The message of a command that failed with one line, and has written nothing."""
    assert ran.exit_code == exit_code, ran.stdout + ran.stderr
    assert not Path("a.png").exists()
    error = ran.error()
    assert error["hint"] and "\n" not in error["message"]
    return error["message"]


@pytest.mark.parametrize(
    ("flags", "asked", "there"),
    [
        ("--model sdxl", "sdxl", "demo"),
        ("--dtype bfloat16", "bfloat16", "float32"),
        ("--device cuda:1", "cuda:1", "cpu"),
        ("--backend eager", "eager", "auto"),
        ("--precision fp8", "fp8", "half"),
        ("--vae some/vae", "some/vae", "the default"),
        ("--ip-adapter none", "none", "the default"),
        ("--revision main", "main", "the default"),
        ("--adapter own", "own", "none"),
        ("--lora style.safetensors,weight=0.5", "style.safetensors,weight=0.5", "none"),
        ("--vae-tiling", "yes", "no"),
        ("--no-compile", "no", "yes"),
    ],
)
def test_what_the_server_does_not_draw_is_refused_with_both_values(ipa, served, flags, asked, there):
    message = refused(ipa("generate", *FAST, "--server", served.url, *flags.split(), "--json"))
    assert message.endswith(f"asks for {asked}, and the server at {served.url} has {there}")
    assert message.startswith(flags.split()[0].replace("--no-", "--"))


def test_what_environment_and_files_say_counts_as_asked(ipa, served, world, monkeypatch):
    Path("ipa.toml").write_text('model = "sd15"\n')
    assert f"--model ({world.cwd / 'ipa.toml'})" in refused(ipa("generate", *FAST, "--server", served.url, "--json"))
    Path("ipa.toml").unlink()
    monkeypatch.setenv("IPA_DTYPE", "float16")
    assert refused(ipa("generate", *FAST, "--server", served.url, "--json")).startswith("IPA_DTYPE asks for float16")


def test_what_the_server_draws_anyway_may_be_asked_for(ipa, served):
    flags = "--model demo --device cpu --dtype float32 --backend auto --precision half --compile --offload none"
    assert ipa("generate", *FAST, "--server", served.url, *flags.split()).exit_code == 0


def test_flags_of_a_process_are_refused_and_its_variables_are_not(ipa, served, monkeypatch):
    assert "--warmup" in refused(ipa("generate", *FAST, "--server", served.url, "--warmup", 3, "--json"), 2)
    monkeypatch.setenv("IPA_WARMUP", "3")
    assert ipa("generate", *FAST, "--server", served.url).exit_code == 0


def test_auto_finds_the_server_of_this_user(ipa, auto):
    ran = ipa("generate", *FAST, "--server", "auto")
    assert ran.exit_code == 0 and f"drawing at {auto.url}: demo on cpu" in ran.stderr
    (file,) = Path(auto.runtime, "ipa", "servers").iterdir()
    assert file.stat().st_mode & 0o777 == 0o600


@pytest.mark.skipif(Path(f"/run/user/{os.getuid()}").exists(), reason="the runtime folder is the user's own")
def test_auto_finds_a_server_where_the_runtime_folder_is_among_temporary_files(ipa, world, monkeypatch, tmp_path):
    monkeypatch.delenv("XDG_RUNTIME_DIR")
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr("tempfile.tempdir", None)
    with serving(dict(os.environ), world.cwd) as server:
        server.wait_until_ready()
        ran = ipa("generate", *FAST, "--server", "auto")
        assert ran.exit_code == 0 and f"drawing at {server.url}" in ran.stderr


def test_without_a_server_auto_says_so_and_draws_nothing(ipa, world, monkeypatch):
    assert "none of your servers runs" in refused(ipa("generate", *FAST, "--server", "auto", "--json"))
    monkeypatch.setenv("IPA_SERVER", "auto")
    assert "none of your servers runs" in refused(ipa("generate", *FAST, "--json"))
    assert ipa("generate", *FAST, "--server", "none").exit_code == 0


def test_the_file_of_a_server_that_is_gone_is_removed(ipa, world):
    folder = Path(os.environ["XDG_RUNTIME_DIR"], "ipa", "servers")
    folder.mkdir(parents=True, mode=0o700)
    gone = folder / "1.json"  # the first process of the system, started at another time
    gone.write_text(json.dumps({"url": "http://127.0.0.1:9", "token": None, "model": "demo", "pid": 1, "started": 0.5}))
    (folder / "2.json").write_text("{")
    assert "none of your servers runs" in refused(ipa("generate", *FAST, "--server", "auto", "--json"))
    assert not gone.exists()


def test_of_several_servers_the_one_that_draws_what_is_asked_is_taken(ipa, world, auto):
    first = auto.server
    with serving({**world.environ, "XDG_RUNTIME_DIR": auto.runtime}, world.cwd, ["--dtype", "bfloat16"]) as second:
        second.wait_until_ready()
        message = refused(ipa("generate", *FAST, "--server", "auto", "--json"))
        assert message.startswith("more than one draws") and first.url in message and second.url in message
        ran = ipa("generate", *FAST, "--server", "auto", "--dtype", "bfloat16")
        assert ran.exit_code == 0 and second.url in ran.stderr
        Path("a.png").unlink()
        assert refused(ipa("generate", *FAST, "--server", "auto", "--dtype", "float16", "--json")).startswith("none of")
        folder = Path(os.environ["XDG_RUNTIME_DIR"], "ipa", "servers")
        assert len(list(folder.iterdir())) == 2
        assert second.end() == 143
        assert len(list(folder.iterdir())) == 1
        assert ipa("generate", *FAST, "--server", "auto").exit_code == 0


def test_a_token_comes_from_its_file_or_from_the_server_of_this_user(ipa, world):
    Path("token").write_text(f"{TOKEN}\n")
    with serving(world.environ, world.cwd, ["--token-file", "token"]) as server:
        server.wait_until_ready()
        assert "asks for a token" in refused(ipa("generate", *FAST, "--server", server.url, "--json"))
        Path("wrong").write_text("0123456789abcdeg")
        wrong = ("--server", server.url, "--server-token-file", "wrong", "--json")
        assert "asks for a token" in refused(ipa("generate", *FAST, *wrong))
        ran = ipa("generate", *FAST, "--server", server.url, "--server-token-file", "token", "--verbose")
        assert ran.exit_code == 0, ran.stderr
        assert ipa("generate", *FAST, "--server", "auto", "-f").exit_code == 0
        shown = ipa("config", "show", "--json")
        assert TOKEN not in ran.stdout + ran.stderr + shown.stdout + server.stderr
        assert TOKEN.encode() not in Path("a.png").read_bytes()
    assert "gone" in refused_file(ipa)


def refused_file(ipa) -> str:
    Path("a.png").unlink()
    named = ("--server", "http://127.0.0.1:9", "--server-token-file", "gone")
    return refused(ipa("generate", *FAST, *named, "--json"))


def test_a_token_is_not_sent_where_others_could_read_it():
    Connection("http://127.0.0.1:8188", TOKEN)
    Connection("https://host.example", TOKEN)
    assert TOKEN not in repr(Connection("https://host.example", TOKEN))
    with pytest.raises(UsageError, match="could be read on the way") as raised:
        Connection("http://host.example:8188", TOKEN)
    assert "ssh -L 8188:127.0.0.1:8188 host.example" in raised.value.hint


@pytest.mark.parametrize(
    "url", ["ftp://host", "127.0.0.1:8188", "http://me:secret@host", "http://host/?token=x", "x y"]
)
def test_what_is_no_address_of_a_server_is_refused(ipa, world, url):
    ran = ipa("generate", *FAST, "--server", url, "--json")
    assert ran.exit_code == 2 and "expected" in ran.error()["message"]


def test_where_nothing_listens_a_line_says_so(ipa, world):
    message = refused(ipa("generate", *FAST, "--server", "http://127.0.0.1:1", "--json"))
    assert message == "no server answers at http://127.0.0.1:1"
    unknown = refused(ipa("generate", *FAST, "--server", "http://nowhere.invalid", "--json"))
    assert "cannot be found" in unknown


def test_another_program_s_server_is_recognised(ipa, world):
    class Quiet(SimpleHTTPRequestHandler):
        def log_message(self, *_):
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=world.cwd)) as web:
        threading.Thread(target=web.serve_forever, daemon=True).start()
        message = refused(ipa("generate", *FAST, "--server", f"http://127.0.0.1:{web.server_port}", "--json"))
        web.shutdown()
    assert message.endswith("is no `ipa serve`")


def test_a_server_that_loads_is_not_waited_for(ipa, world):
    with serving(world.environ, world.cwd) as server:
        assert refused(ipa("generate", *FAST, "--server", server.url, "--json")) == "the server is loading"


def test_ctrl_c_cancels_the_job_at_the_server(ipa_process, served):
    long = ("--steps", 150, "--size", "512x512", "-o", "a.png", "--server", served.url)
    ran = ipa_process("generate", *long, interrupt_at="drawing at")
    assert ran.exit_code == 130 and not Path("a.png").exists()
    with served.server.client() as client:
        while "ipa_jobs_drawing 0.0" not in client.get("/metrics").text:  # the step that it was at
            time.sleep(0.1)
        assert client.get("/v1/server").json()["data"]["queue"] == 0


def test_all_jobs_of_a_client_and_no_others_end_together(served):
    with served.server.client() as client:
        one, other = (
            client.post("/v1/jobs", json={"steps": 150}, headers={"X-Client-Id": name}).json()["data"]["id"]
            for name in ("one", "other")
        )
        assert client.delete("/v1/jobs").status_code == 422
        ended = client.delete("/v1/jobs", headers={"X-Client-Id": "one"}).json()["data"]["cancelled"]
        assert ended == [one]
        assert client.delete("/v1/jobs", headers={"X-Client-Id": "other"}).json()["data"]["cancelled"] == [other]


def test_a_server_that_dies_while_it_draws_is_an_error_in_one_line(ipa_process, world):
    with serving(world.environ, world.cwd) as server:
        server.wait_until_ready()

        def kill_it_while_it_draws() -> None:
            with server.client() as client:
                while "ipa_jobs_drawing 1.0" not in client.get("/metrics").text:
                    time.sleep(0.05)
            server.process.send_signal(signal.SIGKILL)

        threading.Thread(target=kill_it_while_it_draws, daemon=True).start()
        long = ("--steps", 150, "--size", "768x768", "-o", "a.png", "--server", server.url, "--json")
        assert "broke" in refused(ipa_process("generate", *long))


def test_a_full_queue_is_waited_for_with_a_word(monkeypatch):
    said: list[str] = []
    answers = iter([Busy("64 requests are waiting already", "try again later", 0.01), {"id": "1"}])

    def ask(*_, **__):
        answer = next(answers)
        if isinstance(answer, IpaError):
            raise answer
        return answer

    class Heard(NullReporter):
        def note(self, text):
            said.append(text)

    monkeypatch.setattr(Connection, "ask", ask)
    assert Jobs(Connection("http://127.0.0.1:1"), Heard()).send({}) == {"id": "1"}
    assert len(said) == 1 and "64 requests are waiting" in said[0]


def test_commands_that_no_server_runs_say_so(ipa, served, monkeypatch):
    monkeypatch.setenv("IPA_SERVER", served.url)
    ran = ipa("embed", Path(__file__).parents[2] / "ipa_cli" / "demo" / "reference.png", "--output", "a.safetensors")
    assert ran.exit_code == 0 and "this runs here: the server of IPA_SERVER is for `ipa generate`" in ran.stderr
    assert ipa("sweep-scale", "--server", "auto").exit_code == 2
