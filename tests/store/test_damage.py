"""Damage of any kind is found before anything is loaded, told in words, and mended by building again."""

import json
import os
import shutil
import tempfile
from pathlib import Path
from zlib import crc32

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ipa_cli import store
from ipa_cli.store import Broken, Entry, Hit, Lost, Miss, Refused, Store, StoreError, Unread

from .graphs import MEMORY, assert_whole, build, fill, key, never


@settings(max_examples=150, deadline=None)
@given(
    st.sampled_from(["manifest.json", "graph.pt2", "kernels/one.so"]),
    st.floats(0, 1, exclude_max=True),
    st.integers(1, 255),
)
def test_any_flipped_byte_is_refused_and_rebuilt(name, where, flip):
    with tempfile.TemporaryDirectory(dir=MEMORY) as root:
        cache = Store(Path(root) / "cache")
        entry = build(cache)
        path = entry.folder / name
        content = bytearray(path.read_bytes())
        content[int(where * len(content))] ^= flip
        path.write_bytes(content)
        found = store.lookup(cache, key())
        if isinstance(found, Hit):
            with pytest.raises(Lost), store.opened(cache, found.entry):
                raise AssertionError("a changed graph was handed out")
            assert store.scan(cache) == []
        else:
            assert name == "manifest.json"
            if isinstance(store.scan(cache)[0], Unread):  # the number of its schema is another one
                return
        made = store.build(cache, key(), {"model": "demo"}, fill)
        assert made.fresh
        with store.opened(cache, made.entry) as folder:
            assert (folder / "graph.pt2").read_bytes() == b"native code " * 20


def _link(entry):
    (entry.folder / "graph.pt2").rename(entry.folder.parent / "elsewhere")
    (entry.folder / "graph.pt2").symlink_to(entry.folder.parent / "elsewhere")


def _pipe(entry):
    (entry.folder / "graph.pt2").unlink()
    os.mkfifo(entry.folder / "graph.pt2")


def _folder(entry):
    (entry.folder / "graph.pt2").unlink()
    (entry.folder / "graph.pt2").mkdir()


DAMAGES = {
    "is missing": lambda entry: (entry.folder / "graph.pt2").unlink(),
    "has 241 bytes": lambda entry: (entry.folder / "graph.pt2").write_bytes(b"x" * 241),
    "has changed": lambda entry: (entry.folder / "graph.pt2").write_bytes(b"x" * 240),
    "graph.pt2 is a link": _link,
    "no plain file": _pipe,
    "graph.pt2 is no plain file": _folder,
}


@pytest.mark.parametrize(("words", "harm"), DAMAGES.items(), ids=DAMAGES)
def test_damage_is_told_in_words_and_removed(cache, words, harm):
    entry = build(cache)
    harm(entry)
    with pytest.raises(Lost, match=f"{words}.*; it was removed"), store.opened(cache, entry):
        raise AssertionError("a damaged graph was handed out")
    assert not entry.folder.exists()
    assert build(cache).folder == entry.folder
    assert_whole(cache)


def _uses_are_a_pipe(entry):
    (entry.folder / ".uses").unlink()
    os.mkfifo(entry.folder / ".uses")


HARMLESS = {
    "uses that nobody can count": _uses_are_a_pipe,
    "readable by all": lambda entry: [path.chmod(0o755) for path in (entry.folder, *entry.folder.rglob("*"))],
    "readable by a group": lambda entry: entry.folder.chmod(0o750),
    "a file that others may write, whose bytes are right": lambda entry: (entry.folder / "graph.pt2").chmod(0o666),
    "a file more": lambda entry: (entry.folder / ".DS_Store").write_bytes(b"x"),
    "a folder of all that is sticky above": lambda entry: entry.folder.parents[4].chmod(0o1777),
}


@pytest.mark.parametrize("change", HARMLESS.values(), ids=HARMLESS)
def test_what_changes_no_byte_keeps_a_graph_usable(cache, change):
    entry = build(cache)
    change(entry)
    [there] = store.scan(cache)
    assert store.obstacle(there) is None
    with store.opened(cache, there) as folder:
        assert (folder / "graph.pt2").read_bytes() == b"native code " * 20
        assert sorted(path.name for path in folder.rglob("*")) == ["graph.pt2", "kernels", "one.so"]
    assert store.build(cache, key(), {}, never).entry.folder == entry.folder


def test_a_file_that_cannot_be_read_is_told_and_stays(cache, monkeypatch):
    entry = build(cache)

    usual = os.open

    def closed(path, *arguments, **named):
        if str(path).endswith("one.so"):
            raise PermissionError(13, "Permission denied", str(path))
        return usual(path, *arguments, **named)

    monkeypatch.setattr("os.open", closed)
    with pytest.raises(StoreError, match="Permission denied"), store.opened(cache, entry):
        pass
    monkeypatch.undo()
    assert isinstance(store.lookup(cache, key()), Hit)


@pytest.mark.parametrize("schema", [1, 2, 4, 99])
def test_a_graph_of_another_version_is_neither_damaged_nor_lost(cache, schema):
    entry = build(cache)
    path = entry.folder / "manifest.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "schema_version": schema}))
    [item] = store.scan(cache)
    assert isinstance(item, Unread) and f"schema {schema}" in item.reason
    assert store.verify(item) is None
    assert store.lookup(cache, key()) == Miss(())
    with pytest.raises(Refused, match="no other is kept in its place") as refused:
        store.build(cache, key(), {}, never)
    assert f"ipa cache clear {item.id[:8]}" in refused.value.hint
    assert store.execute(cache, store.plan(store.scan(cache))).size == item.size


def test_build_replaces_a_damaged_graph_without_being_told(cache):
    entry = build(cache)
    (entry.folder / "graph.pt2").write_bytes(b"x")
    assert store.build(cache, key(), {}, fill).fresh
    assert_whole(cache)


def test_an_error_of_the_session_is_no_damage(cache):
    entry = build(cache)
    with pytest.raises(FileNotFoundError), store.opened(cache, entry):
        raise FileNotFoundError("of the session's own")
    assert isinstance(store.lookup(cache, key()), Hit)


def test_a_graph_that_went_away_is_refused(cache):
    entry = build(cache)
    shutil.rmtree(entry.folder)
    with pytest.raises(Lost), store.opened(cache, entry):
        pass


def test_an_old_refusal_does_not_take_a_new_graph(cache):
    stale = build(cache)
    shutil.rmtree(stale.folder)
    build(cache)
    assert not store.discard(cache, stale)
    assert isinstance(store.lookup(cache, key()), Hit)


@pytest.mark.parametrize("level", ["root", "graphs", "backend", "gpu"])
def test_a_cache_open_to_others_is_not_used_and_nothing_is_lost(cache, level):
    entry = build(cache)
    path = {
        "root": cache.root,
        "graphs": cache.graphs,
        "backend": entry.folder.parent.parent,
        "gpu": entry.folder.parent,
    }[level]
    path.chmod(0o777)
    with pytest.raises(Refused, match="everybody may write") as refused, store.opened(cache, entry):
        raise AssertionError("a graph that others could have written was handed out")
    assert str(path) in refused.value.message
    assert "chmod go-w" in refused.value.hint and "--cache-dir" in refused.value.hint
    with pytest.raises(Refused):
        store.build(cache, key(), {}, never)
    path.chmod(0o700)
    with store.opened(cache, entry):
        pass


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "not JSON"),
        (b"[" * 100_000, "not JSON"),
        (b"[]", "not a table"),
        (b'{"schema_version": "1"}', "schema '1'"),
        (b'{"schema_version": 3}', "lacks"),
        (None, "no manifest"),
    ],
)
def test_broken_graphs_are_listed_with_their_reason(cache, content, words):
    entry = build(cache)
    build(cache, key(batch=3))
    path = entry.folder / "manifest.json"
    path.unlink() if content is None else path.write_bytes(content)
    [broken] = [item for item in store.scan(cache) if isinstance(item, Broken)]
    assert words in broken.reason
    assert (broken.id, broken.backend, broken.gpu, broken.shape) == (key().short, "inductor", "cpu", "64x64-b2")
    assert broken.size >= 360
    assert "broken" in store.lookup(cache, key()).reason
    assert store.build(cache, key(), {}, fill).fresh
    assert_whole(cache)


@given(st.binary(max_size=200) | st.recursive(
    st.none() | st.integers() | st.text(max_size=5) | st.floats(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(
        st.sampled_from(["schema_version", "digest", "key", "created", "files", "backend", "a/../b", "sha256"]),
        inner, max_size=5),
    max_leaves=10).map(lambda data: json.dumps(data).encode()))  # fmt: skip
def test_any_manifest_reads_or_is_damage(text):
    from ipa_cli.store.manifest import parse

    with pytest.raises(store.Damage):
        parse(text)


@settings(deadline=None)
@given(st.data())
def test_a_manifest_with_any_field_replaced_is_broken_or_refused(data):
    value = data.draw(
        st.none() | st.integers(-5, 5) | st.floats() | st.text(max_size=8) | st.lists(st.integers(), max_size=2)
        | st.dictionaries(st.text(max_size=8), st.none() | st.integers() | st.text(max_size=3), max_size=2)
    )  # fmt: skip
    with tempfile.TemporaryDirectory(dir=MEMORY) as root:
        cache = Store(Path(root) / "cache")
        entry = build(cache)
        path = entry.folder / "manifest.json"
        manifest = json.loads(path.read_text())
        spot, name = data.draw(st.sampled_from(
            [(manifest, name) for name in sorted(manifest)]
            + [(manifest["key"], name) for name in sorted(manifest["key"])]
            + [(manifest["files"], "graph.pt2"), (manifest["files"], "../../outside")]
            + [(manifest["files"]["graph.pt2"], name) for name in ("sha256", "size")]
        ))  # fmt: skip
        if spot.get(name, "absent") == value and type(spot.get(name)) is type(value):
            return
        spot[name] = value
        path.write_text(json.dumps(manifest))
        [item] = store.scan(cache)
        if isinstance(item, Entry):
            store.lookup(cache, key(batch=5))
            with pytest.raises(StoreError), store.opened(cache, item):
                pass


@pytest.mark.parametrize("figure", ["1.5e905", "NaN", "Infinity", "-Infinity"])
def test_a_number_json_cannot_hold_is_damage_not_a_bug(cache, figure):
    entry = build(cache)
    path = entry.folder / "manifest.json"
    path.write_text(path.read_text().replace("1.5e-05", figure))
    [broken] = store.scan(cache)
    assert isinstance(broken, Broken) and "not JSON" in broken.reason
    assert store.build(cache, key(), {}, fill).fresh


def test_a_listing_reads_the_summary_and_still_sees_any_change_below_it(cache):
    entry = build(cache)
    path = entry.folder / "manifest.json"
    first, second, *_ = path.read_text().splitlines()
    rest = path.read_text().removeprefix(f"{first}\n")
    assert json.loads(first.removesuffix(",") + "}")["summary"]["size"] == entry.size == 360
    assert json.loads("{" + second.removesuffix(",") + "}") == {"built_with": {"torch": "2.13.0"}}
    path.write_text(f"{first}\n{rest.replace('demo', 'deno')}")
    [broken] = store.scan(cache)
    assert isinstance(broken, Broken) and "has changed" in broken.reason
    path.write_text(f"{first.replace('demo', 'deno')}\n{rest}")
    [changed] = store.scan(cache)
    with pytest.raises(StoreError, match="manifest has changed"), store.opened(cache, changed):
        raise AssertionError("a changed graph was handed out")


def test_a_forged_seal_makes_no_bug(cache):
    entry = build(cache)
    path = entry.folder / "manifest.json"
    first, _, rest = path.read_bytes().partition(b"\n")
    forged = rest.replace(b'"figures": {', b'"figures": [{')
    seals = [str(crc32(text)).encode() for text in (rest, forged)]
    path.write_bytes(first.replace(*seals) + b"\n" + forged)
    assert store.lookup(cache, key(batch=3)) == Miss(())
    assert store.verify(store.scan(cache)[0]) == "its manifest is not JSON"


@pytest.mark.parametrize(
    "line", [b' "built_with": []', b' "built": {}', b' "built_with": {"torch"', b' "built_with": {}}']
)
def test_a_forged_second_line_is_broken(cache, line):
    path = build(cache).folder / "manifest.json"
    first, second, rest = path.read_bytes().split(b"\n", 2)
    below = [second + b"\n" + rest, line + b",\n" + rest]
    path.write_bytes(first.replace(*(str(crc32(text)).encode() for text in below)) + b"\n" + below[1])
    [broken] = store.scan(cache)
    assert isinstance(broken, Broken), broken


def test_foreign_names_are_left_alone(cache):
    entry = build(cache)
    (entry.folder.parent / "notes.txt").write_text("mine")
    (cache.graphs / "file").write_text("mine")
    (cache.root / "other").mkdir()
    items = store.scan(cache)
    assert [item.folder for item in items] == [entry.folder]
    store.execute(cache, store.plan(items))
    assert (entry.folder.parent / "notes.txt").read_text() == "mine"
    assert (cache.root / "other").exists()


def test_a_linked_folder_is_refused_and_only_the_link_goes(cache, tmp_path):
    entry = build(cache)
    entry.folder.rename(tmp_path / "elsewhere")
    entry.folder.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(Lost, match="its folder is a link"), store.opened(cache, entry):
        raise AssertionError("a linked graph was handed out")
    assert not entry.folder.is_symlink()
    assert (tmp_path / "elsewhere" / "graph.pt2").exists()


def test_many_entries_are_listed(cache):
    for number in range(40):
        build(cache, key(batch=number))
    items = store.scan(cache)
    assert len(items) == len({item.id for item in items}) == 40
    assert all(isinstance(item, Entry) and item.key == key(batch=item.key.factors["batch"]) for item in items)


def test_an_empty_or_absent_cache_lists_nothing(cache):
    assert store.scan(cache) == []
    assert not cache.root.exists()
