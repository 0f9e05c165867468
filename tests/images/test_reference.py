"""Which pictures a name, a folder or a pattern stands for."""

import hashlib
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from ipa_cli.errors import IpaError, UsageError
from ipa_cli.images import reference
from ipa_cli.images.reference import expand, load
from tests.images.pictures import HALVES, refused, saved


@pytest.fixture
def folder(tmp_path, monkeypatch):
    for name in ("cat10.png", "cat2.png", "Cat1.JPG", "dog.webp", "dog.gif", "my.cat.png"):
        saved(tmp_path / name)
    (tmp_path / "notes.txt").write_text("no picture")
    (tmp_path / ".hidden.png").write_text("")
    (tmp_path / "sub.png").mkdir()
    (tmp_path / "empty").mkdir()
    monkeypatch.setenv("HOME", str(tmp_path))
    return tmp_path


def test_a_folder_is_every_picture_in_natural_order(folder):
    expected = ["Cat1.JPG", "cat2.png", "cat10.png", "dog.gif", "dog.webp", "my.cat.png"]
    for typed in (f"{folder}", f"{folder}/", "~", "~/"):
        assert expand(typed) == [str(folder / name) for name in expected]


def test_a_file_and_a_name_without_suffix_are_one_picture(folder, monkeypatch):
    assert expand(f"{folder}/cat2.png") == [f"{folder}/cat2.png"]
    assert expand(f"{folder}/notes.txt") == [f"{folder}/notes.txt"]  # loading will say what it is
    assert expand(f"{folder}/cat2") == [f"{folder}/cat2.png"]
    assert expand(f"{folder}/my.cat") == [f"{folder}/my.cat.png"]
    assert expand("~/cat2") == [f"{folder}/cat2.png"]
    monkeypatch.chdir(folder)
    assert expand("cat2") == ["cat2.png"]
    assert load("~/cat2.png").width == 64


@pytest.mark.parametrize(
    ("typed", "message", "hint"),
    [
        ("{}/dog", "could be any of dog.gif, dog.webp", "name one: {}/dog.gif"),
        ("{}/catt2.png", "does not exist", "did you mean {}/cat2.png?"),
        ("{}/catt2", "does not exist", "did you mean {}/cat2.png?"),
        ("{}/CAT2.PNG", "does not exist", "did you mean {}/cat2.png?"),
        ("{}/x2.png", "does not exist", "check the path"),
        ("{}/zzzzzzzzz", "does not exist", "check the path"),
        ("{}/none/cat.png", "there is no folder {}/none", "check the path"),
        ("{}/cat2.png/x.png", "there is no folder {}/cat2.png", "check the path"),
        ("{}/empty/", "no picture in {}/empty", "pictures end in .png"),
        ("{}/" + "x" * 300, "File name too long", "check the path"),
        ("~nobody-of-that-name/x", "home directory", "write the folder in full"),
        ("", "is not a picture's name", "--image cat.png"),
        ("a\0b", "is not a picture's name", "--image cat.png"),
    ],
)
def test_a_name_without_a_picture_gets_a_suggestion(folder, typed, message, hint):
    with pytest.raises(IpaError) as caught:
        expand(typed.format(folder))
    assert message.format(folder) in caught.value.message
    assert caught.value.hint.startswith(hint.format(folder))


def test_suffixes_that_people_have_are_pictures_too(tmp_path):
    for suffix in (".jfif", ".jpe", ".JPEG", ".apng", ".mpo"):
        saved(tmp_path / f"a{suffix}", format="PNG")
    assert len(expand(str(tmp_path))) == 5


def test_a_pattern_is_every_picture_it_matches_in_natural_order(folder):
    below = folder / "sub.png" / "deep"
    below.mkdir()
    for name in ("cat3.png", "cat12.png"):
        saved(below / name)
    named = {
        "cat*.png": ["cat2.png", "cat10.png"],
        "*": ["Cat1.JPG", "cat2.png", "cat10.png", "dog.gif", "dog.webp", "my.cat.png"],
        "[cd]?[tg].*": ["dog.gif", "dog.webp"],
        "**/cat*.png": ["cat2.png", "cat10.png", "sub.png/deep/cat3.png", "sub.png/deep/cat12.png"],
    }
    for pattern, names in named.items():
        assert expand(f"{folder}/{pattern}") == expand(f"~/{pattern}") == [f"{folder}/{name}" for name in names]
    saved(folder / "cat[2].png")
    assert expand(f"{folder}/cat[2].png") == [f"{folder}/cat[2].png"]  # there is one of that very name
    with pytest.raises(IpaError, match="no picture in"):
        expand(f"{folder}/bird*.png")


def test_pictures_that_cannot_be_read_are_reported_of(folder, monkeypatch):
    monkeypatch.setitem(sys.modules, "pillow_heif", None)
    monkeypatch.delitem(Image.OPEN, "HEIF", raising=False)
    for name in ("IMG_2.HEIC", "IMG_10.heif", "raw.cr2", "logo.svg"):
        (folder / name).write_bytes(b"")
    notes = []
    assert len(expand(str(folder), notes.append)) == 6
    assert notes == [
        f"{folder}: left out IMG_2.HEIC, IMG_10.heif: HEIC needs the package pillow-heif",
        f"{folder}: left out logo.svg, raw.cr2: not a supported format",
    ]
    with pytest.raises(IpaError, match="no picture in") as caught:
        expand(f"{folder}/IMG*")
    assert caught.value.hint == "pip install pillow-heif"


def test_a_pattern_enters_each_folder_once_though_links_lead_in_circles(folder):
    (folder / "a/b/.hidden").mkdir(parents=True)
    for name in ("a/1.png", "a/b/2.png", "a/b/.hidden/3.png"):
        Image.new("RGB", (8, 8)).save(folder / name)
    for name in ("one", "two", "a/up"):
        (folder / name).symlink_to(folder)
    below = [f"{folder}/a/1.png", f"{folder}/a/b/2.png"]
    top = expand(f"{folder}/*.png")
    assert sorted(expand(f"{folder}/**/*.png")) == sorted([*top, *below])
    assert sorted(expand(f"{folder}/**/**/**/**/**/*.png")) == sorted([*top, *below])
    assert sorted(expand(f"{folder}/a/**/[0-9].png")) == below and expand(f"{folder}/**/b/**/*.png") == below[1:]
    assert set(expand(f"{folder}/a/**")) >= set(below)
    with pytest.raises(UsageError, match=r"more than two \*\* in a pattern"):
        expand(f"{folder}/**/a/**/a/**/a.png")


def test_links_that_lead_nowhere_are_reported_of(folder):
    """As git-annex leaves them for what was not fetched."""
    (folder / "lost.png").symlink_to("nowhere/lost.png")
    (folder / "lost.txt").symlink_to("nowhere/lost.txt")
    notes = []
    assert len(expand(str(folder), notes.append)) == 6
    assert notes == [f"{folder}: left out lost.png: links that lead nowhere"]
    with pytest.raises(IpaError, match="no picture in") as caught:
        expand(f"{folder}/los*")
    assert caught.value.hint == "fetch what the links in it lead to"
    with pytest.raises(IpaError, match=r"lost\.png is a link that leads nowhere") as caught:
        load(f"{folder}/lost.png")
    assert caught.value.hint == "fetch what it leads to"


def test_loading_what_is_not_there_gets_a_suggestion_too(folder):
    assert refused(f"{folder}/catt2.png", "does not exist").hint == f"did you mean {folder}/cat2.png?"


def test_names_are_compared_no_more_where_many_are_missing(folder):
    """A batch of 100,000 whose pictures are elsewhere took 30 ms for each."""
    hints = [refused(f"{folder}/catt2.png", "does not exist").hint for _ in range(reference.MISSPELT + 1)]
    assert set(hints[:-1]) == {f"did you mean {folder}/cat2.png?"} and hints[-1] == "check the path"


def test_a_name_is_not_compared_with_those_of_a_large_folder(tmp_path):
    for number in range(reference.COMPARED + 1):
        Path(tmp_path, f"{number}.png").touch()
    assert refused(f"{tmp_path}/x7.png", "does not exist").hint == "check the path"


@pytest.mark.parametrize(
    "url",
    [
        "file:///etc/passwd",
        "file:/etc/passwd",
        "FTP://host/cat.png",
        "data:image/png;base64,AAAA",
        "gopher://host/",
        "http://",
        "http:///cat.png",
        "http://[::1/cat.png",
        "http://host:port/cat.png",
        "http://" + "ü" * 100 + "/cat.png",
        "http://" + "a" * 64 + ".org/cat.png",
        "http://a..b/cat.png",
        "http://.org/cat.png",
        "http://\u2024/cat.png",
        "https://me:secret@host/cat.png",
    ],
)
def test_other_addresses_are_refused(url):
    for action in (expand, load):
        with pytest.raises(UsageError) as caught:
            action(url)
        assert caught.value.hint and "secret" not in caught.value.message


def test_a_reference_says_where_it_came_from(tmp_path):
    path = saved(tmp_path / "cat.png")
    reference = load(path)
    assert reference.image.tobytes() == HALVES.tobytes()
    assert (reference.source, reference.width, reference.height, reference.notes) == (path, 64, 32, ())
    assert reference.sha256 == hashlib.sha256(Path(path).read_bytes()).hexdigest()


def test_a_folder_is_not_loaded(tmp_path):
    refused(str(tmp_path), "is a folder")


def test_an_unreadable_file_is_reported(tmp_path):
    path = Path(saved(tmp_path / "cat.png"))
    path.chmod(0)
    code = f"""
import os
from ipa_cli.errors import IpaError
from ipa_cli.images.reference import load
if os.geteuid() == 0:
    os.setuid(65534)  # root may read anything
try:
    load({str(path)!r})
except IpaError as error:
    print(error.message)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout == f"{path} cannot be read: Permission denied\n", done.stderr


@given(st.text(max_size=30) | st.text(max_size=20).map("http://".__add__))
def test_any_typed_text_names_pictures_or_is_refused(text):
    try:
        assert all(isinstance(name, str) for name in expand(text))
    except IpaError as error:
        assert error.hint


def test_a_path_as_windows_writes_it_is_suggested_as_it_is_here(world):
    Path("pics").mkdir()
    Image.new("RGB", (8, 8)).save("pics/cat.png")
    with pytest.raises(IpaError) as missing:
        reference.expand(r"pics\cat.png")
    assert missing.value.hint == "did you mean pics/cat.png?"
