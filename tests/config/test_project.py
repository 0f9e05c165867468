"""What a project's file may say, and what waits for `ipa config trust`."""

import json
import os
from pathlib import Path

import pytest

from ipa_cli import config
from ipa_cli.config import ConfigError, Settings, resolve
from ipa_cli.config.values import as_json, element_type
from ipa_cli.errors import IpaError

ADDRESS = "https://example.org/a.png"


@pytest.fixture(autouse=True)
def own_state(world, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is trusted is kept in the home of the test."""
    monkeypatch.delenv("XDG_STATE_HOME", raising=False)


def ask(world, **more):
    return resolve({}, world.environ, more.pop("cwd", world.cwd))


def project(world, text: str) -> Path:
    path = world.cwd / "ipa.toml"
    path.write_text(text)
    return path


def test_every_setting_is_classified():
    """A new setting is plain only when no value of it can choose code, a place to write, or a server."""
    kinds = {name: field.metadata["kind"] for name, field in config.FIELDS.items()}
    assert set(kinds.values()) == {"plain", "place", "own"}
    assert {name for name, kind in kinds.items() if kind == "own"} == {
        *("compile_options", "cache_dir", "cache_max_size", "server", "server_token_file"),
        *("cache_remote", "cache_push", "cache_signing_key"),
    }
    places = {"image", "embeds", "mask", "adapter", "model", "vae", "ip_adapter", "image_encoder", "output"}
    places |= {"control", "region"}
    places |= {"lora", "lora_dir", "embedding", "embedding_dir", "init_image", "inpaint_mask", "negative_image"}
    assert {name for name, kind in kinds.items() if kind == "place"} == places
    words = {name for name in config.FIELDS if element_type(name) is str and kinds[name] == "plain"}
    words -= {name for name in words if isinstance(config.FIELDS[name].metadata["check"], config.Choice)}
    assert words == {
        *("prompt", "negative_prompt", "ip_layers", "scheduler", "schedule", "backend", "device"),
        *("variant", "revision", "ip_adapter_subfolder", "ip_adapter_weight_name", "pad", "hires", "step_cache"),
    }


@pytest.mark.parametrize(
    "line",
    [
        'compile_options = "{}"',
        'cache_dir = "graphs"',
        'cache_max_size = "1GB"',
        'cache_remote = "s3://bucket/graphs"',
        "cache_push = true",
        'cache_signing_key = "key.pem"',
        *(
            f'{name} = "{ADDRESS}"'
            for name in ("image", "mask", "embeds", "model", "vae", "ip_adapter", "image_encoder", "output")
        ),
        *(f'{name} = "{ADDRESS}"' for name in ("init_image", "inpaint_mask")),
        *(f'{name} = "{ADDRESS}"' for name in ("lora", "lora_dir", "embedding", "embedding_dir")),
        'lora = ["styles/a.safetensors,weight=0.5", "../b.safetensors"]',
        'lora = "/loras:a.safetensors"',
        'lora_dir = "~/loras"',
        'lora_dir = ".."',
        'embedding = ["a.safetensors", "../b.safetensors,token=x"]',
        'embedding = "./link,token=x"',
        'embedding_dir = "~/embeddings"',
        'embedding_dir = "./link"',
        'image = ["inside.png", "/etc/hostname"]',
        'image = "data:image/png;base64,AAAA"',
        'adapter = "own,image=-"',
        'embeds = "../x.npz"',
        'mask = "~/x.png"',
        'model = "/models/sdxl"',
        'model = "./link"',
        'ip_adapter = "~/adapter.safetensors"',
        'output = "../{seed}.png"',
        'output = "link/{seed}.png"',
        'image = "a/../../b.png"',
        'image = "a\\u0000b"',
        'image = ["a.png", "-"]',
        f'adapter = "own,image={ADDRESS}"',
        'adapter = "own,scale=1,mask=/etc/mask.png"',
        'adapter = "own,embeds=../x.npz,scale=1"',
        'adapter = "/somewhere/adapter.safetensors,image=a.png"',
        'adapter = "../adapters:in/file.safetensors,image=a.png"',
    ],
)
def test_what_chooses_code_places_or_servers_waits_for_trust(world, line):
    (world.cwd / "link").symlink_to("..")
    path = project(world, f"steps = 3\n{line}")
    name = line.split(" ")[0]
    resolved = ask(world)
    assert resolved.settings == Settings(steps=3)
    (ignored,) = resolved.ignored
    assert (ignored.path, ignored.name) == (path, name) and ignored.why
    assert set(config.trust(path)) == {name}
    resolved = ask(world)
    assert not resolved.ignored and resolved.sources[name].kind == "project"
    assert getattr(resolved.settings, name) != config.FIELDS[name].default


@pytest.mark.parametrize(
    "line",
    [
        'image = ["a.png", "refs", "./b.png"]',
        'mask = "mask.png"',
        'output = "out/{prompt}-{seed}.png"',
        'model = "someone/model"',
        'model = "models/mine"',
        'adapter = ["own,image=a.png,mask=m.png", "someone/adapters:in/a.safetensors,image=b.png"]',
        'embeds = "x.npz"',
        'ip_adapter = "none"',
        'prompt = "/etc is a folder, https://example.org an address"',
    ],
)
def test_files_beside_the_project_file_and_hub_repositories_are_allowed(world, line):
    (world.cwd / "models" / "mine").mkdir(parents=True)
    project(world, line)
    resolved = ask(world)
    assert not resolved.ignored
    value = as_json(getattr(resolved.settings, line.split(" ")[0]))
    assert all(one in line for one in ([value] if isinstance(value, str) else value))


@pytest.mark.parametrize("said", ["/masks/a.png", "~/a.png", "-", ADDRESS])
def test_a_trusted_name_of_a_place_elsewhere_stays_as_it_is_written(world, said):
    path = project(world, f'image = ["{said}", "beside.png"]')
    config.trust(path)
    (world.cwd / "inner").mkdir()
    assert resolve({}, cwd=world.cwd / "inner").settings.image == (said, str(world.cwd / "beside.png"))


def test_flags_environment_and_the_users_own_file_may_say_everything(world):
    own = world.home / ".config" / "ipa" / "ipa.toml"
    own.parent.mkdir(parents=True)
    own.write_text(f'compile_options = "max"\ncache_dir = "graphs"\nimage = "{ADDRESS}"')
    resolved = resolve({"output": "/out/x.png"}, {**world.environ, "IPA_MASK": "/masks/a.png"}, world.cwd)
    settings = resolved.settings
    assert (settings.compile_options, settings.image, settings.output) == ("max", (ADDRESS,), "/out/x.png")
    assert settings.mask == ("/masks/a.png",) and not resolved.ignored
    assert settings.cache_dir == own.parent / "graphs"  # relative to the file, not to wherever one stands


def test_the_users_own_file_is_no_projects_file_wherever_one_stands(world):
    (world.home / "dotfiles").mkdir()
    (world.home / ".config").mkdir()
    (world.home / ".config" / "ipa").symlink_to(world.home / "dotfiles")
    (world.home / "dotfiles" / "ipa.toml").write_text('compile_options = "max"')
    resolved = ask(world, cwd=world.home / "dotfiles")
    assert resolved.sources["compile_options"].kind == "user" and not resolved.ignored


def test_names_in_a_projects_file_are_found_from_its_folder(world):
    project(
        world,
        'image = ["a.png"]\nmodel = "models/mine"\nip_adapter = "someone/adapters"\noutput = "out/{seed}.png"\n'
        'adapter = ["own,image=a.png,scale=1", "someone/adapters:in/a.safetensors,image=b.png"]',
    )
    (world.cwd / "models" / "mine").mkdir(parents=True)
    (world.cwd / "deeper").mkdir()
    settings = ask(world, cwd=world.cwd / "deeper").settings
    assert settings.image == (f"{world.cwd}/a.png",)
    assert settings.model == f"{world.cwd}/models/mine" and settings.ip_adapter == "someone/adapters"
    assert settings.output == f"{world.cwd}/out/{{seed}}.png"
    assert tuple(map(str, settings.adapter)) == (
        f"own,image={world.cwd}/a.png,scale=1",
        f"someone/adapters:in/a.safetensors,image={world.cwd}/b.png",
    )


def test_trust_holds_for_this_content_of_this_file_alone(world):
    path = project(world, 'cache_dir = "graphs"')
    config.trust(path)
    assert ask(world).settings.cache_dir == world.cwd / "graphs"
    path.write_text('cache_dir = "others"')
    assert ask(world).settings.cache_dir is None
    path.write_text('cache_dir = "graphs"')
    assert ask(world).settings.cache_dir
    assert config.untrust(path) and not config.untrust(path)
    assert ask(world).settings.cache_dir is None
    copy = world.cwd / "copy"
    copy.mkdir()
    config.trust(path)
    (copy / "ipa.toml").write_text(path.read_text())
    assert ask(world, cwd=copy).settings.cache_dir is None


def test_a_file_that_others_may_write_is_ignored_until_it_is_trusted(world):
    path = project(world, "steps = 3")
    for place, mode in ((path, 0o666), (world.cwd, 0o777)):
        before = place.stat().st_mode
        place.chmod(mode)
        resolved = ask(world)
        assert resolved.settings == Settings()
        (ignored,) = resolved.ignored
        assert ignored.name is None and str(place) in ignored.why and "is ignored" in str(ignored)
        config.trust(path)
        assert ask(world).settings.steps == 3
        path.write_text("steps = 4")
        (ignored,) = ask(world).ignored
        assert "changed" in ignored.why
        config.untrust(path)
        path.write_text("steps = 3")
        place.chmod(before)
    assert ask(world).settings.steps == 3


@pytest.mark.skipif(os.geteuid() != 0, reason="only root gives files away")
def test_another_users_file_in_a_shared_folder_is_not_even_parsed(world):
    (world.cwd / "ours").mkdir()
    world.cwd.chmod(0o1777)
    path = project(world, "this is no TOML")
    os.chown(path, 4321, 4321)
    resolved = ask(world, cwd=world.cwd / "ours")
    assert resolved.settings == Settings() and "uid 4321" in resolved.ignored[0].why
    os.chown(path, 0, 0)
    with pytest.raises(ConfigError):
        ask(world, cwd=world.cwd / "ours")


def test_a_list_of_trusted_files_that_others_may_write_counts_for_nothing(world):
    path = project(world, 'cache_dir = "graphs"')
    config.trust(path)
    (known,) = world.home.rglob("trusted.json")
    known.chmod(0o666)
    assert ask(world).settings.cache_dir is None
    known.chmod(0o600)
    assert ask(world).settings.cache_dir
    known.write_text("[]")
    with pytest.raises(IpaError, match="damaged"):
        ask(world)


def test_a_list_of_trusted_files_where_others_may_write_is_not_begun(world):
    world.home.chmod(0o777)
    with pytest.raises(IpaError, match=f"everybody may write to {world.home}"):
        config.trust(project(world, 'cache_dir = "graphs"'))


def test_commands_say_what_they_do_not_take_over(ipa, world):
    path = project(world, f'cache_dir = "graphs"\nmask = "{ADDRESS}"')
    ran = ipa("cache", "ls")
    assert f"warning: {path}: cache_dir is ignored" in ran.stderr and f"{path}: mask is ignored" in ran.stderr
    assert "ipa config trust" in ran.stderr
    ignored = ipa("config", "show", "--json").data()["ignored"]
    assert [one["setting"] for one in ignored] == ["cache_dir", "mask"]
    assert ignored[1] == {"setting": "mask", "value": [ADDRESS], "where": str(path), "why": "it names a server"}
    assert "mask is ignored" in ipa("config", "show").stdout


def test_trusting_says_what_it_allows(ipa, world):
    path = project(world, f'steps = 3\ncache_dir = "graphs"\nmask = "{ADDRESS}"')
    allowed = {"cache_dir": str(world.cwd / "graphs"), "mask": [ADDRESS]}
    assert ipa("config", "trust", "--json").data() == {"path": str(path), "allowed": allowed}
    assert "is ignored" not in ipa("cache", "ls").stderr
    assert ipa("config", "untrust", "ipa.toml", "--json").data() == {"path": str(path), "changed": True}
    assert ipa("config", "untrust", "--json").data()["changed"] is False
    assert f"mask = {ADDRESS}" in ipa("config", "trust", path).stdout
    path.unlink()
    assert ipa("config", "trust", "--json").error()["hint"]
    assert ipa("config", "trust", path).exit_code == 1
    (known,) = world.home.rglob("trusted.json")
    assert list(json.loads(known.read_text())) == [str(path)]


def test_a_hub_repository_that_a_project_names_is_reported(ipa, world):
    project(world, 'model = "someone/model"')
    ran = ipa("generate")
    assert "someone/model comes from the hub" in ran.stderr and str(world.cwd / "ipa.toml") in ran.stderr
    assert "comes from the hub" not in ipa("cache", "ls").stderr
