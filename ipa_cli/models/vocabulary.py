"""CLIP's tokenizer from a model's files: of them only the vocabulary, its merges and the names of special tokens."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from ipa_cli.models.architectures.base import PRESETS
from ipa_cli.models.configurations import HINT, shown
from ipa_cli.models.location import Location, ModelError, read_json
from ipa_cli.models.tokenizer import Tokenizer
from ipa_cli.system.inputs import read_bytes

MOST_BYTES = 64 << 20
SPECIAL = {
    "unk_token": "<|endoftext|>",
    "bos_token": "<|startoftext|>",
    "eos_token": "<|endoftext|>",
    "pad_token": "<|endoftext|>",
}


@dataclass(frozen=True)
class Vocabulary:
    """Tokens and their ids, pairs that are joined in this order, special tokens, and those added after training."""

    ids: Mapping[str, int]
    merges: tuple[tuple[str, str], ...]
    special: Mapping[str, str]
    added: tuple[str, ...]
    window: int  # how many tokens the text encoder reads


def read(location: Location, part: str, encoder: Mapping[str, Any]) -> Vocabulary:
    """The tokenizer in a folder of a model, for the text encoder of this configuration. Raises ModelError."""
    where = f"{location}/{part}"
    ids, merges, more = _parsed(location, part)
    size = encoder.get("vocab_size", 49408)
    ids = _checked(where, ids, size)
    special, added = _names(location, part, ids, more)
    for number, name in enumerate(added, len(ids)):
        if number >= size:
            raise ModelError(f"{where} has the token {shown(name)}, for which its text encoder has no room", HINT)
    known = {*ids, *added}
    for key, name in special.items():
        if name not in known:
            raise ModelError(f"{where}: its {key} is {shown(name)}, which is not in its vocabulary", HINT)
    window = encoder.get("max_position_embeddings", 77)
    return Vocabulary(ids, _pairs(where, merges, ids), special, added, window)


def of_package(padding: str) -> Vocabulary:
    """CLIP's own vocabulary, which is in the package; texts are filled up with the token `padding`."""
    folder = PRESETS / "tokenizer"
    ids = json.loads((folder / "vocab.json").read_text(encoding="utf-8"))
    lines = (folder / "merges.txt").read_text(encoding="utf-8").split("\n")
    merges = tuple(_pair(line) for line in lines if line.strip() and not line.startswith("#version"))
    return Vocabulary(ids, merges, {**SPECIAL, "pad_token": padding}, (), 77)


def tokenizer(vocabulary: Vocabulary) -> Tokenizer:
    """The tokenizer of a vocabulary."""
    return Tokenizer(vocabulary.ids, vocabulary.merges, vocabulary.special, vocabulary.added, vocabulary.window)


def _parsed(location: Location, part: str) -> tuple[Any, Any, Any]:
    """Ids, merges and added tokens, none of them looked at yet: in the files of transformers 4, or of 5."""
    if location.has(f"{part}/vocab.json"):
        return read_json(location, f"{part}/vocab.json", MOST_BYTES), _merges(location, f"{part}/merges.txt"), []
    if not location.has(f"{part}/tokenizer.json"):
        raise location.lacks(f"{part}/vocab.json", "name a whole diffusers folder with --model")
    whole = read_json(location, f"{part}/tokenizer.json", MOST_BYTES)
    model = whole.get("model")
    model = model if isinstance(model, dict) else {}
    return model.get("vocab"), model.get("merges"), whole.get("added_tokens")


def _merges(location: Location, name: str) -> list[str]:
    if not location.has(name):
        raise location.lacks(name, "name a whole diffusers folder with --model")
    assert location.folder is not None
    try:
        text = read_bytes(location.folder / name, MOST_BYTES, "a list of merges").decode("utf-8")
    except UnicodeDecodeError as error:
        raise ModelError(f"{location}/{name} is not text", HINT) from error
    lines = text.replace("\r\n", "\n").split("\n")  # as git writes them on Windows
    return [line for line in lines if line.strip() and not line.startswith("#version")]


def _checked(where: str, ids: Any, size: int) -> dict[str, int]:
    if not isinstance(ids, dict) or not ids:
        raise ModelError(f"{where} has no vocabulary", HINT)
    for token, number in ids.items():
        if type(number) is not int or not 0 <= number < size:
            raise ModelError(f"{where}: {shown(token)} has the number {shown(number)} of {size}", HINT)
    if not _is_text(ids):
        raise ModelError(f"{where} has tokens that are not text", HINT)
    return ids


def _is_text(words: Iterable[str]) -> bool:
    """Whether no word has half a character, which JSON can spell."""
    try:
        "".join(words).encode()
    except UnicodeEncodeError:
        return False
    return True


def _pairs(where: str, merges: Any, ids: Mapping[str, int]) -> tuple[tuple[str, str], ...]:
    pairs = [_pair(line) for line in merges] if isinstance(merges, list) else []
    for first, second in pairs:
        if first not in ids or second not in ids or first + second not in ids:
            raise ModelError(f"{where} merges {shown([first, second])}, which are not in its vocabulary", HINT)
    return tuple(pairs)


def _pair(line: Any) -> tuple[str, str]:
    halves = line.split(" ") if isinstance(line, str) else line
    if isinstance(halves, list) and len(halves) == 2 and isinstance(halves[0], str) and isinstance(halves[1], str):
        return halves[0], halves[1]
    return "", ""  # in no vocabulary


def _names(location: Location, part: str, ids: Mapping[str, int], more: Any) -> tuple[dict[str, str], tuple[str, ...]]:
    """The special tokens, and those beyond the vocabulary in the order of their ids, which follow on it."""
    read = {name: _optional(location, f"{part}/{name}.json") for name in _FILES}
    special = dict(SPECIAL)
    for key in special:
        for file in ("tokenizer_config", "special_tokens_map"):
            value = read[file].get(key)
            value = value.get("content") if isinstance(value, dict) else value
            if isinstance(value, str):
                special[key] = value
    added: dict[str, Any] = dict(read["added_tokens"])
    listed = read["tokenizer_config"].get("added_tokens_decoder")
    for number, token in listed.items() if isinstance(listed, dict) else ():
        if isinstance(token, dict) and isinstance(token.get("content"), str) and number.isdecimal():
            added[token["content"]] = int(number[:9])
    for token in more if isinstance(more, list) else ():
        if isinstance(token, dict) and isinstance(token.get("content"), str):
            added[token["content"]] = token.get("id")
    beyond = {name: number for name, number in added.items() if name not in ids}
    numbers = list(beyond.values())
    if sorted(map(str, numbers)) != sorted(map(str, range(len(ids), len(ids) + len(numbers)))) or not _is_text(beyond):
        raise ModelError(f"{location}/{part} adds tokens whose numbers do not follow on its vocabulary", HINT)
    return special, tuple(sorted(beyond, key=lambda name: beyond[name]))


_FILES = ("tokenizer_config", "special_tokens_map", "added_tokens")


def _optional(location: Location, name: str) -> dict[str, Any]:
    return read_json(location, name, MOST_BYTES) if location.has(name) else {}
