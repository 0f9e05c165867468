"""Places that hold no model: what is said of them, and what to type instead."""

import json
import shutil

import pytest

from ipa_cli.config import Settings
from ipa_cli.errors import UsageError
from ipa_cli.models import missing
from ipa_cli.models.location import ModelError
from ipa_cli.models.plan import DEMO, make_plan

FLAGS = ("--model", "--lora", "--control", "--vae", "--embedding", "--image-encoder", "--ip-adapter")
ARGUMENTS = ("--size", "64x64", "--steps", 1, "--prompt", "a star", "--json")
AD = DEMO / "ip_adapter" / "ip-adapter.safetensors"
# What else a flag takes before the place that it names is looked at.
BESIDE = {
    "--image-encoder": ("--image", DEMO / "reference.png", "--ip-adapter", AD),
    "--ip-adapter": ("--image", DEMO / "reference.png"),
}


def refused(ipa, flag: str, place: object) -> dict[str, str]:
    value = f"{place},image={DEMO / 'reference.png'}" if flag == "--control" else place
    ran = ipa("generate", *ARGUMENTS, *BESIDE.get(flag, ()), flag, value)
    assert ran.exit_code in (1, 2)
    return ran.error()


@pytest.mark.parametrize("flag", FLAGS)
@pytest.mark.parametrize(
    ("path", "hints"),
    [
        ("", {}),
        ("/", {}),
        ("/tree/main", {}),
        (
            "/resolve/main/a/b.safetensors?download=true",
            {
                **dict.fromkeys(("--lora", "--control", "--embedding", "--image-encoder"), "x/y:a/b.safetensors"),
                "--ip-adapter": "x/y --ip-adapter-subfolder a --ip-adapter-weight-name b.safetensors",
                **dict.fromkeys(("--model", "--vae"), '"$(hf download x/y a/b.safetensors)"'),
            },
        ),
    ],
)
def test_an_address_on_the_hub_is_answered_with_what_the_flag_takes(ipa, flag, path, hints):
    error = refused(ipa, flag, f"https://huggingface.co/x/y{path}")
    assert error["message"].endswith(f"is an address, and {flag} takes none")
    assert error["hint"].endswith(f"{flag} {hints.get(flag, 'x/y')}")


def test_another_address_is_to_be_downloaded(ipa):
    assert "download it" in refused(ipa, "--model", "https://civitai.com/api/download/models/128713")["hint"]


@pytest.mark.parametrize("flag", FLAGS)
def test_a_link_to_nothing_an_unfinished_download_and_a_name_without_suffix_are_told_apart(ipa, world, flag):
    (world.cwd / "link.safetensors").symlink_to("/nowhere/x.safetensors")
    (world.cwd / "x.safetensors.crdownload").write_bytes(b"x")
    (world.cwd / ("c" * 64)).write_bytes(b"\xff")  # as the hub's cache calls files
    assert "is a link to /nowhere/x.safetensors" in refused(ipa, flag, "link.safetensors")["message"]
    assert "is an unfinished download" in refused(ipa, flag, "x.safetensors.crdownload")["message"]
    assert "is no .safetensors file: it has another suffix" in refused(ipa, flag, "c" * 64)["message"]


@pytest.mark.parametrize(
    ("name", "begins", "what"), [("x.gguf", b"GGUF\3", "GGUF"), ("x.7z", b"7z\xbc\xaf", "archive")]
)
@pytest.mark.parametrize("flag", FLAGS)
def test_a_file_of_another_format_is_called_what_it_is(ipa, world, flag, name, begins, what):
    (world.cwd / name).write_bytes(begins + b"\1" * 100)
    assert what in refused(ipa, flag, name)["message"]


@pytest.mark.parametrize("text", ["a" * 5000, "a" * 5000 + ".safetensors", "a\0b", "a\0b.safetensors", "../" * 2000])
def test_what_is_no_name_of_a_file_is_refused_like_one_that_is_not_there(text):
    with pytest.raises((ModelError, UsageError)):
        make_plan(Settings(model=text, ip_adapter="none", prompt="x"))


def hinted(model: object) -> str:
    with pytest.raises(ModelError, match=r"it has no model_index\.json") as caught:
        make_plan(Settings(model=str(model), ip_adapter="none", prompt="x"))
    assert caught.value.hint is not None
    return caught.value.hint


def test_a_folder_of_the_hubs_cache_is_answered_with_its_snapshot(tmp_path):
    repo = tmp_path / "models--someone--mini"
    shutil.copytree(DEMO, snapshot := repo / "snapshots" / ("a" * 40), ignore=shutil.ignore_patterns("*.safetensors"))
    for place in (repo, repo / "snapshots"):
        assert hinted(place).endswith(f"--model {snapshot}")


def test_a_folder_that_lacks_its_index_alone_is_not_answered_with_another_folder(tmp_path):
    shutil.copytree(
        DEMO, model := tmp_path / "model", ignore=shutil.ignore_patterns("*.safetensors", "model_index.json")
    )
    assert hinted(model) == "download that too"


@pytest.mark.parametrize("part", missing.CHECKPOINTS)
def test_a_folder_of_comfyui_or_a1111_is_answered_with_a_model_in_it(tmp_path, part):
    folder = tmp_path / "their own" / part
    folder.mkdir(parents=True)
    (folder / "put_checkpoints_here").touch()
    (folder / "fine model.safetensors").touch()
    assert hinted(tmp_path / "their own") == f"name a file in it: --model '{folder}/fine model.safetensors'"


@pytest.mark.parametrize(
    ("file", "said", "words"),
    [
        ("unet/config.json", {"time_cond_proj_dim": 256}, "a model with a guidance scale embedding"),  # LCM's
        ("model_index.json", {"requires_aesthetics_score": True, "text_encoder": [None, None]}, "is the SDXL refiner"),
    ],
)
def test_folders_of_models_that_are_not_drawn_with_are_called_by_their_name(tmp_path, file, said, words):
    shutil.copytree(DEMO, model := tmp_path / "model", ignore=shutil.ignore_patterns("*.safetensors", "text_encoder"))
    (model / file).write_text(json.dumps({**json.loads((model / file).read_text()), **said}))
    with pytest.raises(ModelError, match=words) as caught:
        make_plan(Settings(model=str(model), ip_adapter="none", prompt="x"))
    assert caught.value.hint == "use the base model"
