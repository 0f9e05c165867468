"""Signatures: an HMAC over a graph's manifest with this user's key, in a file beside it; no other user can make one.

    {"scheme": "hmac-sha256", "key": "<first 16 digits of the key's SHA-256>", "proof": "<64 hex digits>"}

It is a file of its own so that a manifest is never written twice and two machines export the same bytes. The key is 32
random bytes in the user's state folder, mode 0600, made at first use. Signatures of unknown schemes are not accepted.
"""

from __future__ import annotations

import errno
import hashlib
import hmac
import json
import os
import secrets
import stat
from pathlib import Path

from ipa_cli.cache.entries import StoreError
from ipa_cli.cache.manifest import SIGNATURE
from ipa_cli.system.files import make_private
from ipa_cli.system.ownership import other_writer

SCHEME = "hmac-sha256"
_KEY_BYTES = 32
_MAX_SIGNATURE = 4096
_PURPOSE = b"manifest of a graph compiled by ipa\n"


def key_file() -> Path | None:
    """Where this user's key lies; None where the system knows no home of this user."""
    import platformdirs

    try:
        folder = platformdirs.user_state_path("ipa")
    except RuntimeError:  # older ones leave the "~" as it is
        return None
    return folder / "graph-key" if folder.is_absolute() else None


def signing_key() -> bytes:
    """This user's key, made at first use. Raises StoreError when there is no place for it, or others may read it."""
    from filelock import FileLock

    path = key_file()
    if path is None:
        raise StoreError(
            "there is no folder for the key that signs your graphs: HOME is not set", "set HOME, or XDG_STATE_HOME"
        )
    try:
        make_private(path.parent)
        with FileLock(f"{path}.lock", mode=0o600):  # of two first processes one makes it
            if not os.path.lexists(path):
                _write(path, secrets.token_bytes(_KEY_BYTES))
        if (key := existing_key()) is None:
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(path))
        return key
    except OSError as error:
        raise StoreError(
            f"the key that signs your graphs cannot be stored: {error.strerror}: {error.filename}",
            "set XDG_STATE_HOME to a folder that you can write to",
        ) from error


def sign(manifest: bytes, key: bytes) -> bytes:
    """The content of the signature file for a graph with this manifest."""
    text = json.dumps({"scheme": SCHEME, "key": _name(key), "proof": _digest(manifest, key)}, sort_keys=True)
    return text.encode() + b"\n"


def add(folder: Path, manifest: bytes, key: bytes) -> None:
    """Write the signature of `manifest` into `folder`, in place of another one."""
    _write(folder / SIGNATURE, sign(manifest, key))


def problem(folder: str, manifest: bytes, key: bytes | None) -> str | None:
    """Why the signature of the graph in `folder` is not accepted; None when it is valid for `key`."""
    try:
        found = json.loads(read_file(f"{folder}/{SIGNATURE}", _MAX_SIGNATURE))
        scheme, name, digest = found["scheme"], found["key"], found["proof"]
    except FileNotFoundError:
        return "made elsewhere: it has no signature"
    except (OSError, ValueError, LookupError, TypeError, RecursionError):
        return "its signature cannot be read"
    if scheme != SCHEME:
        return "its signature has a scheme that this version of ipa does not know"
    if key is None or name != _name(key):
        return "made elsewhere: it is signed with another key than yours"
    if not isinstance(digest, str) or not digest.isascii() or not hmac.compare_digest(digest, _digest(manifest, key)):
        return "its signature belongs to another manifest"
    return None


def _digest(manifest: bytes, key: bytes) -> str:
    return hmac.new(key, _PURPOSE + manifest, hashlib.sha256).hexdigest()


def _name(key: bytes) -> str:
    return hashlib.sha256(key).hexdigest()[:16]


def existing_key() -> bytes | None:
    """This user's key; None when there is none, or it cannot be read.

    Raises StoreError for a key that others could know or have written.
    """
    path = key_file()
    if path is None:
        return None
    try:
        about = path.lstat()
        plain = stat.S_ISREG(about.st_mode)
        others, key = (other_writer(path), read_file(path, _KEY_BYTES)) if plain else ("it is not a regular file", b"")
    except (FileNotFoundError, NotADirectoryError, PermissionError):
        return None
    private = others is None and about.st_uid == os.geteuid() and not stat.S_IMODE(about.st_mode) & 0o077
    if not private or len(key) != _KEY_BYTES:
        raise StoreError(
            f"{path}, the key that signs your graphs, is not private{f': {others}' if others else ''}",
            "remove it: a new one is made, and `ipa cache trust` signs the graphs that are there",
        )
    return key


def read_file(path: Path | str, most: int) -> bytes:
    """Up to `most` bytes of a regular file. Raises OSError for anything else."""
    descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    try:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            raise OSError(0, "not a regular file", str(path))
        return os.read(descriptor, most)
    finally:
        os.close(descriptor)


def _write(path: Path, content: bytes) -> None:
    """Write a file of ours alone, whole or not at all."""
    partial = path.with_name(f".{path.name}-{secrets.token_hex(8)}")
    descriptor = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        partial.replace(path)
    except BaseException:
        partial.unlink(missing_ok=True)
        raise
