"""What the pages say of the package and of the repository's tools is so."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

from tests.test_layering import LAYERS

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "ipa_cli"
PAGES = [path for path in (*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md")) if path.name != "CHANGELOG.md"]
# Flags of other programs, which pages name too.
FOREIGN_FLAGS = {"--follow-tags"}


def text(name: str) -> str:
    return (ROOT / name).read_text(encoding="utf-8")


def test_the_tree_of_the_architecture_is_that_of_the_package():
    (tree,) = re.findall(r"^```text\n(.*?)^```", text("docs/architecture.md"), re.DOTALL | re.MULTILINE)
    _, modules, *lines = tree.splitlines()
    folders, above = set(), [""] * 4
    for line in lines:
        depth = (len(line) - len(line.lstrip())) // 2
        above[depth] = line.split()[0].rstrip("/")
        folders.add("/".join(above[1 : depth + 1]))
    files = [path for path in PACKAGE.rglob("*") if path.is_file() and "__pycache__" not in path.parts]
    top = {path.name for path in files if path.parent == PACKAGE and path.suffix == ".py"}
    packages = {path.parent.relative_to(PACKAGE).as_posix() for path in files if path.suffix == ".py"}
    data = {path.relative_to(PACKAGE).parts[0] for path in files if path.parent != PACKAGE}
    assert set(modules.strip().split(", ")) == top
    assert folders == (packages | data) - {"."}


def test_the_layers_of_the_architecture_are_those_that_are_tested():
    rows = re.findall(r"^\| (\d+) \| (.*) \|$", text("docs/architecture.md"), re.MULTILINE)
    layers = [set(re.findall(r"`(\w+)`", folders)) for _, folders in rows]
    assert [int(number) for number, _ in rows] == list(range(1, len(LAYERS) + 1))
    assert layers == [{folder or "__init__" for folder in layer} for layer in LAYERS]


def test_sessions_markers_and_tests_that_pages_name_exist():
    functions = [node for node in ast.parse(text("noxfile.py")).body if isinstance(node, ast.FunctionDef)]
    sessions = {node.name for node in functions if node.decorator_list}
    markers = set(re.findall(r'^    "(\w+): ', text("pyproject.toml"), re.MULTILINE))
    named = " ".join(page.read_text(encoding="utf-8") for page in (*PAGES, *(ROOT / ".github").glob("*.md")))
    asked = {name for names in re.findall(r"nox -s ((?:\w+ ?)+)", named) for name in names.split()}
    assert {"tests", "fast", "lint", "types", "build"} <= sessions and asked and asked - {"passes"} <= sessions
    assert set(re.findall(r"`(?:python -m pytest )?-m (\w+)`", named)) <= markers
    assert all((ROOT / path).exists() for path in re.findall(r"pytest ([\w./]+)", named))
    (fast,) = re.findall(r'^FAST = "(.*)"$', text("noxfile.py"), re.MULTILINE)
    assert set(re.findall(r"not (\w+)", fast)) == markers


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_flags_that_pages_name_exist(page):
    """In tables that compare with other programs, those of the last column."""
    from typer.main import get_command

    from ipa_cli.app import app

    known = set(FOREIGN_FLAGS)
    commands = [get_command(app)]
    while commands:
        command = commands.pop()
        commands += getattr(command, "commands", {}).values()
        known |= {name for option in command.params for name in (*option.opts, *option.secondary_opts)}
    known |= {"--help", "--install-completion"}
    prose = re.sub(r"^```.*?^```", "", page.read_text(encoding="utf-8"), flags=re.DOTALL | re.MULTILINE)
    if page.name == "coming-from.md":
        prose = "\n".join(line.split(" | ")[-1] if line.startswith("| ") else "" for line in prose.splitlines())
    ours = [quoted for quoted in re.findall(r"`([^`]*)`", prose) if re.match(r"(ipa |--)", quoted)]
    assert {flag for quoted in ours for flag in re.findall(r"(?<!\S)--[a-z][\w-]*", quoted)} <= known


def test_the_issue_template_asks_for_the_doctors_report():
    yaml = pytest.importorskip("yaml")
    template = yaml.safe_load(text(".github/ISSUE_TEMPLATE/bug.yml"))
    (report,) = [field for field in template["body"] if "ipa doctor --report" in str(field.get("attributes"))]
    assert report["validations"]["required"]


def test_hooks_run_what_is_installed():
    yaml = pytest.importorskip("yaml")
    hooks = [hook for repo in yaml.safe_load(text(".pre-commit-config.yaml"))["repos"] for hook in repo["hooks"]]
    assert {hook["entry"].split()[0] for hook in hooks} == {"ruff", "mypy"}
    assert {hook["language"] for hook in hooks} == {"system"}
