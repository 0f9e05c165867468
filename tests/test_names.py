"""Names of our own in docs, docstrings and comments are those of something that is there.

A name in backticks with a dot (`settings.Settings`, `ipa_cli.errors.IpaError`) is looked up in the sources, a path is
looked up in the repository, a link leads to a file and to a heading of it. What scripts within tests and pages import
of ours is there.
"""

from __future__ import annotations

import ast
import io
import os
import re
import subprocess
import sys
import textwrap
import tokenize
from collections.abc import Iterable, Iterator
from contextlib import suppress
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
OURS = ("ipa_cli", "tests", "benchmarks", "training")
FOLDERS = (*OURS, "docs", ".ci", ".github", "completions")
# First parts of names that belong to somebody else; the last ones are tables of pyproject.toml, an option of torch, and
# what OpenAI's and A1111's APIs call fields and events.
FOREIGN = re.compile(
    "accelerate|aiohttp|diffusers|huggingface_hub|httpx2|jinja2|nexfort|numpy|oneflow|onediff|PIL|rich|safetensors|skimage|tanh|torch|"
    "transformers|triton|typer|StableDiffusionPipeline|StableDiffusionXLPipeline|project|tool|cpp|"
    "alwayson_scripts|image_edit|image_generation|cvt|" + "|".join(sys.stdlib_module_names)
)
SUFFIXES = re.compile("md|py|toml|txt|ya?ml|ipynb|jsonl?|html|css|js|png|jpg|webp|safetensors|bin|npz|j2|whl")
NAME = re.compile(r"[A-Za-z_]\w*(?:\.[A-Za-z_]\w*)+")


@cache
def tracked() -> tuple[str, ...]:
    """The files of the repository; in a copy without it all but hidden folders, apart from those with our files."""
    listed = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True)
    if not listed.returncode:
        return tuple(name for name in listed.stdout.splitlines() if (ROOT / name).is_file())
    found = []
    for folder, folders, files in os.walk(ROOT):
        folders[:] = [name for name in folders if name in FOLDERS or not name.startswith((".", "__pycache__"))]
        found += [Path(folder, name).relative_to(ROOT).as_posix() for name in files]
    return tuple(found)


SCANNED = [
    path.relative_to(ROOT).as_posix()
    for pattern in ("*.md", "*.toml", "*.py", "*/**/*.md", "*/**/*.py", ".ci/*")
    for path in sorted(ROOT.glob(pattern))
    if path.relative_to(ROOT).parts[0] in (*FOLDERS, path.name)
]
PAGES = [name for name in SCANNED if name.endswith(".md")]


@cache
def modules() -> dict[str, Path]:
    """Our modules by their dotted names."""
    found = {}
    for folder in OURS:
        for path in (ROOT / folder).rglob("*.py"):
            found[".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")] = path
    return found


@cache
def members(module: str) -> dict[str, frozenset[str] | None]:
    """The names at the top of a module, with those inside each class; None for what is not looked into."""
    found: dict[str, frozenset[str] | None] = {
        name.rpartition(".")[2]: None for name in modules() if name.rpartition(".")[0] == module
    }

    def bound(node: ast.AST) -> Iterator[str]:
        """The names that a statement binds, those inside `if`, `try` and `with` too."""
        for inner in ast.walk(node):
            if isinstance(inner, ast.Name) and isinstance(inner.ctx, ast.Store):
                yield inner.id
            elif isinstance(inner, ast.Attribute) and isinstance(inner.ctx, ast.Store):
                yield inner.attr  # `self.name = …`
            elif isinstance(inner, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
                yield inner.name
            elif isinstance(inner, ast.alias):
                yield (inner.asname or inner.name).split(".")[0]

    for node in ast.parse(modules()[module].read_text(encoding="utf-8")).body:
        if isinstance(node, ast.ClassDef):
            found[node.name] = frozenset(bound(node))
        elif isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            found[node.name] = frozenset()
        else:
            found |= dict.fromkeys(bound(node))
    return found


def is_ours(name: str) -> bool:
    """Whether `name` is that of a module (by any end of its dotted name), or of something in one, or of a class."""
    parts = name.split(".")
    if parts[0][0].isupper():
        return any(set(parts[1:]) <= (members(module).get(parts[0]) or frozenset()) for module in modules())
    for length in range(len(parts), 0, -1):
        ending, rest = ".".join(parts[:length]), parts[length:]
        for module in modules():
            if module == ending or module.endswith(f".{ending}"):
                if not rest:
                    return True
                inside = members(module).get(rest[0], False)
                if inside is None or (inside is not False and (len(rest) == 1 or set(rest[1:]) <= inside)):
                    return True
    return False


def prose(name: str) -> str:
    """What a file says to its readers: of Python its docstrings and comments, of a page all but the code blocks."""
    text = (ROOT / name).read_text(encoding="utf-8")
    if not name.endswith(".py"):
        return re.sub(r"^```.*?^```", "", text, flags=re.DOTALL | re.MULTILINE)
    documented = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
    docstrings = [ast.get_docstring(node) for node in ast.walk(ast.parse(text)) if isinstance(node, documented)]
    tokens = tokenize.generate_tokens(io.StringIO(text).readline)
    comments = [token.string for token in tokens if token.type == tokenize.COMMENT]
    return "\n".join([*filter(None, docstrings), *comments])


# How examples of the Python API call what is ours.
VARIABLES = {"ipa": "ipa_cli", "engine": "Engine", "picture": "Picture"}


def unknown_names(text: str) -> set[str]:
    """Dotted names in backticks that are neither ours nor known to be somebody else's."""
    found = set()
    for quoted in re.findall(r"`([^`\n]+)`", text):
        name = re.sub(r"\(.*\)$", "", quoted)
        if NAME.fullmatch(name) and not SUFFIXES.fullmatch(name.rpartition(".")[2]):
            first, _, rest = name.partition(".")
            full = f"{VARIABLES.get(first, first)}.{rest}"
            if not FOREIGN.fullmatch(first) and not is_ours(name) and not is_ours(full):
                found.add(name)
    return found


def missing_paths(text: str) -> set[str]:
    """Paths that begin with one of our folders, and names of Python files, that are not there."""
    folders = "|".join(map(re.escape, FOLDERS))
    found = set(re.findall(rf"(?<![\w/.-])((?:{folders})/[\w./-]*\w)", text))
    missing = {path for path in found if not (ROOT / path).exists() and not (ROOT / path).with_suffix(".py").exists()}
    files = {name.rpartition("/")[2] for name in tracked()}
    return missing | {name for name in re.findall(r"`([\w-]+\.(?:py|md))`", text) if name not in files}


def scripts(name: str) -> Iterator[ast.Module]:
    """Python within a file: what tests hand to processes of their own, and the code blocks of a page."""
    text = (ROOT / name).read_text(encoding="utf-8")
    if name.endswith(".py"):
        strings = (node.value for node in ast.walk(ast.parse(text)) if isinstance(node, ast.Constant))
        found = [text for text in strings if isinstance(text, str) and "\n" in text]
    else:
        found = re.findall(r"^```python\n(.*?)^```", text, flags=re.DOTALL | re.MULTILINE)
    for script in found:
        with suppress(SyntaxError, UnicodeError):  # other text, or a template
            yield ast.parse(textwrap.dedent(script))


def missing_imports(script: ast.Module) -> set[str]:
    """What a script imports of ours that is not there: such a process may only run where few machines get to."""
    found = set()
    for node in ast.walk(script):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found |= {f"{node.module}.{alias.name}".removesuffix(".*") for alias in node.names}
    ours = (name for name in found if name.partition(".")[0] in OURS)
    return {
        name
        for name in ours
        if name not in modules() and name.rpartition(".")[2] not in members_of(name.rpartition(".")[0])
    }


def members_of(module: str) -> Iterable[str]:
    return members(module) if module in modules() else ()


def headings(page: Path) -> set[str]:
    """The anchors that GitHub gives to the headings of a page."""
    titles = re.findall(r"^#+ (.*)$", page.read_text(encoding="utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}


@pytest.mark.parametrize("name", SCANNED)
def test_names_and_paths_in_prose_exist(name):
    text = prose(name)
    assert not unknown_names(text)
    assert not missing_paths(text)


@pytest.mark.parametrize("name", [name for name in SCANNED if name != "tests/test_names.py"])
def test_scripts_within_files_import_what_exists(name):
    for script in scripts(name):
        assert not missing_imports(script)


@pytest.mark.parametrize("name", PAGES)
def test_links_lead_somewhere(name):
    page = ROOT / name
    for target in re.findall(r"\]\(([^)\s]+)\)", prose(name)):
        if "://" in target:
            continue
        path, _, anchor = target.partition("#")
        leads_to = (page.parent / path) if path else page
        assert leads_to.exists(), target
        assert not anchor or anchor in headings(leads_to), target


def test_what_is_not_there_is_seen():
    """The rules above on names that are there and names that are not, so that a green run means something."""
    assert not unknown_names(
        "`settings.Settings`, `ipa_cli.errors.IpaError.hint`, `torch.compile()`, `ipa.toml`, `config`"
    )
    assert unknown_names("`settings.Nothing`, `IpaError.nothing`, `store.entries`") == {
        "settings.Nothing",
        "IpaError.nothing",
        "store.entries",
    }
    assert missing_paths("ipa_cli/errors.py, ipa_cli/store/manifest.py, `gone.py`, https://x.org/docs/x") == {
        "ipa_cli/store/manifest.py",
        "gone.py",
    }
    script = "import ipa_cli.store, json\nfrom ipa_cli.errors import IpaError, Nothing\nfrom ipa_cli import cache"
    assert missing_imports(ast.parse(script)) == {"ipa_cli.store", "ipa_cli.errors.Nothing"}
    assert [*scripts("tests/backends/inductor/test_kernels.py")]
