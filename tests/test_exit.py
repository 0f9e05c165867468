"""How a process ends after drawing: at once, with its status, and with nothing unsaid."""

import subprocess
import sys

import pytest


@pytest.mark.parametrize("code", [0, 1, 70])
def test_a_process_with_torch_ends_with_its_status_after_its_threads_and_handlers(code):
    source = (
        "import atexit, sys, threading, time, torch; from ipa_cli import app;"
        "atexit.register(print, 'handler');"
        "threading.Thread(target=lambda: (time.sleep(0.2), print('thread'))).start();"
        f"print('result'); app._exit({code})"
    )
    done = subprocess.run([sys.executable, "-c", source], capture_output=True, text=True)
    assert (done.returncode, done.stdout.split(), done.stderr) == (code, ["result", "thread", "handler"], "")
