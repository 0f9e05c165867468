"""Who may import, print, exit and read `IPA_*`: the rooms of the package keep to themselves."""

import ast
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "ipa_cli"
MODULES = {
    path.relative_to(PACKAGE).with_suffix("").as_posix().removesuffix("/__init__"): path
    for path in sorted(PACKAGE.rglob("*.py"))
}
HEAVY = {"torch", "diffusers", "transformers", "accelerate", "onediff", "oneflow", "nexfort", "numpy", "PIL"}
# Imported only by those that need torch anyway.
WITH_TORCH = {"attention", "vae", *(name for name in MODULES if name.startswith("backends/"))}


def tree(module: str) -> ast.Module:
    return ast.parse(MODULES[module].read_text(encoding="utf-8"))


def imports(module: str, top_level: bool = False, of: ast.Module | None = None) -> set[str]:
    """Full names of what `module` imports: "rich.console.Console", "ipa_cli.store"; none that only types need."""
    package = ["ipa_cli", *module.split("/")]
    if MODULES[module].name != "__init__.py":
        package.pop()

    def walk(node: ast.AST) -> Iterator[str]:
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING":
            return
        if top_level and isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            return
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else []
            origin = ".".join([*base, *([node.module] if node.module else [])])
            yield from (f"{origin}.{alias.name}" for alias in node.names)
        for child in ast.iter_child_nodes(node):
            yield from walk(child)

    return set(walk(of or tree(module)))


def packages(module: str, top_level: bool = False) -> set[str]:
    return {name.split(".")[0] for name in imports(module, top_level)}


def rooms(module: str) -> set[str]:
    """Modules of this package that `module` imports, as "store" or "commands/cache"."""
    found = set()
    for name in imports(module):
        parts = name.split(".")
        if parts[0] == "ipa_cli":
            inside = parts[1:]
            while inside and "/".join(inside) not in MODULES:
                inside.pop()
            found.add("/".join(inside))
    return found


def calls(module: str) -> set[str]:
    return {ast.unparse(node.func) for node in ast.walk(tree(module)) if isinstance(node, ast.Call)}


def texts(module: str) -> set[str]:
    """String constants that are code, not documentation."""
    whole = tree(module)
    documentation = {
        id(node.value)
        for node in ast.walk(whole)
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)
    }
    return {
        node.value
        for node in ast.walk(whole)
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in documentation
    }


def test_the_rules_below_see_the_package():
    assert {"app", "config", "output", "store", "commands/generate", "backends/eager"} <= set(MODULES)
    assert "rich.console.Console" in imports("output")
    assert {"commands/generate", "errors", "output"} <= rooms("app")
    assert "torch" in packages("pipeline") and "torch" not in packages("pipeline", top_level=True)


@pytest.mark.parametrize("module", MODULES)
def test_heavy_packages_are_imported_only_where_they_are_needed(module):
    allowed = {"torch"} if module in WITH_TORCH else set()
    assert packages(module, top_level=True) & HEAVY <= allowed


def test_only_app_and_commands_import_typer():
    assert {m for m in MODULES if "typer" in packages(m)} <= {m for m in MODULES if m.startswith(("app", "commands"))}
    assert not [m for m in MODULES if "click" in packages(m)]  # Typer carries its own


def test_only_output_prints():
    assert [m for m in MODULES if "rich" in packages(m)] == ["output"]
    for module in set(MODULES) - {"output"}:
        printing = calls(module) & {"print", "sys.stdout.write", "sys.stderr.write"}
        assert not printing, f"{module} prints"


def test_only_app_exits():
    exits = {m for m in MODULES if calls(m) & {"sys.exit", "exit", "quit", "os._exit", "typer.Exit", "SystemExit"}}
    assert exits <= {"app", "__main__", "child"}  # the last ends with its parent


def test_only_config_reads_our_variables():
    names = {m for m in MODULES if any(text.startswith("IPA_") for text in texts(m))}
    assert names == {"config/files", "config/sources"}


def test_commands_never_import_each_other():
    commands = {m for m in MODULES if m.startswith("commands/")} - {"commands/options", "commands/base"}
    for command in commands:
        assert not rooms(command) & commands, f"{command} imports another command"


def test_nothing_imports_app():
    assert {m for m in MODULES if "app" in rooms(m)} <= {"__main__"}


def test_the_store_knows_no_backend():
    for module in (m for m in MODULES if m == "store" or m.startswith("store/")):
        assert {room.split("/")[0] for room in rooms(module)} <= {"store", "keys", "errors", "files", "ownership", ""}


def test_backends_are_handed_a_folder_never_the_store_or_a_key():
    for module in (m for m in MODULES if m.startswith("backends")):
        assert not {room.split("/")[0] for room in rooms(module)} & {"store", "keys", "session", "config"}


def test_a_broken_rule_is_seen():
    """The helpers above on code that breaks the rules, so that a green run means something."""
    broken = ast.parse(
        "import torch\nif TYPE_CHECKING:\n    import numpy\ntry:\n    from rich import box\nfinally:\n    pass"
    )
    assert imports("config", top_level=True, of=broken) == {"torch", "rich.box"}
    relative = ast.parse("def f():\n    from ..commands import cache\n    from . import options")
    assert imports("commands/config", of=relative) == {"ipa_cli.commands.cache", "ipa_cli.commands.options"}
    assert imports("commands/config", top_level=True, of=relative) == set()


@pytest.mark.parametrize(
    "typed", ["--help", "config show", "config show --json", "config path", "cache ls", "generate --help"]
)
def test_a_light_command_imports_nothing_heavy(world, typed):
    exit_code, loaded = modules_after(world, typed)
    assert exit_code == 0
    assert not {name.split(".")[0] for name in loaded} & (HEAVY | {"huggingface_hub", "safetensors"})


@pytest.mark.parametrize("typed", ["--help", "config path", "cache --help"])
def test_help_and_settings_load_no_room_behind_the_commands(world, typed):
    """What each command works with is imported when it runs: importing it all would double the time of `--help`."""
    exit_code, loaded = modules_after(world, typed)
    assert exit_code == 0
    rooms_loaded = {name.split(".")[1] for name in loaded if name.startswith("ipa_cli.")}
    assert rooms_loaded <= {
        *("app", "child", "commands", "config", "errors", "interruption", "output", "ownership", "report"),
    }


def modules_after(world, typed: str) -> tuple[int, list[str]]:
    """The exit status of a command and the names of all modules it left imported."""
    code = (
        "import sys, json; from ipa_cli.app import run; code = run(sys.argv[1:]); "
        "print(json.dumps([code, sorted(sys.modules)]), file=sys.stderr)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, *typed.split()], capture_output=True, text=True, env=world.environ, check=True
    )
    exit_code, loaded = json.loads(done.stderr.splitlines()[-1])
    return exit_code, loaded
