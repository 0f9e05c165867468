"""Sixty-four clients at once, half of which hang up: everybody else gets the picture that was asked for."""

from __future__ import annotations

import base64
import hashlib
import json
import random
import re
import socket
import time
from concurrent.futures import ThreadPoolExecutor
from urllib.parse import urlsplit

import pytest

from tests.serve.server import serving

pytestmark = [pytest.mark.slow, pytest.mark.campaign]

CLIENTS, KINDS, STEPS = 64, 8, 3
SIZE = 64


def body(number: int) -> dict[str, object]:
    """What client `number` asks for: one of a few pictures, each another."""
    kind = number % KINDS
    settings = {"seed": kind, "scale": kind / KINDS, "steps": STEPS}
    return {"prompt": f"{kind} circles", "size": f"{SIZE}x{SIZE}", "ipa": settings}


def hang_up(url: str, number: int) -> None:
    """Send a request, and leave before it is answered."""
    parts, data = urlsplit(url), json.dumps(body(number)).encode()
    with socket.create_connection((parts.hostname, parts.port)) as connection:
        head = f"POST /v1/images/generations HTTP/1.1\r\nHost: {parts.netloc}\r\nContent-Type: application/json\r\n"
        connection.sendall(f"{head}Content-Length: {len(data)}\r\n\r\n".encode() + data)
        time.sleep(random.Random(number).uniform(0.05, 2))


def ask(url: str, client, number: int) -> str:
    """The digest of the picture that client `number` is answered with."""
    answer = client.post("/v1/images/generations", json=body(number), headers={"X-Client-Id": f"client {number}"})
    assert answer.status_code == 200, answer.text
    return hashlib.sha256(base64.b64decode(answer.json()["data"][0]["b64_json"])).hexdigest()


def figures(client) -> dict[str, float]:
    """The counters of jobs."""
    text = client.get("/metrics").text
    return {name: float(value) for name, value in re.findall(r"^(ipa_jobs\S*) (\S+)$", text, re.M)}


def test_every_client_that_stays_gets_its_own_picture(ipa, world):
    with serving(world.environ, world.cwd, ["--max-queue", CLIENTS]) as server, server.client() as client:
        server.wait_until_ready()
        with ThreadPoolExecutor(CLIENTS) as pool:
            staying = {n: pool.submit(ask, server.url, client, n) for n in range(0, CLIENTS, 2)}
            leaving = [pool.submit(hang_up, server.url, n) for n in range(1, CLIENTS, 2)]
            digests = {number: one.result() for number, one in staying.items()}
            for one in leaving:
                one.result()
        while figures(client)["ipa_jobs_drawing"] or figures(client)["ipa_jobs_waiting"]:
            time.sleep(0.05)
        count = figures(client)
    done, cancelled = (count.get(f'ipa_jobs_total{{status="{status}"}}', 0) for status in ("done", "cancelled"))
    assert done + cancelled == CLIENTS and done >= CLIENTS / 2
    assert cancelled > 0  # most of those that left were not drawn for nothing
    for kind in range(0, KINDS, 2):
        flags = ("--prompt", f"{kind} circles", "--seed", kind, "--scale", kind / KINDS, "--steps", STEPS)
        [drawn] = ipa("generate", *flags, "--size", f"{SIZE}x{SIZE}", "--output", "-n.png", "--json").data()["images"]
        assert {digests[n] for n in digests if n % KINDS == kind} == {drawn["sha256"]}
