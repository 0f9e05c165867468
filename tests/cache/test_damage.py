"""Damage of any kind is found before anything is loaded, told in words, and mended by building again."""

import json
import os
import re
import shutil
import subprocess
import tempfile
from pathlib import Path
from zlib import crc32

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ipa_cli import cache
from ipa_cli.cache import BrokenGraph, DamagedGraph, Entry, Hit, Miss, Refused, Store, StoreError, UnreadableGraph
from tests.cache.graphs import MEMORY, assert_whole, build, fill, key, never


@settings(max_examples=150, deadline=None)
@given(
    st.sampled_from(["manifest.json", "graph.pt2", "kernels/one.so"]),
    st.floats(0, 1, exclude_max=True),
    st.integers(1, 255),
)
def test_any_flipped_byte_is_refused_and_rebuilt(name, where, flip):
    with tempfile.TemporaryDirectory(dir=MEMORY) as root:
        store = Store(Path(root) / "cache")
        entry = build(store)
        path = entry.folder / name
        content = bytearray(path.read_bytes())
        content[int(where * len(content))] ^= flip
        path.write_bytes(content)
        found = cache.lookup(store, key())
        if isinstance(found, Hit):
            with pytest.raises(DamagedGraph), cache.open_graph(store, found.entry):
                raise AssertionError("a changed graph was handed out")
            assert cache.scan(store) == []
        else:
            assert name == "manifest.json"
            if isinstance(cache.scan(store)[0], UnreadableGraph):  # the number of its schema is another one
                return
        made = cache.build(store, key(), {"model": "demo"}, fill)
        assert made.fresh
        with cache.open_graph(store, made.entry) as folder:
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
    "not a regular file": _pipe,
    "graph.pt2 is not a regular file": _folder,
}


@pytest.mark.parametrize(("words", "harm"), DAMAGES.items(), ids=DAMAGES)
def test_damage_is_reported_and_removed(store, words, harm):
    entry = build(store)
    harm(entry)
    with pytest.raises(DamagedGraph, match=f"{words}.*; it was removed"), cache.open_graph(store, entry):
        raise AssertionError("a damaged graph was handed out")
    assert not entry.folder.exists()
    assert build(store).folder == entry.folder
    assert_whole(store)


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
def test_what_changes_no_byte_keeps_a_graph_usable(store, change):
    entry = build(store)
    change(entry)
    [there] = cache.scan(store)
    assert cache.trust_problem(there) is None
    with cache.open_graph(store, there) as folder:
        assert (folder / "graph.pt2").read_bytes() == b"native code " * 20
        assert sorted(path.name for path in folder.rglob("*")) == ["graph.pt2", "kernels", "one.so"]
    assert cache.build(store, key(), {}, never).entry.folder == entry.folder


def test_a_file_that_cannot_be_read_is_reported_and_stays(store, monkeypatch):
    entry = build(store)

    usual = os.open

    def closed(path, *arguments, **named):
        if str(path).endswith("one.so"):
            raise PermissionError(13, "Permission denied", str(path))
        return usual(path, *arguments, **named)

    monkeypatch.setattr("os.open", closed)
    with pytest.raises(StoreError, match="Permission denied"), cache.open_graph(store, entry):
        pass
    monkeypatch.undo()
    assert isinstance(cache.lookup(store, key()), Hit)


@pytest.mark.parametrize("schema", [1, 2, 4, 99])
def test_a_graph_of_another_version_is_neither_damaged_nor_lost(store, schema):
    entry = build(store)
    path = entry.folder / "manifest.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "schema_version": schema}))
    [item] = cache.scan(store)
    assert isinstance(item, UnreadableGraph) and f"schema {schema}" in item.reason
    assert cache.verify(item) is None
    assert cache.lookup(store, key()) == Miss(())
    with pytest.raises(Refused, match="cannot be replaced") as refused:
        cache.build(store, key(), {}, never)
    assert f"ipa cache clear {item.id[:8]}" in refused.value.hint
    assert cache.execute(store, cache.plan(cache.scan(store))).size == item.size


def test_build_replaces_a_damaged_graph(store):
    entry = build(store)
    (entry.folder / "graph.pt2").write_bytes(b"x")
    assert cache.build(store, key(), {}, fill).fresh
    assert_whole(store)


def test_an_error_while_a_graph_is_open_is_not_damage(store):
    entry = build(store)
    with pytest.raises(FileNotFoundError), cache.open_graph(store, entry):
        raise FileNotFoundError("of the session's own")
    assert isinstance(cache.lookup(store, key()), Hit)


def test_a_graph_that_went_away_is_refused(store):
    entry = build(store)
    shutil.rmtree(entry.folder)
    with pytest.raises(DamagedGraph), cache.open_graph(store, entry):
        pass


def test_an_old_refusal_does_not_take_a_new_graph(store):
    stale = build(store)
    shutil.rmtree(stale.folder)
    build(store)
    assert not cache.discard(store, stale)
    assert isinstance(cache.lookup(store, key()), Hit)


def test_one_command_closes_every_folder_that_is_open_to_others(store):
    entry = build(store)
    for path in (store.root, entry.folder.parent, entry.folder):
        path.chmod(0o777)
    with pytest.raises(Refused) as refused, cache.open_graph(store, entry):
        raise AssertionError("a graph that others could have written was handed out")
    subprocess.run(re.search("`(chmod go-w .*?)`", refused.value.hint)[1], shell=True, check=True)
    with cache.open_graph(store, entry):
        pass


@pytest.mark.parametrize("level", ["root", "graphs", "backend", "gpu"])
def test_a_cache_open_to_others_is_not_used_and_nothing_is_lost(store, level):
    entry = build(store)
    path = {
        "root": store.root,
        "graphs": store.graphs,
        "backend": entry.folder.parent.parent,
        "gpu": entry.folder.parent,
    }[level]
    path.chmod(0o777)
    with pytest.raises(Refused, match="everybody may write") as refused, cache.open_graph(store, entry):
        raise AssertionError("a graph that others could have written was handed out")
    assert str(path) in refused.value.message
    assert "chmod go-w" in refused.value.hint and "--cache-dir" in refused.value.hint
    with pytest.raises(Refused):
        cache.build(store, key(), {}, never)
    path.chmod(0o700)
    with cache.open_graph(store, entry):
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
def test_broken_graphs_are_listed_with_their_reason(store, content, words):
    entry = build(store)
    build(store, key(batch=3))
    path = entry.folder / "manifest.json"
    path.unlink() if content is None else path.write_bytes(content)
    [broken] = [item for item in cache.scan(store) if isinstance(item, BrokenGraph)]
    assert words in broken.reason
    assert (broken.id, broken.backend, broken.gpu, broken.shape) == (key().short, "inductor", "cpu", "64x64-b2")
    assert broken.size >= 360
    assert "broken" in cache.lookup(store, key()).reason
    assert cache.build(store, key(), {}, fill).fresh
    assert_whole(store)


@given(st.binary(max_size=200) | st.recursive(
    st.none() | st.integers() | st.text(max_size=5) | st.floats(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(
        st.sampled_from(["schema_version", "digest", "key", "created", "files", "backend", "a/../b", "sha256"]),
        inner, max_size=5),
    max_leaves=10).map(lambda data: json.dumps(data).encode()))  # fmt: skip
def test_any_manifest_reads_or_is_damage(text):
    from ipa_cli.cache.manifest import parse

    with pytest.raises(cache.Damage):
        parse(text)


@settings(deadline=None)
@given(st.data())
def test_a_manifest_with_any_field_replaced_is_broken_or_refused(data):
    value = data.draw(
        st.none() | st.integers(-5, 5) | st.floats() | st.text(max_size=8) | st.lists(st.integers(), max_size=2)
        | st.dictionaries(st.text(max_size=8), st.none() | st.integers() | st.text(max_size=3), max_size=2)
    )  # fmt: skip
    with tempfile.TemporaryDirectory(dir=MEMORY) as root:
        store = Store(Path(root) / "cache")
        entry = build(store)
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
        [item] = cache.scan(store)
        if isinstance(item, Entry):
            cache.lookup(store, key(batch=5))
            with pytest.raises(StoreError), cache.open_graph(store, item):
                pass


@pytest.mark.parametrize("figure", ["1.5e905", "NaN", "Infinity", "-Infinity"])
def test_a_number_json_cannot_hold_is_damage_not_a_bug(store, figure):
    entry = build(store)
    path = entry.folder / "manifest.json"
    path.write_text(path.read_text().replace("1.5e-05", figure))
    [broken] = cache.scan(store)
    assert isinstance(broken, BrokenGraph) and "not JSON" in broken.reason
    assert cache.build(store, key(), {}, fill).fresh


def test_a_listing_reads_the_summary_and_still_sees_any_change_below_it(store):
    entry = build(store)
    path = entry.folder / "manifest.json"
    first, second, *_ = path.read_text().splitlines()
    rest = path.read_text().removeprefix(f"{first}\n")
    assert json.loads(first.removesuffix(",") + "}")["summary"]["size"] == entry.size == 360
    assert json.loads("{" + second.removesuffix(",") + "}") == {"built_with": {"torch": "2.13.0"}}
    path.write_text(f"{first}\n{rest.replace('demo', 'deno')}")
    [broken] = cache.scan(store)
    assert isinstance(broken, BrokenGraph) and "has changed" in broken.reason
    path.write_text(f"{first.replace('demo', 'deno')}\n{rest}")
    [changed] = cache.scan(store)
    with pytest.raises(StoreError, match="manifest has changed"), cache.open_graph(store, changed):
        raise AssertionError("a changed graph was handed out")


def test_a_forged_seal_makes_no_bug(store):
    entry = build(store)
    path = entry.folder / "manifest.json"
    first, _, rest = path.read_bytes().partition(b"\n")
    forged = rest.replace(b'"figures": {', b'"figures": [{')
    seals = [str(crc32(text)).encode() for text in (rest, forged)]
    path.write_bytes(first.replace(*seals) + b"\n" + forged)
    assert cache.lookup(store, key(batch=3)) == Miss(())
    assert cache.verify(cache.scan(store)[0]) == "its manifest is not JSON"


@pytest.mark.parametrize(
    "line", [b' "built_with": []', b' "built": {}', b' "built_with": {"torch"', b' "built_with": {}}']
)
def test_a_forged_second_line_is_broken(store, line):
    path = build(store).folder / "manifest.json"
    first, second, rest = path.read_bytes().split(b"\n", 2)
    below = [second + b"\n" + rest, line + b",\n" + rest]
    path.write_bytes(first.replace(*(str(crc32(text)).encode() for text in below)) + b"\n" + below[1])
    [broken] = cache.scan(store)
    assert isinstance(broken, BrokenGraph), broken


def test_foreign_names_are_left_alone(store):
    entry = build(store)
    (entry.folder.parent / "notes.txt").write_text("mine")
    (store.graphs / "file").write_text("mine")
    (store.root / "other").mkdir()
    items = cache.scan(store)
    assert [item.folder for item in items] == [entry.folder]
    cache.execute(store, cache.plan(items))
    assert (entry.folder.parent / "notes.txt").read_text() == "mine"
    assert (store.root / "other").exists()


def test_a_linked_folder_is_refused_and_only_the_link_goes(store, tmp_path):
    entry = build(store)
    entry.folder.rename(tmp_path / "elsewhere")
    entry.folder.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(DamagedGraph, match="its folder is a link"), cache.open_graph(store, entry):
        raise AssertionError("a linked graph was handed out")
    assert not entry.folder.is_symlink()
    assert (tmp_path / "elsewhere" / "graph.pt2").exists()


@pytest.mark.slow
def test_many_entries_are_listed(store):
    for number in range(40):
        build(store, key(batch=number))
    items = cache.scan(store)
    assert len(items) == len({item.id for item in items}) == 40
    assert all(isinstance(item, Entry) and item.key == key(batch=item.key.factors["batch"]) for item in items)


def test_an_empty_or_absent_cache_lists_nothing(store):
    assert cache.scan(store) == []
    assert not store.root.exists()
