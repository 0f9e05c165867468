"""Our own API, against a real server."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import io
import json
import os
import signal
import socket
import time
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from PIL import Image

from ipa_cli.config import Settings
from ipa_cli.models.plan import make_plan
from ipa_cli.pipeline.references import load_references
from ipa_cli.pipeline.task import make_request
from ipa_cli.result import NullReporter
from ipa_cli.serve import jobs
from tests.serve.server import TOKEN, serving

pytestmark = pytest.mark.slow


def ended(client, job):
    """The last event of a job."""
    with client.stream("GET", f"/v1/jobs/{job['id']}/events") as answer:
        events = [json.loads(line[6:]) for line in answer.iter_lines() if line.startswith("data: ")]
    assert [one["step"] for one in events] == sorted(one["step"] for one in events)
    return events[-1]


def png(colour):
    buffer = io.BytesIO()
    Image.new("RGB", (64, 64), colour).save(buffer, "PNG")
    return buffer.getvalue()


def test_a_job_gives_the_very_file_that_generate_writes(client, ipa, world):
    picture = png("teal")
    Path("cat.png").write_bytes(picture)
    body = {"prompt": "a red star", "seed": 3, "steps": 4, "scale": 0.5, "image": ["cat.png"]}
    sent = client.post("/v1/jobs", json={**body, "files": {"cat.png": base64.b64encode(picture).decode()}})
    assert sent.status_code == 202
    last = ended(client, sent.json()["data"])
    assert (last["status"], last["step"], last["steps"]) == ("done", 4, 4)
    flags = ("--prompt", "a red star", "--seed", 3, "--steps", 4, "--scale", 0.5, "--image", "cat.png")
    drawn = ipa("generate", *flags, "--output", "here.png", "--json").data()["images"][0]
    data = client.get(last["pictures"][0]["url"]).content
    assert hashlib.sha256(data).hexdigest() == last["pictures"][0]["sha256"] == drawn["sha256"]
    assert data == Path("here.png").read_bytes()


def test_a_job_draws_over_a_picture_as_generate_does(client, ipa, world):
    mask = io.BytesIO()
    Image.linear_gradient("L").resize((64, 64)).save(mask, "PNG")
    files = {"cat.png": png("teal"), "area.png": mask.getvalue()}
    for name, data in files.items():
        Path(name).write_bytes(data)
    body = {"prompt": "a red star", "seed": 3, "steps": 4, "strength": 0.5, "mask_blur": 2.0}
    body |= {"init_image": "cat.png", "inpaint_mask": "area.png", "pad": "left=16"}
    coded = {name: base64.b64encode(data).decode() for name, data in files.items()}
    last = ended(client, client.post("/v1/jobs", json={**body, "files": coded}).json()["data"])
    assert (last["status"], last["step"]) == ("done", 2), last
    flags = [word for name, value in body.items() for word in (f"--{name.replace('_', '-')}", value)]
    drawn = ipa("generate", *flags, "--output", "here.png", "--json").data()["images"][0]
    assert drawn["width"] == 80 and last["pictures"][0]["sha256"] == drawn["sha256"]


@pytest.mark.parametrize(
    ("body", "said"),
    [
        ({"init_image": "/etc/passwd"}, "base64"),
        ({"inpaint_mask": base64.b64encode(png("white")).decode()}, "no picture to begin with"),
        ({"init_image": base64.b64encode(png("teal")).decode(), "pad": "left=4096,top=4096"}, "pixels a picture"),
        ({"init_image": base64.b64encode(png("teal")).decode(), "width": 8192, "height": 8192}, "pixels a picture"),
        ({"init_image": base64.b64encode(png("teal")).decode(), "strength": 1.5}, "from 0 to 1"),
        ({"init_image": base64.b64encode(png("teal")).decode(), "strength": 0}, "leaves none"),
        ({"steps": 151}, "at most 150"),
        ({"width": 4096, "height": 4096}, "at most 4194304"),
        ({"num_images": 17}, "at most 16"),
        ({"steps": 0}, "steps"),
        ({"image": ["/etc/passwd"]}, "base64"),
        ({"image": ["http://127.0.0.1/cat.png"]}, "fetches no addresses"),
        ({"image": ["aGVsbG8="]}, "not a picture"),
        ({"model": "sdxl"}, "model"),
        ({"format": "bmp"}, "bmp"),
        ({"adapter": [{"image": ["/etc/passwd"]}]}, ""),
        ({"adapter": [{"source": "/etc/passwd"}]}, ""),
    ],
)
def test_a_request_that_cannot_be_drawn_is_refused_at_once(client, body, said):
    answer = client.post("/v1/jobs", json=body)
    assert answer.status_code == 422, answer.text
    assert set(answer.json()) == {"schema_version", "command", "status", "data", "error"}
    assert said in answer.json()["error"]["message"]


@pytest.mark.parametrize(
    ("kind", "body", "said"),
    [
        ("application/x-www-form-urlencoded", '{"prompt": "a"}', "the body is not declared as JSON"),  # curl -d
        ("text/plain", '{"prompt": "a"}', "the body is not declared as JSON"),
        ("application/json", '{"prompt": "a",}', "the body is not JSON: "),
        ("application/json", "[]", "the body: Input should be a valid dictionary"),
        ("application/json", "", "the body: Field required"),
    ],
)
def test_a_body_that_is_no_json_object_is_named_as_such(client, kind, body, said):
    answer = client.post("/v1/jobs", content=body, headers={"Content-Type": kind})
    assert answer.status_code == 422 and answer.json()["error"]["message"].startswith(said)


def test_a_request_that_is_too_large_or_too_slow_is_answered_in_our_shape(world):
    flags = ["--max-upload", "20kB", "--upload-timeout", 1]
    with serving(world.environ, world.cwd, flags) as server, server.client() as client:
        answer = client.post("/v1/jobs", json={"files": {"a": "A" * 30_000}})
        assert (answer.status_code, answer.json()["status"]) == (413, "error")
        address = urlsplit(server.url)
        with socket.create_connection((address.hostname, address.port), 60) as slow:
            slow.sendall(b"POST /v1/jobs HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n")
            slow.sendall(b"Content-Length: 1000\r\n\r\n{")
            said = b""
            while part := slow.recv(4096):
                said += part
    assert said.startswith(b"HTTP/1.1 408 ") and b"did not arrive within 1 s; --upload-timeout" in said


def test_a_job_is_cancelled_between_two_steps(client):
    job = client.post("/v1/jobs", json={"steps": 150}).json()["data"]
    assert client.delete(f"/v1/jobs/{job['id']}").status_code == 200
    last = ended(client, job)
    assert last["status"] == "cancelled" and last["step"] < 150
    assert client.get("/v1/jobs/nothing").status_code == 404


def test_a_server_finishes_what_it_draws_and_refuses_what_waits_when_it_is_ended(world):
    with serving(world.environ, world.cwd) as server, server.client() as client:
        server.wait_until_ready()
        first, second = (client.post("/v1/jobs", json={"steps": 6, "num_images": 2}).json()["data"] for _ in range(2))
        with (
            server.client() as other,
            other.stream("GET", f"/v1/jobs/{second['id']}/events") as waiting,
            client.stream("GET", f"/v1/jobs/{first['id']}/events") as answer,
        ):
            lines = (json.loads(line[6:]) for line in answer.iter_lines() if line.startswith("data: "))
            assert next(one for one in lines if one["step"] > 0)["status"] == "running"
            server.process.send_signal(signal.SIGTERM)
            refused = [json.loads(line[6:]) for line in waiting.iter_lines() if line.startswith("data: ")][-1]
            last = list(lines)[-1]
        assert refused["error"]["message"] == "the server is shutting down"
        assert last["status"] == "done" and len(last["pictures"]) == 2
        for picture in last["pictures"]:
            time.sleep(0.2)  # a client far away
            with server.client() as far:
                assert hashlib.sha256(far.get(picture["url"]).content).hexdigest() == picture["sha256"]
        assert server.process.wait(60) == 143


@pytest.mark.skipif("FUZZ_EXAMPLES" not in os.environ, reason=".ci/serve waits for half a minute, until it gives up")
def test_a_request_that_never_ends_does_not_keep_a_server_from_its_end(world):
    with serving(world.environ, world.cwd) as server, server.client() as client:
        server.wait_until_ready()
        address = urlsplit(server.url)
        with socket.create_connection((address.hostname, address.port)) as connection:
            head = f"POST /v1/jobs HTTP/1.1\r\nHost: {address.netloc}\r\nContent-Type: application/json\r\n"
            connection.sendall(f"{head}Content-Length: 100\r\n\r\n{{".encode())
            assert client.get("/healthz").status_code == 200
            assert server.end() == 143


def test_a_token_is_asked_for_everywhere_but_by_health_checks(guarded):
    with guarded.client() as client:
        assert client.get("/healthz").status_code == 200
        assert client.get("/metrics").status_code == 401
        assert client.get("/metrics", auth=("any", TOKEN)).status_code == 200
        assert client.get("/metrics", headers={"Authorization": "Bearer wrong"}).status_code == 401
        assert client.get("/healthz", headers={"Host": "evil.example"}).status_code == 403
        assert client.get("/healthz", headers={"Origin": "http://evil.example"}).status_code == 403
        assert TOKEN not in guarded.stderr


def test_methods_that_a_client_makes_up_make_no_new_series(client):
    for method in ("MADE", "UP"):
        assert client.request(method, "/healthz").status_code == 405
    assert 'method="other"' in client.get("/metrics").text
    assert "MADE" not in client.get("/metrics").text


@pytest.mark.parametrize("name", ["Host", "Origin"])
@pytest.mark.parametrize("value", ["[::", "http://[", "http://[::", "127.0.0.1]", "null", "localhost.evil.example"])
def test_a_header_that_is_no_address_is_refused(client, name, value):
    assert client.get("/v1/models", headers={name: value}).status_code == 403


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (["--host", "0.0.0.0"], "not loopback"),
        (["--token-file", "short"], "3 characters"),
        (["--token-file", "two-lines"], "holds no token"),
        (["--token-file", "umlauts"], "holds no token"),
        (["--max-upload", "0"], "too few"),
        (["--warm", "64x64,100x100"], "--warm 100"),
        (["--devices", "cpu,gpu"], "unknown device 'gpu'"),
        (["--allow-origin", "*"], "expected a site"),
        (["--allow-origin", "https://pictures.example/page"], "expected a site"),
        (["--allow-origin", "pictures.example"], "expected a site"),
    ],
)
def test_a_server_that_nobody_or_anybody_could_use_is_not_started(ipa, flags, said):
    Path("short").write_text("abc")
    Path("two-lines").write_text("0123456789abcdef\n0123456789abcdef\n")
    Path("umlauts").write_text("tökentökentökentöken", encoding="utf-8")
    done = ipa("serve", *flags)
    assert done.exit_code == 2 and said in done.stderr and "listening" not in done.stderr


def test_two_engines_draw_from_one_queue(world):
    with serving(world.environ, world.cwd, ["--devices", "cpu,cpu"]) as server, server.client() as client:
        server.wait_until_ready()
        assert len(client.get("/readyz").json()["data"]["engines"]) == 2
        sent = [client.post("/v1/jobs", json={"steps": 8, "seed": 1}).json()["data"] for _ in range(2)]
        states = sent
        while [one["status"] for one in states] != ["running", "running"]:
            assert not {"done", "failed"} & {one["status"] for one in states}
            states = [client.get(f"/v1/jobs/{job['id']}").json()["data"] for job in sent]
        digests = {ended(client, job)["pictures"][0]["sha256"] for job in sent}
        assert len(digests) == 1


def test_an_ended_job_keeps_the_names_of_its_references_and_not_their_pixels(world):
    Path("cat.png").write_bytes(png("teal"))
    settings = Settings(image=("cat.png",), seed=1)
    request = make_request(settings, make_plan(settings), load_references(settings, NullReporter()))
    loop = asyncio.new_event_loop()
    job = jobs.Job(request, settings, "client", loop)
    loop.close()
    job.end(jobs.DONE)
    (reference,) = job.request.references
    assert reference.image is None and (reference.source, len(reference.sha256)) == ("cat.png", 64)
