"""The store keeps whole graphs only: through races, kills, damage, full and closed disks."""

import ctypes
import json
import os
import shutil
import stat
import subprocess
import sys
import tempfile
import textwrap
import time
from datetime import datetime, timezone
from pathlib import Path
from zlib import crc32

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ipa_cli import store
from ipa_cli.errors import IpaError, UsageError
from ipa_cli.keys import GraphKey
from ipa_cli.store import Broken, Entry, Hit, Miss, Refused, Store, StoreError

ROOT = Path(__file__).parent.parent
# Where a test builds hundreds of graphs, in memory if possible: waiting for a disk to sync shows nothing more.
MEMORY = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None


def key(batch=2, backend="inductor", **factors):
    return GraphKey(backend, "cpu", f"64x64-b{batch}", {"torch": "2.13.0", "batch": batch, **factors})


def fill(folder: Path):
    (folder / "graph.pt2").write_bytes(b"native code " * 20)
    (folder / "kernels").mkdir()
    (folder / "kernels" / "one.so").write_bytes(b"\x7fELF" * 30)
    return {"parity": 1.5e-5}


def build(cache, wanted=None, builder=fill):
    return store.build(cache, wanted or key(), {"model": "demo"}, builder).entry


def never(folder):
    raise AssertionError("built although the graph is there")


def leftovers(cache):
    return [found.path.name for found in store.work(cache)]


def assert_whole(cache):
    """Every listed graph passes the full check."""
    for item in store.scan(cache):
        assert isinstance(item, Entry), item
        store.check(item.folder)


@pytest.fixture
def cache(tmp_path):
    return Store(tmp_path / "cache")


def script(text, *arguments, **more):
    """A fresh Python process that runs `text` with this module's names at hand."""
    head = "import sys, os, time\nfrom pathlib import Path\nfrom tests.test_store import *\n"
    code = head + textwrap.dedent(text)
    command = [sys.executable, "-c", code, *map(str, arguments)]
    return subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True, **more)


# Build, look up, open


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


# Many processes


def test_eight_processes_one_build(cache, tmp_path):
    work = """
    root, gate, log = map(Path, sys.argv[1:])
    def slow(folder):
        with log.open("a") as file:
            file.write("built\\n")
        time.sleep(0.5)
        return fill(folder)
    while not gate.exists():
        time.sleep(0.005)
    said = []
    made = store.build(Store(root), key(), {"model": "demo"}, slow, waiting=lambda: said.append(1))
    with store.opened(Store(root), made.entry) as folder:
        print(made.fresh, len(said), len((folder / "graph.pt2").read_bytes()))
    """
    gate, log = tmp_path / "gate", tmp_path / "log"
    workers = [script(work, cache.root, gate, log) for _ in range(8)]
    time.sleep(1.5)  # until most have imported, so that they ask at once
    gate.touch()
    results = sorted(worker.communicate(timeout=60)[0].split() for worker in workers)
    assert log.read_text() == "built\n"
    assert [result[0] for result in results] == ["False"] * 7 + ["True"]
    assert all(result[2] == "240" for result in results)
    assert [result[1] for result in results].count("1") >= 1
    [entry] = store.scan(cache)
    assert entry.hits == 8
    assert_whole(cache)


KILLS = """
import random, signal
root = Path(sys.argv[1])
cache = Store(root)

def slow(folder):
    for number in range(4):
        with (folder / f"part{number}").open("wb") as file:
            for _ in range(4):
                file.write(b"x" * 5000)
                file.flush()
                time.sleep(0.0005)

def attempt(wanted, before):
    child = os.fork()
    if child == 0:
        try:
            before()
            store.build(cache, wanted, {}, slow)
        finally:
            os._exit(0)
    return child

def whole(wanted):
    for item in store.scan(cache):
        assert isinstance(item, Entry), item
        if item.id == wanted.short:
            store.check(item.folder)

def die_at(moment):
    count = 0
    def hook(event, arguments):
        nonlocal count
        if event.split(".")[0] in ("open", "os", "shutil", "fcntl"):
            count += 1
            if count == moment:
                os.kill(os.getpid(), signal.SIGKILL)
    sys.addaudithook(hook)

# At every single step that touches the disk, while a damaged graph is being replaced
moment, steps = 0, 0
while True:
    moment += 1
    wanted = key(batch=moment)
    damaged = store.build(cache, wanted, {}, fill).entry
    (damaged.folder / "graph.pt2").write_bytes(b"damaged")
    child = attempt(wanted, lambda: die_at(moment))
    _, status = os.waitpid(child, 0)
    for item in store.scan(cache):
        assert isinstance(item, Entry), item
    if store.build(cache, wanted, {}, slow).fresh:
        steps += 1
    whole(wanted)
    if not os.WIFSIGNALED(status):
        break
print("steps", moment, "rebuilt", steps)

# At 50 random moments of a build, by another process; one that was done before its kill does not count
random.seed(7)
started = time.perf_counter()
store.build(cache, key(batch=0, round="timed"), {}, slow)
lasts = time.perf_counter() - started
killed = tries = 0
while killed < 50 and tries < 400:
    tries += 1
    wanted = key(batch=tries, round="random")
    child = attempt(wanted, lambda: None)
    time.sleep(random.uniform(0, lasts))
    os.kill(child, signal.SIGKILL)
    killed += os.WIFSIGNALED(os.waitpid(child, 0)[1])
    whole(wanted)
    store.build(cache, wanted, {}, slow)
    whole(wanted)
print("killed", killed)
store.sweep(cache)
"""


def test_killed_at_any_moment_only_whole_entries_remain():
    with tempfile.TemporaryDirectory(dir=MEMORY) as root:
        _kill_and_look(Store(Path(root) / "cache"))


def _kill_and_look(cache):
    child = script(KILLS, cache.root)
    said = child.communicate(timeout=120)[0].split()
    assert child.returncode == 0
    steps, rebuilt, killed = int(said[1]), int(said[3]), int(said[5])
    assert steps > 40, "the steps were not seen"
    assert rebuilt > 30
    assert killed == 50, "too many builds ended before they were killed"
    assert leftovers(cache) == []
    assert_whole(cache)


def test_a_live_build_is_not_swept(cache, tmp_path):
    work = """
    root, begun, gate = map(Path, sys.argv[1:])
    def slow(folder):
        fill(folder)
        begun.touch()
        while not gate.exists():
            time.sleep(0.005)
    store.build(Store(root), key(), {}, slow)
    """
    begun, gate = tmp_path / "begun", tmp_path / "gate"
    worker = script(work, cache.root, begun, gate)
    while not begun.exists():
        assert worker.poll() is None
        time.sleep(0.01)
    [live] = leftovers(cache)
    for name in (".building-of-an-earlier-version", ".work/1-dead", ".work/2-dead"):
        (cache.graphs / name).mkdir()
    (cache.graphs / ".work" / "2-dead.lock").touch()
    (cache.graphs / ".work" / "3-dead.lock").touch()
    build(cache, key(batch=3))
    assert leftovers(cache) == [live]
    assert sorted(path.name for path in (cache.graphs / ".work").iterdir()) == [live, f"{live}.lock"]
    gate.touch()
    assert worker.wait(30) == 0
    assert isinstance(store.lookup(cache, key()), Hit)
    assert_whole(cache)


# Damage


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
            with pytest.raises(Refused), store.opened(cache, found.entry):
                raise AssertionError("a changed graph was handed out")
            assert store.scan(cache) == []
        else:
            assert name == "manifest.json"
        made = store.build(cache, key(), {"model": "demo"}, fill)
        assert made.fresh
        with store.opened(cache, made.entry) as folder:
            assert (folder / "graph.pt2").read_bytes() == b"native code " * 20


def _link(entry):
    (entry.folder / "graph.pt2").rename(entry.folder.parent / "elsewhere")
    (entry.folder / "graph.pt2").symlink_to(entry.folder.parent / "elsewhere")


def _link_folder(entry):
    (entry.folder / "kernels").rename(entry.folder.parent / "elsewhere")
    (entry.folder / "kernels").symlink_to(entry.folder.parent / "elsewhere")


def _pipe(entry):
    (entry.folder / "graph.pt2").unlink()
    os.mkfifo(entry.folder / "graph.pt2")


def _give_away(entry):
    os.chown(entry.folder / "graph.pt2", 12345, 12345)


DAMAGES = {
    "is missing": lambda entry: (entry.folder / "graph.pt2").unlink(),
    "does not belong": lambda entry: (entry.folder / "extra.so").write_bytes(b"x"),
    "has 241 bytes": lambda entry: (entry.folder / "graph.pt2").write_bytes(b"x" * 241),
    "has changed": lambda entry: (entry.folder / "graph.pt2").write_bytes(b"x" * 240),
    "graph.pt2 is a link": _link,
    "kernels is a link": _link_folder,
    "neither file nor folder": _pipe,
    "others may enter its folder .mode 0755": lambda entry: entry.folder.chmod(0o755),
    "others may enter its folder .mode 0770": lambda entry: entry.folder.chmod(0o770),
    "graph.pt2 can be written by others": lambda entry: (entry.folder / "graph.pt2").chmod(0o666),
    "another user": pytest.param(
        _give_away, marks=pytest.mark.skipif(os.geteuid() != 0, reason="only root gives files away")
    ),
}


@pytest.mark.parametrize(("words", "harm"), [
    pytest.param(words, *(harm.values if hasattr(harm, "values") else [harm]),
                 marks=getattr(harm, "marks", ()), id=words)
    for words, harm in DAMAGES.items()
])  # fmt: skip
def test_damage_is_refused_in_words(cache, words, harm):
    entry = build(cache)
    harm(entry)
    with pytest.raises(Refused, match=words), store.opened(cache, entry):
        raise AssertionError("a damaged graph was handed out")
    assert not entry.folder.exists()
    assert build(cache).folder == entry.folder
    assert_whole(cache)


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
    with pytest.raises(Refused), store.opened(cache, entry):
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
    with pytest.raises(Refused, match="can be written by others") as refused, store.opened(cache, entry):
        raise AssertionError("a graph that others could have written was handed out")
    assert f"chmod go-w {path}" in refused.value.hint
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
        (b'{"schema_version": 1}', "schema 1"),
        (b'{"schema_version": 2}', "schema 2"),
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
            with pytest.raises(Refused), store.opened(cache, item):
                pass


@pytest.mark.parametrize("figure", ["1.5e905", "NaN", "Infinity", "-Infinity"])
def test_a_number_json_cannot_hold_is_damage_not_a_bug(cache, figure):
    entry = build(cache)
    path = entry.folder / "manifest.json"
    path.write_text(path.read_text().replace("1.5e-05", figure))
    [broken] = store.scan(cache)
    assert isinstance(broken, Broken) and "not JSON" in broken.reason
    with pytest.raises(Refused), store.opened(cache, entry):
        raise AssertionError("a changed graph was handed out")
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
    with pytest.raises(Refused, match="has changed"), store.opened(cache, changed):
        raise AssertionError("a changed graph was handed out")


def test_a_forged_seal_makes_no_bug(cache):
    entry = build(cache)
    path = entry.folder / "manifest.json"
    first, _, rest = path.read_bytes().partition(b"\n")
    forged = rest.replace(b'"figures": {', b'"figures": [{')
    seals = [str(crc32(text)).encode() for text in (rest, forged)]
    path.write_bytes(first.replace(*seals) + b"\n" + forged)
    with pytest.raises(Refused, match="not JSON"):
        store.lookup(cache, key(batch=3))
    assert store.verify(cache, store.scan(cache)[0]) == "its manifest is not JSON"


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
    with pytest.raises(Refused, match="its folder is a link"), store.opened(cache, entry):
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


# Removal


def use(entry, when):
    os.utime(entry.folder / ".uses", (when, when))


def test_plan_says_what_and_how_much_then_does_it(cache):
    entries = [build(cache, key(batch=number)) for number in range(3)]
    chosen = store.plan(store.scan(cache), prefixes=[entries[1].id[:6]])
    assert [item.folder for item in chosen.items] == [entries[1].folder]
    assert chosen.size == 360
    assert len(store.scan(cache)) == 3
    done = store.execute(cache, chosen)
    assert (done.size, done.kept) == (360, ())
    assert {item.folder for item in store.scan(cache)} == {entries[0].folder, entries[2].folder}
    assert leftovers(cache) == []


def test_plan_conditions_narrow_the_choice(cache):
    for number in range(4):
        use(build(cache, key(batch=number)), when=1000 + number)
    use(build(cache, key(backend="nexfort")), when=500)
    items = store.scan(cache)

    def batches(**conditions):
        return [item.manifest["key"]["shape"][-1] for item in store.plan(items, **conditions).items]

    assert batches(used_before=1002) == ["2", "0", "1"]
    assert batches(wanted=lambda item: item.backend == "inductor", used_before=1002) == ["0", "1"]
    assert batches(max_size=3 * 360) == ["2", "0"]
    assert batches(max_size=3 * 360 - 1) == ["2", "0", "1"]
    assert batches(wanted=lambda item: item.backend == "inductor", max_size=4 * 360) == ["0"]
    assert batches(max_size=10**9) == []
    assert len(batches()) == 5


def test_broken_graphs_go_first(cache):
    use(build(cache, key(batch=1)), when=1000)
    broken = build(cache, key(batch=2))
    (broken.folder / "manifest.json").unlink()
    total = sum(item.size for item in store.scan(cache))
    [first] = store.plan(store.scan(cache), max_size=total - 1).items
    assert first.folder == broken.folder


def test_key_prefixes(cache):
    entries = [build(cache, key(batch=number)) for number in range(20)]
    items = store.scan(cache)
    assert store.find(items, entries[3].digest).id == entries[3].id
    assert store.find(items, entries[3].id.upper()).id == entries[3].id
    for prefix in ("", "zz", entries[3].id + "0" * 60):
        with pytest.raises(UsageError, match="no graph"):
            store.find(items, prefix)
    shared = next(digit for digit in "0123456789abcdef" if sum(e.id.startswith(digit) for e in entries) > 1)
    with pytest.raises(UsageError, match="graphs begin with"):
        store.plan(items, prefixes=[shared])


def test_the_size_limit_takes_the_least_recently_used(tmp_path):
    cache = Store(tmp_path / "cache", max_size=3 * 360)
    for number, when in ((1, 3000), (2, 1000), (3, 2000)):
        use(build(cache, key(batch=number)), when)
    made = store.build(cache, key(batch=4), {}, fill)
    assert [item.key for item in made.evicted.items] == [key(batch=2)]
    assert {item.key for item in store.scan(cache)} == {key(batch=1), key(batch=3), key(batch=4)}


def test_the_size_limit_spares_the_new_and_the_used(tmp_path):
    cache = Store(tmp_path / "cache", max_size=1)
    first = build(cache, key(batch=1))
    with store.opened(cache, first) as folder:
        second = store.build(cache, key(batch=2), {}, fill)
        assert second.evicted.kept[0][1] == "in use"
        assert (folder / "graph.pt2").exists()
    assert len(store.scan(cache)) == 2
    third = store.build(cache, key(batch=3), {}, fill)
    assert [item.key for item in store.scan(cache)] == [key(batch=3)]
    assert len(third.evicted.items) == 2


def test_in_use_by_another_process_stays(cache, tmp_path):
    entry = build(cache)
    work = """
    cache, begun = Store(Path(sys.argv[1])), Path(sys.argv[2])
    with store.opened(cache, store.scan(cache)[0]):
        begun.touch()
        time.sleep(60)
    """
    worker = script(work, cache.root, tmp_path / "begun")
    while not (tmp_path / "begun").exists():
        assert worker.poll() is None
        time.sleep(0.01)
    done = store.execute(cache, store.plan(store.scan(cache)))
    assert (done.items, [reason for _, reason in done.kept]) == ((), ["in use"])
    worker.kill()
    worker.wait()
    assert [item.folder for item in store.execute(cache, store.plan(store.scan(cache))).items] == [entry.folder]


def test_a_rebuilt_graph_is_not_what_was_planned(cache):
    entry = build(cache)
    planned = store.plan(store.scan(cache))
    shutil.rmtree(entry.folder)
    build(cache)
    done = store.execute(cache, planned)
    assert done.items == ()
    assert "meanwhile" in done.kept[0][1]
    assert isinstance(store.lookup(cache, key()), Hit)


# Full and closed disks


@pytest.fixture
def small_disk(tmp_path):
    """A disk of 256 KiB of its own."""
    disk = tmp_path / "disk"
    disk.mkdir()
    libc = ctypes.CDLL(None, use_errno=True)
    if not hasattr(libc, "mount") or libc.mount(b"tmpfs", bytes(disk), b"tmpfs", 0, b"size=256k"):
        pytest.skip("may not mount a small disk")
    yield disk
    libc.umount2(bytes(disk), 2)


def test_a_full_disk_keeps_the_good_graphs(small_disk):
    cache = Store(small_disk / "cache")
    good = build(cache, key(batch=1))

    def large(folder):
        (folder / "graph.pt2").write_bytes(b"x" * 500_000)

    with pytest.raises(StoreError, match="cannot hold more") as full:
        build(cache, key(batch=2), large)
    assert "ipa cache clear" in full.value.hint
    assert leftovers(cache) == []
    with store.opened(cache, good):
        pass
    build(cache, key(batch=3))
    assert_whole(cache)


def test_a_librarys_own_words_for_a_full_disk(small_disk):
    def library(folder):
        try:
            (folder / "graph.pt2").write_bytes(b"x" * 500_000)
        except OSError:
            raise RuntimeError("PytorchStreamWriter failed writing file") from None

    with pytest.raises(StoreError, match="PytorchStreamWriter"):
        build(Store(small_disk / "cache"), builder=library)


def test_a_file_size_limit_is_told_like_a_full_disk(cache):
    work = """
    import resource
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))
    try:
        build(Store(Path(sys.argv[1])), builder=lambda folder: (folder / "g").write_bytes(b"x" * 9000) and None)
    except StoreError as error:
        print(error.message, error.hint)
    """
    said = script(work, cache.root).communicate(timeout=60)[0]
    assert "File too large" in said
    assert "ipa cache clear" in said
    assert store.scan(cache) == []
    assert leftovers(cache) == []


@pytest.fixture
def closed(tmp_path):
    """A store with one graph on a disk that has become read-only."""
    root = tmp_path / "closed"
    root.mkdir(mode=0o700)
    cache = Store(root)
    if os.geteuid() != 0:
        build(cache)
        folders = [root, *(path for path in root.rglob("*") if path.is_dir())]
        for folder in folders:
            folder.chmod(0o500)
        yield cache
        for folder in folders:
            folder.chmod(0o700)
        return
    libc = ctypes.CDLL(None, use_errno=True)
    remount_read_only = 32 | 1
    if libc.mount(b"tmpfs", bytes(root), b"tmpfs", 0, b"size=1m,mode=700"):
        pytest.skip("root ignores modes and may not mount here")
    build(cache)
    libc.mount(b"tmpfs", bytes(root), b"tmpfs", remount_read_only, None)
    yield cache
    libc.umount2(bytes(root), 2)


def test_a_read_only_cache_serves_what_it_has(closed):
    found = store.lookup(closed, key())
    assert isinstance(found, Hit)
    with store.opened(closed, found.entry) as folder:
        assert (folder / "graph.pt2").exists()
    assert not store.build(closed, key(), {}, never).fresh
    with pytest.raises(StoreError, match="cannot be written") as error:
        build(closed, key(batch=3))
    assert "--cache-dir" in error.value.hint
    with pytest.raises(StoreError, match="cannot be written"):
        store.execute(closed, store.plan(store.scan(closed)))
    assert isinstance(store.lookup(closed, key()), Hit)


def test_a_file_in_the_caches_place(tmp_path):
    (tmp_path / "cache").write_text("not a folder")
    for action in (lambda cache: store.scan(cache), lambda cache: build(cache)):
        with pytest.raises(IpaError):
            action(Store(tmp_path / "cache"))
