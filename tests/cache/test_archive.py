"""Graphs travel in one file; what is in it is hostile until every part was checked."""

import io
import json
import os
import tarfile
import tempfile
from pathlib import Path

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from ipa_cli import cache
from ipa_cli.cache import Entry, Refused, Store, StoreError
from ipa_cli.errors import IpaError
from tests.cache.graphs import MEMORY, assert_whole, build, key, leftovers, script


@pytest.fixture
def other(tmp_path):
    return Store(tmp_path / "other")


@pytest.fixture
def archive(store, tmp_path):
    build(store, key(batch=1))
    build(store, key(batch=2))
    cache.export(store, cache.scan(store), tmp_path / "graphs.tar")
    return tmp_path / "graphs.tar"


def members(path):
    """The archive as a list of (header, content) to spoil."""
    with tarfile.open(path) as tar:
        return [(member, tar.extractfile(member).read()) for member in tar]


def write(path, parts):
    with tarfile.open(path, "w") as tar:
        for member, content in parts:
            tar.addfile(member, io.BytesIO(content) if content is not None else None)


def plain(name, content):
    member = tarfile.TarInfo(name)
    member.size = len(content)
    return member, content


def test_export_and_import_give_the_same_graphs(store, other, archive):
    brought = cache.import_(other, archive)
    assert [entry.key for entry in brought.added] == sorted([key(batch=1), key(batch=2)], key=lambda k: k.folder)
    assert brought.kept == ()
    assert_whole(other)
    for entry in cache.scan(other):
        there = store.graphs / entry.key.folder
        assert (entry.folder / "manifest.json").read_bytes() == (there / "manifest.json").read_bytes()
        with cache.open_graph(other, entry) as folder:
            assert (folder / "kernels" / "one.so").read_bytes() == b"\x7fELF" * 30
    assert leftovers(other) == []


def test_the_same_graphs_give_the_same_bytes(store, other, archive, tmp_path):
    cache.import_(other, archive)
    for entry in cache.scan(other):
        with cache.open_graph(other, entry):
            pass
    size = cache.export(other, list(reversed(cache.scan(other))), tmp_path / "again.tar")
    assert (tmp_path / "again.tar").read_bytes() == archive.read_bytes()
    assert size == archive.stat().st_size


def test_good_graphs_stay_and_damaged_ones_are_replaced(other, archive):
    mine = build(other, key(batch=1))
    damaged = build(other, key(batch=2))
    (damaged.folder / "graph.pt2").write_bytes(b"x")
    brought = cache.import_(other, archive)
    assert [entry.key for entry in brought.kept] == [key(batch=1)]
    assert [entry.key for entry in brought.added] == [key(batch=2)]
    assert [entry.stamp for entry in cache.scan(other) if entry.key == key(batch=1)] == [mine.stamp]
    assert_whole(other)


def test_import_makes_room_but_not_by_what_it_brought(tmp_path, archive):
    other = Store(tmp_path / "other", max_size=2 * 360)
    build(other, key(batch=7))
    brought = cache.import_(other, archive)
    assert [item.key for item in brought.evicted.items] == [key(batch=7)]
    assert {item.key for item in cache.scan(other)} == {key(batch=1), key(batch=2)}


def test_export_refuses_damage_and_keeps_existing_files(store, archive, tmp_path):
    with pytest.raises(IpaError, match="exists"):
        cache.export(store, cache.scan(store), archive)
    entry = cache.scan(store)[0]
    (entry.folder / "graph.pt2").write_bytes(b"x")
    before = archive.read_bytes()
    with pytest.raises(Refused, match="not exported"):
        cache.export(store, [entry], archive, overwrite=True)
    assert archive.read_bytes() == before
    for name, message in (("graphs.tar/a.tar", "Not a directory"), ("x" * 300, "too long"), ("a\0b", "not a file")):
        with pytest.raises(IpaError, match=message):
            cache.export(store, [], tmp_path / name)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["cache", "graphs.tar"]


@pytest.mark.parametrize("make", [os.mkfifo, lambda path: path.symlink_to("mine")])
def test_export_replaces_plain_files_alone(store, tmp_path, make):
    make(tmp_path / "graphs.tar")
    with pytest.raises(IpaError, match="only regular files are replaced"):
        cache.export(store, cache.scan(store), tmp_path / "graphs.tar", overwrite=True)
    assert [path.name for path in tmp_path.iterdir()] == ["graphs.tar"]


def _rename(old, new):
    def spoil(parts):
        for member, _ in parts:
            if member.name.endswith(old):
                member.name = new(member.name)
        return parts

    return spoil


def _kind(kind, link="/etc/passwd"):
    def spoil(parts):
        for number, (member, _) in enumerate(parts):
            if member.name.endswith("graph.pt2"):
                member.type, member.linkname, member.size = kind, link, 0
                parts[number] = (member, None)
        return parts

    return spoil


def _files(change):
    """Change the files a manifest names, with a manifest sealed anew: a hostile maker can do that."""

    def spoil(parts):
        from ipa_cli.cache.manifest import parse, render

        spoiled = []
        for member, content in parts:
            if member.name.endswith("manifest.json"):
                manifest = parse(content)
                change(manifest)
                member, content = plain(member.name, render(manifest))
            spoiled.append((member, content))
        return spoiled

    return spoil


def _escape(name):
    def change(manifest):
        manifest["files"][name] = manifest["files"].pop("graph.pt2")

    spoil_files, spoil_names = _files(change), _rename("graph.pt2", lambda old: old[: -len("graph.pt2")] + name)
    return lambda parts: spoil_names(spoil_files(parts))


def _content(parts):
    return [(m, c.replace(b"native", b"hostil")) if m.name.endswith("graph.pt2") else (m, c) for m, c in parts]


def _longer(parts):
    return [plain(m.name, c + b"x") if m.name.endswith("graph.pt2") else (m, c) for m, c in parts]


def _clash(manifest):
    manifest["files"]["kernels"] = manifest["files"]["graph.pt2"]


def _index(**changes):
    def spoil(parts):
        index = {**json.loads(parts[0][1]), **changes}
        return [plain("ipa-graphs.json", json.dumps(index).encode()), *parts[1:]]

    return spoil


HOSTILE = {
    "absolute name": (_escape("/tmp/evil"), "outside"),
    "name with ..": (_escape("../../evil"), "outside"),
    "name with a backslash": (_escape("a\\b"), "outside"),
    "manifest as a file": (_escape("manifest.json"), "outside"),
    "the store's own name": (_escape(".uses"), "outside"),
    "member moved outside": (_rename("graph.pt2", lambda name: "/tmp/evil"), "not in the manifest"),
    "member moved up": (_rename("graph.pt2", lambda name: name.replace("graph.pt2", "../evil")), "not in the manifest"),
    "soft link": (_kind(tarfile.SYMTYPE), "not a regular file"),
    "hard link": (_kind(tarfile.LNKTYPE), "not a regular file"),
    "pipe": (_kind(tarfile.FIFOTYPE), "not a regular file"),
    "device": (_kind(tarfile.CHRTYPE), "not a regular file"),
    "folder": (_kind(tarfile.DIRTYPE), "not a regular file"),
    "changed content": (_content, "have changed"),
    "longer than said": (_longer, "bytes, not"),
    "a file twice": (lambda parts: [*parts[:4], parts[3], *parts[4:]], "twice|no manifest|not in the manifest"),
    "a file missing": (lambda parts: parts[:-1], "are missing"),
    "a file more": (lambda parts: [*parts, plain("more.so", b"x")], "more than its index"),
    "file and folder of one name": (
        lambda parts: [*_files(_clash)(parts)[:2],
                       plain(parts[1][0].name.replace("manifest.json", "kernels"), b"native code " * 20), *parts[3:]],
        "twice",
    ),
    "no manifest": (lambda parts: [parts[0], *parts[2:]], "no manifest"),
    "no index": (lambda parts: parts[1:], "not an archive of graphs"),
    "nothing": (lambda parts: [], "not an archive of graphs"),
    "foreign index": (_index(schema_version=2), "schema 1"),
    "index of something else": (_index(graphs=[1, None]), "names no graphs"),
    "a graph twice": (_index(graphs=["a", "a"]), "twice"),
    "a graph elsewhere": (_index(graphs=["../../x"]), "no manifest"),
    "foreign schema": (_files(lambda manifest: manifest.update(schema_version=4)), "schema 4"),
    "another key": (_files(lambda manifest: manifest["key"]["factors"].update(torch="1.0")), "has changed"),
    "key that leaves the store": (_files(lambda manifest: manifest["key"].update(backend="..")), "slug"),
    "huge by its manifest": (
        _files(lambda manifest: manifest["files"]["graph.pt2"].update(size=10**15)), "does not fit into the cache",
    ),
}  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize(("spoil", "words"), HOSTILE.values(), ids=HOSTILE)
def test_hostile_archives_are_refused_whole(other, archive, tmp_path, spoil, words):
    mine = build(other, key(batch=1))
    write(tmp_path / "hostile.tar", spoil(members(archive)))
    outside = sorted(path for path in tmp_path.rglob("*") if other.root not in path.parents)
    with pytest.raises(Refused, match=words):
        cache.import_(other, tmp_path / "hostile.tar")
    assert [item.stamp for item in cache.scan(other)] == [mine.stamp]
    assert leftovers(other) == []
    assert sorted(path for path in tmp_path.rglob("*") if other.root not in path.parents) == outside
    assert not Path("/tmp/evil").exists()


def test_a_manifest_too_large_is_not_read(other, archive, tmp_path):
    parts = members(archive)
    parts[1] = plain(parts[1][0].name, b" " * (5 << 20))
    write(tmp_path / "hostile.tar", parts)
    with pytest.raises(Refused, match="too large"):
        cache.import_(other, tmp_path / "hostile.tar")


def test_larger_than_the_limit_is_refused(tmp_path, archive):
    with pytest.raises(Refused, match="cache-max-size"):
        cache.import_(Store(tmp_path / "other", max_size=2 * 360 - 1), archive)


def test_compressed_or_foreign_files_are_refused(other, archive, tmp_path):
    import gzip

    (tmp_path / "a.tgz").write_bytes(gzip.compress(archive.read_bytes()))
    (tmp_path / "a.txt").write_text("hello")
    for name in ("a.tgz", "a.txt"):
        with pytest.raises(Refused, match="not an archive"):
            cache.import_(other, tmp_path / name)
    with pytest.raises(StoreError, match="cannot read"):
        cache.import_(other, tmp_path / "absent.tar")


@settings(max_examples=200, deadline=None)
@given(
    st.lists(st.tuples(st.floats(0, 1, exclude_max=True), st.integers(0, 255)), max_size=4),
    st.floats(0, 1) | st.just(1.0),
)
@example([], 0.1875)  # within the manifest
@example([], 0.05)  # within the index
def test_any_spoiled_archive_is_refused_or_whole(flips, cut):
    with tempfile.TemporaryDirectory(dir=MEMORY) as root:
        store, other = Store(Path(root) / "cache"), Store(Path(root) / "other")
        build(store, key(batch=1))
        path = Path(root) / "graphs.tar"
        cache.export(store, cache.scan(store), path)
        content = bytearray(path.read_bytes())
        for where, byte in flips:
            # Most flips go where the headers and the graph are, not into the padding at the end.
            content[int(where * min(len(content), 5120))] = byte
        path.write_bytes(content[: int(cut * len(content))])
        try:
            brought = cache.import_(other, path)
        except Refused:
            assert cache.scan(other) == []
        else:
            [entry] = brought.added
            assert isinstance(entry, Entry)
            assert (entry.folder / "graph.pt2").read_bytes() == b"native code " * 20
        assert_whole(other)
        assert leftovers(other) == []


@pytest.mark.parametrize("kind", [tarfile.XHDTYPE, tarfile.GNUTYPE_LONGNAME])
@pytest.mark.parametrize("first", [True, False])
def test_thousands_of_chained_headers_are_refused(other, archive, tmp_path, kind, first):
    header = tarfile.TarInfo("chained")
    header.type, header.size = kind, 0
    chain = header.tobuf() * 5000
    whole = archive.read_bytes()
    at = 0 if first else 1024  # after the index
    (tmp_path / "hostile.tar").write_bytes(whole[:at] + chain + whole[at:])
    with pytest.raises(Refused, match="not imported"):
        cache.import_(other, tmp_path / "hostile.tar")


def test_graphs_made_elsewhere_are_ours_once_imported(store, other, archive, monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state of the other"))
    assert all(cache.trust_problem(entry) for entry in cache.scan(store))
    brought = cache.import_(other, archive)
    assert [cache.trust_problem(entry) for entry in brought.added] == [None, None]
    brought = cache.import_(store, archive)  # in place of the same graphs, which nobody had trusted
    assert (len(brought.added), brought.kept) == (2, ())
    assert [cache.trust_problem(entry) for entry in cache.scan(store)] == [None, None]


def test_a_killed_import_is_swept_by_the_next_that_writes(store, other, archive):
    work = """
    import ipa_cli.cache.archive as archive
    def killed(*_):
        os.kill(os.getpid(), 9)
    archive.hash_files = killed
    cache.import_(Store(Path(sys.argv[1])), Path(sys.argv[2]))
    """
    assert script(work, other.root, archive).wait(60) == -9
    [left] = cache.scratch_folders(other)
    assert left.size > 300 and not left.alive
    build(other, key(batch=9))
    assert leftovers(other) == []
