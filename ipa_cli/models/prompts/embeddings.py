"""Textual inversion: files of embeddings that stand for words of a prompt.

Files are those of kohya's trainer and ComfyUI ("clip_l" and "clip_g", or "emb_params"), of A1111's web UI
("string_to_param") and of diffusers (one tensor by the name of its token).
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING

from ipa_cli.config import EmbeddingConfig, Settings
from ipa_cli.config.checks import short
from ipa_cli.config.embeddings import WORD
from ipa_cli.errors import suggest
from ipa_cli.models import kinds, named_file, weights
from ipa_cli.models.location import ModelError, expanded, folder_location, is_file, is_folder
from ipa_cli.models.plan import Plan
from ipa_cli.models.prompts import syntax
from ipa_cli.models.prompts.syntax import Prompt, whole_words
from ipa_cli.result import NullReporter
from ipa_cli.system import inputs

if TYPE_CHECKING:
    from torch import Tensor

MOST_BYTES = 32 << 20
MOST_TOKENS = 75  # of a chunk
SUFFIXES = (*weights.SAFETENSORS, *weights.PICKLES)
# With the names of diffusers, whose training for SDXL writes a file for each text encoder.
FIRST, SECOND = "learned_embeds", "learned_embeds_2"
KIND = named_file.Kind(
    "embedding", "--embedding", (f"{FIRST}.safetensors", f"{FIRST}.bin"), beside=f"{SECOND}.safetensors"
)
OTHER = "use one that was made for this model"
# What files call the embeddings of each text encoder.
_ENCODERS = (("clip_l", "text_encoders_0"), ("clip_g", "text_encoders_1"))
_NAMELESS = ("emb_params", "*")
_REFERENCE = re.compile(r"\bembedding:([^\s,()\[\]|:<>]+)", re.IGNORECASE)


@dataclass(frozen=True)
class Embedding:
    """A textual inversion, read and checked: the words that stand for it, and what it is for each text encoder."""

    words: tuple[str, ...]
    source: str
    sha256: str
    vectors: tuple[Tensor, ...] = field(compare=False, repr=False)  # (tokens, hidden)

    def is_in(self, texts: Iterable[str], chosen: str) -> bool:
        """Whether one of its words is in one of these prompts, read in the syntax `chosen`."""
        return syntax.has_word(self.words, texts, chosen)


def of_prompts(settings: Settings, plan: Plan, texts: Iterable[str]) -> tuple[Embedding, ...]:
    """The embeddings that the settings name, and those that prompts name which are in `embedding_dir`.

    A1111's syntax names them by the file's name alone, ComfyUI's and A1111's by "embedding:name". Raises ModelError for
    one that is not there or was made for another model, WeightsError for a broken file, HubError, UsageError for a
    prompt that cannot be read.
    """
    found = [_named(config, plan) for config in settings.embedding]
    taken: dict[str, Embedding] = {}
    for embedding in found:
        for word in map(str.lower, embedding.words):
            if taken.setdefault(word, embedding) is not embedding:
                raise ModelError(
                    f"two embeddings stand for {word}", "give one of them another token: --embedding …,token=…"
                )
    if settings.prompt_syntax != syntax.LITERAL:
        prompts = [syntax.parse(text, settings.prompt_syntax) for text in dict.fromkeys(texts)]
        for word, path in _in_folder(settings, prompts, taken):
            sha256, _, vectors = _read(path, plan)
            found.append(Embedding((word,), str(path), sha256, vectors))
    return tuple(found)


def _named(config: EmbeddingConfig, plan: Plan) -> Embedding:
    path = named_file.find(KIND, config.source, config.file, NullReporter())
    sha256, own, vectors = _read(path, plan)
    token = config.token or own or path.stem
    spelled = (token, f"embedding:{token}", f"embedding:{path.stem}")
    return Embedding(tuple({word.lower(): word for word in spelled}.values()), str(config), sha256, vectors)


# --- finding --------------------------------------------------------------------------------------------------------


def _in_folder(
    settings: Settings, prompts: Sequence[Prompt], taken: Mapping[str, Embedding]
) -> Iterator[tuple[str, Path]]:
    """Words in prompts, and the file in `embedding_dir` that each stands for."""
    texts = [fragment.text for prompt in prompts for fragment in prompt.fragments]
    wanted = {one[0]: one[1] for text in texts for one in _REFERENCE.finditer(text)}
    folder = None if settings.embedding_dir is None else expanded(settings.embedding_dir)
    if folder is not None and not is_folder(folder):
        raise ModelError(f"there is no folder {folder}", "--embedding-dir names the folder of embeddings")
    for word, name in wanted.items():
        if not any(spelled in taken for spelled in (word.lower(), word.lower().rstrip(".;!?"))):
            yield _referred(word, name, folder)
    if folder is None or settings.prompt_syntax != syntax.A1111:
        return
    files = {
        PurePosixPath(name).stem: name for name in folder_location(folder).files() if name.lower().endswith(SUFFIXES)
    }
    plain = {name: file for name, file in files.items() if name.lower() not in taken and name}
    for found in sorted({one[0].lower() for text in texts for one in _matches(text, plain)}):
        name = next(name for name in plain if name.lower() == found)
        yield name, folder / plain[name]


def _matches(text: str, names: Mapping[str, str]) -> Iterator[re.Match[str]]:
    if names:
        # What `embedding:` stands before is named already.
        yield from whole_words(list(names)).finditer(_REFERENCE.sub(" ", text))


def _referred(word: str, name: str, folder: Path | None) -> tuple[str, Path]:
    if folder is None:
        hint = "--embedding FILE names its file, --embedding-dir (or embedding_dir in ipa.toml) a folder of them"
        raise ModelError(f"a prompt has the embedding '{short(name)}', and none is loaded", hint)
    parts = PurePosixPath(name.replace("\\", "/")).parts
    for tried in dict.fromkeys((name, name.rstrip(".;!?"))):
        relative = PurePosixPath(tried.replace("\\", "/"))
        if relative.is_absolute() or ".." in parts:
            break
        ends = ("",) if tried.lower().endswith(SUFFIXES) else SUFFIXES
        for path in (folder / f"{relative}{end}" for end in ends):
            if is_file(path):
                return word[: len(word) - len(name) + len(tried)], path
    here = [PurePosixPath(file).stem for file in folder_location(folder).files() if file.lower().endswith(SUFFIXES)]
    raise ModelError(f"{folder} has no embedding '{short(name)}'{suggest(name, here)}", "put its file there")


# --- reading --------------------------------------------------------------------------------------------------------


def _read(path: Path, plan: Plan) -> tuple[str, str | None, tuple[Tensor, ...]]:
    """The digest of a file, the token that it names, and its embeddings for each text encoder of a model."""
    widths = tuple(int(plan.configs[part].get("hidden_size", 512)) for part in plan.architecture.text_encoders)
    second = _second(path) if len(widths) > 1 else None
    stamps = weights.stamp(path), second and weights.stamp(second)
    return _of_file(path, second, stamps, widths, plan.architecture.name)


def _second(path: Path) -> Path | None:
    """The file of the second text encoder beside that of the first: "learned_embeds_2-steps-500" of "…-steps-500"."""
    if not path.name.startswith(FIRST) or path.name.startswith(SECOND):
        return None
    second = path.with_name(path.name.replace(FIRST, SECOND, 1))
    return second if is_file(second) else None


@lru_cache(maxsize=64)
def _of_file(
    path: Path, second: Path | None, _: tuple[object, object], widths: tuple[int, ...], architecture: str
) -> tuple[str, str | None, tuple[Tensor, ...]]:
    data, token, found = _tensors(path)
    if second is not None and len(found) == 1:
        more, _token, others = _tensors(second)
        data, found = data + more, [*found, *others]
    if len(found) != len(widths):
        made_for = "SDXL" if len(found) == 2 else "a model with one text encoder, such as SD 1.5"
        raise ModelError(f"{path} is an embedding for {made_for}, and the model is {architecture}", OTHER)
    each = tuple(_checked(path, tensor, width, architecture) for tensor, width in zip(found, widths, strict=True))
    if len({len(one) for one in each}) > 1:
        raise ModelError(f"{path} is broken: {' and '.join(str(len(one)) for one in each)} tokens", OTHER)
    return hashlib.sha256(data).hexdigest(), token, each


def _tensors(path: Path) -> tuple[bytes, str | None, list[Tensor]]:
    """A file's content, the token that it names, and its tensors in the order of the text encoders."""
    if weights.is_safetensors(path):  # a large one is not read, but named
        _check_kind(path, weights.header(path))
    data = inputs.read_bytes(path, MOST_BYTES, "an embedding")
    tensors, _metadata = weights.of_bytes(path, data, only_tensors=False)
    return data, *_by_encoder(path, tensors)


def _check_kind(path: Path, names: Iterable[str]) -> None:
    """Raise ModelError for a file that holds something else than embeddings, if that is known."""
    kind = kinds.kind_of(names)
    if kind is not None and kind.flag != "--embedding":
        raise ModelError(f"{path} is no textual inversion: it is {kind.words}", kind.advice(OTHER))


def _by_encoder(path: Path, tensors: Mapping[str, Tensor]) -> tuple[str | None, list[Tensor]]:
    """The token that a file names, and its tensors in the order of the text encoders."""
    known = [next((tensors[name] for name in names if name in tensors), None) for names in _ENCODERS]
    if known[0] is not None:
        return None, [one for one in known if one is not None]
    single = {
        name.removeprefix("string_to_param."): tensor
        for name, tensor in tensors.items()
        if not name.startswith("string_to_token")
    }
    _check_kind(path, single)
    if len(single) != 1:
        names = ", ".join(short(name) for name in list(tensors)[:3]) or "nothing"
        raise ModelError(f"{path} is no textual inversion: it holds {names}{', …' * (len(tensors) > 3)}", OTHER)
    ((name, tensor),) = single.items()
    return name if len(name) <= 80 and WORD.fullmatch(name) and name not in _NAMELESS else None, [tensor]


def _checked(path: Path, tensor: Tensor, width: int, architecture: str) -> Tensor:
    """An embedding as (tokens, hidden) in single precision. Raises ModelError for one that does not fit."""
    import torch

    if not tensor.is_floating_point():
        raise ModelError(f"{path} holds {str(tensor.dtype)[6:]}, not floating-point numbers", OTHER)
    rows = tensor[None] if tensor.ndim == 1 else tensor
    if rows.ndim != 2 or not 1 <= len(rows) <= MOST_TOKENS:
        raise ModelError(f"{path} is no textual inversion: it holds {tuple(tensor.shape)} numbers", OTHER)
    if rows.shape[1] != width:
        raise ModelError(
            f"{path} was made for another model: it is {rows.shape[1]} wide, and {architecture} here takes {width}",
            OTHER,
        )
    if not torch.isfinite(rows.float()).all():
        raise ModelError(f"{path} is broken: it has NaN or infinity in it", OTHER)
    return rows.float()
