"""`ipa cache` as people and scripts type it, on graphs that really lie in the cache."""

import json
import os
import pty
import subprocess
import sys
import time
from pathlib import Path

import pytest

from ipa_cli import cache
from ipa_cli.cache import Store
from ipa_cli.cache.keys import GraphKey
from ipa_cli.hardware import probe
from tests.cache.graphs import fill

GRAPH_FIELDS = {
    "key", "backend", "model", "gpu", "shape", "size", "created", "last_used", "hits", "usable", "obstacles",
    "stale", "broken", "path",
}  # fmt: skip


@pytest.fixture
def store(world):
    return Store(world.home / ".cache" / "ipa")


def put(store, batch=2, backend="inductor", model="demo", used=None, **factors):
    """A graph for this very machine, unless `factors` say otherwise."""
    here = probe.machine()
    own = {**here.factors("cpu"), "torch": here.versions["torch"], "batch": batch, **factors}
    made = cache.build(store, GraphKey(backend, "cpu", f"64x64-b{batch}", own), {"model": model}, fill).entry
    if used is not None:
        os.utime(made.folder / ".uses", (used, used))
    return made


def listed(ipa, *arguments):
    return ipa("cache", "ls", "--json", *arguments).data()["graphs"]


def left(store):
    return {item.id for item in cache.scan(store)}


# ls


def test_ls_of_nothing(ipa, store):
    ran = ipa("cache", "ls")
    assert (ran.exit_code, ran.stdout) == (0, f"no compiled graph in {store.root}\n")
    assert ipa("cache", "ls", "--json").data() == {
        "cache_dir": str(store.root), "max_size": 20 * 10**9, "size": 0, "tuning": [], "graphs": [],
        "unfinished": {"in_use": 0, "left_behind": 0},
    }  # fmt: skip
    assert not store.root.exists()


def test_ls_tells_scripts_everything(ipa, store):
    entry = put(store)
    with cache.open_graph(store, entry):
        pass
    [graph] = listed(ipa)
    assert set(graph) == GRAPH_FIELDS
    assert graph["key"] == entry.id
    assert {name: graph[name] for name in ("backend", "model", "gpu", "shape", "size", "hits")} == {
        "backend": "inductor", "model": "demo", "gpu": "cpu", "shape": "64x64-b2", "size": 360, "hits": 1,
    }  # fmt: skip
    assert (graph["usable"], graph["obstacles"], graph["broken"]) == (True, [], False)
    assert graph["created"].endswith("+00:00") and graph["last_used"].endswith("+00:00")
    assert Path(graph["path"]) == entry.folder


def test_ls_piped_is_one_line_per_graph(ipa, store):
    put(store, batch=1, used=time.time() - 3 * 86400)
    put(store, batch=2, model="two\x1b[31m\nlines", torch="1.0")
    lines = [line.split("\t") for line in ipa("cache", "ls").stdout.splitlines()]
    assert lines[0] == [
        "key", "backend", "model", "gpu", "shape", "size", "created", "last used", "hits", "usable here",
    ]  # fmt: skip
    rows = {row[4]: row for row in lines[1:3]}
    assert rows["64x64-b1"][1:] == ["inductor", "demo", "cpu", "64x64-b1", "360 B", "now", "never", "0", "yes"]
    assert rows["64x64-b2"][2] == "two?[31m?lines"
    assert rows["64x64-b2"][9] == f"torch 1.0 → {probe.machine().versions['torch']}"
    assert lines[3] == ["2 graphs, 720 B"]


def test_ls_sorts(ipa, store):
    for batch, used, model in ((1, 3000, "b"), (2, 1000, "c"), (3, 2000, "a")):
        entry = put(store, batch=batch, used=used, model=model)
        if batch == 2:
            with cache.open_graph(store, entry):
                pass
            os.utime(entry.folder / ".uses", (used, used))

    def order(by):
        return [graph["shape"][-1] for graph in listed(ipa, *(("--sort", by) if by else ()))]

    assert order(None) == order("used") == ["1", "3", "2"]
    assert order("model") == ["3", "1", "2"]
    assert order("hits")[0] == "2"
    for by in ("created", "size", "backend", "gpu"):
        assert sorted(order(by)) == ["1", "2", "3"]
    assert ipa("cache", "ls", "--sort", "taste").exit_code == 2


def test_ls_narrows(ipa, store):
    put(store, batch=1)
    put(store, batch=2, backend="nexfort", torch="2.3.1")
    assert [graph["backend"] for graph in listed(ipa, "--backend", "nexfort")] == ["nexfort"]
    [stale] = listed(ipa, "--stale")
    assert stale["obstacles"] == [f"torch 2.3.1 → {probe.machine().versions['torch']}"]
    assert listed(ipa, "--stale", "--backend", "inductor") == []
    assert ipa("cache", "ls", "--backend", "oneflow").stdout.startswith("no matching graph")


def test_ls_shows_broken_graphs_with_their_reason(ipa, store):
    entry = put(store)
    (entry.folder / "manifest.json").write_text("{")
    [graph] = listed(ipa)
    assert graph["broken"] and not graph["usable"]
    assert graph["obstacles"] == ["broken: its manifest is not JSON"]
    assert "broken: its manifest is not JSON" in ipa("cache", "ls").stdout
    assert [graph["key"] for graph in listed(ipa, "--stale")] == [entry.id]


def test_the_folder_comes_from_flag_and_environment(ipa, store, tmp_path, monkeypatch):
    put(Store(tmp_path / "elsewhere"))
    assert listed(ipa) == []
    assert len(listed(ipa, "--cache-dir", tmp_path / "elsewhere")) == 1
    monkeypatch.setenv("IPA_CACHE_DIR", str(tmp_path / "elsewhere"))
    assert len(listed(ipa)) == 1


def test_a_cache_that_cannot_be_read_is_reported(ipa, tmp_path):
    (tmp_path / "file").write_text("x")
    error = ipa("cache", "ls", "--json", "--cache-dir", tmp_path / "file").error()
    assert "cannot read the graph cache" in error["message"]
    assert "--cache-dir" in error["hint"]


def test_ls_and_those_who_open_agree_on_what_is_usable(ipa, store):
    """The same check: others that may write above, no signature, another version."""
    entry = put(store)
    store.root.parent.chmod(0o777)
    [graph] = listed(ipa)
    assert not graph["usable"] and str(store.root.parent) in graph["obstacles"][0] and not graph["stale"]
    with pytest.raises(cache.Refused), cache.open_graph(store, entry):
        pass
    store.root.parent.chmod(0o755)
    (entry.folder / "proof.json").unlink()
    [graph] = listed(ipa)
    [obstacle] = graph["obstacles"]
    assert "made elsewhere" in obstacle and f"ipa cache trust {entry.id[:8]}" in obstacle and not graph["usable"]
    for path in store.root.rglob("*"):
        path.chmod(0o755 if path.is_dir() else 0o644)
    assert ipa("cache", "trust", entry.id[:8], "--yes").stdout == "trusted 1 graph\n"
    assert listed(ipa)[0]["usable"]
    path = entry.folder / "manifest.json"
    path.write_text(path.read_text().replace('"schema_version": 3', '"schema_version": 4'))
    [graph] = listed(ipa)
    assert (graph["usable"], graph["broken"], graph["stale"]) == (False, False, False)
    assert "another version" in graph["obstacles"][0]
    verified = ipa("cache", "verify")
    assert verified.exit_code == 0 and "is not checked: made by another version" in verified.stderr
    assert ipa("cache", "clear", "--stale", "--yes").stdout == "nothing to remove\n"
    assert left(store) == {entry.id}


def test_trust_asks(ipa_process, ipa, store):
    entries = [put(store, batch=batch) for batch in (1, 2)]
    assert ipa("cache", "trust").stdout.startswith("nothing to trust")
    for entry in entries:
        (entry.folder / "proof.json").unlink()
    refused = ipa("cache", "trust")
    assert refused.exit_code == 2 and "this trusts 2 graphs" in refused.stderr and "--yes" in refused.stderr
    assert not any(graph["usable"] for graph in listed(ipa))
    (entries[0].folder / "graph.pt2").write_bytes(b"x")
    assert "damaged" in ipa("cache", "trust", "--yes", entries[0].id).stderr
    assert ipa("cache", "trust", "--yes", "--json", entries[1].id).data() == {"graphs": [entries[1].id]}
    assert {graph["key"]: graph["usable"] for graph in listed(ipa)} == {entries[0].id: False, entries[1].id: True}


def test_what_killed_processes_left_is_shown_and_cleared(ipa, store):
    put(store)
    (store.graphs / ".work" / "1-dead").mkdir()
    (store.graphs / ".work" / "1-dead" / "part").write_bytes(b"x" * 5000)
    with cache.scratch_folder(Store(store.root)) as live:  # sweeps
        assert ipa("cache", "ls", "--json").data()["unfinished"] == {"in_use": 0, "left_behind": 0}
        (live / "part").write_bytes(b"x" * 300)
        (store.graphs / ".work" / "1-dead").mkdir()
        (store.graphs / ".work" / "1-dead" / "part").write_bytes(b"x" * 5000)
        data = ipa("cache", "ls", "--json").data()
        assert (data["size"], data["unfinished"]) == (360, {"in_use": 300, "left_behind": 5000})
        lines = ipa("cache", "ls").stdout
        assert "300 B in use by running processes" in lines and "5.0 kB left behind" in lines
        assert "would remove 0 graphs" not in ipa("cache", "clear", "--older-than", "1d", "--dry-run").stdout
        done = ipa("cache", "clear", "--older-than", "1d", "--json").data()
        assert (done["freed"], done["graphs"]) == (5000, [])
        assert live.exists()
        assert ipa("cache", "clear", "--older-than", "1d").stdout == "nothing to remove\n"


# clear


def test_clear_needs_yes_without_a_terminal(ipa_process, store):
    put(store, batch=1)
    put(store, batch=2)
    refused = ipa_process("cache", "clear")
    assert refused.exit_code == 2
    assert "this removes 2 graphs, 720 B" in refused.stderr
    assert "--yes" in refused.stderr
    assert len(left(store)) == 2
    done = ipa_process("cache", "clear", "--yes")
    assert (done.exit_code, done.stdout) == (0, "removed 2 graphs, 720 B\n")
    assert left(store) == set()
    again = ipa_process("cache", "clear")
    assert (again.exit_code, again.stdout) == (0, "nothing to remove\n")


def test_clear_with_json_never_asks(ipa, store):
    entry = put(store)
    ran = ipa("cache", "clear", "--json")
    assert ran.exit_code == 2
    assert ran.error()["type"] == "UsageError"
    assert ipa("cache", "clear", "--json", "--yes").data() == {
        "dry_run": False, "freed": 360, "graphs": [entry.id], "tuning": [], "kept": [],
    }  # fmt: skip


def answer(world, text, *arguments):
    """Run `ipa` at a terminal of its own, where someone types `text`."""
    ours, theirs = pty.openpty()
    process = subprocess.Popen(
        [sys.executable, "-m", "ipa_cli", *arguments],
        stdin=theirs, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=world.environ,
    )  # fmt: skip
    os.close(theirs)
    os.write(ours, text.encode())
    out, err = process.communicate(timeout=60)
    os.close(ours)
    return process.returncode, out, err


@pytest.mark.slow
def test_clear_asks_at_a_terminal(world, store):
    entry = put(store)
    code, out, err = answer(world, "n\n", "cache", "clear")
    assert (code, out) == (1, "nothing done\n")
    assert entry.id[:8] in err and "this removes 1 graph, 360 B; go on?" in err
    assert left(store) == {entry.id}
    code, out, err = answer(world, "y\n", "cache", "clear")
    assert (code, out) == (0, "removed 1 graph, 360 B\n")
    assert left(store) == set()


def test_dry_run_only_says(ipa, store):
    entry = put(store)
    ran = ipa("cache", "clear", "--dry-run")
    assert ran.exit_code == 0
    assert ran.stdout.splitlines() == [
        f"{entry.id[:8]}  inductor  demo  cpu  64x64-b2  360 B",
        "would remove 1 graph, 360 B",
    ]
    assert ipa("cache", "clear", "--dry-run", "--json").data() == {
        "dry_run": True, "freed": 360, "graphs": [entry.id], "tuning": [], "kept": [],
    }  # fmt: skip
    assert left(store) == {entry.id}


def test_clear_by_key(ipa, store):
    entries = [put(store, batch=batch) for batch in range(20)]
    assert ipa("cache", "clear", entries[3].id[:8], entries[5].id, "--yes").exit_code == 0
    assert left(store) == {entry.id for entry in entries} - {entries[3].id, entries[5].id}
    unknown = ipa("cache", "clear", entries[3].id, "--yes")
    assert unknown.exit_code == 1 and "ipa cache ls" in unknown.stderr
    twice = next(digit for digit in "0123456789abcdef" if sum(key.startswith(digit) for key in left(store)) > 1)
    ambiguous = ipa("cache", "clear", twice, "--yes")
    assert ambiguous.exit_code == 1 and "more digits" in ambiguous.stderr
    assert len(left(store)) == 18


@pytest.mark.slow
@pytest.mark.parametrize(
    ("condition", "remain"),
    [
        (["--backend", "nexfort"], {"old", "new", "stale", "broken"}),
        (["--stale"], {"old", "new", "nexfort"}),
        (["--older-than", "30d"], {"new", "stale", "nexfort", "broken"}),
        (["--older-than", "30d", "--backend", "nexfort"], {"old", "new", "stale", "nexfort", "broken"}),
        (["--older-than", "60s"], {"new", "stale", "broken"}),
        (["--max-size", "800B"], {"new", "stale"}),
        (["--max-size", "1GB"], {"old", "new", "stale", "nexfort", "broken"}),
        ([], set()),
    ],
)
def test_clear_by_condition(ipa, store, condition, remain):
    now = time.time()
    made = {
        "old": put(store, batch=1, used=now - 40 * 86400),
        "nexfort": put(store, batch=2, backend="nexfort", used=now - 20 * 86400),
        "stale": put(store, batch=3, torch="1.0"),
        "new": put(store, batch=4),
        "broken": put(store, batch=5),
    }
    (made["broken"].folder / "manifest.json").unlink()
    assert ipa("cache", "clear", "--yes", *condition).exit_code == 0
    assert left(store) == {made[name].id for name in remain}


@pytest.mark.parametrize("wrong", [["--older-than", "soon"], ["--older-than", "30"], ["--max-size", "much"]])
def test_clear_refuses_what_it_cannot_read(ipa, store, wrong):
    entry = put(store)
    assert ipa("cache", "clear", "--yes", *wrong).exit_code == 2
    assert left(store) == {entry.id}


def test_clear_spares_what_is_in_use(ipa, store):
    entry = put(store)
    with cache.open_graph(store, entry):
        ran = ipa("cache", "clear", "--yes")
        assert "stays: in use" in ran.stderr
        data = ipa("cache", "clear", "--yes", "--json").data()
        assert data["kept"] == [{"key": entry.id, "reason": "in use"}]
        assert (data["graphs"], data["freed"]) == ([], 0)
    assert left(store) == {entry.id}


# dir, verify


def test_dir_prints_the_folder_alone(ipa, store, tmp_path):
    assert ipa("cache", "dir").stdout == f"{store.root}\n"
    assert ipa("cache", "dir", "--json").data() == {"cache_dir": str(store.root), "exists": False}
    assert ipa("cache", "dir", "--cache-dir", tmp_path / "x").stdout == f"{tmp_path / 'x'}\n"


def test_verify_finds_the_damaged_one(ipa, store):
    whole, damaged = put(store, batch=1), put(store, batch=2)
    assert ipa("cache", "verify").exit_code == 0
    (damaged.folder / "graph.pt2").write_bytes(b"x" * 240)
    ran = ipa("cache", "verify")
    assert ran.exit_code == 1
    assert f"{damaged.id[:8]}: graph.pt2 has changed" in ran.stdout
    assert "checked 2 graphs, 720 B: 1 damaged" in ran.stdout
    assert f"ipa cache clear {damaged.id[:8]}" in ran.stdout
    envelope = ipa("cache", "verify", "--json").json()
    assert envelope["status"] == "error"
    assert (envelope["data"]["checked"], envelope["data"]["damaged"]) == (2, 1)
    assert {graph["key"]: graph["problem"] for graph in envelope["data"]["graphs"]} == {
        whole.id: None, damaged.id: "graph.pt2 has changed",
    }  # fmt: skip
    assert ipa("cache", "verify", whole.id[:8]).exit_code == 0
    assert left(store) == {whole.id, damaged.id}


def test_verify_refuses_a_cache_open_to_others(ipa, store):
    put(store)
    store.root.chmod(0o777)
    ran = ipa("cache", "verify")
    assert ran.exit_code == 1
    assert "everybody may write" in ran.stderr and "chmod go-w" in ran.stderr


def test_verify_passes_over_what_is_being_removed(ipa, store, monkeypatch):
    going, staying = put(store, batch=1), put(store, batch=2)
    scanned = cache.scan(store)
    monkeypatch.setattr(cache, "scan", lambda _: scanned)
    assert cache.execute(store, cache.plan(scanned, prefixes=[going.id])).items
    data = ipa("cache", "verify", "--json").data()
    assert (data["checked"], data["damaged"]) == (1, 0)
    assert [graph["key"] for graph in data["graphs"]] == [staying.id]


# export, import


def test_export_and_import(ipa, store, tmp_path):
    entries = [put(store, batch=batch) for batch in (1, 2)]
    out = ipa("cache", "export", "graphs.tar", "--json").data()
    assert sorted(out["graphs"]) == sorted(entry.id for entry in entries)
    assert out["size"] == Path("graphs.tar").stat().st_size
    there = Store(tmp_path / "there")
    brought = ipa("cache", "import", "graphs.tar", "--trust", "--cache-dir", there.root)
    assert (brought.exit_code, brought.stdout) == (0, "added 2 graphs\n")
    assert left(there) == {entry.id for entry in entries}
    again = ipa("cache", "import", "graphs.tar", "--yes", "--cache-dir", there.root)
    assert again.stdout == "added 0 graphs, 2 already here\n"
    assert ipa("cache", "verify", "--cache-dir", there.root).exit_code == 0


def test_export_takes_keys_and_keeps_files(ipa, store):
    entries = [put(store, batch=batch) for batch in (1, 2)]
    assert ipa("cache", "export", "one.tar", entries[0].id, "--json").data()["graphs"] == [entries[0].id]
    before = Path("one.tar").read_bytes()
    refused = ipa("cache", "export", "one.tar")
    assert refused.exit_code == 1 and "--force" in refused.stderr
    assert Path("one.tar").read_bytes() == before
    assert ipa("cache", "export", "one.tar", "--force").exit_code == 0
    assert Path("one.tar").read_bytes().count(b"native code") == 2 * before.count(b"native code")


def test_export_makes_no_file_named_like_stdout(ipa, store, world):
    ran = ipa("cache", "export", "-", "--force")
    assert ran.exit_code == 2 and "stdout" in ran.stderr and world.files() == []


def test_export_of_nothing(ipa, store):
    assert ipa("cache", "export", "none.tar").exit_code == 1
    assert not Path("none.tar").exists()


def test_export_leaves_broken_graphs_out_with_a_word(ipa, store):
    put(store, batch=1)
    broken = put(store, batch=2)
    (broken.folder / "manifest.json").unlink()
    ran = ipa("cache", "export", "graphs.tar")
    assert ran.stdout.startswith("wrote 1 graph to graphs.tar")
    assert f"{broken.id[:8]} is left out: it has no manifest" in ran.stderr


def test_import_wants_trust(ipa_process, world, store, tmp_path):
    put(store)
    assert ipa_process("cache", "export", "graphs.tar").exit_code == 0
    refused = ipa_process("cache", "import", "graphs.tar", "--cache-dir", tmp_path / "there")
    assert refused.exit_code == 2
    assert "native code" in refused.stderr and "--trust" in refused.stderr
    assert not (tmp_path / "there").exists()
    there = ("--cache-dir", str(tmp_path / "there"))
    assert answer(world, "n\n", "cache", "import", "graphs.tar", *there)[0] == 1
    assert not (tmp_path / "there").exists()
    assert answer(world, "y\n", "cache", "import", "graphs.tar", *there)[:2] == (0, "added 1 graph\n")


def test_import_of_something_else(ipa, store):
    Path("letter.txt").write_text("dear ipa")
    ran = ipa("cache", "import", "letter.txt", "--trust")
    assert ran.exit_code == 1
    assert "not an archive of graphs" in ran.stderr and "Traceback" not in ran.stderr
    assert ipa("cache", "import", "absent.tar", "--trust").exit_code == 1
    assert ipa("cache", "import", "long" * 200, "--trust").exit_code == 1


def test_import_makes_room(ipa, store, tmp_path):
    put(store, batch=1)
    ipa("cache", "export", "graphs.tar")
    there = Store(tmp_path / "there")
    old = put(there, batch=2, used=1000)
    ran = ipa("cache", "import", "graphs.tar", "--trust", "--cache-dir", there.root, "--cache-max-size", "400B")
    assert f"{old.id[:8]} was removed" in ran.stderr
    assert len(left(there)) == 1


@pytest.mark.slow
def test_a_shell_script(world, store):
    put(store)
    script = 'set -e; ipa() { "$PYTHON" -m ipa_cli "$@"; }; ipa cache ls --json; cd "$(dirname "$(ipa cache dir)")"; '
    script += "ipa cache clear --yes --quiet; ipa cache ls --json"
    done = subprocess.run(
        ["sh", "-c", script],
        env={**world.environ, "PYTHON": sys.executable},
        capture_output=True,
        text=True,
        check=True,
    )
    before, said, after = done.stdout.splitlines()
    assert len(json.loads(before)["data"]["graphs"]) == 1
    assert said == "removed 1 graph, 360 B"
    assert json.loads(after)["data"]["graphs"] == []


@pytest.mark.slow
def test_no_cache_command_imports_torch(world, store):
    put(store)
    code = """
import sys
from ipa_cli.app import run
for typed in ("ls", "ls --json", "dir", "verify", "export a.tar", "clear --stale --dry-run", "clear --yes",
              "import a.tar --trust"):
    assert run(["cache", *typed.split()]) == 0, typed
heavy = {"torch", "diffusers", "transformers", "numpy", "PIL", "huggingface_hub"} & set(sys.modules)
assert not heavy, heavy
"""
    subprocess.run([sys.executable, "-c", code], env=world.environ, check=True, capture_output=True)
