"""Prompts as people give them: what is read, and what is refused or told."""

from pathlib import Path

import pytest

from ipa_cli.config import ConfigError
from ipa_cli.errors import IpaError
from ipa_cli.pipeline import prompts
from ipa_cli.result import KeepingReporter


def test_words_files_and_a_doubled_at_sign(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "fox.txt").write_bytes(b"\xef\xbb\xbfa red fox,\nin the snow \n")
    words = ["a cat", "", "@fox.txt", "@@home", "a@b", "--"]
    assert prompts.typed(words) == ["a cat", "", "a red fox,\nin the snow", "@home", "a@b", "--"]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "does not exist"),
        (b"caf\xe9", "not UTF-8 text"),
        (b"\xff\xfea\0", "not UTF-8 text"),
        (b"x" * 16_000_001, "larger than 16 MB"),
    ],
)
def test_a_file_that_is_no_prompt_is_reported(tmp_path, content, message):
    if content is not None:
        (tmp_path / "fox.txt").write_bytes(content)
    for read in (lambda: prompts.typed([f"@{tmp_path}/fox.txt"]), lambda: prompts.listed(f"{tmp_path}/fox.txt")):
        with pytest.raises(IpaError, match=message) as caught:
            read()
        assert "fox.txt" in caught.value.message and caught.value.hint


def test_a_prompt_from_a_file_or_a_pipe_without_any_is_an_error(tmp_path, stdin):
    (tmp_path / "empty.txt").write_text("\ufeff \n", "utf-8")
    with (tmp_path / "empty.txt").open("rb") as file:
        stdin(file.fileno())
        for word, name in (("-", "stdin"), (f"@{tmp_path}/empty.txt", "empty.txt")):
            with pytest.raises(IpaError, match=f"{name} contains no prompt") as caught:
                prompts.typed([word])
            assert caught.value.hint == '--prompt "" draws without words'


def test_a_list_is_a_prompt_a_line(tmp_path):
    (tmp_path / "list.txt").write_text("a fox\r\n\n  {a|b} cat \n@dog\n", "utf-8")
    assert prompts.listed(f"{tmp_path}/list.txt") == [{"prompt": "a fox"}, {"prompt": "{a|b} cat"}, {"prompt": "@dog"}]


@pytest.mark.parametrize("first", ["prompt,scale", '"prompt";"scale"', "id\tPrompt", "prompt"])
def test_a_table_is_no_list(tmp_path, first):
    """Its first line would be drawn."""
    (tmp_path / "list.csv").write_text(f"{first}\na star,0.5\n")
    with pytest.raises(ConfigError, match="is a table with a column prompt"):
        prompts.listed(str(tmp_path / "list.csv"))


@pytest.mark.parametrize("name", ["list.jsonl", "list"])
def test_a_list_may_be_json_lines(tmp_path, name):
    lines = [
        '{"prompt": "a\\nfox", "seed": 3}',
        "",
        '{"prompt": "", "negative_prompt": "x", "num_images": 2, "seed": null}',
    ]
    (tmp_path / name).write_text("\n".join(lines), "utf-8")
    assert prompts.listed(f"{tmp_path}/{name}") == [
        {"prompt": "a\nfox", "seed": 3},
        {"prompt": "", "negative_prompt": "x", "num_images": 2},
    ]


@pytest.mark.parametrize("begin", ["{", '{ "prompt": "a fox" } x', "[", '["a fox"', '["a fox", [1]]'])
def test_json_that_is_no_object_a_line_is_not_drawn_as_words(tmp_path, begin):
    (tmp_path / "list.txt").write_text(f"{begin}\n", "utf-8")
    with pytest.raises(IpaError, match=r"list\.txt(, line 1|, prompt 2)?: not"):
        prompts.listed(f"{tmp_path}/list.txt")


@pytest.mark.parametrize("name", ["list.json", "list"])
def test_a_list_may_be_one_json_list_of_objects_or_texts(tmp_path, name):
    (tmp_path / name).write_text('[\n {"prompt": "a fox",\n  "seed": 3}, "a cat"\n]\n', "utf-8")
    assert prompts.listed(f"{tmp_path}/{name}") == [{"prompt": "a fox", "seed": 3}, {"prompt": "a cat"}]
    (tmp_path / "empty.json").write_text("[]", "utf-8")
    with pytest.raises(IpaError, match="contains no prompt"):
        prompts.listed(f"{tmp_path}/empty.json")


@pytest.mark.parametrize("mark", ["\u2028", "\x85", "\f", "\x1c"])
def test_only_line_ends_end_a_line(tmp_path, mark):
    (tmp_path / "list").write_bytes(f"a{mark}fox\r[red] cat\r\ndog".encode())
    assert [said["prompt"] for said in prompts.listed(f"{tmp_path}/list")] == [f"a{mark}fox", "[red] cat", "dog"]
    (tmp_path / "list.jsonl").write_text('{"prompt": "a\u2028fox"}\n', "utf-8")
    assert prompts.listed(f"{tmp_path}/list.jsonl") == [{"prompt": "a\u2028fox"}]


def test_a_folder_without_an_owner_is_reported():
    with pytest.raises(IpaError, match="~nobody-of-that-name/x"):
        prompts.typed(["@~nobody-of-that-name/x"])


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("", "contains no prompt"),
        ("a fox", "line 1: not JSON"),
        ("[1]", "prompt 1: not a JSON object"),
        ("[" * 10_000, "not JSON"),
        ('{"seed": 1}', "line 1: no prompt"),
        ('{"prompt": ["a"]}', "line 1: no prompt"),
        ('{"prompt": "a", "sead": 1}', "unknown key 'sead'; did you mean 'seed'?"),
        ('{"prompt": "a", "num-images": 2, "num_images": 3}', "num_images is given twice"),
        ('{"prompt": "a", "width": 64}', "unknown key 'width'"),
        ('{"prompt": "a", "seed": -1}', "seed = -1: expected a number from 0"),
        ('{"prompt": "a", "seed": 1.5}', "seed = 1.5: expected a whole number"),
        ('{"prompt": "a", "num_images": 0}', "num_images = 0"),
        ('{"prompt": "a", "negative_prompt": 3}', "negative_prompt = 3: expected a string"),
        ('{"prompt": "\\ud800"}', "prompt"),
    ],
)
def test_a_line_that_says_something_else_is_reported_with_its_number(tmp_path, line, message):
    (tmp_path / "list.jsonl").write_text(line, "utf-8")
    with pytest.raises(IpaError) as caught:
        prompts.listed(f"{tmp_path}/list.jsonl")
    assert message in caught.value.message and caught.value.hint


@pytest.mark.parametrize(
    ("syntax", "spelling"),
    [
        *(("literal", one) for one in ("(red star:1.4)", "(a:.5)", "((red star))", "[red star]", "[red:blue:0.5]")),
        *(("literal", one) for one in ("<lora:x:0.8>", "embedding:easynegative", "BREAK", "AND")),
        *(("comfyui", one) for one in ("[red star]", "<lora:x:0.8>", "BREAK", "AND")),
        ("a1111", "<hypernet:a:1>"),
    ],
)
def test_what_is_spelt_for_other_programs_is_reported_once(syntax, spelling):
    reporter = KeepingReporter()
    prompts.check([f"a fox, {spelling}, in the snow", spelling], syntax, reporter)
    assert reporter.warnings == [f"in a prompt, read as plain words (--prompt-syntax {syntax}): {spelling}"]


@pytest.mark.parametrize(("syntax", "warned"), [("a1111", True), ("comfyui", True), ("literal", False)])
def test_a_weight_with_a_decimal_comma_is_reported_once(syntax, warned):
    reporter = KeepingReporter()
    prompts.check(["(a red star:1,3) in the snow", "(a red star:1,3), (one: 2, or three)"], syntax, reporter)
    said = "in a prompt, (a red star:1,3) is read as words, since a weight has a point: (a red star:1.3)"
    assert reporter.warnings == [said] * warned


@pytest.mark.parametrize("syntax", ["a1111", "comfyui", "literal"])
def test_plain_prompts_give_no_warning(syntax):
    reporter = KeepingReporter()
    prompts.check(
        ["a cat (Siamese), 16:9, 3 < 4 and a BREAKFAST: SAND", "Mr. Fox: 'no' (at 10:30 pm)"], syntax, reporter
    )
    assert reporter.warnings == []


def test_what_may_surprise_is_told_once_for_all_prompts():
    reporter = KeepingReporter()
    prompts.check(["a (fox", "a cat (in the snow", "(a) cat"], "a1111", reporter)
    assert reporter.warnings == ["in a prompt, a ( is not closed: its weight reaches to the end"]


@pytest.mark.parametrize("command", ["generate", "sweep-scale"])
@pytest.mark.parametrize("flags", [("--prompt", "a [red:blue:0.5] star"), ("--negative-prompt", "(dull:9000)")])
def test_a_prompt_that_would_be_misread_is_refused_before_a_model_is_loaded(ipa, command, flags):
    ran = ipa(command, *flags, *(("--scales", "0,1") if command == "sweep-scale" else ()))
    assert ran.exit_code == 2 and "loading" not in ran.stderr
    assert "scheduled words" in ran.stderr or "the weight 9000 of 'dull'" in ran.stderr


@pytest.mark.parametrize("command", ["generate", "sweep-scale"])
@pytest.mark.parametrize(
    "flags", [("--prompt", "@long.txt", "--prompt", "a star"), ("--negative-prompt", "x" * 200_000)]
)
def test_a_prompt_without_end_is_refused_before_a_model_is_loaded(ipa, command, flags):
    Path("long.txt").write_text("star " * 30_000)
    ran = ipa(command, *flags)
    assert ran.exit_code == 2 and "100000 characters" in ran.stderr and "loading" not in ran.stderr
    assert len(ran.stderr) < 500
