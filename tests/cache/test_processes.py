"""Many processes at one store, killed at any moment: whole graphs only."""

import tempfile
import time
from pathlib import Path

import pytest

from ipa_cli import cache
from ipa_cli.cache import Hit, Store
from tests.cache.graphs import MEMORY, assert_whole, build, key, leftovers, script


@pytest.mark.slow
def test_eight_processes_one_build(store, tmp_path):
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
    made = cache.build(Store(root), key(), {"model": "demo"}, slow, waiting=lambda: said.append(1))
    with cache.open_graph(Store(root), made.entry) as folder:
        print(made.fresh, len(said), len((folder / "graph.pt2").read_bytes()))
    """
    gate, log = tmp_path / "gate", tmp_path / "log"
    workers = [script(work, store.root, gate, log) for _ in range(8)]
    time.sleep(1.5)  # until most have imported, so that they ask at once
    gate.touch()
    results = sorted(worker.communicate(timeout=60)[0].split() for worker in workers)
    assert log.read_text() == "built\n"
    assert [result[0] for result in results] == ["False"] * 7 + ["True"]
    assert all(result[2] == "240" for result in results)
    assert [result[1] for result in results].count("1") >= 1
    [entry] = cache.scan(store)
    assert entry.hits == 8
    assert_whole(store)


KILLS = """
import random, signal
root = Path(sys.argv[1])
store = Store(root)

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
            cache.build(store, wanted, {}, slow)
        finally:
            os._exit(0)
    return child

def whole(wanted):
    for item in cache.scan(store):
        assert isinstance(item, Entry), item
        if item.id == wanted.short:
            cache.check(item)

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
    damaged = cache.build(store, wanted, {}, fill).entry
    (damaged.folder / "graph.pt2").write_bytes(b"damaged")
    child = attempt(wanted, lambda: die_at(moment))
    _, status = os.waitpid(child, 0)
    for item in cache.scan(store):
        assert isinstance(item, Entry), item
    if cache.build(store, wanted, {}, slow).fresh:
        steps += 1
    whole(wanted)
    if not os.WIFSIGNALED(status):
        break
print("steps", moment, "rebuilt", steps)

# At 50 random moments of a build, by another process; one that was done before its kill does not count
random.seed(7)
started = time.perf_counter()
cache.build(store, key(batch=0, round="timed"), {}, slow)
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
    cache.build(store, wanted, {}, slow)
    whole(wanted)
print("killed", killed)
cache.sweep(store)
"""


@pytest.mark.slow
def test_killed_at_any_moment_only_whole_entries_remain():
    with tempfile.TemporaryDirectory(dir=MEMORY) as root:
        _kill_and_look(Store(Path(root) / "cache"))


def _kill_and_look(store):
    child = script(KILLS, store.root)
    said = child.communicate(timeout=120)[0].split()
    assert child.returncode == 0
    steps, rebuilt, killed = int(said[1]), int(said[3]), int(said[5])
    assert steps > 40, "the steps were not seen"
    assert rebuilt > 30
    assert killed == 50, "too many builds ended before they were killed"
    assert leftovers(store) == []
    assert_whole(store)


def test_a_live_build_is_not_swept(store, tmp_path):
    work = """
    root, begun, gate = map(Path, sys.argv[1:])
    def slow(folder):
        fill(folder)
        begun.touch()
        while not gate.exists():
            time.sleep(0.005)
    cache.build(Store(root), key(), {}, slow)
    """
    begun, gate = tmp_path / "begun", tmp_path / "gate"
    worker = script(work, store.root, begun, gate)
    while not begun.exists():
        assert worker.poll() is None
        time.sleep(0.01)
    [live] = leftovers(store)
    for name in (".building-of-an-earlier-version", ".work/1-dead", ".work/2-dead"):
        (store.graphs / name).mkdir()
    (store.graphs / ".work" / "2-dead.lock").touch()
    (store.graphs / ".work" / "3-dead.lock").touch()
    build(store, key(batch=3))
    assert leftovers(store) == [live]
    assert sorted(path.name for path in (store.graphs / ".work").iterdir()) == [live, f"{live}.lock"]
    gate.touch()
    assert worker.wait(30) == 0
    assert isinstance(cache.lookup(store, key()), Hit)
    assert_whole(store)
