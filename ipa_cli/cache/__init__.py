"""Compiled graphs on disk: found by key, built once, checked before use, removed by plan."""

from ipa_cli.cache.archive import Imported, export, import_
from ipa_cli.cache.building import (
    Builder,
    Built,
    Hit,
    Miss,
    build,
    check_storable,
    discard,
    lookup,
    mark_trusted,
    open_graph,
)
from ipa_cli.cache.checking import check, verify
from ipa_cli.cache.entries import (
    BrokenGraph,
    DamagedGraph,
    Entry,
    Item,
    Refused,
    Store,
    StoreError,
    UnreadableGraph,
    iter_entries,
    scan,
    scan_backend,
)
from ipa_cli.cache.locks import InUse
from ipa_cli.cache.manifest import Damage
from ipa_cli.cache.removal import Plan, Removed, evict, execute, find, plan
from ipa_cli.cache.scratch import ScratchFolder, check_free_space, scratch_folder, scratch_folders, sweep
from ipa_cli.cache.trust import (
    Problem,
    check_owner,
    check_temporary_folder,
    permission_problem,
    trust_checker,
    trust_problem,
)

__all__ = [
    "BrokenGraph",
    "Builder",
    "Built",
    "Damage",
    "DamagedGraph",
    "Entry",
    "Hit",
    "Imported",
    "InUse",
    "Item",
    "Miss",
    "Plan",
    "Problem",
    "Refused",
    "Removed",
    "ScratchFolder",
    "Store",
    "StoreError",
    "UnreadableGraph",
    "build",
    "check",
    "check_free_space",
    "check_owner",
    "check_storable",
    "check_temporary_folder",
    "discard",
    "evict",
    "execute",
    "export",
    "find",
    "import_",
    "iter_entries",
    "lookup",
    "mark_trusted",
    "open_graph",
    "permission_problem",
    "plan",
    "scan",
    "scan_backend",
    "scratch_folder",
    "scratch_folders",
    "sweep",
    "trust_checker",
    "trust_problem",
    "verify",
]
