"""Graphs in a real S3 server on loopback: sent, fetched, resumed after a broken connection, and what it refuses."""

from __future__ import annotations

import socket
import threading
import urllib.request
from collections.abc import Iterator
from contextlib import suppress

import pytest

from ipa_cli import cache
from ipa_cli.cache import remote
from ipa_cli.cache.remote import location
from tests.cache.remote.conftest import opened

pytestmark = [pytest.mark.slow, pytest.mark.campaign]
pytest.importorskip("moto")
pytest.importorskip("s3fs")


@pytest.fixture(scope="module")
def server() -> Iterator[str]:
    """The address of an S3 server with a bucket `graphs`."""
    from moto.server import ThreadedMotoServer

    running = ThreadedMotoServer("127.0.0.1", 0, verbose=False)
    running.start()
    host, port = running.get_host_and_port()
    address = f"http://{host}:{port}"
    urllib.request.urlopen(urllib.request.Request(f"{address}/graphs", method="PUT")).close()
    yield address
    running.stop()


@pytest.fixture
def s3(server, monkeypatch) -> str:
    """The environment of somebody with access to it."""
    for name, value in {
        "AWS_ACCESS_KEY_ID": "testing",
        "AWS_SECRET_ACCESS_KEY": "testing",
        "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_ENDPOINT_URL_S3": server,
        "AWS_EC2_METADATA_DISABLED": "true",
    }.items():
        monkeypatch.setenv(name, value)
    return server


class Cutting:
    """A proxy in front of a server that hangs up once it has answered `left` bytes, until that is None."""

    def __init__(self, server: str):
        host, port = server.removeprefix("http://").split(":")
        self.behind = (host, int(port))
        self.left: int | None = None
        self.listening = socket.create_server(("127.0.0.1", 0))
        threading.Thread(target=self._accept, daemon=True).start()

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.listening.getsockname()[1]}"

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                client, _ = self.listening.accept()
                server = socket.create_connection(self.behind)
                threading.Thread(target=self._copy, args=(client, server, False), daemon=True).start()
                threading.Thread(target=self._copy, args=(server, client, True), daemon=True).start()

    def _copy(self, source: socket.socket, target: socket.socket, counted: bool) -> None:
        with suppress(OSError):
            while part := source.recv(1 << 14):
                if counted and self.left is not None:
                    part, self.left = part[: self.left], max(0, self.left - len(part))
                target.sendall(part)
                if counted and self.left == 0:
                    break
        for one in (source, target):
            with suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)
            one.close()


def large(folder):
    (folder / "graph.pt2").write_bytes(bytes(range(251)) * 4096)


def test_graphs_go_through_s3_once_and_a_broken_connection_is_resumed(fleet, s3, monkeypatch):
    monkeypatch.setattr(location, "PARTS", (1 << 17, 1 << 17))
    monkeypatch.setattr(location, "SILENCE", 2.0)  # s3fs tries again for longer
    there = fleet("s3://graphs/sdxl")
    entry = there.publish(builder=large)
    proxy = Cutting(s3)
    monkeypatch.setenv("AWS_ENDPOINT_URL_S3", proxy.address)
    place = remote.Remote("s3://graphs/sdxl")
    [name] = remote.names(place)
    assert name == entry.key.folder
    proxy.left = 300_000
    with pytest.raises(remote.RemoteError):
        there.pull(place=place)
    with there.worker.here() as store:
        assert cache.scan(store) == []
    proxy.left = None
    [pulled] = there.pull(place=remote.Remote("s3://graphs/sdxl"))
    assert pulled.fresh and 0 < pulled.received < entry.size
    with there.worker.here() as store:
        opened(store, pulled.entry)
    [again] = there.pull()
    assert not again.fresh


def test_of_a_push_that_is_interrupted_the_bucket_keeps_no_unfinished_upload(s3, tmp_path):
    import boto3

    client = boto3.client("s3", endpoint_url=s3)
    (tmp_path / "graph.pt2").write_bytes(bytes(11 << 20))
    began = []

    def advance(count):
        began.extend(client.list_multipart_uploads(Bucket="graphs")["Uploads"])
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        remote.Remote("s3://graphs/sdxl").send("blob", tmp_path / "graph.pt2", advance)
    assert len(began) == 1 and "Uploads" not in client.list_multipart_uploads(Bucket="graphs")
    sent = []
    remote.Remote("s3://graphs/sdxl").send("blob", tmp_path / "graph.pt2", sent.append)
    assert sum(sent) == remote.Remote("s3://graphs/sdxl").size("blob") == 11 << 20


def test_a_bucket_that_is_missing_is_said(fleet, s3):
    there = fleet("s3://nowhere/sdxl")
    with pytest.raises(remote.RemoteError, match="is not there"):
        there.pull()
    with pytest.raises(remote.RemoteError, match="is not there"):
        there.publish()


def test_wrong_credentials_and_none_are_said(fleet, s3, monkeypatch, tmp_path):
    there = fleet("s3://graphs/sdxl")
    checks_credentials(s3, b"0")
    try:
        with pytest.raises(remote.RemoteError, match="refuses") as refused:
            there.publish()
        assert "credentials" in refused.value.hint
        for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
            monkeypatch.delenv(name)
        monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "none"))
        monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "none"))
        with pytest.raises(remote.RemoteError, match="refuses"):
            remote.names(remote.Remote("s3://graphs/sdxl"))
    finally:
        checks_credentials(s3, b"inf")


def checks_credentials(server: str, after: bytes) -> None:
    """Have the server look at credentials after so many more requests."""
    request = urllib.request.Request(f"{server}/moto-api/reset-auth", after, {"Content-Type": "text/plain"})
    urllib.request.urlopen(request).close()


def test_a_server_that_is_down_is_said(fleet, s3, monkeypatch):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    monkeypatch.setenv("AWS_ENDPOINT_URL_S3", f"http://127.0.0.1:{port}")
    with pytest.raises(remote.RemoteError, match=r"cannot be reached|does not answer"):
        remote.names(remote.Remote("s3://graphs/sdxl"))
