"""Full and closed disks lose nothing and are told in words."""

import ctypes
import os

import pytest

from ipa_cli import cache
from ipa_cli.cache import Hit, Store, StoreError
from ipa_cli.errors import IpaError
from tests.cache.graphs import assert_whole, build, key, leftovers, never, script


def test_a_full_disk_keeps_the_good_graphs(small_disk):
    store = Store(small_disk / "cache")
    good = build(store, key(batch=1))

    def large(folder):
        (folder / "graph.pt2").write_bytes(b"x" * 500_000)

    with pytest.raises(StoreError, match="cannot hold more") as full:
        build(store, key(batch=2), large)
    assert "ipa cache clear" in full.value.hint
    assert leftovers(store) == []
    with cache.open_graph(store, good):
        pass
    build(store, key(batch=3))
    assert_whole(store)


def test_a_librarys_own_words_for_a_full_disk(small_disk):
    def library(folder):
        try:
            (folder / "graph.pt2").write_bytes(b"x" * 500_000)
        except OSError:
            raise RuntimeError("PytorchStreamWriter failed writing file") from None

    with pytest.raises(StoreError, match="PytorchStreamWriter"):
        build(Store(small_disk / "cache"), builder=library)


def test_a_file_size_limit_is_reported_like_a_full_disk(store):
    work = """
    import resource
    from ipa_cli.cache import StoreError
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))
    try:
        build(Store(Path(sys.argv[1])), builder=lambda folder: (folder / "g").write_bytes(b"x" * 9000) and None)
    except StoreError as error:
        print(error.message, error.hint)
    """
    said = script(work, store.root).communicate(timeout=60)[0]
    assert "File too large" in said
    assert "ipa cache clear" in said
    assert cache.scan(store) == []
    assert leftovers(store) == []


@pytest.fixture
def closed(tmp_path):
    """A store with one graph on a disk that has become read-only."""
    root = tmp_path / "closed"
    root.mkdir(mode=0o700)
    store = Store(root)
    if os.geteuid() != 0:
        build(store)
        folders = [root, *(path for path in root.rglob("*") if path.is_dir())]
        for folder in folders:
            folder.chmod(0o500)
        yield store
        for folder in folders:
            folder.chmod(0o700)
        return
    libc = ctypes.CDLL(None, use_errno=True)
    remount_read_only = 32 | 1
    if libc.mount(b"tmpfs", bytes(root), b"tmpfs", 0, b"size=1m,mode=700"):
        pytest.skip("root ignores modes and may not mount here")
    build(store)
    libc.mount(b"tmpfs", bytes(root), b"tmpfs", remount_read_only, None)
    yield store
    libc.umount2(bytes(root), 2)


def test_a_read_only_cache_serves_what_it_has(closed):
    found = cache.lookup(closed, key())
    assert isinstance(found, Hit)
    with cache.open_graph(closed, found.entry) as folder:
        assert (folder / "graph.pt2").exists()
    assert not cache.build(closed, key(), {}, never).fresh
    with pytest.raises(StoreError, match="cannot be written") as error:
        build(closed, key(batch=3))
    assert "--cache-dir" in error.value.hint
    with pytest.raises(StoreError, match="cannot be written"):
        cache.execute(closed, cache.plan(cache.scan(closed)))
    assert isinstance(cache.lookup(closed, key()), Hit)


def test_a_file_in_the_caches_place(tmp_path):
    (tmp_path / "cache").write_text("not a folder")
    for action in (lambda store: cache.scan(store), lambda store: build(store)):
        with pytest.raises(IpaError):
            action(Store(tmp_path / "cache"))
