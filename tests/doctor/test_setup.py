"""Settings, models and shell completion."""

import json
from pathlib import Path

import pytest

from ipa_cli import config
from ipa_cli.config import servers
from ipa_cli.doctor import setup
from ipa_cli.doctor.check import Check
from ipa_cli.errors import UsageError
from ipa_cli.hardware import packages
from ipa_cli.models import configurations
from ipa_cli.models.plan import make_plan


def test_settings_are_shown_with_their_sources_but_private_values_are_not(world, monkeypatch):
    (world.cwd / "ipa.toml").write_text('backend = "eager"\nprompt = "my secret wedding"')
    monkeypatch.setenv("IPA_DTYPE", "float32")
    resolved, check = setup.read_settings({"device": "cpu", "json": True})
    assert check.status == "ok" and resolved.settings.device == "cpu"
    for words in ("backend = eager", "ipa.toml", "dtype = float32 (IPA_DTYPE)", "device = cpu (--device)", "prompt ("):
        assert words in check.found
    assert "wedding" not in check.found


def test_settings_that_are_ignored_are_a_warning(world):
    (world.cwd / "ipa.toml").write_text('compile_options = "max"')
    _, check = setup.read_settings({})
    assert check.status == "warning" and "compile_options is ignored" in check.found and "trust" in check.advice


@pytest.mark.parametrize("content", ["backend = ", 'backnd = "eager"', "steps = 'many'", 'dtype = "int3"', "\xff"])
def test_a_corrupt_file_fails_its_check_alone(world, content):
    (world.cwd / "ipa.toml").write_bytes(content.encode("latin-1"))
    resolved, check = setup.read_settings({"backend": "inductor"})
    assert check.status == "failure" and "ipa.toml" in check.found + check.advice
    assert resolved.settings == config.Settings(backend="inductor")
    assert resolved.sources["backend"].kind == "flag" and resolved.sources["model"].kind == "default"


def test_a_server_that_runs_is_named_without_its_token(world, monkeypatch):
    with servers.announced(servers.own_folder(), "http://127.0.0.1:8188", "0123456789abcdef", "demo"):
        check = setup.check_server()
    assert check == Check("server", "ok", "running: http://127.0.0.1:8188 (demo)")
    assert setup.check_server().found == "installed; none of yours is running"
    monkeypatch.setattr(packages, "SERVE", ("no_such_module",))
    assert setup.check_server().advice == '`pip install "ipa-cli[serve]"`'


def test_a_wrong_flag_is_wrong_usage(world):
    with pytest.raises(UsageError):
        setup.read_settings({"load_format": "banana"})


def adapter(folder: Path, width: int, tokens: int, encoder: int) -> Path:
    """An adapter file of 11 layers, as the demo model has them, and an image encoder's configuration beside it."""
    import numpy
    from safetensors.numpy import save_file

    (folder / "image_encoder").mkdir(parents=True)
    (folder / "image_encoder" / "config.json").write_text(json.dumps({"projection_dim": encoder}))
    demo = make_plan(config.Settings())
    layers = configurations.cross_attention_layers(demo.unet_config)
    tensors = {f"ip_adapter.{2 * n + 1}.to_k_ip.weight": numpy.zeros((4, width), "float32") for n in range(layers)}
    tensors["image_proj.proj.weight"] = numpy.zeros((4 * width, tokens), "float32")
    save_file(tensors, folder / "adapter.safetensors")
    return folder / "adapter.safetensors"


def test_the_demo_model_fits_itself(world):
    check = setup.check_model(config.Settings(), False)
    assert check.status == "ok" and "they fit" in check.found


def test_an_adapter_that_does_not_fit_is_a_failure(world, tmp_path):
    width = int(make_plan(config.Settings()).unet_config["cross_attention_dim"])

    def check(name: str, **sizes: int) -> Check:
        return setup.check_model(config.Settings(ip_adapter=str(adapter(tmp_path / name, **sizes))), True)

    assert check("fits", width=width, tokens=64, encoder=64).status == "ok"
    wide = check("wide", width=768, tokens=64, encoder=64)
    assert wide.status == "failure" and "width 768" in wide.found and wide.advice and wide.asked
    encoder = check("encoder", width=width, tokens=64, encoder=1024)
    assert encoder.status == "failure" and "1024" in encoder.found and "64" in encoder.found


def test_a_broken_pickled_adapter_is_not_said_to_fit(world, tmp_path):
    adapter(tmp_path / "a", width=64, tokens=64, encoder=64).rename(tmp_path / "a" / "adapter.bin")
    check = setup.check_model(config.Settings(ip_adapter=str(tmp_path / "a" / "adapter.bin")), True)
    assert check.status == "failure" and "not a pickle of bare tensors" in check.found


def test_a_missing_model_is_a_failure(world):
    check = setup.check_model(config.Settings(model="./nowhere"), True)
    assert check.status == "failure" and "nowhere" in check.found


def test_completion_is_found_where_typer_puts_it(world):
    assert setup.check_completion({"SHELL": "/bin/bash"}).status == "skipped"
    assert "ipa --install-completion" in setup.check_completion({"SHELL": "/usr/bin/fish"}).advice
    assert "unknown" in setup.check_completion({"SHELL": "/bin/rc"}).found
    assert setup.check_completion({}).status == "skipped"
    from typer._completion_shared import install_bash, install_fish, install_zsh

    for shell, install in (("bash", install_bash), ("zsh", install_zsh), ("fish", install_fish)):
        path = install(prog_name="ipa", complete_var="_IPA_COMPLETE", shell=shell)
        assert path.is_relative_to(world.home)
        check = setup.check_completion({"SHELL": f"/bin/{shell}"})
        assert check.status == "ok" and str(path) in check.found
