"""Graphs are built once, found again and opened after a check."""

import json
import os
import stat
import time
from datetime import datetime, timezone

import pytest

from ipa_cli import store
from ipa_cli.store import Hit, Miss

from .graphs import build, fill, key, leftovers, never


def test_build_then_hit(cache):
    made = store.build(cache, key(), {"model": "demo", "size": [64, 64]}, fill)
    assert made.fresh
    again = store.build(cache, key(), {}, never)
    assert not again.fresh
    assert again.entry.folder == made.entry.folder == cache.graphs / key().folder
    found = store.lookup(cache, key())
    assert isinstance(found, Hit)
    with store.opened(cache, found.entry) as folder:
        assert (folder / "kernels" / "one.so").read_bytes() == b"\x7fELF" * 30


def test_manifest_tells_everything_in_clear(cache):
    before = time.time()
    entry = store.build(cache, key(), {"model": "demo", "size": [64, 64]}, fill).entry
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


def test_folders_are_ours_alone_and_tagged(cache):
    old = os.umask(0)
    try:
        entry = build(cache)
    finally:
        os.umask(old)
    for path in (cache.root, cache.graphs, entry.folder.parent, entry.folder, entry.folder / "kernels"):
        assert stat.S_IMODE(path.stat().st_mode) == 0o700, path
    assert stat.S_IMODE((entry.folder / "graph.pt2").stat().st_mode) == 0o600
    tag = (cache.graphs / "CACHEDIR.TAG").read_text()
    assert tag.startswith("Signature: 8a477f597d28d172789f06886806bc55\n")
    assert leftovers(cache) == []


def test_a_miss_names_what_differs_from_the_nearest(cache):
    assert store.lookup(cache, key()) == Miss(())
    assert "nothing has been compiled" in store.lookup(cache, key()).reason
    build(cache, key(batch=8, torch="2.9.0"))
    build(cache, key(torch="2.11.0"))
    build(cache, key(backend="nexfort"))
    missed = store.lookup(cache, key())
    assert missed.reasons == ("torch 2.11.0 → 2.13.0",)
    assert missed.nearest.key == key(torch="2.11.0")


def test_uses_are_counted_without_touching_the_manifest(cache):
    entry = build(cache)
    manifest = (entry.folder / "manifest.json").read_bytes()
    assert (entry.hits, abs(entry.last_used - time.time()) < 60) == (0, True)
    os.utime(entry.folder / ".uses", (1e9, 1e9))
    for _ in range(3):
        with store.opened(cache, entry):
            pass
    [after] = store.scan(cache)
    assert after.hits == 3
    assert abs(after.last_used - time.time()) < 60
    assert (entry.folder / "manifest.json").read_bytes() == manifest


def test_a_failing_builder_leaves_nothing(cache):
    def failing(folder):
        fill(folder)
        raise RuntimeError("no compiler")

    with pytest.raises(RuntimeError, match="no compiler"):
        build(cache, builder=failing)
    assert store.scan(cache) == []
    assert leftovers(cache) == []
    assert build(cache).hits == 0


@pytest.mark.parametrize("name", ["manifest.json", ".uses", "li\nne"])
def test_a_builder_may_not_use_the_stores_names(cache, name):
    with pytest.raises(ValueError, match="plain"):
        build(cache, builder=lambda folder: (folder / name).write_text("x") and None)
    assert store.scan(cache) == []


def test_a_builder_may_not_leave_links_or_nothing(cache):
    with pytest.raises(ValueError, match="plain"):
        build(cache, builder=lambda folder: (folder / "link").symlink_to("/etc/passwd"))
    with pytest.raises(ValueError, match="no file"):
        build(cache, builder=lambda folder: None)
    assert store.scan(cache) == []


def test_what_the_manifest_cannot_hold_fails_before_the_work(cache):
    with pytest.raises(TypeError):
        store.build(cache, key(), {"model": object()}, never)
