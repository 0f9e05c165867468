"""Compiled graphs on disk: found by key, built once, checked before use, removed by plan."""

from .archive import Imported, export, import_
from .building import Builder, Built, Hit, Miss, build, check_keeps, discard, lookup, mark_trusted, opened
from .checking import check, verify
from .entries import Broken, Entry, Item, Lost, Refused, Store, StoreError, Unread, each, of_backend, scan
from .locks import InUse
from .manifest import Damage
from .removal import Plan, Removed, evict, execute, find, plan
from .trust import Obstacle, check_owner, check_temporary, obstacle, obstacles, place
from .work import Work, check_room, scratch, sweep, unfinished

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
