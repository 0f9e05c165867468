"""The C++ compiler that torch's compiler calls: is it installed, and do its libraries run beside torch?"""

from __future__ import annotations

import os
import sys
import tempfile
from pathlib import Path

from ipa_cli.doctor.check import Check
from ipa_cli.system import child

NAME = "C++ compiler"

# Locale and regular expressions are where two copies of libstdc++ in one process meet.
SOURCE = """
#include <iostream>
#include <regex>
#include <sstream>
extern "C" int answer() {
    std::ostringstream text;
    text << "kernel_" << 42;
    return std::regex_match(text.str(), std::regex("([a-z]+)_([0-9]+)")) ? 42 : 0;
}
"""
LOAD = "import ctypes, sys; assert ctypes.CDLL(sys.argv[1]).answer() == 42"
INSTALL = "install one (`apt install g++`), or set CXX"


def check(asked: bool, deep: bool, with_torch: bool) -> Check:
    """Find the compiler and ask its version; with `deep` build a library and load it, beside torch if there is one."""
    name = os.environ.get("CXX", "clang++" if sys.platform == "darwin" else "g++")  # as torch._inductor.config does
    path = child.find(name)
    origin = "CXX" if "CXX" in os.environ else "the default"
    if path is None:
        return Check(NAME, "failure", f"there is no program '{name}' ({origin})", INSTALL, asked)
    try:
        version = child.run([path, "--version"], 2)
    except OSError as error:
        return Check(NAME, "failure", f"{path} cannot be started: {error.strerror}", INSTALL, asked)
    if version.code != 0:
        return Check(NAME, "failure", f"`{path} --version` fails: {version.why}", INSTALL, asked)
    found = f"{path} ({origin}): {next(iter(version.out.splitlines()), '')}"
    return _build(path, found, asked, with_torch) if deep else Check(NAME, "ok", found, "", asked)


def _build(path: str, found: str, asked: bool, with_torch: bool) -> Check:
    with tempfile.TemporaryDirectory(prefix="ipa-doctor-") as folder:
        source, library = Path(folder, "answer.cpp"), Path(folder, "answer.so")
        source.write_text(SOURCE, encoding="utf-8")
        built = child.run([path, "-std=c++17", "-shared", "-fPIC", str(source), "-o", str(library)], 60)
        if built.code != 0:
            errors = [line for line in built.err.splitlines() if "error" in line]
            why = errors[0].replace(f"{folder}/", "") if errors and built.code is not None else built.why
            return Check(NAME, "failure", f"{found}: it cannot build a small library: {why}", INSTALL, asked)
        shared = b"\0libstdc++.so." in library.read_bytes() or sys.platform != "linux"
        loaded = child.python(("import torch; " if with_torch else "") + LOAD, 60, str(library))
    if not shared:
        tried = f" (tried: {loaded.why})" if with_torch and loaded.code != 0 else ""
        return Check(
            NAME,
            "failure",
            f"{found}: it links libstdc++ statically, and a second copy of that crashes beside torch{tried}",
            "set CXX to a compiler that links it dynamically, such as `CXX=/usr/bin/g++ ipa …`",
            asked,
        )
    if loaded.code != 0:
        return Check(NAME, "failure", f"{found}: what it builds does not run: {loaded.why}", INSTALL, asked)
    return Check(NAME, "ok", f"{found}; a small library builds and runs{' beside torch' * with_torch}", "", asked)
