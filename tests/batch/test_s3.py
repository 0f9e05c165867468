"""A batch into a bucket: a real S3 server on loopback, and one that hangs up."""

from __future__ import annotations

import hashlib
import json
import socket
import threading
from pathlib import Path

import pytest

from ipa_cli.batch import output

pytestmark = [pytest.mark.slow, pytest.mark.campaign]

QUICK = ("--steps", 1, "--size", "64x64", "--device", "cpu", "--backend", "eager")


@pytest.fixture(scope="module")
def server():
    from moto.server import ThreadedMotoServer

    found = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    found.start()
    yield f"http://127.0.0.1:{found.get_host_and_port()[1]}"
    found.stop()


class Breaking:
    """A relay to the server that hangs up on some requests with a picture, after half of it."""

    def __init__(self, server, broken):
        self.broken, self.seen = broken, 0
        self._to = ("127.0.0.1", int(server.rpartition(":")[2]))
        self._listening = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self._listening.getsockname()[1]}"
        threading.Thread(target=self._serve, daemon=True).start()

    def _serve(self):
        while True:
            client, _ = self._listening.accept()
            upstream = socket.create_connection(self._to)
            for one, other, asks in ((client, upstream, True), (upstream, client, False)):
                threading.Thread(target=self._relay, args=(one, other, asks), daemon=True).start()

    def _relay(self, one, other, asks):
        try:
            while data := one.recv(1 << 16):
                if asks and data.startswith(b"PUT") and b"/pictures/" in data.split(b"\r\n")[0]:
                    self.seen += 1
                    if self.broken(self.seen):
                        other.sendall(data[: len(data) // 2])
                        break
                other.sendall(data)
        except OSError:
            pass
        for end in (one, other):
            end.close()


@pytest.fixture
def bucket(server, world, monkeypatch):
    """An empty bucket, and the variables with which s3fs finds it."""
    import boto3
    import s3fs

    for name, value in {
        "AWS_ACCESS_KEY_ID": "testing",
        "AWS_SECRET_ACCESS_KEY": "testing-secret",
        "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_ENDPOINT_URL": server,
    }.items():
        monkeypatch.setenv(name, value)
    s3fs.S3FileSystem.clear_instance_cache()
    client = boto3.client("s3", endpoint_url=server)
    client.create_bucket(Bucket="drawn")
    for one in client.list_objects_v2(Bucket="drawn").get("Contents", ()):
        client.delete_object(Bucket="drawn", Key=one["Key"])
    Path("jobs.jsonl").write_text("".join(f'{{"id": "{n}", "seed": {n}}}\n' for n in range(6)))
    return client


def found(client):
    keys = [one["Key"] for one in client.list_objects_v2(Bucket="drawn")["Contents"]]
    return {key: client.get_object(Bucket="drawn", Key=key)["Body"].read() for key in keys}


def check(client, count=6):
    objects = found(client)
    lines = [json.loads(line) for line in objects["to/results.jsonl"].splitlines()]
    assert [one["id"] for one in lines] == [str(n) for n in range(count)]
    assert all(hashlib.sha256(objects[f"to/{one['file']}"]).hexdigest() == one["sha256"] for one in lines)


def test_a_batch_is_written_to_a_bucket_and_resumed_from_it(ipa, bucket):
    assert ipa("batch", "jobs.jsonl", *QUICK, "-o", "s3://drawn/to").exit_code == 0
    check(bucket)
    with Path("jobs.jsonl").open("a") as file:
        file.write('{"id": "6", "seed": 6}\n')
    data = ipa("batch", "jobs.jsonl", *QUICK, "-o", "s3://drawn/to", "--resume", "--json").data()
    assert data["drawn"] == 1 and data["results"] == "s3://drawn/to/results.jsonl"
    check(bucket, 7)


def test_a_connection_that_breaks_in_the_middle_is_tried_again(ipa, bucket, server, monkeypatch):
    relay = Breaking(server, lambda seen: seen % 3 == 2)
    monkeypatch.setenv("AWS_ENDPOINT_URL", relay.url)
    assert ipa("batch", "jobs.jsonl", *QUICK, "-o", "s3://drawn/to").exit_code == 0
    assert relay.seen > 6
    check(bucket)


def test_a_connection_that_stays_broken_stops_the_batch_which_goes_on_later(ipa, bucket, server, monkeypatch):
    monkeypatch.setattr(output, "TRIES", 2)
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
    relay = Breaking(server, lambda seen: seen > 3)
    monkeypatch.setenv("AWS_ENDPOINT_URL", relay.url)
    ran = ipa("batch", "jobs.jsonl", *QUICK, "-o", "s3://drawn/to", "--json")
    assert ran.exit_code == 1 and "s3://drawn/to cannot be written" in ran.error()["message"]
    assert "--resume" in ran.error()["hint"]
    relay.broken = lambda seen: False
    assert ipa("batch", "jobs.jsonl", *QUICK, "-o", "s3://drawn/to", "--resume").exit_code == 0
    check(bucket)


def test_a_bucket_that_is_missing_is_found_before_anything_is_loaded(ipa, bucket, monkeypatch):
    monkeypatch.setattr("ipa_cli.engine.engine.Engine.open", lambda *_: pytest.fail("the model was loaded"))
    ran = ipa("batch", "jobs.jsonl", *QUICK, "-o", "s3://none-such/to", "--json")
    assert ran.exit_code == 1 and ran.error()["hint"] == "check the name of the bucket or folder"


def test_credentials_that_are_refused_are_found_before_anything_is_loaded(ipa, bucket, server, monkeypatch):
    from moto.core import set_initial_no_auth_action_count

    monkeypatch.setattr("ipa_cli.engine.engine.Engine.open", lambda *_: pytest.fail("the model was loaded"))
    drawn = set_initial_no_auth_action_count(0)(
        lambda: ipa("batch", "jobs.jsonl", *QUICK, "-o", "s3://drawn/to", "--json")
    )
    ran = drawn()
    assert ran.exit_code == 1 and "check the credentials" in ran.error()["hint"]
