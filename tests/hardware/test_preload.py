"""Native libraries that load while Python does something else."""

import subprocess
import sys
import threading

from ipa_cli.hardware import preload


def test_the_libraries_are_there_before_torch_is_imported():
    code = (
        "import sys, threading; from ipa_cli.hardware import preload; preload.start(cuda=True);"
        "[one.join() for one in threading.enumerate() if one.name == 'preload'];"
        "assert 'torch' not in sys.modules; print('libtorch_python' in open('/proc/self/maps').read());"
        "import torch; print(torch.ones(2).sum().item())"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout.split() == ["True", "2.0"], done.stderr


def test_without_torch_nothing_is_loaded_and_nothing_is_said(monkeypatch):
    monkeypatch.setattr(preload, "find_spec", lambda name: None)
    monkeypatch.delitem(sys.modules, "torch", raising=False)
    before = threading.active_count()
    preload.start(cuda=False)
    assert threading.active_count() == before


def test_libraries_that_do_not_load_are_left_to_the_import(monkeypatch, tmp_path):
    preload._load(tmp_path, cuda=False)  # raises nothing
