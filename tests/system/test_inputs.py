"""Whatever a name leads to, reading it ends: with the content, or with a line that says why not."""

import os
import socket
import stat
import threading
import time
from contextlib import contextmanager
from pathlib import Path

import pytest

from ipa_cli.errors import IpaError, UsageError
from ipa_cli.system import inputs

LIMIT = 1_000_000


def refused(path: Path, message: str) -> IpaError:
    with pytest.raises(IpaError) as caught:
        inputs.read_bytes(path, LIMIT, "a picture")
    assert message in caught.value.message and caught.value.hint
    return caught.value


@contextmanager
def written(pipe: Path, data: bytes):
    """Somebody writes `data` into a named pipe, whether it is read or not."""
    os.mkfifo(pipe)
    writer = threading.Thread(target=lambda: pipe.write_bytes(data), daemon=True)
    writer.start()
    yield
    writer.join(5)


def test_files_and_links_to_them_are_read_whole(tmp_path):
    (tmp_path / "file").write_bytes(b"content")
    (tmp_path / "link").symlink_to("file")
    for name in ("file", "link"):
        assert inputs.read_bytes(tmp_path / name, 7, "a picture") == b"content"
    with pytest.raises(IpaError, match="link is larger than"):
        inputs.read_bytes(tmp_path / "link", 6, "a picture")


def test_a_file_that_is_not_there_is_reported_apart(tmp_path):
    (tmp_path / "file").write_bytes(b"content")
    for name in ("none", "file/below", "a\0b", "\ud800"):
        assert isinstance(refused(tmp_path / name, ""), inputs.MissingFile)


def test_endless_and_special_files_are_refused_at_once(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with socket.socket(socket.AF_UNIX) as unix:
        os.chdir(tmp_path)
        unix.bind("socket")
        started = time.monotonic()
        refused(tmp_path, "is a folder, not a picture")
        refused(tmp_path / "socket", "is a socket, not a picture")
        for device in ("/dev/zero", "/dev/null", "/dev/ptmx"):
            refused(Path(device), f"{device} is a device, not a picture")
    assert time.monotonic() - started < 10


def test_what_goes_wrong_within_the_time_limit_is_raised_as_it_is():
    with pytest.raises(ZeroDivisionError):
        inputs.within(30, lambda: 1 // 0)
    with pytest.raises(TimeoutError):
        inputs.within(0.05, lambda: time.sleep(1))
    assert inputs.within(30, lambda: "done") == "done"


def test_a_pipe_is_read_to_its_end(tmp_path):
    with written(tmp_path / "pipe", b"content"):
        assert inputs.read_bytes(tmp_path / "pipe", LIMIT, "a picture") == b"content"


def test_what_the_shell_hands_over_as_a_pipe_is_read():
    reading, writing = os.pipe()
    os.write(writing, b"content")
    os.close(writing)
    try:
        assert inputs.read_bytes(Path(f"/dev/fd/{reading}"), LIMIT, "a picture") == b"content"
    finally:
        os.close(reading)


def test_a_pipe_without_end_is_cut_off(tmp_path):
    with written(tmp_path / "pipe", bytes(LIMIT + 1)):
        refused(tmp_path / "pipe", "pipe is larger than 1 MB")


def test_reading_a_pipe_without_a_writer_times_out(tmp_path, monkeypatch):
    monkeypatch.setattr(inputs, "FIFO_SECONDS", 0.2)
    os.mkfifo(tmp_path / "pipe")
    refused(tmp_path / "pipe", "was not closed by its writer within 0.2 s")
    with (tmp_path / "pipe").open("r+b", buffering=0):  # opened, and silent
        refused(tmp_path / "pipe", "was not closed by its writer within 0.2 s")


def test_a_file_that_a_pipe_has_replaced_is_not_waited_for(tmp_path, monkeypatch):
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "file").write_bytes(b"content")
    before = (tmp_path / "file").stat()
    monkeypatch.setattr(Path, "stat", lambda self: before)
    assert stat.S_ISREG((tmp_path / "pipe").stat().st_mode)
    refused(tmp_path / "pipe", "was replaced while it was opened")


def test_stdin_is_read_to_its_end(stdin, tmp_path):
    (tmp_path / "file").write_bytes(b"content")
    with (tmp_path / "file").open("rb") as file:
        stdin(file.fileno())
        assert inputs.read_stdin(LIMIT, "a picture") == b"content"
    ours, theirs = socket.socketpair()  # what some programs give those they start
    with ours:
        stdin(theirs.fileno())
        theirs.close()
        ours.sendall(b"content")
        ours.shutdown(socket.SHUT_WR)
        assert inputs.read_stdin(LIMIT, "a picture") == b"content"


def test_stdin_that_is_silent_endless_or_a_terminal_is_refused(stdin, monkeypatch):
    monkeypatch.setattr(inputs, "PIPE_SECONDS", 0.2)
    reading, writing = os.pipe()
    stdin(reading)
    with pytest.raises(IpaError, match=r"stdin was not closed by its writer within 0.2 s"):
        inputs.read_stdin(LIMIT, "a picture")
    os.close(writing)
    os.close(reading)
    with Path("/dev/zero").open("rb") as zeros:
        stdin(zeros.fileno())
        with pytest.raises(IpaError, match=r"stdin is larger than 1 MB"):
            inputs.read_stdin(LIMIT, "a picture")
    main, terminal = os.openpty()
    stdin(terminal)
    with pytest.raises(UsageError, match="stdin is a terminal or closed: a picture should be piped in"):
        inputs.read_stdin(LIMIT, "a picture")
    os.close(main)
    os.close(terminal)
