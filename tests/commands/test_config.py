import pytest

from ipa_cli.config import FIELDS, Settings
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
        ({}, {"steps": 25, "width": 256, "guidance_scale": 3.5, "scale": 0.8, "prompt": "a large star in the middle"}),
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
        assert settings["width"]["where"] == "model someone/unseen, once it is downloaded"


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
