"""Names from `--output`: inside their folder, and never one that exists."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from ipa_cli.errors import UsageError
from ipa_cli.images import filenames
from ipa_cli.images.filenames import plan_paths


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    (tmp_path / "out").mkdir()
    (tmp_path / "br{ce}").mkdir()
    (tmp_path / "taken.png").write_text("mine")
    return tmp_path


def fields(count=1, **changes):
    return [{"seed": 7 + i, "scale": 0.5, "index": i, "prompt": "A cat, on a mat!", **changes} for i in range(count)]


@pytest.mark.parametrize(
    ("output", "count", "names"),
    [
        (None, 2, ["ipa-7.png", "ipa-8.png"]),
        ("cat.png", 1, ["cat.png"]),
        ("cat.PNG", 1, ["cat.PNG"]),
        ("cat", 1, ["cat.png"]),
        ("v1.5", 1, ["v1.5.png"]),
        ("cat.{seed}", 1, ["cat.7.png"]),
        ("cat.png", 3, ["cat-1.png", "cat-2.png", "cat-3.png"]),
        ("taken.png", 1, ["taken-1.png"]),
        ("out", 1, ["out/ipa-7.png"]),
        ("out/", 1, ["out/ipa-7.png"]),
        ("new/", 1, ["new/ipa-7.png"]),
        ("br{ce}", 1, ["br{ce}/ipa-7.png"]),
        ("cat.webp", 1, ["cat.webp"]),
        ("cat.JPG", 2, ["cat-1.JPG", "cat-2.JPG"]),
        ("out/{seed}.avif", 1, ["out/7.avif"]),
        ("~/x.png", 1, ["home/x.png"]),
        ("out/{prompt}-{scale}", 1, ["out/A-cat-on-a-mat-0.5.png"]),
        ("{index:03}-{scale:.2f}.png", 2, ["000-0.50.png", "001-0.50.png"]),
        ("{prompt}.png", 2, ["A-cat-on-a-mat.png", "A-cat-on-a-mat-1.png"]),
        ("{{{seed}}}.png", 1, ["{7}.png"]),
        ("{seed}/x.png", 2, ["7/x.png", "8/x.png"]),
    ],
)
def test_outputs_become_paths(here, output, count, names):
    paths = plan_paths(output, fields(count))
    assert [os.path.relpath(path) for path in paths] == names


def test_force_keeps_the_names_but_never_gives_one_twice(here):
    (here / "cat-1.png").write_text("mine")
    assert plan_paths("taken.png", fields(), force=True) == [Path("taken.png")]
    assert plan_paths("cat.png", fields(2), force=True) == [Path("cat-1.png"), Path("cat-2.png")]
    assert plan_paths("cat.png", fields(2)) == [Path("cat-2.png"), Path("cat-3.png")]
    same = plan_paths(None, fields(3, seed=7), force=True)
    assert same == [Path("ipa-7.png"), Path("ipa-7-1.png"), Path("ipa-7-2.png")]


def test_scales_of_several_adapters_make_a_name(here):
    assert plan_paths("{scale}.png", fields(scale=[0.5, 1.0])) == [Path("0.5-1.png")]
    assert plan_paths("{scale}.png", fields(scale="style/../x")) == [Path("style-x.png")]


@pytest.mark.parametrize(
    ("output", "message"),
    [
        ("", "is not a file name"),
        ("a\0b.png", "is not a file name"),
        ("{sed}.png", "unknown placeholder {sed}"),
        ("{}.png", "unknown placeholder {}"),
        ("{seed.real}.png", "unknown placeholder"),
        ("{prompt[0]}.png", "unknown placeholder"),
        ("{seed!r}.png", "not understood"),
        ("{seed:999999999}.png", "not understood"),
        ("{seed:{index}}.png", "not understood"),
        ("{prompt:5}.png", "not understood"),
        ("{scale:d}.png", "cannot be written as d"),
        ("{seed.png", "expected '}'"),
        ("cat.gif", "not .gif"),
        ("out/{seed}.bmp", "not .bmp"),
        ("/dev/null", "not a regular file"),
        ("/dev/stdin", "not a regular file"),
        ("x" * 300, "too long"),
        ("~nobody-of-that-name/x.png", "home directory"),
    ],
)
def test_wrong_outputs_are_refused(here, output, message):
    with pytest.raises(UsageError) as caught:
        plan_paths(output, fields())
    assert message in caught.value.message
    assert caught.value.hint


def test_the_hint_for_another_suffix_can_be_typed(here):
    with pytest.raises(UsageError) as caught:
        plan_paths("my cat.gif", fields())
    assert caught.value.hint == "--output 'my cat.png'"


@given(st.text())
@example("../../etc/passwd")
@example("ด้วย" * 40)
@example("a" * 79 + "é")
def test_a_prompt_never_leaves_its_folder(prompt):
    [path] = plan_paths("/nonexistent/{prompt}.png", fields(prompt=prompt))
    assert path.parent == Path("/nonexistent")
    assert path.suffix == ".png" and not path.name.startswith((".", "-"))
    assert len(os.fsencode(path.name)) <= 84


def test_letters_of_any_script_stay():
    assert filenames.slug("Käse & 日本の猫 🐈 / हिन्दी") == "Käse-日本の猫-हिन्दी"
    assert filenames.slug("?!") == "picture"


@given(st.text(alphabet="{}:!.[]seedscale/ \\~0x", max_size=20))
def test_any_output_gives_paths_or_a_usage_error(tmp_path_factory, output):
    try:
        assert len(plan_paths(output, fields(2))) == 2
    except UsageError as error:
        assert error.hint


def test_the_module_imports_no_pillow():
    modules = "ipa_cli.images.encode, ipa_cli.images.metadata, ipa_cli.images.reference"
    code = f"import sys, {modules}; print({{'PIL', 'torch', 'numpy'}} & set(sys.modules))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout == "set()\n"
