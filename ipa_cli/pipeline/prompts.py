"""Reading prompts from flags, files, stdin and lists, and reviewing their syntax."""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from ipa_cli.config import ConfigError, Settings, checked
from ipa_cli.config.names import by_setting
from ipa_cli.config.values import from_json
from ipa_cli.errors import IpaError, suggest
from ipa_cli.models.prompts import syntax
from ipa_cli.result import Reporter
from ipa_cli.system import inputs
from ipa_cli.system.inputs import STDIN

if TYPE_CHECKING:
    from ipa_cli.pipeline.task import Request

LIST_BYTES = 16_000_000
_EXAMPLE = '{"prompt": "a red fox", "negative_prompt": "snow", "seed": 7}'
# Settings that an object in a list may have.
OF_A_LINE = ("prompt", "negative_prompt", "seed", "num_images")

_LINE_END = re.compile(r"\r\n|\r|\n")  # and no other: JSON may hold U+2028, a prompt a form feed
_JSON_SUFFIXES = (".jsonl", ".json", ".ndjson")
_JSON_BEGINS = re.compile(r'(\[\s*\{?|\{)\s*("|$)')  # neither [star] nor {a|b}, which other programs read

_WEIGHTS = r"\([^()]*:\s*-?[\d.]+\s*\)|\(\([^()]*\)\)"  # (red star:1.4), ((red star))
_SQUARES = r"\[[^\[\]]+\]"  # [red star], [red:blue:0.5]
_TAGS = r"<\w+:[^<>]*>"  # <lora:name:0.8>
_EMBEDDINGS = r"\bembedding:[\w.-]+"
_WORDS = r"\b(?:BREAK|AND)\b"
_COMMA = re.compile(r"(\([^()]*:\s*)([+-]?\d*,\d+)\s*\)")  # a weight with a decimal comma
# What each syntax reads as plain words, and others do not.
_PLAIN = {
    syntax.A1111: re.compile(_TAGS),
    syntax.COMFYUI: re.compile(f"{_SQUARES}|{_TAGS}|{_WORDS}"),
    syntax.LITERAL: re.compile(f"{_WEIGHTS}|{_SQUARES}|{_TAGS}|{_EMBEDDINGS}|{_WORDS}"),
}


def typed(words: Sequence[str]) -> list[str]:
    """The prompts of `--prompt`: `-` reads stdin, `@file` a file, `@@x` is the text `@x`.

    Raises IpaError if a file cannot be read, is not UTF-8 or is empty, UsageError for an invalid prompt.
    """
    return [checked("prompt", _written(word), "--prompt") for word in words]


def listed(source: str) -> list[dict[str, Any]]:
    """The settings of each prompt in a list, a file or stdin (`-`), with a prompt or a JSON object on each line.

    It is JSON if its name or its first line looks like JSON; then it may also be one JSON list, of objects or texts. An
    object has a `prompt`, and may have the other settings of OF_A_LINE. Empty lines are skipped. Raises IpaError if the
    list cannot be read, is not UTF-8 or is empty, ConfigError for an object with other keys, and for other JSON.
    """
    name, text = _name(source), _text(source)
    lines = [(number, line.strip()) for number, line in enumerate(_LINE_END.split(text), 1) if line.strip()]
    is_json = lines and (source.endswith(_JSON_SUFFIXES) or _JSON_BEGINS.match(lines[0][1]))
    several = _parsed(text, name) if is_json and lines[0][1].startswith("[") else lines
    if not several:
        raise IpaError(f"{name} contains no prompt", "write one on each line")
    if several is not lines:
        each = ({"prompt": said} if isinstance(said, str) else said for said in several)
        return [_settings(said, f"{name}, prompt {number}") for number, said in enumerate(each, 1)]
    if is_json:
        places = ((line, f"{name}, line {number}") for number, line in lines)
        return [_settings(_parsed(line, where), where) for line, where in places]
    if "prompt" in (cell.strip('" ').lower() for cell in re.split("[,;\t]", lines[0][1])):
        hint = "write a prompt alone on each line, or an object: " + '{"prompt": "a cat", "seed": 1}'
        raise ConfigError(f"{name} is a table with a column prompt, not a list of prompts", hint)
    return [{"prompt": checked("prompt", line, name, ConfigError)} for _, line in lines]


def review(texts: Iterable[str], request: Request, reporter: Reporter) -> None:
    """Look at prompts in the syntax of a request, and at its embeddings, and say once what may surprise.

    Raises UsageError for a prompt that would be misread.
    """
    texts = list(dict.fromkeys(texts))
    check(texts, request.prompt_syntax, reporter)
    for embedding in request.embeddings:
        word, count = embedding.words[0], len(embedding.vectors[0])
        if embedding.is_in(texts, request.prompt_syntax):
            reporter.note(f"{word} in a prompt is the embedding {embedding.source}, {count} tokens")


def warn_of_unused(settings: Settings, texts: Collection[str], request: Request, reporter: Reporter) -> None:
    """Warn of embeddings that were given for this run and are in no prompt."""
    for embedding in request.embeddings if settings.given("embedding") else ():
        if not embedding.is_in(texts, request.prompt_syntax):
            reporter.warn(f"the embedding {embedding.source} is not used: {embedding.words[0]} is in no prompt")


def check(texts: Iterable[str], chosen: str, reporter: Reporter) -> None:
    """Warn once of what in prompts is written for another syntax, or with a decimal comma.

    Raises UsageError for what would be misread.
    """
    texts = list(texts)
    commas = [found for text in texts for found in _COMMA.finditer(text)] if chosen != syntax.LITERAL else []
    for words, number in dict.fromkeys((one[1], one[2]) for one in commas):
        wanted = f"{words}{number.replace(',', '.')})"
        reporter.warn(f"in a prompt, {words}{number}) is read as words, since a weight has a point: {wanted}")
    for remark in dict.fromkeys(remark for text in texts for remark in syntax.parse(text, chosen).remarks):
        reporter.warn(f"in a prompt, {remark}")
    found = dict.fromkeys(found for text in texts for found in _PLAIN[chosen].findall(text))
    if found:
        shown = ", ".join(list(found)[:5]) + (", …" if len(found) > 5 else "")
        is_lora = chosen == syntax.A1111 and any(one.startswith("<lora:") for one in found)
        known = "; with --lora-dir those in the prompt, not in the negative one, are found" if is_lora else ""
        reporter.warn(f"in a prompt, read as plain words (--prompt-syntax {chosen}): {shown}{known}")


def _written(word: str) -> str:
    if word.startswith("@@"):
        return word[1:]
    if word != STDIN and not word.startswith("@"):
        return word
    text = _text(word.removeprefix("@")).strip()
    if not text:  # a program before the pipe that failed
        raise IpaError(f"{_name(word.removeprefix('@'))} contains no prompt", '--prompt "" draws without words')
    return text


def _text(source: str) -> str:
    try:
        return inputs.read(source, LIST_BYTES, "a prompt").decode("utf-8-sig")
    except UnicodeDecodeError as error:
        what = f"{_name(source)} is not UTF-8 text: {error.reason} at byte {error.start}"
        raise IpaError(what, "save it as UTF-8") from error


def _name(source: str) -> str:
    return "stdin" if source == STDIN else source


def _parsed(text: str, where: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ConfigError(f"{where}: not JSON: {error}", f"write {_EXAMPLE}") from error


def _settings(said: Any, where: str) -> dict[str, Any]:
    if not isinstance(said, Mapping):
        raise ConfigError(f"{where}: not a JSON object", f"write {_EXAMPLE}")
    said = by_setting(said, where, ConfigError)
    for name in said:
        if name not in OF_A_LINE:
            raise ConfigError(
                f"{where}: unknown key '{name}'{suggest(name, OF_A_LINE)}", f"an object may have {', '.join(OF_A_LINE)}"
            )
    if not isinstance(said.get("prompt"), str):
        raise ConfigError(f"{where}: no prompt", f"write {_EXAMPLE}")
    values = {name: value for name, value in said.items() if value is not None}
    return {name: checked(name, from_json(name, value, where), where, ConfigError) for name, value in values.items()}
