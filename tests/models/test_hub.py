"""Models and adapters from a hub: a real server on loopback, through the real command."""

import shutil
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file, save

import ipa_cli
from ipa_cli.config import Settings
from ipa_cli.config.places import is_repo_id
from ipa_cli.models.plan import make_plan
from tests.conftest import HUB_CACHE
from tests.hubs import Hub, folder, serving

DEMO = Path(ipa_cli.__file__).parent / "demo"
UNET = "unet/diffusion_pytorch_model.safetensors"
FAST = ("--width", 64, "--height", 64, "--steps", 1, "--warmup", 0, "--seed", 7, "--prompt", "a star")
MINI = ("--model", "someone/mini", "--ip-adapter", "someone/mini-adapter", "--image", DEMO / "reference.png")


@pytest.fixture
def hub(world):
    shutil.rmtree(HUB_CACHE, ignore_errors=True)
    whole = folder(DEMO)
    model = {name: data for name, data in whole.items() if not name.startswith("ip_adapter/")}
    adapter = {name.removeprefix("ip_adapter/"): data for name, data in whole.items() if name not in model}
    with serving(Hub({"someone/mini": model, "someone/mini-adapter": adapter})) as serving_hub:
        yield serving_hub


@pytest.mark.slow
def test_model_and_adapter_come_from_the_hub_and_then_from_the_cache(ipa, hub, world):
    ran = ipa("generate", *FAST, *MINI, "--json")
    data = ran.data()
    assert (data["model"], data["adapter"]) == ("someone/mini", "someone/mini-adapter/ip-adapter.safetensors")
    assert "downloading someone/mini/" + UNET in ran.stderr
    assert not [sent for sent in hub.log if sent.file == "reference.png" or sent.file.endswith(".md")]
    (first,) = data["images"]
    (demo,) = ipa("generate", *FAST, "--scale", first["scale"], "--guidance-scale", 5, "--json").data()["images"]
    with Path(first["path"]).open("rb") as ours, Path(demo["path"]).open("rb") as shipped:
        assert ours.read()[-2000:] == shipped.read()[-2000:]  # the end of the compressed pixels

    hub.log.clear()
    again = ipa("generate", *FAST, *MINI, "--json")
    assert again.data()["images"][0]["sha256"] == first["sha256"]
    assert "downloading" not in again.stderr and not [
        sent for sent in hub.log if sent.file
    ]  # it lists, and asks no more


def test_a_second_run_needs_no_network(ipa, ipa_process, world):
    shutil.rmtree(HUB_CACHE, ignore_errors=True)
    whole = folder(DEMO)
    with serving(Hub({"someone/mini": whole})):
        first = ipa("generate", *FAST, "--model", "someone/mini", "--json").data()["images"][0]
    second = ipa("generate", *FAST, "--model", "someone/mini", "--json").data()["images"][0]
    environ = {"HF_HUB_OFFLINE": "1"}
    third = ipa_process("generate", *FAST, "--model", "someone/mini", "--json", environ=environ).data()["images"][0]
    assert first["sha256"] == second["sha256"] == third["sha256"]


def test_of_a_model_that_is_here_in_part_the_rest_is_not_said_to_be_missing_on_the_hub(ipa, world):
    shutil.rmtree(HUB_CACHE, ignore_errors=True)
    with serving(Hub({"someone/mini": folder(DEMO)})):
        make_plan(Settings(model="someone/mini", ip_adapter="none", prompt="x"))  # fetches its configurations
    error = ipa("generate", *FAST, "--model", "someone/mini", "--ip-adapter", "none", "--json").error()
    assert error["message"].startswith("the hub was not reached, and the local cache has no ")
    assert error["message"].endswith(" of someone/mini") and "network" in error["hint"]


@pytest.mark.slow
def test_a_file_of_the_hubs_cache_that_is_cut_off_is_to_be_deleted(ipa, hub):
    assert ipa("generate", *FAST, *MINI, "--json").data()
    (weights,) = Path(HUB_CACHE).glob(f"hub/models--someone--mini/snapshots/*/{UNET}")
    blob = weights.resolve()
    blob.write_bytes(blob.read_bytes()[:-100])
    error = ipa("generate", *FAST, *MINI, "--json").error()
    assert "is cut off" in error["message"] and error["hint"].endswith(f": rm {blob}")
    blob.unlink()  # as it says
    assert ipa("generate", *FAST, *MINI, "--json").data()


def test_offline_the_network_is_not_blamed(ipa, world, monkeypatch):
    shutil.rmtree(HUB_CACHE, ignore_errors=True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    error = told(ipa("generate", *FAST, *MINI, "--json"), "HubError", "HF_HUB_OFFLINE keeps it from being downloaded")
    assert "network" not in error["hint"] and "unset HF_HUB_OFFLINE" in error["hint"]


@pytest.fixture
def breaking(hub, monkeypatch):
    """The connection breaks in the middle of the UNet; huggingface_hub keeps whole chunks alone."""
    monkeypatch.setattr("huggingface_hub.constants.DOWNLOAD_CHUNK_SIZE", 1 << 20)
    hub.break_after[UNET] = len(hub.repos["someone/mini"][UNET]) // 2
    return hub


@pytest.mark.slow
def test_a_download_survives_a_broken_connection(ipa, breaking):
    size = len(breaking.repos["someone/mini"][UNET])
    assert ipa("generate", *FAST, *MINI, "--json").exit_code == 0
    first, second = breaking.sent(UNET)
    assert (first.start, first.count) == (0, size // 2)
    assert second.start > size // 4 and second.start + second.count == size  # resumed, not begun again


@pytest.mark.slow
def test_a_download_given_up_keeps_the_files_that_are_whole(ipa, breaking, world):
    breaking.refuse_once_broken = (403, "")
    told(ipa("generate", *FAST, *MINI, "--json"), "HubError", "answered for someone/mini: 403")
    assert breaking.sent("text_encoder/model.safetensors")
    assert world.files() == [] and not list(Path(HUB_CACHE).rglob("*.incomplete"))
    breaking.refuse.clear()
    breaking.log.clear()
    assert ipa("generate", *FAST, *MINI, "--json").exit_code == 0
    assert breaking.sent(UNET) and not breaking.sent("text_encoder/model.safetensors")


@pytest.mark.parametrize(
    ("refuse", "words"),
    [
        ((401, "RepoNotFound"), "or it is private"),
        ((404, "RepoNotFound"), "has no repository 'someone/mini'"),
        ((403, "GatedRepo"), "someone/mini is gated"),
        ((500, ""), "answered for someone/mini"),
        ((429, ""), "answered for someone/mini"),
    ],
)
def test_what_the_hub_refuses_is_reported(ipa, hub, world, refuse, words):
    hub.refuse["someone/mini"] = refuse
    ran = ipa("generate", *FAST, *MINI, "--json")
    told(ran, "HubError", words)
    assert world.files() == []


def test_a_revision_that_is_not_there_is_reported(ipa, hub):
    told(ipa("generate", *FAST, *MINI, "--revision", "nowhere", "--json"), "HubError", "no revision 'nowhere'")


@pytest.mark.parametrize("missing", ["unet/config.json", "model_index.json", UNET, "scheduler/scheduler_config.json"])
def test_a_file_that_is_not_there_is_reported(ipa, hub, missing):
    hub.repos["someone/mini"] = {name: data for name, data in hub.repos["someone/mini"].items() if name != missing}
    error = told(ipa("generate", *FAST, *MINI, "--json"), None, missing.split("/")[0])
    assert "someone/mini" in error["message"]


def test_a_variant_that_is_not_there_is_reported(ipa, hub):
    told(ipa("generate", *FAST, *MINI, "--variant", "fp17", "--json"), "ModelError", "no weights of variant 'fp17'")
    assert not hub.sent(UNET)


def test_an_adapter_that_does_not_fit_is_reported_by_its_header_alone(ipa, hub):
    layers = [f"ip_adapter.{2 * n + 1}.to_{kind}_ip.weight" for n in range(16) for kind in "kv"]
    tensors = {name: np.zeros((96, 768), np.float32) for name in layers}
    tensors["image_proj.proj.weight"] = np.zeros((4 * 768, 1024), np.float32)
    wrong = {"ip-adapter_sd15.safetensors": save(tensors), "image_encoder/config.json": b"{}"}
    assert len(wrong["ip-adapter_sd15.safetensors"]) > 10**6
    hub.repos["someone/sd15"] = wrong
    ran = ipa("generate", *FAST, "--model", "someone/mini", "--ip-adapter", "someone/sd15", *MINI[4:], "--json")
    told(ran, "ModelError", "16 cross-attention layers of width 768")
    assert sum(sent.count for sent in hub.sent("sd15.safetensors")) <= 100_001
    assert not [sent for sent in hub.sent(".safetensors") if sent.repo == "someone/mini"]


def test_an_encoder_that_does_not_fit_is_reported_by_its_configuration_alone(ipa, hub):
    repo = dict(hub.repos["someone/mini-adapter"])
    repo["image_encoder/config.json"] = repo["image_encoder/config.json"].replace(
        b'"projection_dim": 256', b'"projection_dim": 64'
    )
    hub.repos["someone/mini-adapter"] = repo
    told(ipa("generate", *FAST, *MINI, "--json"), "ModelError", "takes images of width 256")
    assert not [sent for sent in hub.sent(".safetensors") if sent.count > 100_001]


@pytest.mark.slow
def test_half_size_weights_are_taken_where_they_are_enough(ipa, hub):
    whole = load_file(DEMO / UNET)
    half = save({name: tensor.astype(np.float16) for name, tensor in whole.items()})
    hub.repos["someone/mini"] = {**hub.repos["someone/mini"], UNET.replace(".safe", ".fp16.safe"): half}
    assert ipa("generate", *FAST, *MINI, "--dtype", "bfloat16").exit_code == 0
    assert hub.sent(".fp16.safetensors") and not hub.sent(UNET)


def told(ran, kind, words):
    """The one-line error of a run that was refused."""
    assert ran.exit_code == 1, ran.stdout + ran.stderr
    error = ran.error()
    assert kind in (None, error["type"]) and words in error["message"], error
    assert "\n" not in error["message"] + error["hint"] and error["hint"]
    return error


@pytest.mark.parametrize("name", ["stabilityai/stable-diffusion-xl-base-1.0", "someone/Realistic_V4.0", "a/b"])
def test_a_hub_s_names_may_have_dots(name):
    assert is_repo_id(name)


@pytest.mark.parametrize("name", ["a", "a/b/c", "a/b.safetensors", "a/b.bin", "../b", "a/", "-a/b", "a b/c", "a/b\n"])
def test_paths_are_no_names_of_a_hub(name):
    assert not is_repo_id(name)
