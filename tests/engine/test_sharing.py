"""A miss looks in the shared cache before it compiles, and what was compiled goes there; no compiler runs."""

from __future__ import annotations

from pathlib import Path

import pytest

from ipa_cli.cache import Sharing, Store, publishers, remote
from ipa_cli.engine import graphs
from ipa_cli.result import NullReporter
from tests.engine.test_graphs import INDUCTOR, wanted
from tests.unets import tiny


@pytest.fixture(scope="module")
def unet():
    return tiny()


@pytest.fixture
def compiled(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The compiler, which notes that it was asked."""
    asked: list[str] = []

    def compile(unet: object, example: object, folder: Path, options: object, doing: object) -> None:
        asked.append("compile")
        (folder / "graph.json").write_text("{}")

    monkeypatch.setattr(INDUCTOR, "compile", compile)
    monkeypatch.setattr(INDUCTOR, "load", lambda unet, folder, options: (folder / "graph.json").read_text())
    return asked


def state(monkeypatch: pytest.MonkeyPatch, folder: Path) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(folder))


def test_of_two_machines_one_compiles(unet, compiled, tmp_path, monkeypatch):
    place = str(tmp_path / "place")
    state(monkeypatch, tmp_path / "first-state")
    key = publishers.generate(publishers.key_file())
    publishers.trust(key, "own")
    first = Store(tmp_path / "first", sharing=Sharing(place, push=True))
    want = wanted(unet)
    made = graphs.prepare(unet[0], want, first, True, NullReporter())
    assert made.origin == "compiled" and compiled == ["compile"]
    assert remote.names(remote.at(place)) == [made.entry.key.folder]

    state(monkeypatch, tmp_path / "second-state")
    publishers.trust(key, "ci")
    second = Store(tmp_path / "second", sharing=Sharing(place))
    ready = graphs.prepare(unet[0], want, second, False, NullReporter())
    assert ready.origin == "cache" and ready.compile_s == 0 and compiled == ["compile"]
    assert ready.entry.text == made.entry.text


def test_a_graph_for_a_range_of_sizes_serves_from_there_as_from_the_cache(unet, compiled, tmp_path, monkeypatch):
    state(monkeypatch, tmp_path / "state")
    publishers.trust(publishers.generate(publishers.key_file()), "own")
    place = Sharing(str(tmp_path / "place"), push=True)
    ranged, size = wanted(unet, '{"dynamic": [64, 256]}'), wanted(unet, size=(32, 8))
    made = graphs.prepare(unet[0], ranged, Store(tmp_path / "first", sharing=place), True, NullReporter())
    second = Store(tmp_path / "second", sharing=place)
    assert graphs.prepare(unet[0], size, second, False, NullReporter()).entry.id == made.entry.id
    with pytest.raises(graphs.NoGraph):
        graphs.prepare(unet[0], wanted(unet, size=(64, 64)), second, False, NullReporter())


def test_an_untrusted_graph_there_is_compiled_here(unet, compiled, tmp_path, monkeypatch):
    place = str(tmp_path / "place")
    state(monkeypatch, tmp_path / "first-state")
    publishers.generate(publishers.key_file())
    graphs.prepare(unet[0], wanted(unet), Store(tmp_path / "a", sharing=Sharing(place, True)), True, NullReporter())
    state(monkeypatch, tmp_path / "second-state")
    ready = graphs.prepare(unet[0], wanted(unet), Store(tmp_path / "b", sharing=Sharing(place)), True, NullReporter())
    assert ready.origin == "compiled" and compiled == ["compile", "compile"]


def test_without_a_key_a_new_graph_is_kept_here_and_not_sent(unet, compiled, tmp_path, monkeypatch):
    state(monkeypatch, tmp_path / "state")
    place, said = tmp_path / "place", []
    reporter = NullReporter()
    monkeypatch.setattr(reporter, "warn", said.append)
    store = Store(tmp_path / "cache", sharing=Sharing(str(place), push=True))
    assert graphs.prepare(unet[0], wanted(unet), store, True, reporter).origin == "compiled"
    assert not place.exists() and any("ipa cache keygen" in line for line in said)


@pytest.mark.parametrize("kept", [True, False])
def test_what_a_backend_returns_is_warned_of(unet, compiled, tmp_path, monkeypatch, kept):
    state(monkeypatch, tmp_path / "state")
    monkeypatch.setattr(INDUCTOR, "compile", _compile_again)
    said, reporter = [], NullReporter()
    monkeypatch.setattr(reporter, "warn", said.append)
    if kept:
        graphs.prepare(unet[0], wanted(unet), Store(tmp_path / "cache"), True, reporter)
    else:
        graphs.prepare_unkept(unet[0], wanted(unet), reporter)
    assert said == ["compiling up_0 failed at first"]


def _compile_again(unet: object, example: object, folder: Path, options: object, doing: object) -> list[str]:
    (folder / "graph.json").write_text("{}")
    return ["compiling up_0 failed at first"]
