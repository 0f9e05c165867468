"""What somebody who can write to the shared place, or is on the way to it, can do: nothing but withhold graphs."""

import base64
import hashlib
import json
from contextlib import suppress
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ipa_cli import cache
from ipa_cli.cache import Refused, ed25519, publishers, remote
from ipa_cli.cache.manifest import Damage, render
from ipa_cli.cache.remote import offers
from tests.cache.graphs import build, key, leftovers
from tests.cache.remote.conftest import Fleet, opened, quiet


def envelope(fleet: Fleet, name: str) -> Path:
    return Path(fleet.place.url, "graphs", f"{name}.json")


def blobs(fleet: Fleet) -> list[Path]:
    return sorted(path for path in Path(fleet.place.url, "blobs").rglob("*") if path.is_file())


def assert_nothing_came(fleet: Fleet, words: str) -> None:
    with pytest.raises((Damage, Refused), match=words):
        fleet.pull(allow_unsigned=True)  # a signature that is there must hold in any case
    with pytest.raises((Damage, Refused), match=words):
        fleet.pull()
    with fleet.worker.here() as store:
        assert cache.scan(store) == [] and leftovers(store) == []


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (lambda path: path.write_bytes(path.read_bytes().swapcase()), "has changed"),
        (lambda path: path.write_bytes(b"\0" * path.stat().st_size), "has changed"),
        (lambda path: path.write_bytes(path.read_bytes()[:7]), "has 7 bytes, not"),
        (lambda path: path.write_bytes(b""), "has 0 bytes, not"),
        (lambda path: path.write_bytes(path.read_bytes() + b"more"), "bytes, not"),
        (lambda path: path.unlink(), "is missing"),
        (lambda path: (path.unlink(), path.symlink_to("/etc/hostname")), "bytes, not"),
    ],
    ids=["replaced", "zeroed", "truncated", "emptied", "lengthened", "removed", "a link"],
)
def test_a_file_that_is_not_as_it_was_sent_is_named_and_refused(shared, spoil, words):
    shared.publish()
    spoil(blobs(shared)[0])
    assert_nothing_came(shared, words)


def test_a_file_changed_while_it_is_fetched_is_refused_and_fetched_anew(shared, monkeypatch):
    """What came before the change is not mixed with what comes after."""
    shared.publish()
    good = [path.read_bytes() for path in blobs(shared)]
    blobs(shared)[0].write_bytes(good[0].swapcase())
    with pytest.raises(Refused, match="has changed"):
        shared.pull()
    blobs(shared)[0].write_bytes(good[0])
    assert shared.pull()[0].fresh


def test_an_older_graph_under_the_name_of_a_newer_one_is_refused(shared):
    older = shared.publish(key(torch="2.12.0"))
    newer = shared.publish(key(torch="2.13.1"))
    envelope(shared, newer.key.folder).write_bytes(envelope(shared, older.key.folder).read_bytes())
    envelope(shared, older.key.folder).unlink()
    assert_nothing_came(shared, "belongs to another graph")


def test_a_signature_moved_to_another_manifest_is_refused(shared):
    signed = shared.publish()
    with shared.publisher.here() as store:
        evil = build(store, key(5), lambda folder: (folder / "graph.pt2").write_bytes(b"evil") and None)
        remote.push(shared.place, evil, None, True, False, quiet)
    theirs = json.loads(envelope(shared, signed.key.folder).read_bytes())
    mine = json.loads(envelope(shared, evil.key.folder).read_bytes())
    envelope(shared, evil.key.folder).write_text(json.dumps({**mine, "signatures": theirs["signatures"]}))
    envelope(shared, signed.key.folder).unlink()
    assert_nothing_came(shared, "belongs to another manifest")


def test_files_exchanged_under_the_old_key_need_a_new_signature(shared):
    """The digests of the files are in what is signed: other files are another manifest."""
    entry = shared.publish()
    path = envelope(shared, entry.key.folder)
    said = json.loads(path.read_bytes())
    manifest = json.loads(base64.b64decode(said["payload"]))
    del manifest["summary"], manifest["built_with"]
    evil = b"evil code"
    digest = hashlib.sha256(evil).hexdigest()
    manifest["files"]["graph.pt2"] = {"sha256": digest, "size": len(evil)}
    place = Path(shared.place.url, offers.blob(digest))
    place.parent.mkdir(parents=True, exist_ok=True)
    place.write_bytes(evil)
    path.write_text(json.dumps({**said, "payload": base64.b64encode(render(manifest)).decode()}))
    assert_nothing_came(shared, "belongs to another manifest")
    path.write_text(json.dumps({**said, "payload": base64.b64encode(render(manifest)).decode(), "signatures": []}))
    with pytest.raises(Refused, match="no signature"):
        shared.pull()


def test_a_stranger_cannot_sign_as_somebody_trusted(shared, tmp_path):
    entry = shared.publish()
    stranger, _ = ed25519.new_private()
    forged = ed25519.Signature(shared.key, ed25519.sign(entry.text, stranger).proof)
    envelope(shared, entry.key.folder).write_bytes(ed25519.render([forged], entry.text))
    assert_nothing_came(shared, "belongs to another manifest")


def test_a_signature_of_something_else_with_the_same_key_is_none_of_a_graph(shared):
    """A publisher may sign other things with the key, even the bare bytes of a manifest."""
    entry = shared.publish()
    with shared.publisher.here():
        bare = publishers.private_key().sign(entry.text)
    envelope(shared, entry.key.folder).write_bytes(ed25519.render([ed25519.Signature(shared.key, bare)], entry.text))
    assert_nothing_came(shared, "belongs to another manifest")


def test_a_pulled_graph_changed_in_the_cache_is_not_loaded(shared):
    """The signature is checked at every use, with every byte."""
    shared.publish()
    [pulled] = shared.pull()
    with shared.worker.here() as store:
        (pulled.entry.folder / "publisher.json").write_bytes(ed25519.render(()))
        with pytest.raises(Refused, match="no signature"):
            opened(store, cache.scan(store)[0])
        (pulled.entry.folder / "publisher.json").write_text("{")
        with pytest.raises(Refused, match="cannot be read"):
            opened(store, cache.scan(store)[0])


MANIFESTS = {
    "a path that leaves the folder": (lambda m: m["files"].update({"../../x": m["files"].pop("graph.pt2")}), "outside"),
    "an absolute path": (lambda m: m["files"].update({"/tmp/x": m["files"].pop("graph.pt2")}), "outside"),
    "a name of the cache's own": (
        lambda m: m["files"].update({"publisher.json": m["files"].pop("graph.pt2")}),
        "outside",
    ),
    "another name of the cache's own": (
        lambda m: m["files"].update({"proof.json": m["files"].pop("graph.pt2")}),
        "outside",
    ),
    "a huge size": (lambda m: m["files"]["graph.pt2"].update(size=1 << 60), "does not fit"),
    "a negative size": (lambda m: m["files"]["graph.pt2"].update(size=-1), "wrongly"),
    "a size that is no number": (lambda m: m["files"]["graph.pt2"].update(size="1"), "wrongly"),
    "a digest that is a path": (lambda m: m["files"]["graph.pt2"].update(sha256="../" * 21 + "x"), "wrongly"),
    "a file that is a folder of another": (
        lambda m: m["files"].update({"graph.pt2/x": m["files"]["graph.pt2"]}),
        "below another file",
    ),
    "a backend with a path": (lambda m: m["key"].update(backend="../../x"), "slug"),
    "another key": (lambda m: m["key"]["factors"].update(torch="9"), "has changed"),
    "no key": (lambda m: m.update(key={}), "not a graph key"),
    "no files": (lambda m: m.update(files=[]), "no proper 'files'"),
    "another schema": (lambda m: m.update(schema_version=99), "schema 99"),
    "one field more": (lambda m: m.update(more=1), "lacks or adds"),
}


@pytest.mark.parametrize("what", MANIFESTS)
def test_a_manifest_that_a_trusted_key_signed_is_still_checked(shared, what):
    """A stolen key makes graphs; it does not write outside the cache."""
    change, words = MANIFESTS[what]
    entry = shared.publish()
    manifest = json.loads(entry.text)
    del manifest["summary"], manifest["built_with"]
    change(manifest)
    try:
        text = render(manifest)
    except (KeyError, TypeError, AttributeError, ValueError):
        text = json.dumps({**manifest, "summary": {}, "built_with": {}}).encode()
    with shared.publisher.here():
        signature = ed25519.sign(text, publishers.private_key())
    envelope(shared, entry.key.folder).write_bytes(ed25519.render([signature], text))
    assert_nothing_came(shared, words)
    assert not list(Path(shared.worker.folder).rglob("x"))


def test_an_envelope_beyond_all_bounds_is_not_read(shared):
    entry = shared.publish()
    path = envelope(shared, entry.key.folder)
    with path.open("wb") as file:
        file.truncate(1 << 40)  # a sparse file
    with pytest.raises(remote.RemoteError, match="more than"):
        shared.pull()


def test_names_that_are_no_graphs_are_left_alone(shared):
    shared.publish()
    for name in ("x.json", "inductor/cpu/../../x.json", "INDUCTOR/cpu/64-0123456789abcdef.json", ".hidden/a/b.json"):
        path = Path(shared.place.url, "graphs", name)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("{}")
    assert len(remote.names(shared.place)) == 1


def test_links_in_the_cache_lead_a_pull_nowhere(shared, tmp_path):
    """A cache folder that came with a repository: what is fetched is not written through its links."""
    shared.publish()
    victim = tmp_path / "victim"
    victim.mkdir()
    (victim / "0").write_text("mine")
    with shared.worker.here() as store:
        place = shared.place
        offer = remote.read(place, remote.names(place)[0])
        name = f"{offer.id}-{__import__('hashlib').sha256(offer.text).hexdigest()[:16]}"
        store.graphs.mkdir(parents=True, mode=0o700)
        (store.graphs / ".partial").mkdir(mode=0o700)
        (store.graphs / ".partial" / name).symlink_to(victim)
        remote.pull(store, place, offer, False, quiet)
        assert [path.read_text() for path in victim.iterdir()] == ["mine"]
        cache.execute(store, cache.plan(cache.scan(store)))
        (store.graphs / ".partial").rmdir()
        (store.graphs / ".partial").symlink_to(victim)
        with pytest.raises(Refused, match="is a link"):
            remote.pull(store, place, offer, False, quiet)
        assert [path.read_text() for path in victim.iterdir()] == ["mine"]


def test_a_link_in_the_place_of_a_file_being_fetched_is_not_followed(shared, tmp_path):
    shared.publish()
    victim = tmp_path / "victim"
    victim.write_text("mine")
    with shared.worker.here() as store:
        offer = remote.read(shared.place, remote.names(shared.place)[0])
        name = f"{offer.id}-{__import__('hashlib').sha256(offer.text).hexdigest()[:16]}"
        folder = store.graphs / ".partial" / name
        folder.mkdir(parents=True, mode=0o700)
        (folder / "0").symlink_to(victim)
        (folder / "1").mkdir()
        assert remote.pull(store, shared.place, offer, False, quiet).fresh
        assert victim.read_text() == "mine"


# Whatever bytes come


KEYS = st.sampled_from(
    ["payload", "payloadType", "signatures", "keyid", "sig", "schema_version", "graphs", "key", "files"]
)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20) | st.just(ed25519.PAYLOAD_TYPE),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(KEYS | st.text(max_size=5), inner, max_size=6),
    max_leaves=20,
)


@given(st.binary(max_size=200) | JSON.map(lambda data: json.dumps(data).encode()))
def test_no_envelope_and_no_index_ends_in_anything_but_damage(text):
    for parse in (lambda text: offers.parse("inductor/cpu/64x64-b2-0123456789abcdef", text), offers.parse_index):
        try:
            found = parse(text)
        except Damage:
            continue
        assert isinstance(found, list)


@given(st.data())
def test_a_signed_envelope_with_any_bytes_changed_is_never_accepted_as_another(data):
    private, _ = _PRIVATE
    key_, text, whole = _SIGNED
    at = data.draw(st.integers(0, len(whole) - 1))
    changed = whole[:at] + data.draw(st.binary(min_size=1, max_size=3)) + whole[at + 1 :]
    try:
        offer = offers.parse(key_.folder, changed)
    except Damage:
        return
    assert offer.text == text, "another manifest was accepted"
    assert {one.key for one in offer.signatures} <= {ed25519.public_key(private)}


def _signed():
    wanted = key()
    manifest = {
        "schema_version": 3,
        "digest": wanted.digest,
        "key": wanted.as_dict(),
        "created": "2026-01-01T00:00:00+00:00",
        "tool": "ipa",
        "build_seconds": 1.0,
        "describe": {},
        "figures": {},
        "files": {"graph.pt2": {"sha256": "0" * 64, "size": 1}},
    }
    text = render(manifest)
    return wanted, text, ed25519.render([ed25519.sign(text, _PRIVATE[0])], text)


_PRIVATE = ed25519.new_private()
_SIGNED = _signed()


@given(st.binary(max_size=60) | st.text(max_size=60).map(str.encode))
def test_no_text_of_an_envelope_breaks_its_parser(text):
    with suppress(Damage):
        ed25519.parse(text)
