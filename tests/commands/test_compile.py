"""`ipa compile`, and `ipa generate` on what it left."""

import json
import os
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from ipa_cli import backends
from ipa_cli.engine import schedules
from ipa_cli.errors import IpaError
from ipa_cli.hardware import packages
from ipa_cli.models import dummy, plan
from ipa_cli.models.plan import DEMO
from tests import tiny_model
from tests.compiled import SPAN, Compiled, flags
from tests.conftest import Ran, World
from tests.system.test_surroundings import NOBODY, run_as

SIZE = 128
DRAW = ("--load-format", "dummy", "--device", "cpu", "--steps", 2, "--seed", 5, "--force")
DRAW = (*DRAW, "--width", SIZE, "--height", SIZE)


@pytest.fixture
def copy(compiled: Compiled, world: World) -> Path:
    """The cache, for a test that spoils it."""
    cache = world.home / "graphs"
    subprocess.run(["cp", "-a", str(compiled.cache), str(cache)], check=True)
    return cache


def _pixels(path: str) -> np.ndarray:
    return np.asarray(Image.open(path), dtype=int)


def test_compile_says_what_it_made(compiled: Compiled) -> None:
    graph = compiled.graph
    assert graph["origin"] == "compiled"
    assert graph["shape"] == "64..256-b2"
    assert graph["compile_s"] > graph["open_s"] > 0
    options = json.loads(Path(graph["path"], "manifest.json").read_text())["describe"]["options"]
    assert (options["precision"], options["dynamic"]) == ("half", list(SPAN))
    assert "cuda_graph" not in options  # read at every load: what is asked for then counts
    assert Path(graph["path"]).is_relative_to(compiled.cache)


def test_a_terminal_sees_how_far_it_is(compiled: Compiled) -> None:
    assert "compiling for 64..256, 2 in a call: tracing transformerblock-" in compiled.shown
    assert "from uncompiled (8 of 8)" in compiled.shown


@pytest.mark.parametrize(
    ("spoiled", "message"), [("XDG_STATE_HOME", "key that signs your graphs"), ("IPA_CACHE_DIR", "graph cache")]
)
def test_a_graph_that_could_not_be_kept_is_reported_before_weights_are_read(ipa, monkeypatch, spoiled, message):
    monkeypatch.setattr("ipa_cli.engine.engine.Engine.open", lambda *_: pytest.fail("it read the weights"))
    monkeypatch.setenv(spoiled, "/dev/null/ipa")
    ran = ipa("compile", "--backend", "inductor", "--device", "cpu")
    assert ran.exit_code == 1 and message in ran.stderr and "hint: " in ran.stderr


def test_a_second_compile_finds_it(compiled: Compiled, ipa: Callable[..., Ran]) -> None:
    (graph,) = ipa("compile", *flags(compiled.model), "--cache-dir", compiled.cache, "--json").data()["graphs"]
    assert graph["origin"] == "cache"
    assert graph["id"] == compiled.graph["id"]
    assert graph["compile_s"] == 0


def test_a_fresh_process_draws_with_it_without_any_compiler(
    compiled: Compiled, ipa: Callable[..., Ran], ipa_process: Callable[..., Ran], world: World
) -> None:
    empty = world.home / "inductor"
    no_compiler = {"CXX": "/bin/false", "CC": "/bin/false", "TORCHINDUCTOR_CACHE_DIR": str(empty)}
    drawn = {}
    for scale in (0, 0.5, 1):
        arguments = (
            "generate",
            "--model",
            compiled.model,
            *DRAW,
            "--scale",
            scale,
            "--cache-dir",
            compiled.cache,
            "--json",
        )
        # The first scale meets a new process, the others this one: the same graph serves them all.
        run = (
            ipa_process(*arguments, "-o", "a.png", environ=no_compiler)
            if scale == 0
            else ipa(*arguments, "-o", "a.png")
        )
        data = run.data()
        assert data["backend"] == "inductor"
        assert data["graph"]["origin"] == "cache"
        assert data["graph"]["id"] == compiled.graph["id"]
        assert data["timings"]["graph_compile_s"] == 0
        drawn[scale] = _pixels("a.png")
        assert ipa(*arguments, "--backend", "eager", "-o", "b.png").data()["backend"] == "eager"
        assert np.abs(drawn[scale] - _pixels("b.png")).max() <= 1
    assert not empty.exists() or not any(path.suffix == ".so" for path in empty.rglob("*"))
    assert (drawn[0] != drawn[0.5]).mean() > 0.01
    assert (drawn[0.5] != drawn[1]).mean() > 0.01


def test_sigterm_leaves_neither_an_unfinished_graph_nor_temporary_files(
    ipa_process: Callable[..., Ran], world: World
) -> None:
    cache, temporary = world.home / "cache", world.home / "temporary"
    temporary.mkdir()
    flags, environ = ("--cache-dir", cache, "--json"), {"TMPDIR": str(temporary)}
    ran = ipa_process("compile", *flags, environ=environ, interrupt_at=": compiling", signals=[signal.SIGTERM])
    assert ran.exit_code == 143 and ran.error()["type"] == "Interrupted"
    assert not [path for path in (cache / "graphs-v1").rglob("*") if path.is_dir() and path.name[0].isdigit()]
    assert {path.name.split("_")[0] for path in temporary.iterdir()} <= {"torchinductor"}  # torch's own cache


def test_an_option_for_loading_takes_the_same_graph(compiled: Compiled, ipa: Callable[..., Ran]) -> None:
    options = ("--backend", "inductor", "--compile-options", '{"cuda_graph": false}', "--no-compile")
    data = ipa("generate", "--model", compiled.model, *DRAW, *options, "--cache-dir", compiled.cache, "--json").data()
    assert data["graph"]["origin"] == "cache"


def test_a_miss_names_what_differs(compiled: Compiled, ipa: Callable[..., Ran]) -> None:
    wider = (*DRAW, "--width", 2 * SPAN[1], "--cache-dir", compiled.cache, "--no-compile")
    said = ipa("generate", "--model", compiled.model, *wider, "--backend", "inductor", "--json")
    assert said.exit_code == 1
    words = (f"options.dynamic {SPAN[0]}, {SPAN[1]} → none", f"width none → {2 * SPAN[1]}")
    assert all(text in said.error()["message"] for text in words)
    drawn = ipa("generate", "--model", compiled.model, *wider)
    assert drawn.exit_code == 0
    assert all(text in drawn.stdout for text in (*words, "eager"))


def test_a_graph_without_masks_is_none_for_masks(compiled: Compiled, ipa: Callable[..., Ran]) -> None:
    Image.new("L", (SIZE, SIZE), "white").save("mask.png")
    flags = ("--mask", "mask.png", "--cache-dir", compiled.cache, "--no-compile", "--backend", "inductor", "--json")
    said = ipa("generate", "--model", compiled.model, *DRAW, *flags)
    assert said.exit_code == 1 and "masks none → yes" in said.error()["message"]


def test_a_changed_graph_is_refused_and_taken_out(compiled: Compiled, copy: Path, ipa: Callable[..., Ran]) -> None:
    package = max((copy / "graphs-v1" / "inductor").rglob("*.pt2"), key=lambda path: path.stat().st_size)
    content = bytearray(package.read_bytes())
    content[len(content) // 2] ^= 1
    package.write_bytes(content)
    drawn = ipa("generate", "--model", compiled.model, *DRAW, "--cache-dir", copy, "--no-compile")
    assert drawn.exit_code == 0
    assert "warning" in drawn.stderr and package.name in drawn.stderr
    assert "eager" in drawn.stdout
    assert not package.exists()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")
def test_another_user_without_a_home_draws_with_a_cache_that_only_root_can_write(
    compiled: Compiled, world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As in a container whose image has the graphs in it: no key, no right to write."""
    installed = backends.installed()  # another user may be unable to look into this environment
    monkeypatch.setattr(packages, "installed", lambda *_: installed)
    for name in ("HOME", "XDG_CONFIG_HOME", "XDG_CACHE_HOME", "XDG_STATE_HOME"):
        monkeypatch.delenv(name)
    with tempfile.TemporaryDirectory() as folder, tempfile.TemporaryDirectory() as out:
        image = Path(folder)
        subprocess.run(["cp", "-a", compiled.cache, compiled.model, DEMO, image], check=True)
        subprocess.run(["chmod", "-R", "a+rX,go-w", image], check=True)
        os.chown(out, NOBODY, NOBODY)
        monkeypatch.chdir(out)
        monkeypatch.setattr(tempfile, "tempdir", out)
        for module in (plan, dummy):
            monkeypatch.setattr(module, "DEMO", image / DEMO.name)  # the installed one may be in root's home
        shutil.copy(schedules.SHIPPED, image)
        monkeypatch.setattr(schedules, "SHIPPED", image / schedules.SHIPPED.name)
        model, cache, reference = image / compiled.model.name, image / "cache", image / DEMO.name / "reference.png"
        before = sorted(cache.rglob("*"))
        [graph] = run_as(NOBODY, "cache", "ls", "--cache-dir", cache, "--json").data()["graphs"]
        assert (graph["usable"], graph["obstacles"]) == (True, [])
        flags = ("--model", model, *DRAW, "--image", reference, "--backend", "inductor", "--no-compile")
        drawn = run_as(NOBODY, "generate", *flags, "--output", f"{out}/{{seed}}.png", "--cache-dir", cache, "--json")
        assert drawn.data()["graph"]["origin"] == "cache"
        assert [path for path in sorted(cache.rglob("*")) if "64..256-b2" not in str(path)] == [
            path for path in before if "64..256-b2" not in str(path)
        ]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--backend", "eager"), "eager compiles nothing"),
        (("--size", "100x128"), "multiple of 8"),
        (("--size", "wide"), "is not a picture size"),
        (("--dynamic", "512"), "is not a range of sizes"),
        (("--dynamic", "512..256"), "smallest and largest"),
        (("--compile-options", '{"speed": 9}'), "no option 'speed'"),
        (("--compile-options", "quick"), "no preset 'quick'"),
    ],
)
def test_invalid_options_fail_before_loading(
    arguments: tuple[str, ...], words: str, world: World, ipa: Callable[..., Ran]
) -> None:
    said = ipa(
        "compile", "--model", tiny_model.write(world.cwd / "model"), "--load-format", "dummy", *arguments, "--json"
    )
    assert said.exit_code == 2
    assert words in said.error()["message"] + said.error()["hint"]
    assert "loading" not in said.stderr


@pytest.mark.slow
@pytest.mark.parametrize(
    ("asked", "example"),
    [
        (("--dynamic", "512..1536"), (1024, 1024)),
        (("--dynamic", "64..256"), (128, 128)),
        (("--dynamic", "72..120"), (72, 72)),
        (("--compile-options", '{"dynamic": [512, 1536]}'), (1024, 1024)),
        (("--dynamic", "512..1536", "--size", "768x512"), (768, 512)),
        (("--size", "64x72"), (64, 72)),
    ],
)
def test_a_range_is_compiled_with_a_size_from_within(asked, example, world, ipa, monkeypatch) -> None:
    from ipa_cli.engine import graphs

    sizes = []

    def prepare(unet: object, wanted: graphs.Wanted, *rest: object) -> None:
        sizes.append(tuple(8 * side for side in reversed(wanted.example.sample.shape[2:])))
        raise IpaError("far enough")

    monkeypatch.setattr(graphs, "prepare", prepare)
    model = tiny_model.write(world.cwd / "model")
    said = ipa("compile", "--model", model, "--load-format", "dummy", *asked).stderr
    assert "far enough" in said and "no effect" not in said
    assert sizes == [example]


def test_a_size_outside_of_the_range_is_reported_before_loading(world, ipa) -> None:
    model = tiny_model.write(world.cwd / "model")
    said = ipa("compile", "--model", model, "--dynamic", "512..1536", "--size", "256x512", "--json")
    assert said.exit_code == 2 and "256x512 is outside of 512..1536" in said.error()["message"]
    assert "loading" not in said.stderr


@pytest.mark.parametrize(
    ("asked", "batches"),
    [
        ((), [2]),
        (("--guidance-scale", 1), [1]),
        (("--preset", "lightning"), [1]),
        (("--guidance-end", 0.5, "--batch-size", 2), [4, 2]),
    ],
)
def test_guidance_decides_which_graphs_are_compiled(asked, batches, world, ipa, monkeypatch) -> None:
    from ipa_cli.engine import compile as compiling
    from ipa_cli.engine import graphs

    made = []

    def prepare(unet: object, wanted: graphs.Wanted, *rest: object) -> None:
        made.append(wanted.example.sample.shape[0])

    monkeypatch.setattr(graphs, "prepare", prepare)
    monkeypatch.setattr(compiling, "_graph", lambda *_: 1 / 0)
    model = tiny_model.write(world.cwd / "model")
    assert ipa("compile", "--model", model, "--load-format", "dummy", "--size", "64x64", *asked).exit_code == 70
    assert made == batches
