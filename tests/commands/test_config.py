import pytest

from ipa_cli.config import FIELDS, Settings, resolve
from ipa_cli.models.plan import make_plan, own_defaults


def test_show_prints_value_and_source(ipa, world, monkeypatch):
    project = world.cwd / "ipa.toml"
    project.write_text('scale = 0.25\nprompt = "one\\ntwo"')
    monkeypatch.setenv("IPA_VAE_TILING", "yes")
    monkeypatch.setenv("IPA_IMAGE", "a.png")
    monkeypatch.setenv("IPA_IMAGE_WEIGHT", "2,0.5")
    lines = [line.split("\t") for line in ipa("config", "show").stdout.splitlines()]
    assert lines[0] == ["setting", "value", "source"]
    shown = {name: (value, source) for name, value, source in lines[1:]}
    assert list(shown) == list(FIELDS)
    assert shown["scale"] == ("0.25", str(project))
    assert shown["prompt"] == ("one two", str(project))
    assert shown["vae_tiling"] == ("true", "IPA_VAE_TILING")
    assert shown["image"] == ("a.png", "IPA_IMAGE")
    assert shown["image_weight"] == ("2.0, 0.5", "IPA_IMAGE_WEIGHT")
    assert shown["seed"] == ("-", "default")
    assert shown["steps"] == ("25", "model demo")


def test_show_gives_scripts_every_value_with_its_source(ipa, world):
    project = world.cwd / "ipa.toml"
    project.write_text('scale = 0.25\nimage = ["a.png"]')
    settings = ipa("config", "show", "--json").data()["settings"]
    assert list(settings) == list(FIELDS)
    assert settings["scale"] == {"value": 0.25, "source": "project", "where": str(project)}
    assert settings["image"]["value"] == ["a.png"]
    assert settings["cache_dir"] == {"value": str(world.home / ".cache/ipa"), "source": "default", "where": "default"}
    assert settings["seed"] == {"value": None, "source": "default", "where": "default"}
    assert settings["compile"]["value"] is True


@pytest.mark.parametrize(
    ("chosen", "own"),
    [
        ({}, {"steps": 25, "width": 256, "guidance_scale": 2.5, "scale": 0.8, "prompt": "a large star in the middle"}),
        ({"IPA_MODEL": "sdxl"}, {"steps": 30, "width": 1024, "guidance_scale": 5.0, "scale": 0.6, "prompt": None}),
        ({"IPA_MODEL": "sd15"}, {"steps": 30, "height": 512, "guidance_scale": 7.5}),
        ({"IPA_MODEL": "sd15", "IPA_LOAD_FORMAT": "dummy"}, {"height": 512, "prompt": "a large star in the middle"}),
        ({"IPA_MODEL": "someone/unseen"}, {"steps": 30, "width": None, "guidance_scale": None}),
        ({"IPA_IP_LAYERS": '{"down": 1}'}, {"scale": 1.0}),
    ],
)
def test_show_tells_what_the_model_would_take_and_asks_no_hub(ipa, world, monkeypatch, chosen, own):
    monkeypatch.setattr("socket.socket.connect", lambda *_: pytest.fail("it went to the network"))
    for name, value in chosen.items():
        monkeypatch.setenv(name, value)
    settings = ipa("config", "show", "--json").data()["settings"]
    assert {name: settings[name]["value"] for name in own} == own
    model = chosen.get("IPA_MODEL", "demo")
    assert settings["steps"] == {
        "value": own.get("steps", settings["steps"]["value"]),
        "source": "model",
        "where": f"model {model}",
    }
    if model == "someone/unseen":
        assert settings["width"]["where"] == "model someone/unseen, once it is here"


@pytest.mark.parametrize(
    "chosen", [{}, {"model": "sdxl", "load_format": "dummy"}, {"model": "sd15", "load_format": "dummy"}]
)
def test_what_show_tells_of_a_model_is_what_is_drawn_with(world, chosen):
    settings = Settings(**chosen)
    assert own_defaults(settings) == make_plan(settings).defaults


def test_show_survives_whatever_is_wrong_and_says_it(ipa, world, monkeypatch):
    user = world.home / ".config" / "ipa" / "ipa.toml"
    user.parent.mkdir(parents=True)
    user.write_text("steps = 3\nstepz = 4\nscale = 99\nseed = 'x'")
    project = world.cwd / "ipa.toml"
    project.write_text("height = 64\nwidth = ")
    monkeypatch.setenv("IPA_FOO", "1")
    monkeypatch.setenv("IPA_SEED", "many")
    monkeypatch.setenv("IPA_MODEL", "no-such-model")
    ran = ipa("config", "show", "--json")
    assert ran.exit_code == 1
    data = ran.json()["data"]
    assert data["settings"]["steps"]["value"] == 3 and data["settings"]["scale"]["source"] == "default"
    said = " ".join(problem["message"] for problem in data["problems"])
    for words in ("'stepz'", "scale = 99", "seed = 'x'", str(project), "IPA_FOO", "IPA_SEED=many", "no-such-model"):
        assert words in said
    assert len(data["problems"]) == 7
    assert ipa("config", "show").stdout.count("error: ") == 7


def test_path_names_the_files(ipa, world):
    data = ipa("config", "path", "--json").data()
    user = world.home / ".config" / "ipa" / "ipa.toml"
    assert data == {"project": None, "user": str(user), "user_exists": False}
    assert "not there yet" in ipa("config", "path").stdout
    user.parent.mkdir(parents=True)
    user.touch()
    (world.cwd / "ipa.toml").touch()
    data = ipa("config", "path", "--json").data()
    assert data == {"project": str(world.cwd / "ipa.toml"), "user": str(user), "user_exists": True}
    assert ipa("config", "path").stdout.splitlines() == [f"project  {world.cwd / 'ipa.toml'}", f"user     {user}"]


# --- changing files ---------------------------------------------------------------------------------------------------


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
    ],
)
def test_what_is_set_is_read_back(ipa, world, own, name, words, value):
    assert ipa("config", "set", name, *words, "--json").data()["path"] == str(own)
    read = getattr(resolve({}).settings, name.replace("-", "_"))
    assert (tuple(map(str, read)) if name == "adapter" else read) == value
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
