"""Graphs are built once, found again and opened after a check."""

import json
import os
import stat
import time
from datetime import datetime, timezone

import pytest

from ipa_cli import cache
from ipa_cli.cache import Hit, Miss
from tests.cache.graphs import build, fill, key, leftovers, never


def test_build_then_hit(store):
    made = cache.build(store, key(), {"model": "demo", "size": [64, 64]}, fill)
    assert made.fresh
    again = cache.build(store, key(), {}, never)
    assert not again.fresh
    assert again.entry.folder == made.entry.folder == store.graphs / key().folder
    found = cache.lookup(store, key())
    assert isinstance(found, Hit)
    with cache.open_graph(store, found.entry) as folder:
        assert (folder / "kernels" / "one.so").read_bytes() == b"\x7fELF" * 30


def test_manifest_tells_everything_in_clear(store):
    before = time.time()
    entry = cache.build(store, key(), {"model": "demo", "size": [64, 64]}, fill).entry
    manifest = json.loads((entry.folder / "manifest.json").read_text())
    assert manifest["schema_version"] == 3
    assert manifest["digest"] == key().digest
    assert manifest["key"] == {
        "backend": "inductor",
        "gpu": "cpu",
        "shape": "64x64-b2",
        "factors": {"torch": "2.13.0", "batch": 2},
    }
    assert manifest["describe"] == {"model": "demo", "size": [64, 64]}
    assert manifest["figures"] == {"parity": 1.5e-5}
    assert sorted(manifest["files"]) == ["graph.pt2", "kernels/one.so"]
    assert manifest["files"]["graph.pt2"]["size"] == 240
    assert manifest["tool"].startswith("ipa ")
    created = datetime.fromisoformat(manifest["created"])
    assert abs(created - datetime.fromtimestamp(before, timezone.utc)).total_seconds() < 60
    assert (entry.backend, entry.gpu, entry.shape, entry.id) == ("inductor", "cpu", "64x64-b2", key().short)
    assert entry.size == 360


def test_folders_are_ours_alone_and_tagged(store):
    old = os.umask(0)
    try:
        entry = build(store)
    finally:
        os.umask(old)
    for path in (store.root, store.graphs, entry.folder.parent, entry.folder, entry.folder / "kernels"):
        assert stat.S_IMODE(path.stat().st_mode) == 0o700, path
    assert stat.S_IMODE((entry.folder / "graph.pt2").stat().st_mode) == 0o600
    tag = (store.graphs / "CACHEDIR.TAG").read_text()
    assert tag.startswith("Signature: 8a477f597d28d172789f06886806bc55\n")
    assert leftovers(store) == []


def test_a_miss_names_what_differs_from_the_nearest(store):
    assert cache.lookup(store, key()) == Miss(())
    assert "nothing has been compiled" in cache.lookup(store, key()).reason
    build(store, key(batch=8, torch="2.9.0"))
    build(store, key(torch="2.11.0"))
    build(store, key(backend="nexfort"))
    missed = cache.lookup(store, key())
    assert missed.reasons == ("torch 2.11.0 → 2.13.0",)
    assert missed.nearest.key == key(torch="2.11.0")


def test_uses_are_counted_without_touching_the_manifest(store):
    entry = build(store)
    manifest = (entry.folder / "manifest.json").read_bytes()
    assert (entry.hits, abs(entry.last_used - time.time()) < 60) == (0, True)
    os.utime(entry.folder / ".uses", (1e9, 1e9))
    for _ in range(3):
        with cache.open_graph(store, entry):
            pass
    [after] = cache.scan(store)
    assert after.hits == 3
    assert abs(after.last_used - time.time()) < 60
    assert (entry.folder / "manifest.json").read_bytes() == manifest


def test_a_failing_builder_leaves_nothing(store):
    def failing(folder):
        fill(folder)
        raise RuntimeError("no compiler")

    with pytest.raises(RuntimeError, match="no compiler"):
        build(store, builder=failing)
    assert cache.scan(store) == []
    assert leftovers(store) == []
    assert build(store).hits == 0


@pytest.mark.parametrize("name", ["manifest.json", ".uses", "li\nne"])
def test_a_builder_may_not_use_the_stores_names(store, name):
    with pytest.raises(ValueError, match="plain"):
        build(store, builder=lambda folder: (folder / name).write_text("x") and None)
    assert cache.scan(store) == []


def test_a_builder_may_not_leave_links_or_nothing(store):
    with pytest.raises(ValueError, match="plain"):
        build(store, builder=lambda folder: (folder / "link").symlink_to("/etc/passwd"))
    with pytest.raises(ValueError, match="no file"):
        build(store, builder=lambda folder: None)
    assert cache.scan(store) == []


def test_what_the_manifest_cannot_hold_fails_before_the_work(store):
    with pytest.raises(TypeError):
        cache.build(store, key(), {"model": object()}, never)
