"""Compiled graphs on disk: found by key, built once, checked before use, removed by plan."""

from .archive import Imported, export, import_
from .building import Builder, Built, Hit, Miss, build, discard, lookup, opened
from .checking import check, check_owner, verify
from .entries import Broken, Entry, Item, Refused, Store, StoreError, each, scan
from .manifest import Damage
from .removal import Plan, Removed, evict, execute, find, plan
from .work import Work, scratch, sweep, work

__all__ = [
    "Broken",
    "Builder",
    "Built",
    "Damage",
    "Entry",
    "Hit",
    "Imported",
    "Item",
    "Miss",
    "Plan",
    "Refused",
    "Removed",
    "Store",
    "StoreError",
    "Work",
    "build",
    "check",
    "check_owner",
    "discard",
    "each",
    "evict",
    "execute",
    "export",
    "find",
    "import_",
    "lookup",
    "opened",
    "plan",
    "scan",
    "scratch",
    "sweep",
    "verify",
    "work",
]
