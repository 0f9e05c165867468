"""`ipa cache push`, `pull`, `keygen`, `sign`, `trust`, `untrust` and `keys` as people and scripts type them."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from ipa_cli.cache import Store
from ipa_cli.engine import sharing
from tests.commands.test_cache import put
from tests.commands.test_compile import DRAW
from tests.compiled import Compiled
from tests.conftest import KEY, Ran, World


@pytest.fixture
def store(world: World, monkeypatch: pytest.MonkeyPatch) -> Store:
    """The cache of a user with keys of their own."""
    machine(world, monkeypatch, "here")
    return Store(world.home / "here" / "cache")


def machine(world: World, monkeypatch: pytest.MonkeyPatch, name: str, graph_key: bool = False) -> Path:
    """From now on `ipa` runs on a machine of this name, with keys and a cache of its own."""
    folder = world.home / name
    monkeypatch.setenv("XDG_STATE_HOME", str(folder / "state"))
    monkeypatch.setenv("IPA_CACHE_DIR", str(folder / "cache"))
    if graph_key and not (folder / "state").exists():
        (folder / "state" / "ipa").mkdir(parents=True, mode=0o700)
        shutil.copy2(KEY, folder / "state" / "ipa" / "graph-key")
    return folder


def test_the_whole_way_of_a_graph_and_of_a_key(ipa, store, world, monkeypatch):
    entry = put(store)
    put(store, batch=4, torch="1.0")  # for other machines
    made = ipa("cache", "keygen", "--json").data()
    assert made["key"].startswith("ed25519:") and Path(made["file"]).stat().st_mode & 0o777 == 0o600
    assert ipa("cache", "sign", entry.id[:8]).stdout == f"signed 1 graph with {made['key']}\n"
    pushed = ipa("cache", "push", "place", "--json").data()
    assert len(pushed["pushed"]) == 2 and pushed["sent"] > 0 and pushed["refused"] == []
    assert len(ipa("cache", "push", "place", "--json").data()["kept"]) == 2

    machine(world, monkeypatch, "worker")
    ran = ipa("cache", "pull", "place", "--json")
    assert ran.exit_code == 1 and f"ipa cache trust {made['key']}" in ran.stderr
    assert ran.json()["data"]["refused"][0]["key"] == entry.id
    assert ipa("cache", "trust", made["key"], "--name", "ci", "--yes", "--json").data()["name"] == "ci"
    looked = ipa("cache", "pull", "place", "--dry-run", "--json").data()
    assert looked["pulled"] == [entry.id] and looked["dry_run"] and len(looked["skipped"]) == 1
    assert "torch 1.0" in looked["skipped"][0]["reasons"][0]
    assert ipa("cache", "ls", "--json").data()["graphs"] == []
    assert ipa("cache", "pull", "place").stdout == "fetched 1 graph, 360 B, 1 not for this machine (--all)\n"
    assert ipa("cache", "pull", "place", "--json").data()["kept"] == [entry.id]
    assert len(ipa("cache", "pull", "place", "--all", "--json").data()["pulled"]) == 1
    keys = ipa("cache", "keys", "--json").data()
    assert keys["own"] is None
    assert [(one["name"], one["graphs"]) for one in keys["trusted"]] == [("ci", 2)]
    assert all("trust" not in str(one["obstacles"]) for one in ipa("cache", "ls", "--json").data()["graphs"])

    assert made["key"] in ipa("cache", "untrust", "ci").stdout
    assert all("trust" in str(one["obstacles"]) for one in ipa("cache", "ls", "--json").data()["graphs"])
    assert ipa("cache", "keys", "--json").data()["unknown"] == [{"key": made["key"], "graphs": 2}]


def test_some_graphs_are_named_by_the_first_digits_of_their_keys(ipa, store):
    one, other = put(store), put(store, batch=4)
    ipa("cache", "keygen")
    assert ipa("cache", "push", "place", one.id[:6], "--json").data()["pushed"] == [one.id]
    assert ipa("cache", "push", "place", other.id[:6], "--json").data()["pushed"] == [other.id]
    ipa("cache", "clear", "--yes")
    assert ipa("cache", "pull", "place", other.id[:6].upper(), "--json").data()["pulled"] == [other.id]
    assert "begins with" in ipa("cache", "pull", "place", "0" * 16, "--json").error()["message"]


def test_without_a_key_nothing_is_sent_unless_said(ipa, store, world):
    put(store)
    ran = ipa("cache", "push", "place")
    assert ran.exit_code == 1 and "ipa cache keygen" in ran.stderr and ran.stdout.endswith("refused 1 graph\n")
    assert world.files() == []
    assert ipa("cache", "push", "place", "--allow-unsigned").exit_code == 0


def test_a_public_key_may_have_blanks_around_it_and_is_never_taken_for_that_of_a_graph(ipa, store):
    key = ipa("cache", "keygen").stdout.strip()
    assert "is trusted already" in ipa("cache", "trust", f" {key}\n", "--name", "own").stdout
    for wrong in (key.upper(), f"ssh-{key}", "ssh-ed25519 AAAAC3"):
        ran = ipa("cache", "trust", wrong, "--yes")
        assert ran.exit_code == 2 and "not a public key" in ran.stderr


def test_a_key_is_trusted_only_after_a_yes(ipa, store):
    key = ipa("cache", "keygen", "--json").data()["key"]
    ipa("cache", "untrust", "own")
    ran = ipa("cache", "trust", key)
    assert ran.exit_code == 2 and "can do anything you can" in ran.stderr and "--yes" in ran.stderr
    assert ipa("cache", "keys", "--json").data()["trusted"] == []


def test_a_private_key_may_lie_elsewhere(ipa, store, world):
    put(store)
    key = ipa("cache", "keygen", "--cache-signing-key", "ci.pem", "--name", "ci", "--json").data()["key"]
    assert world.files() == ["ci.pem"]
    assert ipa("cache", "keygen", "--cache-signing-key", "ci.pem").exit_code == 1
    data = ipa("cache", "sign", "--cache-signing-key", "ci.pem", "--json").data()
    assert data["key"] == key and len(data["graphs"]) == 1


# Addresses, keys and names that are wrong


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("S3://bucket/graphs", "expected one of"),
        ("memory://graphs", "expected one of"),
        ("file://graphs", "file:///a/folder"),
        ("file:///", "file:///a/folder"),
        ("s3:/bucket/graphs", "s3://bucket/graphs"),
        ("", "expected an address"),
        ("~nobody-of-this-name/graphs", "home folder"),
    ],
)
def test_what_is_no_address_of_a_shared_cache_is_wrong_usage_and_nothing_is_written(ipa, store, world, url, said):
    put(store)
    for command in ("push", "pull"):
        ran = ipa("cache", command, url)
        assert ran.exit_code == 2 and said in ran.stderr
    assert world.files() == []


def test_a_secret_in_an_address_is_not_printed(ipa, store, monkeypatch):
    for url in ("s3://key:hunter2@bucket/graphs", "https://host/graphs?sig=hunter2"):
        for ran in (
            ipa("cache", "push", url, "--json"),
            ipa("generate", "--cache-remote", url),
            ipa("cache", "pull", url),
        ):
            assert ran.exit_code == 2 and "hunter2" not in ran.stdout + ran.stderr
        monkeypatch.setenv("IPA_CACHE_REMOTE", url)
        shown = ipa("config", "show", "--json")
        assert "hunter2" not in shown.stdout + shown.stderr and "address alone" in shown.stdout
        monkeypatch.delenv("IPA_CACHE_REMOTE")


def test_pulling_from_a_file_says_that_it_is_no_folder(ipa, store, world):
    (world.cwd / "place").mkdir()
    (world.cwd / "place" / "graphs").touch()
    ran = ipa("cache", "pull", "place")
    assert ran.exit_code == 1 and "is not a folder" in ran.stderr


def test_a_named_graph_that_has_gone_since_it_was_listed_is_a_failure(ipa, store, monkeypatch):
    entry = put(store)
    ipa("cache", "keygen")
    ipa("cache", "push", "place")
    monkeypatch.setattr("ipa_cli.cache.remote.offers.read", lambda place, name: None)
    assert ipa("cache", "pull", "place", "--json").data()["refused"] == []
    ran = ipa("cache", "pull", "place", entry.id[:8], "--json")
    assert ran.exit_code == 1 and "not there any more" in ran.json()["data"]["refused"][0]["reason"]


def test_how_many_graphs_have_been_looked_at_is_shown(ipa, store, world):
    from ipa_cli.cache import remote
    from ipa_cli.result import NullReporter

    put(store)
    ipa("cache", "push", "place", "--allow-unsigned")
    shown: list[str] = []
    place = remote.at(str(world.cwd / "place"))
    assert len(sharing.choose(place, (), True, shown.append, NullReporter()).wanted) == 1
    assert shown == ["1 of 1 graph"]


def test_a_home_folder_in_the_name_of_the_key_is_the_same_for_keygen_and_sign(ipa, store, world):
    put(store)
    ipa("cache", "keygen", "--cache-signing-key", "~/ci.pem")
    assert world.files() == []
    assert len(ipa("cache", "sign", "--cache-signing-key", "~/ci.pem", "--json").data()["graphs"]) == 1
    assert ipa("cache", "sign", "--cache-signing-key", "~nobody-of-this-name/ci.pem").exit_code == 1


@pytest.mark.parametrize("name", ["", " ", "a\nb", "a" * 81])
def test_a_name_that_cannot_be_read_is_refused_before_a_key_is_made(ipa, store, world, name):
    assert ipa("cache", "keygen", "--name", name).exit_code == 2
    assert not (world.home / "here" / "state").exists()
    key = "ed25519:" + "A" * 43
    assert ipa("cache", "trust", key, "--name", name, "--yes").exit_code == 2
    assert ipa("cache", "trust", "3f9a10c2", key).exit_code == 2, "a graph and a public key"


def test_no_key_is_made_where_the_list_of_trusted_keys_is_not_safe(ipa, store, world):
    ipa("cache", "keygen")
    known = world.home / "here" / "state" / "ipa" / "publishers.json"
    known.chmod(0o666)
    ran = ipa("cache", "keygen", "--cache-signing-key", "ci.pem")
    assert ran.exit_code == 1 and f"chmod go-w {known}" in ran.stderr
    assert world.files() == []


def test_a_name_used_twice_is_warned_of_and_the_keys_are_shown_when_it_is_not_enough(ipa, store):
    first, second = (ipa("cache", "keygen", "--force") for _ in range(2))
    old, new = first.stdout.strip(), second.stdout.strip()
    assert "same name" not in first.stderr and "same name" in second.stderr and old in second.stderr
    ran = ipa("cache", "untrust", "own")
    assert ran.exit_code == 1 and old in ran.stderr and new in ran.stderr
    assert ipa("cache", "untrust", old).exit_code == 0
    assert new in ipa("cache", "untrust", "own").stdout


# cache_remote


class Said:
    """A reporter that keeps what is said."""

    def __init__(self) -> None:
        self.lines: list[str] = []
        self.note = self.warn = self.lines.append

    def detail(self, text: str) -> None:
        pass

    def stage(self, name: str) -> object:
        from ipa_cli.result import NullReporter

        return NullReporter().stage(name)


def test_a_new_graph_is_sent_and_a_missing_one_fetched_as_the_settings_say(ipa, store, world, monkeypatch):
    from ipa_cli.cache import Sharing

    place = str(world.cwd / "place")
    key = ipa("cache", "keygen", "--json").data()["key"]
    entry, said = put(store), Said()
    sharing.send(Store(store.root, sharing=Sharing(place)), entry, said)
    assert said.lines == [] and world.files() == [], "it is not said to push"
    sharing.send(Store(store.root, sharing=Sharing(place, push=True)), entry, said)
    assert f"is in {place}" in said.lines[-1]

    folder = machine(world, monkeypatch, "worker")
    here = Store(folder / "cache", sharing=Sharing(place))
    assert sharing.fetch(here, entry.key, None, said) is None
    assert "is refused" in said.lines[-1] and key in said.lines[-1]
    ipa("cache", "trust", key, "--yes")
    other = put(Store(world.home / "other"), batch=7).key
    assert sharing.fetch(here, other, lambda offer: False, said) is None, "no other will do"
    assert sharing.fetch(here, other, lambda offer: offer.key == entry.key, said).id == entry.id
    assert sharing.fetch(here, entry.key, None, said).text == entry.text
    assert sharing.fetch(Store(folder / "cache"), entry.key, None, said) is None, "no place is set"


@pytest.mark.parametrize("url", ["http://127.0.0.1:9/graphs", "s3://graphs/sdxl"])
def test_a_place_that_is_down_is_a_warning_and_not_asked_again_at_once(store, monkeypatch, url):
    from ipa_cli.cache import Sharing, remote

    monkeypatch.setenv("AWS_ENDPOINT_URL_S3", "http://127.0.0.1:9")
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "x")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "x")
    remote.at.cache_clear()
    entry, said = put(store), Said()
    shared = Store(store.root, sharing=Sharing(url, push=True))
    assert sharing.fetch(shared, entry.key, None, said) is None
    assert sharing.fetch(shared, entry.key, None, said) is None
    sharing.send(shared, entry, said)
    assert len(said.lines) == 1 and url in said.lines[0]
    remote.at.cache_clear()


def test_a_project_names_no_shared_cache_until_it_is_trusted(ipa, world):
    (world.cwd / "ipa.toml").write_text('cache_remote = "https://evil.example/graphs"\ncache_push = true\n')
    shown = ipa("config", "show", "--json").data()
    assert {one["setting"] for one in shown["ignored"]} == {"cache_remote", "cache_push"}
    assert "evil" not in str(shown["settings"])


# A fleet


def draw(ipa: Callable[..., Ran], compiled: Compiled, name: str, *more: object) -> dict[str, object]:
    flags = ("--model", compiled.model, *DRAW, "--no-compile", "--backend", "inductor", "-o", name, "--json")
    return ipa("generate", *flags, *more).data()


def test_a_second_machine_draws_the_same_picture_with_a_pulled_graph_and_compiles_nothing(
    compiled: Compiled, ipa: Callable[..., Ran], world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    machine(world, monkeypatch, "ci", graph_key=True)
    monkeypatch.setenv("IPA_CACHE_DIR", str(compiled.cache))
    key = ipa("cache", "keygen", "--json").data()["key"]
    assert ipa("cache", "push", "place", "--json").data()["pushed"] == [compiled.graph["id"]]
    first = draw(ipa, compiled, "first.png")

    machine(world, monkeypatch, "worker")
    ipa("cache", "trust", key, "--name", "ci", "--yes")
    assert ipa("cache", "pull", "place", "--json").data()["pulled"] == [compiled.graph["id"]]
    second = draw(ipa, compiled, "second.png")
    assert second["graph"] == first["graph"] and second["timings"]["graph_compile_s"] == 0
    assert (world.cwd / "second.png").read_bytes() == (world.cwd / "first.png").read_bytes()

    # A third one that was only told where to look; the name of the place is in no picture.
    machine(world, monkeypatch, "third")
    ipa("cache", "trust", key, "--name", "ci", "--yes")
    third = draw(ipa, compiled, "third.png", "--cache-remote", world.cwd / "place")
    assert third["timings"]["graph_compile_s"] == 0
    assert (world.cwd / "third.png").read_bytes() == (world.cwd / "first.png").read_bytes()

    # And without the key, nothing of it is run.
    ipa("cache", "untrust", "ci")
    flags = ("--model", compiled.model, *DRAW, "--no-compile", "--backend", "inductor", "--json")
    refused = ipa("generate", *flags)
    assert refused.exit_code == 1 and key in refused.error()["message"]
