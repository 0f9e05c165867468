"""Weight files that cannot be read: what they are is said in a line, and what to do."""

import io
import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import save, save_file

from ipa_cli.models import weights
from ipa_cli.models.weights import WeightsError


def pickled(content: object) -> bytes:
    torch.save(content, file := io.BytesIO())
    return file.getvalue()


GOOD = save({"a": torch.zeros(100), "b": torch.zeros(3)})
LFS = b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a2146\nsize 6938078334\n"
PAGE = b"<!DOCTYPE html>\n<html><head><title>Sign in</title></head></html>"
ANSWER = b'{"error":"Invalid username or password."}'
KINDS = [
    (b"", "it is empty", "download it again"),
    (LFS, "it is a Git LFS pointer", "git lfs pull"),
    (PAGE, "it is a web page", "login"),
    (b"\n " + PAGE, "it is a web page", "login"),
    (ANSWER, "it is an answer in JSON", "login"),
    ("Entry not found: é\r\n".encode() * 9, "it is a text file", "name the weight file, or download it again"),
    (b"x" * 63 + "é".encode(), "it is a text file", "name the weight file"),
    (b"GGUF\x03\0\0\0" + bytes(100), "it is a GGUF file", ".safetensors"),
    (b"7z\xbc\xaf\x27\x1c" + b"x" * 100, "it is an archive", "unpack"),
]


def as_header(path: Path) -> None:
    weights.header(path)


def as_bytes(path: Path) -> None:
    weights.of_bytes(path, path.read_bytes())


def refused(path: Path, data: bytes, reading: Callable[[Path], None]) -> WeightsError:
    path.write_bytes(data)
    with pytest.raises(WeightsError) as caught:
        reading(path)
    assert str(path) in caught.value.message and len(caught.value.message) < 300
    assert (caught.value.message + caught.value.hint).isprintable()
    return caught.value


@pytest.mark.parametrize("reading", [as_header, as_bytes])
@pytest.mark.parametrize(
    ("data", "what", "hint"),
    [
        *KINDS,
        (pickled({"a": torch.zeros(3)}), "a pickle of torch", ".safetensors"),
        (GOOD[:-100], f"it is cut off: {len(GOOD) - 100} of its {len(GOOD)} bytes", "download it again"),
        (GOOD[:40], "it is cut off: 40 of its first", "download it again"),
        (GOOD + bytes(7), "it goes on after its end, for 7 B", "download it again"),
        (bytes(100), "invalid JSON", "download it again"),
    ],
)
def test_a_safetensors_file_that_is_none_is_called_what_it_is(tmp_path, reading, data, what, hint):
    error = refused(tmp_path / "a.safetensors", data, reading)
    assert "is not a whole .safetensors file" in error.message and what in error.message and hint in error.hint


@pytest.mark.parametrize("reading", [weights.adapter_shapes, as_bytes])
@pytest.mark.parametrize(
    ("data", "what", "hint"),
    [
        *KINDS,
        (GOOD, "it is a .safetensors file", "suffix"),
        (pickled({"a": torch.zeros(900)})[:-900], "it is damaged, or cut off", "download it again"),
        (pickled({"a": Path("x")}), "it holds pathlib.", ".safetensors"),
    ],
)
def test_a_pickle_that_is_none_is_called_what_it_is(tmp_path, reading, data, what, hint):
    error = refused(tmp_path / "a.bin", data, reading)
    assert "is not a pickle of bare tensors" in error.message and what in error.message and hint in error.hint


def test_a_file_that_nobody_may_read_is_not_called_broken(tmp_path, monkeypatch):
    save_file({"a": torch.zeros(3)}, path := tmp_path / "a.safetensors")

    def denied(*_: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(weights, "_header", denied)
    with pytest.raises(WeightsError, match="cannot be read: Permission denied") as caught:
        weights.header(path)
    assert "permissions" in caught.value.hint


@pytest.mark.parametrize("ends", [2**80, "x", None, -1, float("nan")])
def test_a_header_that_says_nonsense_is_refused_in_a_line(tmp_path, ends):
    text = json.dumps({"x": {"dtype": "F32", "shape": [1], "data_offsets": [0, ends]}}).encode()
    refused(tmp_path / "a.safetensors", len(text).to_bytes(8, "little") + text + bytes(4), as_header)
