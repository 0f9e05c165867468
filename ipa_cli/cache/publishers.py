"""Whose graphs are loaded: public keys that this user trusts, and the private key that signs what this user publishes.

Both lie in the user's state folder. `publishers.json` names the trusted keys; nobody else may have written it. The
private key is a PEM file that this user alone can read.
"""

from __future__ import annotations

import json
import os
import stat
from collections.abc import Callable, Mapping
from datetime import datetime, timezone
from pathlib import Path
from typing import TYPE_CHECKING

from ipa_cli.cache import ed25519, signature
from ipa_cli.cache.entries import Entry, StoreError
from ipa_cli.cache.manifest import PUBLISHER, Damage
from ipa_cli.errors import IpaError, UsageError
from ipa_cli.system import files
from ipa_cli.system.ownership import other_writer, writable_by_others

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

_MOST = 1 << 20
_ELSEWHERE = "set XDG_STATE_HOME to a folder that you can write to"


def key_file(named: Path | None = None) -> Path:
    """Where the private key lies: in the file `named`, else in the state folder. Raises StoreError without a home."""
    return Path(os.path.expanduser(named)) if named else _state() / "publisher-key.pem"  # noqa: PTH111 (raises)


def generate(path: Path, overwrite: bool = False) -> str:
    """Make a private key in the file `path`, mode 0600; its public key. Raises IpaError where there is one already."""
    key, pem = ed25519.new_private()
    if os.path.lexists(path) and not overwrite:
        raise IpaError(f"{path} exists, and graphs may be signed with it", "add --force to replace it for good")
    files.write_private(path, pem, "name another file with --cache-signing-key")
    return ed25519.public_key(key)


def private_key(named: Path | None = None) -> Ed25519PrivateKey | None:
    """The private key in the file `named`, or in `key_file`; None where that is not there.

    Raises StoreError for one that is missing though named, that others can read or could have written, or that is no
    key.
    """
    path = key_file(named)
    try:
        other, about = other_writer(path), path.stat()
        if not stat.S_ISREG(about.st_mode):
            raise StoreError(f"{path} is not a file with a private key", "`ipa cache keygen` makes one")
        if other or stat.S_IMODE(about.st_mode) & 0o077:
            why = other or "others may read it"
            raise StoreError(f"{path}, the key that signs graphs, is not private: {why}", f"chmod 600 {path}")
        with path.open("rb") as file:
            return ed25519.private_from(file.read(_MOST))
    except (FileNotFoundError, NotADirectoryError):
        if named is None:
            return None
        raise StoreError(
            f"there is no key in {path}", "`ipa cache keygen --cache-signing-key FILE` makes one"
        ) from None
    except OSError as error:
        raise StoreError(f"{path} cannot be read: {error.strerror}", "check its permissions") from error
    except ValueError as error:
        raise StoreError(f"{path} is not an Ed25519 key in PEM: {error}", "`ipa cache keygen` makes one") from error


def trusted() -> dict[str, dict[str, str]]:
    """The trusted public keys, each with its `name` and when it was `added`.

    Raises StoreError when the list is damaged, or others could have written it.
    """
    try:
        path = _list()
    except StoreError:  # no home, no list
        return {}
    try:
        if (other := other_writer(path)) is not None:
            raise StoreError(f"{path}, the list of keys that you trust, is not safe: {other}", _safer(path))
        found = json.loads(signature.read_file(path, _MOST))
        return {
            ed25519.public(key): {"name": str(one["name"]), "added": str(one["added"])} for key, one in found.items()
        }
    except (FileNotFoundError, NotADirectoryError):
        return {}
    except OSError as error:
        raise StoreError(f"{path} cannot be read: {error.strerror}", "check its permissions") from error
    except (ValueError, LookupError, TypeError, AttributeError, RecursionError) as error:
        raise StoreError(f"{path}, the list of keys that you trust, is damaged", f"rm {path}") from error


def trust(key: str, name: str) -> None:
    """Load graphs that are signed with a public key from now on. Raises UsageError for what is no key."""
    _change(lambda known: {**known, checked(key): {"name": name, "added": _now()}})


def untrust(words: str) -> str:
    """Stop loading graphs signed with a key, given by itself or by its name; the key. Raises IpaError for neither."""
    known = trusted()
    keys = [key for key, one in known.items() if words in (key, one["name"])]
    if not keys:
        raise IpaError(f"no trusted key is called {words!r}", "`ipa cache keys` shows them")
    if len(keys) > 1:
        raise IpaError(f"{len(keys)} trusted keys are called {words!r}", f"name the key itself: {', '.join(keys)}")
    _change(lambda known: {key: one for key, one in known.items() if key != keys[0]})
    return keys[0]


def checked(key: str) -> str:
    """`key`, if it is a public key. Raises UsageError."""
    try:
        return ed25519.public(key)
    except ValueError as error:
        raise UsageError(str(error), "a key begins with ed25519: and is shown by `ipa cache keygen`") from error


def checked_name(name: str) -> str:
    """`name`, if a key can be called so. Raises UsageError."""
    if not name.isprintable() or not name.strip() or len(name) > 80:
        raise UsageError(f"--name {name!r}: expected a short name without control characters", "such as ci")
    return name


def namesakes(key: str, name: str) -> list[str]:
    """The other trusted keys that are called `name`."""
    return [other for other, one in trusted().items() if one["name"] == name and other != key]


def signatures(entry: Entry) -> tuple[ed25519.Signature, ...]:
    """The publishers' signatures of a graph in the cache, all valid. Raises Damage, OSError."""
    try:
        text = signature.read_file(f"{entry.path}/{PUBLISHER}", ed25519.MAX_ENVELOPE)
    except FileNotFoundError:
        return ()
    found = ed25519.parse(text)[1]
    ed25519.check(entry.text, found)
    return found


def problem(found: tuple[ed25519.Signature, ...], known: Mapping[str, object]) -> str | None:
    """Why a graph with these signatures is not accepted; None when a trusted key has signed it."""
    if not found:
        return "it has no signature"
    if any(one.key in known for one in found):
        return None
    return f"it is signed with {found[0].key}, which you do not trust"


def problem_of_entry(entry: Entry, known: Callable[[], Mapping[str, object]]) -> tuple[str, str] | None:
    """Why no publisher's signature makes a graph acceptable, and what to type; None when one does.

    Raises FileNotFoundError when no publisher has signed it.
    """
    try:
        found = signatures(entry)
    except (Damage, OSError) as error:
        return str(error), f"`ipa cache clear {entry.id[:8]}` removes it"
    if not found:
        raise FileNotFoundError(PUBLISHER)
    message = problem(found, known())
    hint = f"`ipa cache trust {found[0].key}` if you trust its owner"
    return (f"made elsewhere: {message}", hint) if message else None


def _change(change: Callable[[dict[str, dict[str, str]]], dict[str, dict[str, str]]]) -> None:
    from filelock import FileLock

    path = _list()
    files.make_own_folder(path.parent, _ELSEWHERE)
    try:
        with FileLock(f"{path}.lock", mode=0o600):
            files.write_private(path, json.dumps(change(trusted()), indent=1).encode() + b"\n", _ELSEWHERE)
    except OSError as error:
        raise StoreError(f"the list of trusted keys cannot be written: {error.strerror}", _ELSEWHERE) from error


def _list() -> Path:
    return _state() / "publishers.json"


def _state() -> Path:
    path = signature.key_file()
    if path is None:
        raise StoreError("there is no folder for keys: HOME is not set", "set HOME, or XDG_STATE_HOME")
    return path.parent


def _safer(path: Path) -> str:
    places = writable_by_others(path)
    return f"chmod go-w {' '.join(map(str, places))}" if places else "set XDG_STATE_HOME to a folder of your own"


def _now() -> str:
    return datetime.now(timezone.utc).isoformat(timespec="seconds")
