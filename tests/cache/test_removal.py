"""What goes: a plan first, then just that; the size limit; what is in use stays."""

import os
import shutil
import time

import pytest

from ipa_cli import cache
from ipa_cli.cache import Hit, Refused, Store
from ipa_cli.errors import IpaError
from tests.cache.graphs import build, fill, key, leftovers, script


def use(entry, when):
    os.utime(entry.folder / ".uses", (when, when))


def test_plan_says_what_and_how_much_then_does_it(store):
    entries = [build(store, key(batch=number)) for number in range(3)]
    chosen = cache.plan(cache.scan(store), prefixes=[entries[1].id[:6]])
    assert [item.folder for item in chosen.items] == [entries[1].folder]
    assert chosen.size == 360
    assert len(cache.scan(store)) == 3
    done = cache.execute(store, chosen)
    assert (done.size, done.kept) == (360, ())
    assert {item.folder for item in cache.scan(store)} == {entries[0].folder, entries[2].folder}
    assert leftovers(store) == []


def test_plan_conditions_narrow_the_choice(store):
    for number in range(4):
        use(build(store, key(batch=number)), when=1000 + number)
    use(build(store, key(backend="nexfort")), when=500)
    items = cache.scan(store)

    def batches(**conditions):
        return [item.manifest["key"]["shape"][-1] for item in cache.plan(items, **conditions).items]

    assert batches(used_before=1002) == ["2", "0", "1"]
    assert batches(wanted=lambda item: item.backend == "inductor", used_before=1002) == ["0", "1"]
    assert batches(max_size=3 * 360) == ["2", "0"]
    assert batches(max_size=3 * 360 - 1) == ["2", "0", "1"]
    assert batches(wanted=lambda item: item.backend == "inductor", max_size=4 * 360) == ["0"]
    assert batches(max_size=10**9) == []
    assert len(batches()) == 5


def test_broken_graphs_go_first(store):
    use(build(store, key(batch=1)), when=1000)
    broken = build(store, key(batch=2))
    (broken.folder / "manifest.json").unlink()
    total = sum(item.size for item in cache.scan(store))
    [first] = cache.plan(cache.scan(store), max_size=total - 1).items
    assert first.folder == broken.folder


def test_key_prefixes(store):
    entries = [build(store, key(batch=number)) for number in range(20)]
    items = cache.scan(store)
    assert cache.find(items, entries[3].digest).id == entries[3].id
    assert cache.find(items, entries[3].id.upper()).id == entries[3].id
    for prefix in ("", "zz", entries[3].id + "0" * 60):
        with pytest.raises(IpaError, match="no graph"):
            cache.find(items, prefix)
    shared = next(digit for digit in "0123456789abcdef" if sum(e.id.startswith(digit) for e in entries) > 1)
    with pytest.raises(IpaError, match="graphs begin with"):
        cache.plan(items, prefixes=[shared])


def test_the_size_limit_takes_the_least_recently_used(tmp_path):
    store = Store(tmp_path / "cache", max_size=3 * 360)
    for number, when in ((1, 3000), (2, 1000), (3, 2000)):
        use(build(store, key(batch=number)), when)
    made = cache.build(store, key(batch=4), {}, fill)
    assert [item.key for item in made.evicted.items] == [key(batch=2)]
    assert {item.key for item in cache.scan(store)} == {key(batch=1), key(batch=3), key(batch=4)}


def test_the_size_limit_spares_the_new_and_the_used(tmp_path):
    store = Store(tmp_path / "cache", max_size=1)
    first = build(store, key(batch=1))
    with cache.open_graph(store, first) as folder:
        second = cache.build(store, key(batch=2), {}, fill)
        assert second.evicted.kept[0][1] == "in use"
        assert (folder / "graph.pt2").exists()
    assert len(cache.scan(store)) == 2
    third = cache.build(store, key(batch=3), {}, fill)
    assert [item.key for item in cache.scan(store)] == [key(batch=3)]
    assert len(third.evicted.items) == 2


def test_in_use_by_another_process_stays(store, tmp_path):
    entry = build(store)
    work = """
    store, begun = Store(Path(sys.argv[1])), Path(sys.argv[2])
    with cache.open_graph(store, cache.scan(store)[0]):
        begun.touch()
        time.sleep(60)
    """
    worker = script(work, store.root, tmp_path / "begun")
    while not (tmp_path / "begun").exists():
        assert worker.poll() is None
        time.sleep(0.01)
    done = cache.execute(store, cache.plan(cache.scan(store)))
    assert (done.items, [reason for _, reason in done.kept]) == ((), ["in use"])
    worker.kill()
    worker.wait()
    assert [item.folder for item in cache.execute(store, cache.plan(cache.scan(store))).items] == [entry.folder]


def test_a_rebuilt_graph_is_not_what_was_planned(store):
    entry = build(store)
    planned = cache.plan(cache.scan(store))
    shutil.rmtree(entry.folder)
    build(store)
    done = cache.execute(store, planned)
    assert done.items == ()
    assert "meanwhile" in done.kept[0][1]
    assert isinstance(cache.lookup(store, key()), Hit)


@pytest.mark.parametrize("link", [".work", ".locks", ""])
def test_what_a_link_in_a_caches_place_leads_to_is_not_swept(tmp_path, link):
    home = tmp_path / "home"
    (home / ".building-a-house").mkdir(parents=True)
    (home / "thesis.txt").write_text("mine")
    store = Store(tmp_path / "cache")
    (store.graphs / link).parent.mkdir(parents=True)
    (store.graphs / link).symlink_to(home)
    with pytest.raises(Refused, match="is a link"):
        cache.sweep(store)
    assert cache.scratch_folders(store) == []
    assert {path.name for path in home.iterdir()} == {".building-a-house", "thesis.txt"}
