"""Which files a part's weights are read from: the index alone decides over shards, a variant where it is there."""

import json
from pathlib import Path

import pytest
import torch

from ipa_cli.models import hub
from ipa_cli.models.download import weight_files
from ipa_cli.models.location import Location, ModelError, folder_location

HALF, FULL = torch.float16, torch.float32
PARTS = {"unet": "diffusion_pytorch_model", "vae": "diffusion_pytorch_model", "text_encoder": "model"}


def write(folder: Path, *names: str) -> Location:
    """A folder of empty files."""
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(b"")
    return folder_location(folder)


def write_index(folder: Path, name: str, shards: object) -> None:
    weight_map = {f"tensor{n}": shard for n, shard in enumerate(shards)} if isinstance(shards, list) else shards
    (folder / name).parent.mkdir(parents=True, exist_ok=True)
    (folder / name).write_text(json.dumps({"weight_map": weight_map}))


@pytest.mark.parametrize(("part", "stem"), PARTS.items())
def test_an_older_set_of_shards_beside_the_indexed_one_is_left_alone(tmp_path, part, stem):
    new = [f"{stem}-0000{n}-of-00002.safetensors" for n in (1, 2)]
    old = [f"{stem}-0000{n}-of-00003.safetensors" for n in (1, 2, 3)]
    location = write(tmp_path, *(f"{part}/{name}" for name in (*new, *old)))
    index = f"{part}/{stem}.safetensors.index.json"
    write_index(tmp_path, index, [*new, new[0]])
    assert weight_files(location, part, None, FULL) == [index, *(f"{part}/{name}" for name in new)]


def test_on_a_hub_the_index_decides_too(monkeypatch, tmp_path):
    index = "unet/diffusion_pytorch_model.safetensors.index.json"
    shards = [f"unet/diffusion_pytorch_model-0000{n}-of-00002.safetensors" for n in (1, 2)]
    write_index(tmp_path, index, [shards[1].partition("/")[2]])
    monkeypatch.setattr(hub, "fetch", lambda *_, **__: tmp_path)
    location = Location(None, "some/one", None, frozenset([index, *shards]))
    assert weight_files(location, "unet", None, FULL) == [index, shards[1]]


@pytest.mark.parametrize(("part", "stem"), PARTS.items())
def test_a_whole_file_beside_an_index_counts_as_the_library_of_the_part_has_it(tmp_path, part, stem):
    location = write(tmp_path, f"{part}/{stem}.safetensors", f"{part}/a.safetensors")
    write_index(tmp_path, f"{part}/{stem}.safetensors.index.json", ["a.safetensors"])
    files = weight_files(location, part, None, FULL)
    assert (f"{part}/a.safetensors" in files) == (part != "text_encoder")
    assert (f"{part}/{stem}.safetensors" in files) == (part == "text_encoder")


@pytest.mark.parametrize(
    "shards",
    [
        ["../other.safetensors"],
        ["/etc/hostname.safetensors"],
        ["deep/a.safetensors"],
        ["a\\b.safetensors"],
        ["a.bin"],
        ["diffusion_pytorch_model.safetensors.index.json"],
        ["missing.safetensors"],
        ["loop.safetensors"],
        ["a" * 5000 + ".safetensors"],
        ["\0.safetensors"],
        [7],
        [None],
        [],
        {},
        7,
        None,
    ],
)
def test_an_index_that_cannot_be_followed_is_reported(tmp_path, shards):
    location = write(tmp_path, "other.safetensors", "unet/a.bin", "unet/deep/a.safetensors", "unet/a\\b.safetensors")
    (tmp_path / "unet/loop.safetensors").symlink_to("loop.safetensors")
    write_index(tmp_path, "unet/diffusion_pytorch_model.safetensors.index.json", shards)
    with pytest.raises(ModelError) as told:
        weight_files(location, "unet", None, FULL)
    assert "\n" not in told.value.message and told.value.hint


@pytest.mark.parametrize(
    ("there", "variant", "dtype", "taken"),
    [
        ((".safetensors", ".fp16.safetensors"), None, HALF, ".fp16.safetensors"),
        ((".safetensors", ".fp16.safetensors"), None, FULL, ".safetensors"),
        ((".fp16.safetensors",), None, FULL, ".fp16.safetensors"),
        ((".bin", ".fp16.safetensors"), None, FULL, ".fp16.safetensors"),
        ((".fp16.bin",), None, FULL, ".fp16.bin"),
        ((".safetensors",), "fp16", HALF, ".safetensors"),
        ((".fp16.bin", ".safetensors"), "fp16", HALF, ".fp16.bin"),
        ((".ema.safetensors", ".safetensors"), "ema", HALF, ".ema.safetensors"),
    ],
)
def test_a_variant_is_taken_where_it_is_there(tmp_path, there, variant, dtype, taken):
    location = write(tmp_path, *(f"unet/diffusion_pytorch_model{ending}" for ending in there))
    assert weight_files(location, "unet", variant, dtype) == [f"unet/diffusion_pytorch_model{taken}"]


def test_a_folder_that_has_another_variant_alone_says_what_to_type(tmp_path):
    location = write(tmp_path, "unet/diffusion_pytorch_model.bf16.safetensors")
    with pytest.raises(ModelError, match="no weights for unet") as told:
        weight_files(location, "unet", None, HALF)
    assert told.value.hint == "--variant bf16"


@pytest.mark.parametrize("middle", ["index.fp16", "fp16.index"])
def test_both_names_of_a_variant_s_index_are_known(tmp_path, middle):
    location = write(tmp_path, "unet/a.safetensors")
    write_index(tmp_path, f"unet/diffusion_pytorch_model.safetensors.{middle}.json", ["a.safetensors"])
    assert weight_files(location, "unet", "fp16", HALF)[1:] == ["unet/a.safetensors"]


def test_weights_that_are_a_link_to_nothing_are_said_to_be_that(tmp_path):
    """As in a hub cache whose blobs were deleted."""
    (tmp_path / "unet").mkdir()
    (tmp_path / "unet" / "diffusion_pytorch_model.safetensors").symlink_to("../../blobs/0123")
    with pytest.raises(
        ModelError, match=r"safetensors is a link to \.\./\.\./blobs/0123, which is not there"
    ) as caught:
        weight_files(folder_location(tmp_path), "unet", None, torch.float32)
    assert "download" in caught.value.hint
