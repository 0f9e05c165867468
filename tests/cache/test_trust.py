"""Only graphs of a known maker, where others cannot write, are loaded; and just the bytes that were checked."""

import json
import os
import stat
import tempfile
from pathlib import Path
from types import SimpleNamespace

import pytest

from ipa_cli import cache
from ipa_cli.cache import DamagedGraph, Hit, Refused, Store, StoreError, signature
from tests.cache.graphs import build, key, never, script

AS_ROOT = pytest.mark.skipif(os.geteuid() != 0, reason="only root gives files away")


@pytest.fixture
def no_key(tmp_path, monkeypatch):
    """A user whose state folder is empty as yet; the key will lie there."""
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    return tmp_path / "state" / "ipa" / "graph-key"


def refused(store, entry):
    with pytest.raises(Refused) as found, cache.open_graph(store, entry):
        raise AssertionError("it was handed out")
    assert isinstance(cache.lookup(store, key()), Hit), "it is gone"
    return found.value


# Where a graph lies


@pytest.mark.parametrize("above", range(6))
@pytest.mark.parametrize("mode", [0o777, 0o770])
def test_folders_that_others_may_write_refuse_all_below_and_lose_nothing(tmp_path, above, mode, monkeypatch):
    monkeypatch.setattr("ipa_cli.system.ownership._of_one_user", lambda *_: False)
    store = Store(tmp_path / "project" / "cache")
    entry = build(store)
    folder = (entry.folder, *entry.folder.parents)[above]
    folder.chmod(mode)
    error = refused(store, entry)
    assert str(folder) in error.message and "--cache-dir" in error.hint
    assert cache.trust_problem(entry).message in error.message
    with pytest.raises(Refused):
        cache.build(store, key(), {}, never)
    folder.chmod(0o755)
    with cache.open_graph(store, entry):
        pass


@AS_ROOT
@pytest.mark.parametrize("above", range(4))
def test_another_users_folder_on_the_way_is_refused(store, above):
    entry = build(store)
    folder = (entry.folder, *entry.folder.parents)[above]
    os.chown(folder, 4321, 4321)
    assert "another user (uid 4321)" in refused(store, entry).message


def test_a_new_cache_where_others_may_write_is_not_used(tmp_path):
    (tmp_path / "open").mkdir()
    (tmp_path / "open").chmod(0o777)
    with pytest.raises(Refused, match="everybody may write"):
        cache.build(Store(tmp_path / "open" / "cache"), key(), {}, never)


def test_folders_made_for_a_cache_are_ours_alone_whatever_the_umask(tmp_path):
    old = os.umask(0)
    try:
        build(Store(tmp_path / "a" / "b" / "cache"))
    finally:
        os.umask(old)
    for folder in (tmp_path / "a", tmp_path / "a" / "b", tmp_path / "a" / "b" / "cache"):
        assert stat.S_IMODE(folder.stat().st_mode) == 0o700


def test_folders_of_keys_and_trusted_files_are_ours_alone_whatever_the_umask(ipa, world, monkeypatch):
    """With a umask of 0, as in some containers, `ipa` trusted nothing of what it had written."""
    for name in ("a", "b", "c", "d"):
        home = world.home / name
        monkeypatch.setenv("XDG_STATE_HOME", str(home / "not" / "there"))
        monkeypatch.setenv("XDG_CONFIG_HOME", str(home / "settings"))
        old = os.umask(0)
        try:
            Path("ipa.toml").write_text("steps = 3\n")
            Path("ipa.toml").chmod(0o600)
            work = {
                "a": lambda: ipa("cache", "keygen"),
                "b": lambda: ipa("config", "trust"),
                "c": lambda: ipa("config", "set", "steps", 3),
                "d": lambda home=home: build(Store(home / "cache")),
            }
            done = work[name]()
        finally:
            os.umask(old)
        assert getattr(done, "exit_code", 0) == 0, done.stderr
        assert {stat.S_IMODE(one.stat().st_mode) for one in home.rglob("*") if one.is_dir()} == {0o700}


# Who made it


def test_a_graph_carries_a_proof_by_a_key_of_this_user_alone(store, no_key):
    entry = build(store)
    assert stat.S_IMODE(no_key.stat().st_mode) == 0o600 and no_key.stat().st_size == 32
    assert stat.S_IMODE(no_key.parent.stat().st_mode) == 0o700
    said = json.loads((entry.folder / "proof.json").read_text())
    assert said["scheme"] == "hmac-sha256" and len(said["proof"]) == 64
    assert no_key.read_bytes().hex() not in json.dumps(said)
    assert cache.trust_problem(entry) is None


PROOFS = {
    "none": (lambda path: path.unlink(), "made elsewhere"),
    "another key's": (lambda path: path.write_bytes(signature.sign(b"any", b"x" * 32)), "another key"),
    "another manifest's": (
        lambda path: path.write_bytes(signature.sign(b"any", signature.signing_key())),
        "another manifest",
    ),
    "of a scheme to come": (
        lambda path: path.write_text(json.dumps({**json.loads(path.read_text()), "scheme": "ed25519"})),
        "does not know",
    ),
    "no JSON": (lambda path: path.write_text("{"), "cannot be read"),
    "no table": (lambda path: path.write_text("[]"), "cannot be read"),
    "of odd types": (
        lambda path: path.write_text(json.dumps({**json.loads(path.read_text()), "proof": 5})),
        "another manifest",
    ),
    "of no Unicode": (
        lambda path: path.write_text(json.dumps({**json.loads(path.read_text()), "proof": "\ud800"})),
        "another manifest",
    ),
    "deep": (lambda path: path.write_text("[" * 4000), "cannot be read"),
    "a pipe": (lambda path: (path.unlink(), os.mkfifo(path)), "cannot be read"),
    "a link": (lambda path: (path.rename(path.with_name("p")), path.symlink_to("p")), "cannot be read"),
}


@pytest.mark.slow
@pytest.mark.parametrize(("change", "words"), PROOFS.values(), ids=PROOFS)
def test_without_a_valid_signature_a_graph_is_not_loaded_and_stays_until_trusted(store, change, words):
    entry = build(store)
    change(entry.folder / "proof.json")
    error = refused(store, entry)
    assert words in error.message and f"ipa cache trust {entry.id[:8]}" in error.hint
    assert words in cache.trust_problem(entry).message
    with pytest.raises(Refused):
        cache.build(store, key(), {}, never)
    cache.mark_trusted(store, entry)
    assert cache.trust_problem(entry) is None
    assert not cache.build(store, key(), {}, never).fresh


def test_a_changed_manifest_is_damage_and_nothing_to_trust(store):
    path = build(store).folder / "manifest.json"
    path.write_bytes(path.read_bytes().replace(b"demo", b"deno", 1))  # in its first line, which no seal covers
    [entry] = cache.scan(store)
    with pytest.raises(DamagedGraph, match="its manifest has changed"):
        cache.mark_trusted(store, entry)
    with pytest.raises(DamagedGraph, match="its manifest has changed; it was removed"), cache.open_graph(store, entry):
        pass


def test_a_whole_store_made_elsewhere_is_not_loaded(store, no_key, monkeypatch, tmp_path):
    """As one shipped in a repository, whose digests all agree."""
    entry = build(store)
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "of somebody else"))
    assert "another key" in refused(store, entry).message
    assert not (tmp_path / "of somebody else").exists(), "looking needs no key"


@pytest.mark.slow
def test_two_first_processes_make_one_key(store, no_key, tmp_path):
    work = """
    root, gate, batch = Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3])
    while not gate.exists():
        time.sleep(0.005)
    cache.build(Store(root), key(batch=batch), {}, fill)
    """
    gate = tmp_path / "gate"
    workers = [script(work, store.root, gate, batch) for batch in range(4)]
    gate.touch()
    assert [worker.wait(60) for worker in workers] == [0] * 4
    assert [cache.trust_problem(item) for item in cache.scan(store)] == [None] * 4


def _in_its_place(path, make):
    path.rename(path.with_name("elsewhere"))
    make(path)


@pytest.mark.parametrize(
    "spoil",
    [
        lambda path: path.chmod(0o644),
        lambda path: path.write_bytes(b"short"),
        lambda path: path.parent.chmod(0o777),
        lambda path: _in_its_place(path, Path.mkdir),
        lambda path: _in_its_place(path, os.mkfifo),
        lambda path: _in_its_place(path, lambda path: path.symlink_to("elsewhere")),
        lambda path: _in_its_place(path, lambda path: path.symlink_to(path)),
        pytest.param(lambda path: os.chown(path, 4321, 4321), marks=AS_ROOT),
    ],
)
def test_a_key_that_others_could_know_marks_nothing(store, no_key, spoil):
    entry = build(store)
    spoil(no_key)
    with pytest.raises(StoreError, match="is not private"), cache.open_graph(store, entry):
        pass
    with pytest.raises(StoreError, match="is not private"):
        build(store, key(batch=3))
    assert isinstance(cache.lookup(store, key()), Hit)


def test_no_place_for_a_key_is_reported_before_the_work(store, monkeypatch):
    monkeypatch.setenv("XDG_STATE_HOME", "/dev/null/state")
    with pytest.raises(StoreError, match="cannot be stored") as error:
        cache.build(store, key(), {}, never)
    assert "XDG_STATE_HOME" in error.value.hint


# What is loaded is what was checked


def test_what_is_handed_out_is_a_private_copy(store):
    entry = build(store)
    with cache.open_graph(store, entry) as folder:
        assert entry.folder not in (folder, *folder.parents)
        assert stat.S_IMODE(folder.stat().st_mode) == 0o700
        entry.folder.rename(entry.folder.with_name("away"))
        (entry.folder).mkdir()
        (entry.folder / "graph.pt2").write_bytes(b"hostile code " * 20)
        assert (folder / "graph.pt2").read_bytes() == b"native code " * 20
    assert not folder.exists()


def test_a_manifest_exchanged_after_it_was_read_does_not_count(store, tmp_path):
    entry = build(store)
    other = Store(tmp_path / "other")
    hostile = build(other, builder=lambda folder: (folder / "graph.pt2").write_bytes(b"hostile code " * 20) and None)
    entry.folder.rename(tmp_path / "away")
    hostile.folder.rename(entry.folder)
    with pytest.raises(StoreError), cache.open_graph(store, entry):
        raise AssertionError("bytes were handed out that the proven manifest does not name")


def test_no_copy_is_made_where_others_may_exchange_it(store):
    entry = build(store)
    (store.graphs / ".work").chmod(0o777)
    assert ".work" in refused(store, entry).message


def test_a_graph_opens_from_a_store_that_cannot_be_written(store, monkeypatch):
    entry = build(store)

    def closed(*_):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("ipa_cli.cache.scratch.prepare", closed)
    with cache.open_graph(store, entry) as folder:
        assert store.root not in folder.parents
        assert (folder / "graph.pt2").read_bytes() == b"native code " * 20
    assert not folder.exists()


@pytest.mark.parametrize("mode", [0o777, 0o1777])
def test_no_copy_is_made_in_a_tmpdir_where_others_may_exchange_it(store, monkeypatch, tmp_path, mode):
    def closed(*_):
        raise PermissionError(13, "Permission denied")

    entry = build(store)
    (tmp_path / "tmp").mkdir()
    (tmp_path / "tmp").chmod(mode)
    monkeypatch.setattr("ipa_cli.cache.scratch.prepare", closed)
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "tmp"))
    if mode & 0o1000:  # sticky: nobody can take the place of what is ours
        with cache.open_graph(store, entry) as folder:
            assert folder.parent == tmp_path / "tmp"
    else:
        assert "TMPDIR" in refused(store, entry).hint


def test_no_room_to_open_is_reported_with_the_folder(store, monkeypatch, tmp_path):
    entry = build(store)
    monkeypatch.setattr("shutil.disk_usage", lambda folder: SimpleNamespace(free=100))
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    with pytest.raises(StoreError, match=f"the disk of {tmp_path}"), cache.open_graph(store, entry):
        pass


# Another user


@AS_ROOT
def test_another_user_uses_what_only_root_could_have_written(store, no_key, readable):
    """A cache baked into an image: no key, no right to write, and no need of either."""
    store = Store(readable / "cache")
    entry = build(store)
    for path in (readable / "cache", *(readable / "cache").rglob("*")):
        path.chmod(0o755 if path.is_dir() else 0o644)
    os.seteuid(65534)
    try:
        [seen] = cache.scan(store)
        assert cache.trust_problem(seen) is None
        with cache.open_graph(store, seen) as folder:
            assert (folder / "graph.pt2").read_bytes() == b"native code " * 20
        assert not cache.build(store, key(), {}, never).fresh
        for write in (lambda: cache.build(store, key(batch=3), {}, never), lambda: cache.sweep(store)):
            with pytest.raises(StoreError, match="cannot be"):
                write()
    finally:
        os.seteuid(0)
    (entry.folder / "manifest.json").chmod(0o666)
    os.seteuid(65534)
    try:
        [seen] = cache.scan(store)
        assert "made elsewhere" in cache.trust_problem(seen).message
    finally:
        os.seteuid(0)
    assert entry.folder.exists()


@pytest.fixture
def readable():
    """A folder that every user may enter."""
    with tempfile.TemporaryDirectory() as folder:
        Path(folder).chmod(0o755)
        yield Path(folder)
