from ipa_cli.config import FIELDS


def test_show_prints_value_and_source(ipa, world, monkeypatch):
    project = world.cwd / "ipa.toml"
    project.write_text('scale = 0.25\nprompt = "one\\ntwo"')
    monkeypatch.setenv("IPA_VAE_TILING", "yes")
    monkeypatch.setenv("IPA_IMAGE", "a.png")
    lines = [line.split("\t") for line in ipa("config", "show").stdout.splitlines()]
    assert lines[0] == ["setting", "value", "source"]
    shown = {name: (value, source) for name, value, source in lines[1:]}
    assert list(shown) == list(FIELDS)
    assert shown["scale"] == ("0.25", str(project))
    assert shown["prompt"] == ("one two", str(project))
    assert shown["vae_tiling"] == ("true", "IPA_VAE_TILING")
    assert shown["image"] == ("a.png", "IPA_IMAGE")
    assert shown["seed"] == ("-", "default")


def test_show_gives_scripts_every_value_with_its_source(ipa, world):
    project = world.cwd / "ipa.toml"
    project.write_text('scale = 0.25\nimage = ["a.png"]')
    settings = ipa("config", "show", "--json").data()["settings"]
    assert list(settings) == list(FIELDS)
    assert settings["scale"] == {"value": 0.25, "source": "project", "where": str(project)}
    assert settings["image"]["value"] == ["a.png"]
    assert settings["cache_dir"]["value"] is None
    assert settings["seed"] == {"value": None, "source": "default", "where": "default"}
    assert settings["compile"]["value"] is True


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
