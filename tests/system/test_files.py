"""The one writer of files: what it never follows, never replaces and never leaves behind."""

import ast
import errno
import os
import re
import socket
import stat
from pathlib import Path

import pytest

from ipa_cli.errors import IpaError
from ipa_cli.system import files
from tests.test_layering import MODULES, named, nodes

WRITING = re.compile(r"\.(write_bytes|write_text|save|savez|savez_compressed|mkstemp|NamedTemporaryFile|copyfile)$")


def listing(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def writes(call: ast.Call) -> bool:
    """Whether a call makes or changes a file that it names."""
    name = named(call.func)
    if name.endswith("open") and not name.startswith("os."):
        modes = [argument.value for argument in call.args + [keyword.value for keyword in call.keywords]
                 if isinstance(argument, ast.Constant) and isinstance(argument.value, str)]  # fmt: skip
        return any(re.fullmatch(r"[rb+t]*[wax+][wax+bt:]*", mode) for mode in modes)
    if name == "os.open":
        return any(flag in ast.unparse(call) for flag in ("O_WRONLY", "O_RDWR", "O_CREAT"))
    if name == "encode.save":  # ours
        return False
    # A first argument is the file: a picture saved into memory is no writer of files.
    return bool(WRITING.search("." + name)) and not (call.args and ast.unparse(call.args[0]) in ("buffer", "file"))


# Everything else that makes a file, and where it can: folders of our own that nobody else can prepare.
WRITERS = {
    "system/files": "the writer itself",
    "app": "/dev/null in place of a closed stream",
    "batch/output": "a file in a bucket, of the URL that --output names",
    "batch/devices": "a new temporary folder",
    "bench/process": "a new temporary folder",
    "engine/pair/process": "a new temporary folder",
    "doctor/compiler": "a new temporary folder",
    "backends/inductor/compilation": "the workspace of a graph",
    "backends/inductor/decoder": "the workspace of a graph",
    "backends/inductor/worker_pool": "the workspace of a graph",
    "backends/onediff/nexfort": "a temporary folder of this process",
    "backends/oneflow/backend": "the workspace of a graph; /dev/null in place of stderr",
    "cache/archive": "the workspace of an import, O_EXCL and O_NOFOLLOW",
    "cache/building": "the workspace of a graph; the journal of its uses, O_NOFOLLOW",
    "cache/checking": "the private copies of a graph, O_EXCL",
    "cache/signature": "the key of this user, O_EXCL in a folder of their own",
    "cache/scratch": "the cache's own folder",
    "engine/embed": "safetensors in memory",
}


@pytest.mark.slow
def test_every_writer_is_known():
    found = {module for module in MODULES if any(isinstance(node, ast.Call) and writes(node) for node in nodes(module))}
    assert found == set(WRITERS)


@pytest.mark.parametrize(
    ("code", "expected"),
    [
        ("open('x', 'w')", True),
        ("path.open('ab')", True),
        ("path.open(mode='r+b')", True),
        ("os.open(path, os.O_RDWR)", True),
        ("path.write_text('x')", True),
        ("tarfile.open(path, 'x:')", True),
        ("np.savez(path)", True),
        ("image.save(path)", True),
        ("image.save(buffer, 'PNG')", False),
        ("path.open('rb')", False),
        ("Image.open(path, formats=['PNG'])", False),
        ("os.open(path, os.O_RDONLY)", False),
    ],
)
def test_a_writer_is_seen(code, expected):
    assert writes(ast.parse(code, mode="eval").body) is expected


WAYS = {
    "replace": lambda path: files.replace(path, b"new"),
    "force": lambda path: files.write(path, b"new", force=True),
    "append": lambda path: files.append(path, b"new"),
    "check": lambda path: files.check_writable(path, replacing=True),
}


def make(kind: str, path: Path) -> None:
    if kind == "a link":
        path.symlink_to(path.with_name("mine"))
    elif kind == "a folder":
        path.mkdir()
    elif kind == "a pipe":
        os.mkfifo(path)
    elif kind == "a socket":
        socket.socket(socket.AF_UNIX).bind(str(path))
    else:
        os.mknod(path, stat.S_IFCHR | 0o600, os.makedev(1, 3))


@pytest.mark.parametrize("kind", ["a link", "a folder", "a pipe", "a socket", "a device"])
@pytest.mark.parametrize("way", WAYS)
def test_only_plain_files_are_replaced(tmp_path, monkeypatch, way, kind):
    if kind == "a device" and os.geteuid() != 0:
        pytest.skip("only root makes devices")
    monkeypatch.chdir(tmp_path)  # the name of a socket is short
    (tmp_path / "mine").write_bytes(b"mine")
    make(kind, Path("cat.png"))
    before = Path("cat.png").lstat()
    with pytest.raises(IpaError, match=f"^cat.png is {kind}: only regular files are replaced") as caught:
        WAYS[way](Path("cat.png"))
    assert caught.value.hint
    assert (Path("cat.png").lstat().st_ino, Path("cat.png").lstat().st_mode) == (before.st_ino, before.st_mode)
    assert (tmp_path / "mine").read_bytes() == b"mine" and listing(tmp_path) == ["cat.png", "mine"]


@pytest.mark.parametrize("kind", ["a link", "a folder", "a pipe"])
def test_a_new_file_gets_another_name(tmp_path, kind):
    make(kind, tmp_path / "cat.png")
    assert files.create(tmp_path / "cat.png", b"new") == tmp_path / "cat-1.png"


def test_the_link_that_is_made_meanwhile_is_not_followed(tmp_path, monkeypatch):
    (tmp_path / "mine").write_bytes(b"mine")

    def prepared(descriptor):
        (tmp_path / "cat.png").symlink_to("mine")

    monkeypatch.setattr(os, "fsync", prepared)
    with pytest.raises(IpaError, match="is a link"):
        files.replace(tmp_path / "cat.png", b"new")
    assert (tmp_path / "mine").read_bytes() == b"mine" and listing(tmp_path) == ["cat.png", "mine"]


def test_temporary_names_cannot_be_guessed(tmp_path, monkeypatch):
    names = []

    def seen(descriptor):
        names.extend(name for name in listing(tmp_path) if name.endswith(".tmp"))

    monkeypatch.setattr(os, "fsync", seen)
    for _ in range(2):
        files.replace(tmp_path / "cat.png", b"new")
    assert len(set(names)) == 2 and all(re.fullmatch(r"\.ipa-[0-9a-f]{16}\.tmp", name) for name in names)
    monkeypatch.setattr(files.secrets, "token_hex", lambda count: "known")
    (tmp_path / "mine").write_bytes(b"mine")
    (tmp_path / ".ipa-known.tmp").symlink_to("mine")
    with pytest.raises(IpaError, match="File exists"):
        files.replace(tmp_path / "cat.png", b"newer")
    assert (tmp_path / "mine").read_bytes() == b"mine" and (tmp_path / "cat.png").read_bytes() == b"new"


def test_a_replaced_file_keeps_its_permissions(tmp_path):
    (tmp_path / "cat.png").write_bytes(b"old")
    (tmp_path / "cat.png").chmod(0o600)
    files.replace(tmp_path / "cat.png", b"new")
    assert stat.S_IMODE((tmp_path / "cat.png").stat().st_mode) == 0o600


@pytest.mark.parametrize("interruption", [KeyboardInterrupt, SystemExit, OSError(errno.ENOSPC, "full")])
def test_nothing_is_left_of_a_write_that_ends_early(tmp_path, monkeypatch, interruption):
    (tmp_path / "sheet.png").write_bytes(b"old")

    def end(descriptor):
        raise interruption

    monkeypatch.setattr(os, "fsync", end)
    for write in (files.replace, files.create):
        with pytest.raises((KeyboardInterrupt, SystemExit, IpaError)):
            write(tmp_path / "sheet.png", b"new")
    with pytest.raises(ZeroDivisionError), files.replacing(tmp_path / "sheet.png") as file:
        file.write(b"new")
        raise ZeroDivisionError
    assert listing(tmp_path) == ["sheet.png"] and (tmp_path / "sheet.png").read_bytes() == b"old"


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT])
def test_a_full_disk_is_named(tmp_path, monkeypatch, number):
    def full(descriptor):
        raise OSError(number, "full")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(IpaError, match=f"no space left on the disk of {tmp_path}") as caught:
        files.create(tmp_path / "cat.png", b"new")
    assert "free some space" in caught.value.hint


def test_without_hard_links_a_failed_move_gives_the_name_back(tmp_path, monkeypatch):
    def refuse(*_):
        raise OSError(errno.EPERM, "not on this disk")

    monkeypatch.setattr(os, "link", refuse)
    assert files.create(tmp_path / "cat.png", b"new") == tmp_path / "cat.png"
    monkeypatch.setattr(Path, "replace", refuse)
    with pytest.raises(IpaError):
        files.create(tmp_path / "dog.png", b"new")
    assert listing(tmp_path) == ["cat.png"] and (tmp_path / "cat.png").read_bytes() == b"new"


def test_without_overwriting_what_came_meanwhile_stays(tmp_path):
    with pytest.raises(IpaError, match="File exists"), files.replacing(tmp_path / "x.tar", overwrite=False) as file:
        file.write(b"new")
        (tmp_path / "x.tar").write_bytes(b"mine")
    assert (tmp_path / "x.tar").read_bytes() == b"mine" and listing(tmp_path) == ["x.tar"]


@pytest.mark.parametrize("name", ["x" * 300, "a\0b", "x/" * 3000, "/", "."])
@pytest.mark.parametrize("way", WAYS)
def test_impossible_names_are_one_line(tmp_path, monkeypatch, way, name):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(IpaError) as caught:
        WAYS[way](Path(name))
    assert "\n" not in caught.value.message and caught.value.hint and listing(tmp_path) == []


def test_a_name_that_the_system_cannot_spell_is_one_line(tmp_path):
    """As any beyond ASCII with LC_ALL=C, where PYTHONUTF8 is 0."""
    with pytest.raises(IpaError, match=r"ud800.png' cannot be written where names of files are utf-8"):
        files.replace(tmp_path / "\ud800.png", b"")


def test_make_folder_refuses_a_link(tmp_path):
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "pictures").symlink_to("elsewhere")
    with pytest.raises(IpaError, match="is a link"):
        files.make_folder(tmp_path / "pictures")
    files.make_folder(tmp_path / "a" / "b")
    assert (tmp_path / "a" / "b").is_dir()


def test_appending_begins_a_file(tmp_path):
    for line in (b"one\n", b"two\n"):
        files.append(tmp_path / "results.jsonl", line)
    assert (tmp_path / "results.jsonl").read_bytes() == b"one\ntwo\n"
