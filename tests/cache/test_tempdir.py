"""Where temporary files go while a command works, and that none stays."""

import os
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from ipa_cli.cache import Store, tempdir
from ipa_cli.system import child

NAMES = ("TMPDIR", *child.CACHES)


@pytest.fixture
def cache(tmp_path):
    return Store(tmp_path / "cache", None)


def test_all_go_to_one_private_folder_of_the_cache(cache, monkeypatch):
    monkeypatch.setenv("TRITON_CACHE_DIR", "/of/theirs")
    monkeypatch.delenv("TORCHINDUCTOR_CACHE_DIR", raising=False)
    before = {name: os.environ.get(name) for name in NAMES}
    with tempdir.temporary_files(cache):
        folder = Path(tempfile.gettempdir())
        assert folder.is_relative_to(cache.root) and folder.stat().st_mode & 0o777 == 0o700
        assert all(Path(os.environ[name]).is_relative_to(folder) for name in NAMES)
        tempfile.mkdtemp()
    assert not folder.exists() and {name: os.environ.get(name) for name in NAMES} == before
    assert Path(tempfile.gettempdir()) != folder


def test_torch_unpacks_and_caches_there(cache):
    import torch
    from torch._inductor.runtime.cache_dir_utils import cache_dir, default_cache_dir

    with tempdir.temporary_files(cache):
        assert all(Path(place()).is_relative_to(cache.root) for place in (cache_dir, default_cache_dir))
        package = cache.root / "broken.pt2"
        package.write_bytes(b"PK")
        with pytest.raises(RuntimeError):
            torch._C._aoti.AOTIModelPackageLoader(str(package), "model", True, 1, -1)


@pytest.mark.parametrize("by", [signal.SIGKILL, signal.SIGHUP])
def test_what_a_killed_process_left_is_swept_by_the_next(cache, by):
    code = """
import sys, tempfile, time
from pathlib import Path
from ipa_cli.cache import Store, tempdir
with tempdir.temporary_files(Store(Path(sys.argv[1]), None)):
    print(tempfile.mkdtemp(prefix="aotinductor_"), flush=True)
    time.sleep(300)
"""
    with subprocess.Popen([sys.executable, "-c", code, cache.root], stdout=subprocess.PIPE, text=True) as process:
        left = Path(process.stdout.readline().strip())
        with tempdir.temporary_files(cache):
            assert left.is_dir(), "it is in use"
        process.send_signal(by)
    assert left.is_dir()
    with tempdir.temporary_files(cache):
        assert not left.parent.exists()


@pytest.mark.parametrize("spoil", ["written by others", "a file"])
def test_without_a_usable_cache_temporary_files_go_to_tmpdir(cache, tmp_path, monkeypatch, spoil):
    monkeypatch.setenv("TMPDIR", str(tmp_path / "usual"))
    monkeypatch.setattr(tempfile, "tempdir", None)
    (tmp_path / "usual").mkdir()
    if spoil == "a file":
        cache.root.write_text("")
    else:
        cache.root.mkdir()
        cache.root.chmod(0o777)
    with tempdir.temporary_files(cache):
        assert Path(tempfile.gettempdir()).parent == tmp_path / "usual"
    assert not any((tmp_path / "usual").iterdir())
