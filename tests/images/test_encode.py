"""Pictures are written with their settings, whole or not at all."""

import errno
import hashlib
import json
import os
import resource
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from PIL import Image

from ipa_cli.errors import IpaError
from ipa_cli.images.encode import save
from ipa_cli.images.metadata import read_settings
from ipa_cli.system.files import check_writable
from tests.images.carried import PICTURE, SETTINGS, listing
from tests.images.test_infotext import a1111


def test_settings_come_back_whole(tmp_path):
    odd = {**SETTINGS, "prompt": "Négative\n\n 日本 🐈 \0 \udcff\nNegative prompt: x\nSteps: 1, Seed: 2, Size: 3x4"}
    saved = save(tmp_path / "cat.png", PICTURE, odd)
    assert saved.path == tmp_path / "cat.png"
    assert saved.sha256 == hashlib.sha256(saved.path.read_bytes()).hexdigest()
    assert read_settings(saved.path) == {**odd, "schema_version": 1}
    with Image.open(saved.path) as image:
        assert image.tobytes() == PICTURE.tobytes()


def test_the_png_carries_both_chunks_before_the_pixels(tmp_path):
    save(tmp_path / "cat.png", PICTURE, {**SETTINGS, "prompt": "日本"})
    with Image.open(tmp_path / "cat.png") as image:
        assert a1111(image.info["parameters"])["Prompt"] == "日本"
        assert json.loads(image.info["ipa"])["prompt"] == "日本"


def test_equal_settings_give_equal_bytes(tmp_path):
    first = save(tmp_path / "a.png", PICTURE, SETTINGS)
    second = save(tmp_path / "b.png", PICTURE.copy(), dict(reversed(SETTINGS.items())))
    other = save(tmp_path / "c.png", PICTURE, {**SETTINGS, "seed": 43})
    assert first.sha256 == second.sha256 != other.sha256


def test_an_existing_file_is_kept_and_a_number_added(tmp_path):
    (tmp_path / "cat.png").write_text("mine")
    (tmp_path / "cat-1.png").symlink_to("nowhere")
    assert save(tmp_path / "cat.png", PICTURE, SETTINGS).path == tmp_path / "cat-2.png"
    assert (tmp_path / "cat.png").read_text() == "mine"
    assert save(tmp_path / "cat.png", PICTURE, SETTINGS, force=True).path == tmp_path / "cat.png"
    assert read_settings(tmp_path / "cat.png")["seed"] == 42
    assert listing(tmp_path) == ["cat-1.png", "cat-2.png", "cat.png"]


def test_without_hard_links_nothing_is_overwritten_either(tmp_path, monkeypatch):
    def link(source, target):
        raise OSError(errno.EPERM, "Operation not permitted")

    monkeypatch.setattr(os, "link", link)
    (tmp_path / "cat.png").write_text("mine")
    assert save(tmp_path / "cat.png", PICTURE, SETTINGS).path == tmp_path / "cat-1.png"
    assert (tmp_path / "cat.png").read_text() == "mine"

    def replace(self, target):
        raise KeyboardInterrupt

    monkeypatch.setattr(Path, "replace", replace)
    with pytest.raises(KeyboardInterrupt):
        save(tmp_path / "cat.png", PICTURE, SETTINGS)
    assert listing(tmp_path) == ["cat-1.png", "cat.png"]


WRITER = """
import sys
from pathlib import Path
from PIL import Image
from ipa_cli.images.encode import save
settings = {"steps": 1, "guidance_scale": 1.0, "seed": int(sys.argv[2]), "width": 8, "height": 8}
for _ in range(40):
    save(Path(sys.argv[1]), Image.new("RGB", (8, 8)), settings)
"""


@pytest.mark.slow
def test_processes_writing_the_same_name_lose_nothing(tmp_path):
    writers = [
        subprocess.Popen([sys.executable, "-c", WRITER, str(tmp_path / "cat.png"), str(seed)]) for seed in range(3)
    ]
    assert [writer.wait() for writer in writers] == [0, 0, 0]
    seeds = sorted(read_settings(path)["seed"] for path in tmp_path.iterdir())
    assert seeds == sorted([0, 1, 2] * 40)


@pytest.mark.slow
def test_an_interrupted_write_leaves_nothing(tmp_path):
    script = WRITER.replace("range(40)", "iter(int, 1)").replace("(8, 8)", "(2000, 2000)")
    for delay in (0.0, 0.05, 0.11):
        folder = tmp_path / str(delay)
        folder.mkdir()
        writer = subprocess.Popen(
            [sys.executable, "-c", script, str(folder / "cat.png"), "1"],
            stderr=subprocess.DEVNULL,
            # A test run in the background ignores SIGINT, and its children would inherit that.
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
        )
        try:
            while not any(folder.iterdir()):
                time.sleep(0.01)
            time.sleep(delay)
            writer.send_signal(signal.SIGINT)
            assert writer.wait(60) == -signal.SIGINT
        finally:
            writer.kill()
        for path in folder.iterdir():
            assert path.suffix == ".png" and read_settings(path)["seed"] == 1
            Image.open(path).load()


def test_interrupting_the_sync_leaves_nothing(tmp_path, monkeypatch):
    def interrupt(descriptor):
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "fsync", interrupt)
    with pytest.raises(KeyboardInterrupt):
        save(tmp_path / "cat.png", PICTURE, SETTINGS)
    assert listing(tmp_path) == []


def test_missing_folders_are_made_when_there_is_something_to_write(tmp_path):
    check_writable(tmp_path / "my" / "pictures" / "cat.png")
    assert listing(tmp_path) == []
    save(tmp_path / "my" / "pictures" / "cat.png", PICTURE, SETTINGS)
    assert listing(tmp_path / "my" / "pictures") == ["cat.png"]


def test_a_file_in_place_of_the_folder_is_reported(tmp_path):
    (tmp_path / "out").write_text("")
    with pytest.raises(IpaError, match="Not a directory"):
        check_writable(tmp_path / "out" / "cat.png")


def test_a_folder_cannot_be_overwritten(tmp_path):
    (tmp_path / "cat.png").mkdir()
    with pytest.raises(IpaError, match="is a folder: only regular files are replaced"):
        save(tmp_path / "cat.png", PICTURE, SETTINGS, force=True)
    assert listing(tmp_path) == ["cat.png"]


def test_a_name_too_long_is_reported(tmp_path):
    with pytest.raises(IpaError, match="File name too long"):
        save(tmp_path / ("x" * 300 + ".png"), PICTURE, SETTINGS)
    assert listing(tmp_path) == []


CHECKER = """
import os, sys
from pathlib import Path
from ipa_cli.errors import IpaError
from ipa_cli.system.files import check_writable
if os.geteuid() == 0:
    os.setuid(65534)  # root may write anywhere
try:
    check_writable(Path(sys.argv[1]))
except IpaError as error:
    sys.exit(error.message)
"""


@pytest.mark.slow
def test_a_read_only_folder_is_reported(tmp_path):
    folder = Path("/")  # nobody may write here, and every user may look
    if os.geteuid() != 0:
        folder = tmp_path
        tmp_path.chmod(0o500)
    done = subprocess.run([sys.executable, "-c", CHECKER, str(folder / "x.png")], capture_output=True, text=True)
    tmp_path.chmod(0o700)
    assert (done.returncode, done.stderr.strip()) == (1, f"the folder {folder} cannot be written to")


def test_checking_leaves_nothing_behind(tmp_path):
    check_writable(tmp_path / "cat.png")
    assert listing(tmp_path) == []


FULL = """
import sys
from pathlib import Path
from PIL import Image
from ipa_cli.errors import IpaError
from ipa_cli.images.encode import save
settings = {"steps": 1, "guidance_scale": 1.0, "seed": 1, "width": 600, "height": 600}
try:
    save(Path(sys.argv[1]) / "cat.png", Image.effect_noise((600, 600), 90), settings)
except IpaError as error:
    print(error.message)
print([path.name for path in Path(sys.argv[1]).iterdir()])
"""


def test_a_full_disk_leaves_nothing(tmp_path):
    command = 'mount -t tmpfs -o size=64k none "$1" && exec "$2" -c "$3" "$1"'
    run = ["unshare", "-rm", "sh", "-c", command, "sh", str(tmp_path), sys.executable, FULL]
    try:
        done = subprocess.run(run, capture_output=True, text=True)
        mounted = done.returncode == 0
    except FileNotFoundError:
        mounted = False
    if not mounted:
        pytest.skip("no file system can be mounted here")
    assert done.stdout.splitlines() == [f"no space left on the disk of {tmp_path}/cat.png", "[]"]


def test_a_file_size_limit_leaves_nothing(tmp_path):
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100, limits[1]))
    try:
        with pytest.raises(IpaError, match="File too large"):
            save(tmp_path / "cat.png", PICTURE, SETTINGS)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, handler)
    assert listing(tmp_path) == []


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EDQUOT])
def test_disk_full_is_reported_as_such(tmp_path, monkeypatch, code):
    def fsync(descriptor):
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(os, "fsync", fsync)
    with pytest.raises(IpaError, match="no space left"):
        save(tmp_path / "cat.png", PICTURE, SETTINGS)
    assert listing(tmp_path) == []
