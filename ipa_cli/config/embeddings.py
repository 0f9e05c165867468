"""What one `--embedding` says: a file of textual inversion, and the word that stands for it in prompts."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, replace

from ipa_cli.config import option_text
from ipa_cli.config.checks import inside, unicode
from ipa_cli.errors import IpaError, UsageError

KEYS = ("token",)
EXAMPLE = "--embedding style.safetensors,token=<style>"
WORD = re.compile(r"[^\s,()\[\]|:\\]+")


@dataclass(frozen=True)
class EmbeddingConfig:
    """A textual inversion as it is asked for: a file, or a hub repository and the file in it.

    `token` stands for it in prompts; None is the one that the file names, or its own name.
    """

    source: str
    file: str | None = None
    token: str | None = None

    def __str__(self) -> str:
        """The text of `--embedding`, which `parse` reads back."""
        place = self.source if self.file is None else f"{self.source}:{self.file}"
        return place if self.token is None else f"{place},token={self.token}"

    def with_places(self, change: Callable[[str, str], str]) -> EmbeddingConfig:
        """The same embedding with `change("embedding", place)` in place of its file or repository."""
        return replace(self, source=change("embedding", self.source))


def parse(text: str, where: str, error: type[IpaError] = UsageError) -> EmbeddingConfig:
    """The embedding that `text` specifies. Raises `error`, which names `where` the text came from."""
    first, pairs = option_text.split(text, KEYS, where, error)
    if len(pairs) > 1:
        raise error(f"{where} has a token twice", f"give it once: {EXAMPLE}")
    token = pairs[0][1] if pairs else None
    if token is not None and not WORD.fullmatch(token):
        raise error(f"{where}: the token {token!r} is not one word", f"write one without brackets: {EXAMPLE}")
    source, file = option_text.location(first, where, error)
    problem = "expected a file or repository" if not source else unicode(source)
    if problem := problem or (inside(file) if file is not None else None):
        raise error(f"{where}: {problem}", EXAMPLE)
    return EmbeddingConfig(source, file, token)
