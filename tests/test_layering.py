"""Who may import what, print, exit and read `IPA_*`: the folders of the package keep to their layers."""

import ast
import json
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "ipa_cli"
MODULES = {
    path.relative_to(PACKAGE).with_suffix("").as_posix().removesuffix("/__init__"): path
    for path in sorted(PACKAGE.rglob("*.py"))
}
HEAVY = {"torch", "diffusers", "transformers", "accelerate", "onediff", "oneflow", "nexfort", "numpy", "PIL"}
# Imported only by those that need torch anyway.
WITH_TORCH = {
    "unet/attention",
    "unet/inputs",
    "unet/control",
    "unet/model",
    "models/reader",
    *(name for name in MODULES if name.startswith("networks/")),
    "models/vae/channels_last",
    *(name for name in MODULES if name.startswith("backends/")),
}
WITH_ONEFLOW = {"backends/oneflow/conversion", "backends/oneflow/graph"}
# The layers, from the top: a module imports from its own folder and from the layers below.
LAYERS: tuple[tuple[str, ...], ...] = (
    ("__main__",),
    ("app", "api"),
    ("commands", "output"),
    ("sweep", "batch", "bench", "serve", "client", "doctor"),
    ("engine",),
    ("pipeline", "cache"),
    ("backends", "images"),
    ("models",),
    ("unet", "hardware"),
    ("networks",),
    ("config",),
    ("system",),
    ("result",),
    ("errors", ""),
)
LAYER = {folder: number for number, layer in enumerate(LAYERS) for folder in layer}


@cache
def tree(module: str) -> ast.Module:
    return ast.parse(MODULES[module].read_text(encoding="utf-8"))


@cache
def nodes(module: str) -> tuple[ast.AST, ...]:
    return tuple(ast.walk(tree(module)))


def named(node: ast.AST) -> str:
    """`ast.unparse`, which takes long, for names with dots."""
    base, parts = node, []
    while isinstance(base, ast.Attribute):
        parts.append(base.attr)
        base = base.value
    return ".".join([base.id, *reversed(parts)]) if isinstance(base, ast.Name) else ast.unparse(node)


@cache
def imports(module: str, top_level: bool = False, of: ast.Module | None = None, types: bool = False) -> set[str]:
    """Full names of what `module` imports: "rich.console.Console", "ipa_cli.cache"; with `types` also for types."""
    package = ["ipa_cli", *module.split("/")]
    if MODULES[module].name != "__init__.py":
        package.pop()

    def walk(node: ast.AST) -> Iterator[str]:
        if not types and isinstance(node, ast.If) and named(node.test) == "TYPE_CHECKING":
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


def ours(module: str, types: bool = False) -> set[str]:
    """Modules of this package that `module` imports, as "cache" or "commands/cache"."""
    found = set()
    for name in imports(module, types=types):
        parts = name.split(".")
        if parts[0] == "ipa_cli":
            inside = parts[1:]
            while inside and "/".join(inside) not in MODULES:
                inside.pop()
            found.add("/".join(inside))
    return found


@cache
def calls(module: str) -> set[str]:
    return {named(node.func) for node in nodes(module) if isinstance(node, ast.Call)}


@cache
def texts(module: str) -> set[str]:
    """String constants that are code, not documentation."""
    documentation = {
        id(node.value) for node in nodes(module) if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)
    }
    return {
        node.value
        for node in nodes(module)
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in documentation
    }


def test_the_rules_below_see_the_package():
    assert {"app", "config", "output", "cache", "commands/generate", "backends/eager"} <= set(MODULES)
    assert "rich.console.Console" in imports("output")
    assert {"commands/generate", "errors", "output"} <= ours("app")
    assert "torch" in packages("pipeline/denoise") and "torch" not in packages("pipeline/denoise", top_level=True)


@pytest.mark.parametrize("module", MODULES)
def test_heavy_packages_are_imported_only_where_they_are_needed(module):
    allowed = ({"torch"} if module in WITH_TORCH else set()) | ({"oneflow"} if module in WITH_ONEFLOW else set())
    assert packages(module, top_level=True) & HEAVY <= allowed


def test_only_app_and_commands_import_typer():
    assert {m for m in MODULES if "typer" in packages(m)} <= {m for m in MODULES if m.startswith(("app", "commands"))}
    assert not [m for m in MODULES if "click" in packages(m)]  # Typer carries its own


def test_only_output_prints():
    assert [m for m in MODULES if "rich" in packages(m)] == ["output"]
    assert [m for m in MODULES if "tqdm" in packages(m)] == ["api/progress"]
    for module in set(MODULES) - {"output"}:
        printing = calls(module) & {"print", "sys.stdout.write", "sys.stderr.write"}
        assert not printing, f"{module} prints"


def test_only_app_exits():
    exits = {m for m in MODULES if calls(m) & {"sys.exit", "exit", "quit", "os._exit", "typer.Exit", "SystemExit"}}
    assert exits <= {"app", "__main__", "system/child"}  # the last ends with its parent


def test_only_config_reads_our_variables():
    names = {m for m in MODULES if any(text.startswith("IPA_") for text in texts(m))}
    assert names == {"config/files", "config/sources"}


def test_commands_never_import_each_other():
    modules = {m for m in MODULES if m.startswith("commands/")} - {"commands/options", "commands/base"}
    for module in modules:  # a command may be a folder of modules
        others = {other for other in ours(module) & modules if other.split("/")[1] != module.split("/")[1]}
        assert not others, f"{module} imports another command"


def test_nothing_imports_app():
    assert {m for m in MODULES if "app" in ours(m)} <= {"__main__"}


@pytest.mark.parametrize("module", MODULES)
def test_a_module_imports_only_from_its_own_folder_and_the_layers_below(module):
    own = module.split("/")[0]
    folders = {other.split("/")[0] for other in ours(module)} - {own}
    upwards = {folder for folder in folders if LAYER[folder] <= LAYER[own]}
    assert not upwards, f"{module} imports {', '.join(sorted(upwards))}"


def test_there_are_no_circular_imports():
    importing = {module: ours(module, types=True) - {module, ""} for module in MODULES}
    free: set[str] = {""}
    while left := {module for module in importing if module not in free}:
        next_free = {module for module in left if importing[module] <= free}
        assert next_free, f"cycles among {', '.join(sorted(left))}"
        free |= next_free


def test_no_module_is_longer_than_400_lines():
    assert not [m for m, path in MODULES.items() if len(path.read_text(encoding="utf-8").splitlines()) > 400]


def test_the_cache_knows_no_backend_no_settings_and_no_machine():
    for module in (m for m in MODULES if m.startswith("cache")):
        assert {other.split("/")[0] for other in ours(module)} <= {"cache", "errors", "system", ""}


def test_backends_are_handed_a_folder_never_the_cache_a_key_or_settings():
    for module in (m for m in MODULES if m.startswith("backends")):
        assert not {other.split("/")[0] for other in ours(module)} & {"cache", "engine", "config", "models", "pipeline"}


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
def test_help_and_settings_load_nothing_behind_the_commands(world, typed):
    """What each command works with is imported when it runs: importing it all would double the time of `--help`."""
    exit_code, loaded = modules_after(world, typed)
    assert exit_code == 0
    folders_loaded = {name.split(".")[1] for name in loaded if name.startswith("ipa_cli.")}
    assert folders_loaded <= {
        *("app", "commands", "config", "errors", "output", "result", "system"),
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
