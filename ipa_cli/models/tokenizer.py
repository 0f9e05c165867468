"""CLIP's tokenizer by the `tokenizers` library alone: the ids of transformers' `CLIPTokenizer`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

# What transformers' tokenizer splits text by.
PATTERN = r"<\|startoftext\|>|<\|endoftext\|>|'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+"


class Tokenizer:
    """Text to token ids; `special` names bos_token, eos_token, unk_token and pad_token."""

    def __init__(
        self,
        ids: Mapping[str, int],
        merges: Sequence[tuple[str, str]],
        special: Mapping[str, str],
        added: Sequence[str] = (),
        limit: int = 77,
    ):
        import tokenizers
        from tokenizers import AddedToken, Regex, decoders, models, normalizers, pre_tokenizers

        bpe = models.BPE(
            vocab=dict(ids),
            merges=list(merges),
            continuing_subword_prefix="",
            end_of_word_suffix="</w>",
            unk_token=special["unk_token"],
        )
        made = tokenizers.Tokenizer(bpe)
        made.normalizer = normalizers.Sequence(
            [normalizers.NFC(), normalizers.Replace(Regex(r"\s+"), " "), normalizers.Lowercase()]
        )
        made.pre_tokenizer = pre_tokenizers.Sequence(
            [
                pre_tokenizers.Split(Regex(PATTERN), behavior="removed", invert=True),
                pre_tokenizers.ByteLevel(add_prefix_space=False),
            ]
        )
        made.decoder = decoders.ByteLevel()
        made.add_special_tokens(
            [AddedToken(token, special=True, normalized=False) for token in dict.fromkeys(special.values())]
        )
        made.add_tokens(list(added))
        number: Any = made.token_to_id
        self.pad: int = number(special["pad_token"])
        self.bos: int = number(special["bos_token"])
        self.eos: int = number(special["eos_token"])
        self.model_max_length = limit
        self._made: Any = made

    def ids(self, text: str) -> list[int]:
        """The ids of a text, without those that begin and end it."""
        return self._made.encode(text).ids

    def number(self, token: str) -> int | None:
        """The id of a token, None where there is none."""
        return self._made.token_to_id(token)

    def text(self, ids: Sequence[int]) -> str:
        """The text of ids, as people write it."""
        return self._made.decode(list(ids), skip_special_tokens=False).replace("</w>", " ").strip()
