"""`ipa cache trust`, `untrust`, `keys`, `keygen` and `sign`: whose graphs are run, and signing one's own."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Annotated

import typer

from ipa_cli.commands import options
from ipa_cli.commands.cache import shared
from ipa_cli.errors import IpaError, UsageError
from ipa_cli.result import Result, Table

if TYPE_CHECKING:
    from pathlib import Path

PUBLIC = "ed25519"
Key = Annotated[
    list[str] | None,
    typer.Argument(
        metavar="[KEY]...",
        help="A publisher's public key (ed25519:…), or keys of graphs as `ipa cache ls` shows them.",
        autocompletion=shared.known,
    ),
]


@options.with_settings("cache_dir")
def trust_graphs(
    context: typer.Context,
    key: Key = None,
    name: Annotated[
        str | None, options.flag("--name", help="what to call a publisher's key, such as ci", metavar="NAME")
    ] = None,
    yes: shared.Yes = False,
) -> Result:
    """Trust the public key of a publisher, or graphs made elsewhere (all unless named): from then on ipa runs them.

    They are native code: their maker can do anything you can.
    """
    key = [one.strip() for one in key or ()]
    if public := [one for one in key if PUBLIC in one.lower()]:
        if len(key) > 1:
            raise UsageError("more than one key is given", "trust one public key at a time")
        return _trust_publisher(context, public[0], name, yes)
    if name is not None:
        raise UsageError("--name is for a publisher's key", "name its key: ipa cache trust ed25519:… --name ci")
    return _trust_graphs(context, key, yes)


def _trust_publisher(context: typer.Context, key: str, name: str | None, yes: bool) -> Result:
    from ipa_cli.cache import publishers

    publishers.checked(key)
    name = "unnamed" if name is None else publishers.checked_name(name)
    data = {"graphs": [], "key": key, "name": name}
    if publishers.trusted().get(key, {}).get("name") == name:
        return Result("cache trust", data, (f"{key} ({name}) is trusted already",))
    statement = f"this trusts every graph signed with {key}: its owner can do anything you can"
    if not shared.agreed(context, yes, (), statement, "add --yes if you trust its owner"):
        return shared.nothing_done("cache trust")
    publishers.trust(key, name)
    _warn_of_namesakes(context, key, name)
    return Result("cache trust", data, (f"trusted {key} ({name})",))


def _trust_graphs(context: typer.Context, key: list[str] | None, yes: bool) -> Result:
    from ipa_cli import cache
    from ipa_cli.engine import inventory

    store = shared.store(context)
    cache.check_owner(store)
    items = cache.plan(cache.scan(store), prefixes=key or ()).items
    foreign = [item for item in items if isinstance(item, cache.Entry) and cache.trust_problem(item) is not None]
    if not foreign:
        return Result("cache trust", {"graphs": []}, ("nothing to trust: no such graph was made elsewhere",))
    lines = tuple(map(inventory.summary_line, foreign))
    statement = f"this trusts {shared.count(foreign)}, native code that ipa will run: its maker can do anything you can"
    details = (*lines[:20], *shared.more(len(lines) - 20))
    if not shared.agreed(context, yes, details, statement, "add --yes if you trust its maker"):
        return shared.nothing_done("cache trust")
    for entry in foreign:
        cache.mark_trusted(store, entry)
    return Result("cache trust", {"graphs": [entry.id for entry in foreign]}, (f"trusted {shared.count(foreign)}",))


def untrust(
    context: typer.Context,
    key: Annotated[str, typer.Argument(metavar="KEY", help="A trusted public key, or its name.")],
) -> Result:
    """Stop trusting a publisher's key: graphs that only this key has signed are not loaded any more."""
    from ipa_cli.cache import publishers

    gone = publishers.untrust(key)
    return Result("cache untrust", {"key": gone}, (f"{gone} is not trusted any more",))


@options.with_settings("cache_dir", "cache_signing_key")
def list_keys(context: typer.Context) -> Result:
    """List the publishers' keys that you trust, with the number of graphs here that each has signed, and your own."""
    from ipa_cli import cache
    from ipa_cli.cache import ed25519, publishers
    from ipa_cli.cache.manifest import Damage

    signed: Counter[str] = Counter()
    for item in cache.iter_entries(shared.store(context)):
        if isinstance(item, cache.Entry):
            try:
                signed.update(one.key for one in publishers.signatures(item))
            except (Damage, OSError):
                continue
    private = publishers.private_key(_key_file(context))
    own = None if private is None else ed25519.public_key(private)
    known = publishers.trusted()
    unknown = {key: count for key, count in signed.items() if key not in known}
    data = {
        "own": own,
        "trusted": [{"key": key, **one, "graphs": signed[key]} for key, one in known.items()],
        "unknown": [{"key": key, "graphs": count} for key, count in unknown.items()],
    }
    rows = [(one["name"], key, one["added"][:10], str(signed[key]), "yes") for key, one in known.items()]
    rows += [("-", key, "-", str(count), "no") for key, count in unknown.items()]
    table = (Table(("name", "key", "added", "graphs here", "trusted"), tuple(rows)),) if rows else ()
    none = "" if rows else "no key of a publisher is trusted"
    lines = (none, f"your own key: {own}" if own else "you have no key of your own: `ipa cache keygen` makes one")
    return Result("cache keys", data, (*table, *filter(None, lines)))


@options.with_settings("cache_signing_key")
def keygen(
    context: typer.Context,
    name: Annotated[str, options.flag("--name", help="what to call it in `ipa cache keys`", metavar="NAME")] = "own",
    force: Annotated[bool, options.flag("--force", "-f", help="replace a key that is there, for good")] = False,
) -> Result:
    """Make a private key that signs graphs, trust it here, and print its public key for others to trust."""
    from ipa_cli.cache import publishers

    publishers.checked_name(name)
    publishers.trusted()  # raises before a key is made that could not be added
    path = publishers.key_file(_key_file(context))
    key = publishers.generate(path, overwrite=force)
    publishers.trust(key, name)
    _warn_of_namesakes(context, key, name)
    context.obj.note(f"the private key is in {path}: whoever reads it can sign graphs as you")
    context.obj.note(f"`ipa cache trust {key}` lets another machine load what it signs")
    return Result("cache keygen", {"key": key, "name": name, "file": str(path)}, (key,))


@options.with_settings("cache_dir", "cache_signing_key")
def sign_graphs(
    context: typer.Context,
    key: shared.Keys = None,
) -> Result:
    """Sign graphs, all that are trusted here unless named, so that others who trust your key load them."""
    from ipa_cli import cache
    from ipa_cli.cache import ed25519, publishers, remote

    store = shared.store(context)
    private = publishers.private_key(_key_file(context))
    if private is None:
        raise IpaError("there is no key to sign with", "`ipa cache keygen` makes one")
    items = cache.plan(cache.scan(store), prefixes=key or ()).items
    signed, left = [], []
    for item in items:
        problem = cache.trust_problem(item) if isinstance(item, cache.Entry) else None
        if not isinstance(item, cache.Entry) or (problem and not key):
            left.append(item)
            reason = problem.message if problem else getattr(item, "reason", "")
            context.obj.warn(f"graph {item.id[:8]} is left out: {reason}")
        elif remote.sign(store, item, private):
            signed.append(item)
    public = ed25519.public_key(private)
    data = {"key": public, "graphs": [item.id for item in signed], "left_out": [item.id for item in left]}
    return Result("cache sign", data, (f"signed {shared.count(signed)} with {public}",))


def _warn_of_namesakes(context: typer.Context, key: str, name: str) -> None:
    from ipa_cli.cache import publishers

    if others := publishers.namesakes(key, name):
        known = ", ".join(others)
        context.obj.warn(f"{known} is trusted by the same name {name!r}; `ipa cache untrust` needs the key itself")


def _key_file(context: typer.Context) -> Path | None:
    return options.settings(context).settings.cache_signing_key
