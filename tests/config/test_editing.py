"""Files of settings are changed one key at a time, by `ipa config`."""

from pathlib import Path

import pytest

from ipa_cli.config import resolve


@pytest.fixture
def own(world):
    """The user's file, which is not there yet."""
    return world.home / ".config" / "ipa" / "ipa.toml"


@pytest.mark.parametrize(
    ("name", "words", "value"),
    [
        ("steps", ["12"], 12),
        ("guidance-scale", ["7"], 7.0),
        ("vae_tiling", ["yes"], True),
        ("prompt", ['a "fox" \\ in snow'], 'a "fox" \\ in snow'),
        ("image", ["a.png", "https://host/b,c.png"], ("a.png", "https://host/b,c.png")),
        ("image_weight", ["1", "0.5"], (1.0, 0.5)),
        ("adapter", ["own,image=a.png"], ("own,image=a.png",)),
        (
            "lora",
            ["a.safetensors,weight=0.5", "me/style:b.safetensors"],
            ("a.safetensors,weight=0.5", "me/style:b.safetensors"),
        ),
        ("embedding", ["a.pt,token=<x>", "me/toy:b.pt"], ("a.pt,token=<x>", "me/toy:b.pt")),
    ],
)
def test_what_is_set_is_read_back(ipa, world, own, name, words, value):
    assert ipa("config", "set", name, *words, "--json").data()["path"] == str(own)
    read = getattr(resolve({}).settings, name.replace("-", "_"))
    assert (tuple(map(str, read)) if name in ("adapter", "lora", "embedding") else read) == value
    got = ipa("config", "get", name, "--json").data()
    assert (got["source"], got["where"]) == ("user", str(own))
    assert ipa("config", "unset", name, "--json").data()["changed"] is True
    assert ipa("config", "unset", name, "--json").data()["changed"] is False
    assert own.read_text() == ""


def test_comments_order_and_spelling_stay(ipa, world, own):
    own.parent.mkdir(parents=True)
    own.write_text("# mine\nguidance-scale = 3.0 # weak\nseed = 1\n\n[table]\nx = 1\n")
    ipa("config", "set", "guidance_scale", "4")
    ipa("config", "set", "steps", "5")
    ipa("config", "unset", "table")
    assert own.read_text() == "# mine\nguidance-scale = 4.0 # weak\nseed = 1\nsteps = 5\n\n"


@pytest.mark.parametrize(
    ("typed", "words"),
    [
        (("set", "stepz", "1"), "did you mean 'steps'?"),
        (("get", "stepz"), "did you mean 'steps'?"),
        (("set", "steps", "x"), "expected a whole number"),
        (("set", "cache_dir", "s3://a/b"), "an address is no folder here; --cache-remote takes one"),
        (("set", "steps", "0"), "expected a number from 1 to 1000"),
        (("set", "steps", "1", "2"), "one value"),
        (("set", "image_weight", "x"), "expected a number"),
        (("set", "dtype", "int3"), "expected one of"),
    ],
)
def test_what_cannot_be_set_changes_nothing(ipa, world, own, typed, words):
    ran = ipa("config", *typed, "--json")
    assert ran.exit_code == 2 and words in ran.error()["message"]
    assert not own.exists()


def test_a_folder_is_written_in_full_and_a_link_of_the_user_is_followed(ipa, world, own):
    real = world.home / "dotfiles.toml"
    real.touch()
    own.parent.mkdir(parents=True)
    own.symlink_to(real)
    ipa("config", "set", "cache_dir", "graphs")
    assert real.read_text() == f'cache_dir = "{world.cwd}/graphs"\n' and own.is_symlink()


def test_a_bad_key_is_removed_and_a_broken_file_is_left_alone(ipa, world, own):
    own.parent.mkdir(parents=True)
    own.write_text("stepz = 1\nsteps = 2\n")
    assert ipa("config", "unset", "stepz").exit_code == 0 and own.read_text() == "steps = 2\n"
    own.write_text("steps = ")
    for typed in (("set", "steps", "1"), ("unset", "steps")):
        assert "not valid TOML" in ipa("config", *typed, "--json").error()["message"]
    assert own.read_text() == "steps = "


def test_a_file_that_begins_with_a_byte_order_mark_is_read_and_changed(ipa, world, own):
    """As Notepad saves it."""
    own.parent.mkdir(parents=True)
    own.write_bytes(b"\xef\xbb\xbfsteps = 2\r\n")
    assert ipa("config", "get", "steps").stdout == "2\n"
    assert ipa("config", "set", "steps", "3").exit_code == 0 and ipa("config", "get", "steps").stdout == "3\n"


def test_places_are_found_from_other_folders_too(ipa, world, own, monkeypatch):
    for name in ("cat.png", "loras/ink.safetensors", "ink.safetensors", "mine/model_index.json", "demo"):
        Path(name).parent.mkdir(exist_ok=True)
        Path(name).touch()
    told = {
        "image": (["cat.png", "https://a.b/c.png"], [f"{world.cwd}/cat.png", "https://a.b/c.png"]),
        "lora": (["ink.safetensors,weight=0.5", "a/b"], [f"{world.cwd}/ink.safetensors,weight=0.5", "a/b"]),
        "lora_dir": (["loras"], f"{world.cwd}/loras"),
        "model": (["mine"], f"{world.cwd}/mine"),
        "control": (["demo,image=cat.png"], [f"demo,image={world.cwd}/cat.png"]),
        "output": (["drawn"], "drawn"),
        "image_encoder": (["a/b:c"], "a/b:c"),
    }
    for name, (words, written) in told.items():
        assert ipa("config", "set", name, *words, "--json").data()["value"] == written
    Path("ipa.toml").touch()
    assert ipa("config", "set", "--project", "lora", "ink.safetensors", "--json").data()["value"] == ["ink.safetensors"]
    monkeypatch.chdir("loras")
    assert resolve({}).settings.lora[0].source == f"{world.cwd}/ink.safetensors"
    for word in ("ink.safetensors", "./ink.safetensors"):
        written = ipa("config", "set", "--project", "lora", word, "--json").data()["value"]
        assert written == ["loras/ink.safetensors"]


def test_the_file_of_a_project_stays_trusted_when_its_user_changes_it(ipa, world, own):
    inner = world.cwd / "inner"
    assert ipa("config", "set", "--project", "steps", "3").exit_code == 0
    inner.mkdir()
    project = world.cwd / "ipa.toml"
    assert resolve({}, cwd=inner).sources["steps"].where == str(project)
    ipa("config", "set", "--project", "cache_dir", "/graphs")
    assert resolve({}).settings.cache_dir is None
    ipa("config", "trust")
    ipa("config", "set", "--project", "steps", "4")
    assert str(resolve({}).settings.cache_dir) == "/graphs" and resolve({}).settings.steps == 4
    assert not own.exists()


def test_the_editor_is_the_users_and_what_it_leaves_is_checked(ipa, world, own, monkeypatch):
    for name in ("VISUAL", "EDITOR"):
        monkeypatch.delenv(name, raising=False)
    assert "EDITOR" in ipa("config", "edit", "--json").error()["message"]
    ipa("config", "set", "steps", "3")
    monkeypatch.setenv("EDITOR", "sed -i s/3/4/")
    assert ipa("config", "edit", "--json").data() == {"path": str(own)} and own.read_text() == "steps = 4\n"
    monkeypatch.setenv("VISUAL", "sed -i s/4/none/")
    assert "not valid TOML" in ipa("config", "edit", "--json").error()["message"]
    for editor in ("no-such-editor", "false"):
        monkeypatch.setenv("VISUAL", editor)
        assert editor in ipa("config", "edit", "--json").error()["message"]


def test_the_folder_of_the_users_file_may_be_a_link(ipa, world, own, monkeypatch):
    (world.home / "dotfiles").mkdir()
    own.parent.parent.mkdir()
    own.parent.symlink_to(world.home / "dotfiles")
    monkeypatch.setenv("EDITOR", "true")
    assert ipa("config", "edit").exit_code == 0
    assert ipa("config", "set", "steps", 3).exit_code == 0 and (world.home / "dotfiles/ipa.toml").exists()
