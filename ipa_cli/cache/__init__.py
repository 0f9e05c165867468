"""Compiled graphs on disk: found by key, built once, checked before use, removed by plan."""

from ipa_cli.cache.archive import Imported, export, import_
from ipa_cli.cache.building import Builder, Built, Hit, Miss, build, check_keeps, discard, lookup, mark_trusted, opened
from ipa_cli.cache.checking import check, verify
from ipa_cli.cache.entries import Broken, Entry, Item, Lost, Refused, Store, StoreError, Unread, each, of_backend, scan
from ipa_cli.cache.locks import InUse
from ipa_cli.cache.manifest import Damage
from ipa_cli.cache.removal import Plan, Removed, evict, execute, find, plan
from ipa_cli.cache.trust import Obstacle, check_owner, check_temporary, obstacle, obstacles, place
from ipa_cli.cache.work import Work, check_room, scratch, sweep, unfinished

__all__ = [
    "Broken",
    "Builder",
    "Built",
    "Damage",
    "Entry",
    "Hit",
    "Imported",
    "InUse",
    "Item",
    "Lost",
    "Miss",
    "Obstacle",
    "Plan",
    "Refused",
    "Removed",
    "Store",
    "StoreError",
    "Unread",
    "Work",
    "build",
    "check",
    "check_keeps",
    "check_owner",
    "check_room",
    "check_temporary",
    "discard",
    "each",
    "evict",
    "execute",
    "export",
    "find",
    "import_",
    "lookup",
    "mark_trusted",
    "obstacle",
    "obstacles",
    "of_backend",
    "opened",
    "place",
    "plan",
    "scan",
    "scratch",
    "sweep",
    "unfinished",
    "verify",
]
