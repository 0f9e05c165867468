"""Graphs go to a shared place and come back whole, signed, and only once."""

import functools
import http.server
import json
import os
import re
import stat
import threading
import time
from contextlib import suppress
from pathlib import Path

import pytest

from ipa_cli import cache
from ipa_cli.cache import Refused, StoreError, ed25519, publishers, remote
from ipa_cli.cache.manifest import Damage
from ipa_cli.cache.remote import location
from ipa_cli.errors import IpaError, UsageError
from tests.cache.graphs import assert_whole, build, key, leftovers, script
from tests.cache.remote.conftest import opened, quiet


@pytest.fixture(params=["shared", "in_memory"])
def fleet_of(request):
    return request.getfixturevalue(request.param)


def test_what_one_machine_pushes_another_loads(fleet_of):
    entry = fleet_of.publish()
    [pulled] = fleet_of.pull()
    assert pulled.fresh and pulled.received == entry.size and pulled.entry.text == entry.text
    with fleet_of.worker.here() as store:
        assert cache.trust_problem(pulled.entry) is None
        with cache.open_graph(store, pulled.entry) as folder:
            assert (folder / "kernels/one.so").read_bytes() == (entry.folder / "kernels/one.so").read_bytes()
        assert not (pulled.entry.folder / "proof.json").exists(), "only its publisher answers for it"
        assert_whole(store)
        assert leftovers(store) == []


def test_nothing_is_sent_or_fetched_twice(fleet_of):
    entry = fleet_of.publish()
    fleet_of.pull()
    [again] = fleet_of.pull()
    assert not again.fresh and again.received == 0
    with fleet_of.publisher.here():
        assert not remote.push(fleet_of.place, entry, None, False, False, quiet).fresh


def test_files_that_are_there_are_not_sent_again(fleet_of):
    fleet_of.publish()
    with fleet_of.publisher.here() as store:
        other = build(store, key(4))  # the same files under another key
        pushed = remote.push(fleet_of.place, other, publishers.private_key(), False, False, quiet)
    assert pushed.fresh and pushed.sent == 0
    assert len(fleet_of.pull()) == 2


def test_a_file_that_was_cut_off_while_it_was_sent_is_sent_again(shared, tmp_path):
    entry = shared.publish()
    for blob in (path for path in (tmp_path / "place/blobs").rglob("*") if path.is_file()):
        blob.write_bytes(blob.read_bytes()[:5])
    for path in (tmp_path / "place/graphs").rglob("*.json"):
        path.unlink()
    with shared.publisher.here():
        assert remote.push(shared.place, entry, publishers.private_key(), False, False, quiet).sent == entry.size
    assert shared.pull()[0].fresh


def test_a_key_that_is_trusted_no_more_refuses_its_graphs_again(shared):
    shared.publish()
    [pulled] = shared.pull()
    with shared.worker.here() as store:
        publishers.untrust("ci")
        with pytest.raises(Refused, match=shared.key) as refused:
            opened(store, pulled.entry)
        assert f"ipa cache trust {shared.key}" in refused.value.hint
        publishers.trust(shared.key, "ci")
        opened(store, pulled.entry)


def test_only_a_trusted_signer_is_accepted_unless_said(shared):
    entry = shared.publish()
    with shared.worker.here():
        publishers.untrust(shared.key)
    with pytest.raises(Refused, match="which you do not trust"):
        shared.pull()
    [pulled] = shared.pull(allow_unsigned=True)
    with shared.worker.here() as store:
        opened(store, pulled.entry)
        assert pulled.entry.text == entry.text


def test_an_unsigned_graph_is_refused_unless_said(shared):
    with shared.publisher.here() as store:
        entry = build(store)
        with pytest.raises(Refused, match="no key to sign it with"):
            remote.push(shared.place, entry, None, False, False, quiet)
        assert remote.push(shared.place, entry, None, True, False, quiet).fresh
    with pytest.raises(Refused, match="no signature"):
        shared.pull()
    assert shared.pull(allow_unsigned=True)[0].fresh
    with shared.publisher.here():
        assert remote.push(shared.place, entry, publishers.private_key(), False, False, quiet).fresh, "now signed"
    assert [one.key for one in remote.read(shared.place, entry.key.folder).signatures] == [shared.key]


def test_a_pulled_graph_keeps_its_publishers_signature_when_it_is_pushed_on(shared, tmp_path):
    shared.publish()
    [pulled] = shared.pull()
    mirror = remote.Remote(str(tmp_path / "mirror"))
    with shared.worker.here():
        remote.push(mirror, pulled.entry, None, False, False, quiet)
    offer = remote.read(mirror, pulled.entry.key.folder)
    assert [one.key for one in offer.signatures] == [shared.key]


def test_a_second_signature_is_added_and_either_key_will_do(shared, tmp_path):
    with shared.publisher.here() as store:
        entry = build(store)
        publishers.generate(tmp_path / "second.pem")
        first, second = publishers.private_key(), publishers.private_key(tmp_path / "second.pem")
        assert remote.sign(store, entry, first) and remote.sign(store, entry, second)
        assert not remote.sign(store, entry, second)
        remote.push(shared.place, entry, None, False, False, quiet)
    with shared.worker.here():
        publishers.untrust(shared.key)
        publishers.trust(ed25519.public_key(second), "second")
    assert shared.pull()[0].fresh


def test_a_signature_is_added_to_the_same_graph_that_is_there_for_a_change_of_keys(shared, tmp_path):
    entry = shared.publish()
    with shared.publisher.here() as store:
        publishers.generate(tmp_path / "new.pem")
        new = publishers.private_key(tmp_path / "new.pem")
        assert remote.sign(store, entry, new)
        pushed = remote.push(shared.place, entry, None, False, False, quiet)
        assert pushed.fresh and pushed.sent == 0
        assert not remote.push(shared.place, entry, None, False, False, quiet).fresh
    offer = remote.read(shared.place, entry.key.folder)
    assert {one.key for one in offer.signatures} == {shared.key, ed25519.public_key(new)}


def test_a_graph_that_is_not_trusted_here_is_not_published(shared):
    with shared.publisher.here() as store:
        entry = build(store)
        (entry.folder / "proof.json").unlink()
        for send in (
            lambda: remote.push(shared.place, entry, publishers.private_key(), False, False, quiet),
            lambda: remote.sign(store, entry, publishers.private_key()),
        ):
            with pytest.raises(Refused, match="not trusted here"):
                send()


def test_one_of_another_signer_is_replaced_only_by_force_and_a_damaged_one_at_once(shared, tmp_path):
    entry = shared.publish()
    (path,) = (tmp_path / "place/graphs").rglob("*.json")
    with shared.publisher.here():
        publishers.untrust(shared.key)
        kept = remote.push(shared.place, entry, publishers.private_key(), False, False, quiet)
        assert not kept.fresh and "--force" in kept.note
        path.write_bytes(path.read_bytes()[:100])
        replaced = remote.push(shared.place, entry, publishers.private_key(), False, False, quiet)
        assert replaced.fresh and "replaced" in replaced.note


def test_two_processes_that_pull_the_same_graph_fetch_it_once(shared, tmp_path):
    shared.publish()
    text = """
        from ipa_cli.cache import remote
        place = remote.Remote(sys.argv[1])
        [name] = remote.names(place)
        pulled = remote.pull(Store(Path(sys.argv[2])), place, remote.read(place, name), False, lambda doing: None)
        print(pulled.fresh)
    """
    environ = {**os.environ, "XDG_STATE_HOME": str(shared.worker.folder / "state")}
    processes = [script(text, tmp_path / "place", shared.worker.store.root, env=environ) for _ in range(2)]
    assert sorted(process.communicate(timeout=60)[0].strip() for process in processes) == ["False", "True"]
    assert_whole(shared.worker.store)


def test_a_pull_that_is_killed_leaves_nothing_to_load_and_the_next_goes_on(shared, tmp_path):
    entry = shared.publish(builder=large)
    text = """
        from ipa_cli.cache import remote
        from ipa_cli.cache.remote import location
        location.PARTS = (1 << 18, 1 << 18)
        place = remote.Remote(sys.argv[1])
        [name] = remote.names(place)

        def doing(at):
            print(at, flush=True)
            time.sleep(60)

        remote.pull(Store(Path(sys.argv[2])), place, remote.read(place, name), False, doing)
    """
    environ = {**os.environ, "XDG_STATE_HOME": str(shared.worker.folder / "state")}
    process = script(text, tmp_path / "place", shared.worker.store.root, env=environ)
    assert process.stdout.readline()
    process.kill()
    process.wait()
    with shared.worker.here() as store:
        assert cache.scan(store) == []
    [pulled] = shared.pull()
    assert pulled.fresh and pulled.received <= entry.size
    with shared.worker.here() as store:
        opened(store, pulled.entry)
        assert leftovers(store) == []


def test_a_folder_that_cannot_be_written_is_said_as_of_the_place(shared, tmp_path):
    (tmp_path / "place").write_text("a file")
    with pytest.raises(remote.RemoteError, match="place"):
        shared.publish()


def test_a_package_that_is_missing_is_said(monkeypatch):
    import fsspec.core

    def missing(*arguments, **named):
        raise ImportError("Install s3fs to access S3")

    monkeypatch.setattr(fsspec.core, "url_to_fs", missing)
    with pytest.raises(remote.RemoteError, match="s3fs") as refused:
        remote.names(remote.Remote("s3://graphs"))
    assert "ipa-cli[remote]" in refused.value.hint


def test_a_connection_that_breaks_leaves_nothing_to_load_and_is_resumed(in_memory, monkeypatch):
    entry = in_memory.publish(builder=large)
    monkeypatch.setattr(location, "PARTS", (1 << 16, 1 << 16))
    real = remote.Remote.fetch
    state = {"left": 5}

    def breaking(self, path, size, have, write, restart):
        def counted(part):
            if state["left"] == 0:
                raise remote.RemoteError("the connection broke", "")
            state["left"] -= 1
            write(part)

        return real(self, path, size, have, counted, restart)

    monkeypatch.setattr(remote.Remote, "fetch", breaking)
    with pytest.raises(remote.RemoteError):
        in_memory.pull()
    with in_memory.worker.here() as store:
        assert cache.scan(store) == []
    monkeypatch.setattr(remote.Remote, "fetch", real)
    [pulled] = in_memory.pull()
    assert pulled.fresh and pulled.received == entry.size - 5 * (1 << 16)
    with in_memory.worker.here() as store:
        opened(store, pulled.entry)
        assert leftovers(store) == []


def large(folder):
    (folder / "graph.pt2").write_bytes(bytes(range(256)) * 4096)


def test_what_was_pulled_in_part_is_removed_after_a_day(in_memory, monkeypatch):
    in_memory.publish()

    def broken(self, *arguments):
        raise remote.RemoteError("the connection broke", "")

    monkeypatch.setattr(remote.Remote, "fetch", broken)
    with pytest.raises(remote.RemoteError):
        in_memory.pull()
    with in_memory.worker.here() as store:
        [found] = cache.scratch_folders(store)
        assert found.alive
        cache.sweep(store)
        assert len(cache.scratch_folders(store)) == 1
        os.utime(found.path, (1, time.time() - 90_000))
        cache.sweep(store)
        assert cache.scratch_folders(store) == []


def test_a_full_disk_is_said_and_what_came_is_removed(in_memory, monkeypatch):
    in_memory.publish()

    def full(self, *arguments):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(remote.Remote, "fetch", full)
    with pytest.raises(StoreError, match="cannot hold more"):
        in_memory.pull()
    with in_memory.worker.here() as store:
        assert cache.scan(store) == [] and cache.scratch_folders(store) == []


def test_a_disk_that_fills_up_while_a_graph_is_fetched_loses_nothing(in_memory, small_disk, monkeypatch):
    monkeypatch.setattr(in_memory.place, "_part", 1 << 14)
    in_memory.publish(builder=lambda folder: (folder / "graph.pt2").write_bytes(b"x" * 150_000) and None)
    offer = remote.read(in_memory.place, remote.names(in_memory.place)[0])
    store = cache.Store(small_disk / "cache")

    def others_fill_it(doing):
        with suppress(OSError), (small_disk / "others").open("ab") as file:
            file.write(b"x" * 1_000_000)

    with in_memory.worker.here():
        good = build(store, key(1))
        with pytest.raises(StoreError, match="cannot hold more") as full:
            remote.pull(store, in_memory.place, offer, False, others_fill_it)
        assert "ipa cache clear" in full.value.hint
        assert [item.id for item in cache.scan(store)] == [good.id] and cache.scratch_folders(store) == []
        (small_disk / "others").unlink()
        assert remote.pull(store, in_memory.place, offer, False, quiet).fresh


def test_a_graph_larger_than_the_cache_may_be_is_not_begun(in_memory):
    in_memory.publish()
    place = in_memory.place
    with in_memory.worker.here() as store, pytest.raises(Refused, match="does not fit"):
        limited = cache.Store(store.root, max_size=10)
        remote.pull(limited, place, remote.read(place, remote.names(place)[0]), False, quiet)


def test_over_http_graphs_are_read_by_the_index_and_nothing_is_sent(shared, tmp_path):
    entry = shared.publish()
    handler = functools.partial(Silent, directory=str(tmp_path / "place"))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        place = remote.Remote(f"http://127.0.0.1:{server.server_port}/")
        [pulled] = shared.pull(place=place)
        assert pulled.fresh and pulled.entry.text == entry.text
        with shared.publisher.here(), pytest.raises(remote.RemoteError, match="only be read"):
            remote.push(place, entry, publishers.private_key(), False, False, quiet)
        server.shutdown()


class Silent(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *arguments):
        pass


class Ranges(Silent):
    """A server that sends parts of files, which the standard library's does not."""

    def do_GET(self):
        part = re.fullmatch(r"bytes=(\d+)-(\d+)", self.headers.get("Range", ""))
        if part is None:
            return super().do_GET()
        content = Path(self.translate_path(self.path)).read_bytes()
        start, end = int(part[1]), min(int(part[2]) + 1, len(content))
        self.send_response(206)
        self.send_header("Content-Range", f"bytes {start}-{end - 1}/{len(content)}")
        self.send_header("Content-Length", str(end - start))
        self.end_headers()
        self.wfile.write(content[start:end])
        return None


@pytest.mark.parametrize(("handler", "begins_again"), [(Silent, True), (Ranges, False)])
def test_over_http_a_pull_that_broke_goes_on_where_the_server_sends_parts(
    shared, tmp_path, monkeypatch, handler, begins_again
):
    entry = shared.publish(builder=large)
    real = remote.Remote.fetch

    def breaking(self, path, size, have, write, restart):
        def broken(part):
            write(part[: 1 << 14])
            raise remote.RemoteError("the connection broke", "")

        return real(self, path, size, have, broken, restart)

    with http.server.ThreadingHTTPServer(
        ("127.0.0.1", 0), functools.partial(handler, directory=str(tmp_path / "place"))
    ) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        place = remote.Remote(f"http://127.0.0.1:{server.server_port}/")
        with monkeypatch.context() as patch, pytest.raises(remote.RemoteError):
            patch.setattr(remote.Remote, "fetch", breaking)
            shared.pull(place=place)
        [pulled] = shared.pull(place=place)
        assert pulled.fresh and pulled.received == entry.size - (0 if begins_again else 1 << 14)
        server.shutdown()
    with shared.worker.here() as store:
        opened(store, pulled.entry)


def test_a_place_that_hangs_is_given_up(shared, tmp_path, monkeypatch):
    monkeypatch.setattr(location, "ANSWER", 0.2)
    monkeypatch.setattr(location, "SILENCE", 0.2)
    shared.publish()
    (path,) = (tmp_path / "place/graphs").rglob("*.json")
    path.unlink()
    os.mkfifo(path)
    with pytest.raises(remote.RemoteError, match="does not answer within"):
        shared.pull()


def test_a_place_that_refuses_connections_is_said():
    with pytest.raises(remote.RemoteError, match="cannot be reached"):
        remote.names(remote.Remote("http://127.0.0.1:9/graphs"))


# Keys


def test_a_private_key_is_this_users_alone_and_is_not_replaced_without_a_word(shared):
    with shared.publisher.here():
        path = publishers.key_file()
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
        before = path.read_bytes()
        with pytest.raises(IpaError, match="exists"):
            publishers.generate(path)
        assert path.read_bytes() == before
        publishers.generate(path, overwrite=True)
        assert path.read_bytes() != before


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (lambda path: path.chmod(0o644), "not private"),
        (lambda path: path.chmod(0o620), "not private"),
        (lambda path: path.write_text("no key"), "not an Ed25519 key"),
        (lambda path: path.write_bytes(other_kind()), "not an Ed25519 key"),
        (lambda path: path.write_text("-----BEGIN OPENSSH PRIVATE KEY-----\n"), "format of OpenSSH"),
        (lambda path: (path.unlink(), path.mkdir(0o700)), "not a file"),
    ],
)
def test_a_private_key_that_cannot_be_right_is_refused(shared, spoil, words):
    with shared.publisher.here():
        spoil(publishers.key_file())
        with pytest.raises(StoreError, match=words):
            publishers.private_key()


def other_kind() -> bytes:
    from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
    from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

    return X25519PrivateKey.generate().private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())


@pytest.mark.parametrize("text", ["", "ed25519:", "ed25519:abc", "ssh-ed25519 AAAA", "ed25519:" + "é" * 43, "A" * 51])
def test_what_is_no_public_key_is_refused(text):
    with pytest.raises(UsageError, match="not a public key"):
        publishers.checked(text)


def test_a_key_as_which_anybody_can_sign_is_refused(shared):
    """One that is all A, as in an example, is such a point; for the neutral one 0 is a signature of everything."""
    for y in (0, 1, 2**255 - 20, 2**255 - 19, 2**255 - 18, ed25519._OF_ORDER_8, 2**255 - 19 - ed25519._OF_ORDER_8):
        for sign in (0, 1 << 255):
            with pytest.raises(UsageError, match="anybody can sign as ed25519:"):
                publishers.checked(ed25519._written((y | sign).to_bytes(32, "little")))
    neutral = b"\1" + bytes(31)
    ed25519._library().Ed25519PublicKey.from_public_bytes(neutral).verify(neutral + bytes(32), b"anything")
    with pytest.raises(Damage, match="belongs to another manifest"):
        ed25519.check(b"anything", [ed25519.Signature(ed25519._written(neutral), neutral + bytes(32))])


@pytest.mark.parametrize("text", ["{", "[]", '{"ed25519:x": {}}', "[" * 9000, '{"a": 1}'])
def test_a_damaged_list_of_keys_is_said(shared, text):
    shared.publish()
    with shared.worker.here():
        (shared.worker.folder / "state/ipa/publishers.json").write_text(text)
        with pytest.raises(StoreError, match="damaged"):
            publishers.trusted()


def test_a_list_of_keys_that_others_may_write_is_not_used(shared):
    shared.publish()
    with shared.worker.here():
        (shared.worker.folder / "state/ipa/publishers.json").chmod(0o666)
    with pytest.raises(StoreError, match="not safe"):
        shared.pull()


def test_the_envelope_is_that_of_dsse(shared):
    """Checked with the bare primitives, as another program would."""
    import base64

    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

    entry = shared.publish()
    offer = json.loads(shared.place.read(f"graphs/{entry.key.folder}.json", 1 << 20))
    kind, payload = offer["payloadType"].encode(), base64.b64decode(offer["payload"])
    assert payload == entry.text
    encoding = b"DSSEv1 %d %s %d %s" % (len(kind), kind, len(payload), payload)
    [signature] = offer["signatures"]
    raw = base64.urlsafe_b64decode(signature["keyid"].removeprefix("ed25519:") + "=")
    Ed25519PublicKey.from_public_bytes(raw).verify(base64.b64decode(signature["sig"]), encoding)


def test_a_place_that_does_not_open_in_time_is_named_once(monkeypatch):
    monkeypatch.setattr(location, "ANSWER", 0.05)
    monkeypatch.setattr(location.remote, "opened", lambda url: time.sleep(1))
    with pytest.raises(location.RemoteError) as raised:
        location.Remote("s3://bucket/graphs").read("index", 1)
    assert raised.value.message == "s3://bucket/graphs does not answer within 0.05 s"
