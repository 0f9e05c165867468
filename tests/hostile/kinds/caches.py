"""Graph caches and archives of graphs that somebody else made or damaged."""

from __future__ import annotations

import functools
import io
import shutil
import tarfile
import tempfile
from pathlib import Path
from random import Random

from ipa_cli import cache
from ipa_cli.cache import Store
from ipa_cli.cache.keys import GraphKey
from tests.hostile.case import SMALL, Attack
from tests.hostile.mutation import VALUES, damaged, json_damaged

COMMANDS = (
    ("cache", "ls", "--json"),
    ("cache", "verify", "--json"),
    ("cache", "clear", "--stale", "--yes", "--json"),
    ("cache", "clear", "--yes"),
    ("cache", "export", "out.tar", "--json"),
)


def _fill(folder: Path) -> dict[str, object]:
    (folder / "graph.pt2").write_bytes(b"native code " * 20)
    (folder / "graph.json").write_text('{"inputs": []}')
    return {"parity": 1.5e-5, "options": {"mode": "fast"}}


def _build(root: Path, backend: str = "inductor") -> Path:
    key = GraphKey(backend, "cpu", "64x64-b2", {"torch": "2.13.0", "batch": 2})
    return cache.build(Store(root), key, {"model": "demo", "options": {"mode": "fast"}}, _fill).entry.folder


@functools.cache
def archive() -> bytes:
    """An archive as `ipa cache export` writes it."""
    from tests.conftest import run_here

    with tempfile.TemporaryDirectory() as name:
        _build(Path(name, "cache"))
        ran = run_here("cache", "export", Path(name, "a.tar"), "--cache-dir", Path(name, "cache"))
        assert ran.exit_code == 0, ran.stderr
        return Path(name, "a.tar").read_bytes()


def entry(random: Random) -> Attack:
    """A file of an entry is damaged, another kind of thing or says another; or a folder of the cache leads away."""
    command = random.choice(COMMANDS) if random.random() < 0.9 else ("generate", *SMALL, "--json")

    def prepare(folder: Path) -> None:
        place = _build(folder / "cache", random.choice(("inductor", "nexfort")))
        files = sorted(path for path in place.rglob("*") if path.is_file())
        path = random.choice(files)
        match random.randrange(6):
            case 5:
                own = folder / "cache" / "graphs-v1" / random.choice((".work", ".locks", ""))
                shutil.rmtree(own)
                own.symlink_to(folder.parent / "home")
            case 0 if path.suffix == ".json":
                path.write_text(json_damaged(path.read_text(), random), "utf-8", "replace")
            case 1:
                path.unlink()
                path.symlink_to(random.choice(("/etc/passwd", path.name, "/dev/zero", "../../../..")))
            case 2:
                path.unlink()
                path.mkdir()
            case 3:
                (place / random.choice(("more.so", "new\nline", ".hidden"))).write_bytes(b"\x7fELF")
            case _:
                path.write_bytes(damaged(path.read_bytes(), random))

    return Attack(f"entry, {' '.join(command[:2])}", (*command, "--cache-dir", "cache"), prepare)


def archives(random: Random) -> Attack:
    """An archive that is damaged, or holds members no export would write."""
    trusted = ("--trust",) if random.random() < 0.5 else ()

    def prepare(folder: Path) -> None:
        if random.random() < 0.6:
            (folder / "a.tar").write_bytes(damaged(archive(), random))
            return
        with tarfile.open(folder / "a.tar", "w") as tar, tarfile.open(fileobj=io.BytesIO(archive())) as good:
            for member in good:
                tar.addfile(member, good.extractfile(member) if member.isfile() else None)
            for _ in range(random.randint(1, 3)):
                word = random.choice([value for value in VALUES if isinstance(value, str)]).replace("\0", "0")[:200]
                odd = tarfile.TarInfo(word.encode("utf-8", "replace").decode() or "x")
                odd.type = random.choice(
                    (tarfile.REGTYPE, tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.CHRTYPE, tarfile.FIFOTYPE)
                )
                odd.linkname = random.choice(("/etc/passwd", "../../home/notes.txt", odd.name))
                odd.size = 3 if odd.type == tarfile.REGTYPE else 0
                tar.addfile(odd, io.BytesIO(b"abc"))

    return Attack("archive", ("cache", "import", "a.tar", *trusted, "--cache-dir", "cache", "--json"), prepare)


KINDS = {"cache entries": entry, "archives": archives}
