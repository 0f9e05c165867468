"""Every backend in the table keeps the contract of `backends.base`: it states what it can do, and does that.

What a backend denies is shown by `minimal`, which denies everything: it joins the table, and nothing else changes.
"""

import ast
import dataclasses
import inspect
import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from PIL import Image

from ipa_cli import backends
from ipa_cli.backends import MODULES
from ipa_cli.backends.base import Backend, Capabilities
from ipa_cli.config import Settings
from ipa_cli.engine.backend_choice import check_capabilities
from ipa_cli.errors import UsageError
from ipa_cli.models import loader
from tests import loras
from tests.backends import minimal
from tests.compiled import SPAN
from tests.test_layering import MODULES as FILES
from tests.test_layering import texts
from tests.unets import difference, example, residuals, tiny, twice

FACTS = (
    "devices",
    "dtypes",
    "code_folders",
    "load_options",
    "decoders",
    "tunes",
    "decoder_options",
)  # the other capabilities can be denied
DENIABLE = [field.name for field in dataclasses.fields(Capabilities) if field.name not in FACTS]
FAST = ("--steps", 1, "--width", 64, "--height", 64, "--warmup", 0)

every_backend = pytest.mark.parametrize("name", MODULES)


# --- what each states ---------------------------------------------------------------------------------------------


@every_backend
def test_capabilities_agree_with_options_and_folders(name):
    backend = backends.get(name)
    can, options = backend.CAPABILITIES, backend.options(None)
    assert can.devices and set(can.devices) <= {"cpu", "cuda", "mps"}
    assert set(can.load_options) <= options.keys()
    assert ("precision" in options) == bool(can.fp8)
    assert ("dynamic" in options) == can.dynamic_sizes
    assert bool(can.code_folders) == can.compiles == bool(backends.code(name))
    assert all((backends.PACKAGE / folder).is_dir() for folder in can.code_folders)
    assert not (can.compiles and can.offload)  # compiled code reads weights where they lie


@every_backend
def test_requirements_name_what_is_missing_and_how_to_install_it(name):
    needs = backends.get(name).REQUIREMENTS
    ast.parse(needs.imports)
    nothing = backends.problem(name, {})
    assert nothing is not None and nothing.hint == needs.install
    if needs.newest_python is None or sys.version_info[:2] <= needs.newest_python:
        assert all(f"{package.name}{package.versions} (not installed)" in nothing.message for package in needs.packages)


@every_backend
def test_options_are_complete_json_and_unknown_ones_are_refused(name):
    backend = backends.get(name)
    for preset in backend.PRESETS:
        options = backend.options(preset)
        assert options.keys() == backend.PRESETS[preset].keys()
        assert backend.options(json.loads(json.dumps(options))) == options
    for wrong in ({"no such option": 1}, "no-such-preset", "{"):
        with pytest.raises(UsageError):
            backend.options(wrong)


@every_backend
def test_versions_are_words_even_where_packages_are_missing(name):
    found = backends.get(name).versions()
    assert all(type(one) is str and one for pair in found.items() for one in pair)
    assert bool(found) == backends.get(name).CAPABILITIES.compiles


@every_backend
def test_functions_take_what_the_protocol_says(name):
    backend = backends.get(name)
    for function, promised in inspect.getmembers(Backend, inspect.isfunction):
        if not function.startswith("_"):
            given = list(inspect.signature(getattr(backend, function)).parameters)
            assert given == list(inspect.signature(promised).parameters)[1:], function


@every_backend
def test_the_docs_name_it(name):
    assert f"\n| `{name}`" in (backends.PACKAGE.parent / "docs/compiling.md").read_text(encoding="utf-8")


def test_reading_what_a_backend_states_imports_no_torch():
    code = (
        "import sys; from ipa_cli import backends; [backends.get(name).options(None) for name in backends.MODULES]; "
        "backends.installed(); print({'torch', 'diffusers', 'numpy', 'onediff', 'triton'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"


@pytest.mark.slow
def test_no_code_outside_of_the_backends_names_one():
    naming = {module for module in FILES if not module.startswith("backends/") and texts(module) & MODULES.keys()}
    assert naming - {"backends"} == {"system/child"}  # the name of a folder


# --- what each does ------------------------------------------------------------------------------------------------


@pytest.fixture
def denoiser(request):
    """A function from a backend's name to UNet, adapters and the UNet's denoiser; skips where it cannot run."""

    def make(name):
        problem = backends.problem(name)
        if problem is not None:
            pytest.skip(problem.message)
        backend, (unet, adapters) = backends.get(name), tiny()
        if not backend.CAPABILITIES.compiles:
            return unet, adapters, backend.load(unet, None, backend.options(None))
        if MODULES[name].startswith("ipa_cli.backends.onediff"):
            pytest.skip("compiles for minutes: tested in tests/backends/onediff")
        if name == backends.PREFERRED:
            folder = Path(request.getfixturevalue("compiled").graph["path"])
            return unet, adapters, backend.load(unet, folder, backend.options({"dynamic": list(SPAN)}))
        folder, options = request.getfixturevalue("tmp_path"), backend.options(None)
        backend.compile(unet, example(unet, adapters), folder, options, print)
        return unet, adapters, backend.load(unet, folder, options)

    return make


@every_backend
def test_it_draws_what_eager_draws_and_follows_scale_and_weights(name, denoiser):
    unet, adapters, call = denoiser(name)
    inputs = example(unet, adapters)
    other = scaled(inputs, 0.3)
    before = call(inputs)
    for given in (inputs, other):
        with torch.no_grad():
            assert difference(call(given), unet(given)) < 1e-4
    assert difference(call(other), before) > 1e-3
    with torch.no_grad():
        unet.conv_out.bias += 1.0
        assert difference(call(inputs), unet(inputs)) < 1e-4
    assert difference(before, call(inputs)) > 1e-3, "the result is the caller's own"


def scaled(inputs, factor):
    return replace(inputs, context=inputs.context._replace(scale=inputs.context.scale * factor))


def masked(inputs):
    mask = torch.zeros(1, 1, 64, 1)
    mask[:, :, :32] = 1
    masks = [[mask] * inputs.context.scale.shape[1]]
    return replace(inputs, context=inputs.context._replace(mask=masks))


def with_regions(inputs):
    context = inputs.context
    share = torch.zeros(1, 1, 64, 1)
    share[:, :, :24] = 1
    layers = range(len(context.text))
    regions = [[context.text[layer].flip(3) * 2 for layer in layers]]
    shares = [[one] * len(layers) for one in (1 - share, share)]
    return replace(inputs, context=context._replace(regions=regions, share=shares))


@every_backend
def test_it_does_what_it_states(name, denoiser):
    unet, adapters, call = denoiser(name)
    can, inputs = backends.get(name).CAPABILITIES, example(unet, adapters)
    given = {}
    if can.dynamic_sizes or not can.compiles:
        given["another size"] = example(unet, adapters, 24, 16)
    if can.control_residuals:
        given["control residuals"] = replace(inputs, control=residuals(unet, inputs))
    if not can.compiles:  # others need another graph: see test_regions
        given["masks"] = masked(inputs)
        given["regions"] = with_regions(inputs)
        given["a batch"] = twice(inputs)
    for what, one in given.items():
        with torch.no_grad():
            expected = unet(one)
            assert difference(call(one), expected) < 1e-4, what
        assert expected.shape != call(inputs).shape or difference(expected, call(inputs)) > 1e-3, what


@every_backend
def test_weights_that_change_in_place_count_where_loras_are_stated(name, denoiser):
    if not backends.get(name).CAPABILITIES.loras:
        pytest.skip("it denies them")
    unet, adapters, call = denoiser(name)
    inputs = example(unet, adapters)
    before = call(inputs)
    changed = [module.weight for module in unet.modules() if isinstance(module, torch.nn.Linear | torch.nn.Conv2d)]
    kept = [weight.detach().clone() for weight in changed]
    try:
        with torch.no_grad():
            for weight in changed:
                weight.mul_(1.1)
            assert difference(call(inputs), unet(inputs)) < 1e-4 and difference(call(inputs), before) > 1e-2
    finally:
        with torch.no_grad():
            for weight, one in zip(changed, kept, strict=True):
                weight.copy_(one)
    assert torch.equal(call(inputs), before)


# --- what is denied ------------------------------------------------------------------------------------------------


@pytest.fixture
def in_the_table(monkeypatch):
    """Add `minimal` to the table, with these capabilities."""

    def add(**capabilities):
        monkeypatch.setitem(MODULES, "minimal", minimal.__name__)
        monkeypatch.setattr(minimal, "CAPABILITIES", Capabilities(**{"devices": ("cpu",), **capabilities}))

    return add


@pytest.mark.slow
def test_a_backend_draws_once_it_is_in_the_table(ipa, world, in_the_table):
    in_the_table()
    shared = ("generate", "--seed", 1, *FAST, "--json")
    assert ipa(*shared, "-o", "minimal.png", "--backend", "minimal").data()["backend"] == "minimal"
    assert ipa(*shared, "-o", "eager.png", "--backend", "eager").data()["backend"] == "eager"
    one, other = (Image.open(world.cwd / f"{name}.png").tobytes() for name in ("minimal", "eager"))
    assert one == other
    checks = ipa("doctor", "--backend", "minimal", "--json").json()
    assert "backend minimal" in json.dumps(checks)
    assert "minimal" in ipa("generate", "--backend", "turbo").stderr


@pytest.mark.parametrize(
    ("flags", "capabilities", "words", "other"),
    [
        (("--mask", "mask.png"), {}, "minimal takes no masks", "eager or inductor"),
        (("--precision", "fp8"), {}, "minimal has no fp8", "inductor"),
        (("--batch-size", 2, "--num-images", 2), {}, "minimal draws one picture per call", "eager or inductor"),
        (("--lora", "lora.safetensors"), {}, "minimal does not follow weights that change", "eager or inductor"),
        ((), {"devices": ("cuda",)}, "minimal does not run on cpu", "eager"),
        (("--dtype", "float16"), {"dtypes": ("float32",)}, "minimal does not compute in float16", "eager"),
    ],
)
def test_what_a_backend_cannot_do_is_refused_before_weights_are_read(
    ipa, world, monkeypatch, in_the_table, flags, capabilities, words, other
):
    in_the_table(**capabilities)
    monkeypatch.setattr(loader, "load", lambda *_, **__: pytest.fail("weights are read"))
    Image.new("L", (64, 64), 255).save(world.cwd / "mask.png")
    loras.write(world.cwd / "lora.safetensors", loras.of_demo())
    ran = ipa("generate", *FAST, "--backend", "minimal", "--device", "cpu", *flags, "--json")
    assert ran.exit_code == 2, ran.stdout + ran.stderr
    assert words in ran.error()["message"] and f"--backend {other}" in ran.error()["hint"]


@pytest.mark.parametrize(
    ("flags", "compiles", "words"),
    [((), False, "minimal compiles nothing"), (("--dynamic", "64..128"), True, "minimal compiles for one size only")],
)
def test_what_a_backend_cannot_compile_is_refused_before_weights_are_read(
    ipa, monkeypatch, in_the_table, flags, compiles, words
):
    in_the_table(compiles=compiles)
    monkeypatch.setattr(loader, "load", lambda *_, **__: pytest.fail("weights are read"))
    ran = ipa("compile", "--backend", "minimal", "--device", "cpu", *flags, "--json")
    assert ran.exit_code == 2 and words in ran.error()["message"] and "inductor" in ran.error()["hint"]


@pytest.mark.parametrize("name", [*MODULES, "minimal"])
def test_offload_is_refused_by_all_that_do_not_state_it(name, in_the_table):
    in_the_table()
    settings, device = Settings(backend=name), SimpleNamespace(type="cpu")
    if backends.get(name).CAPABILITIES.offload:
        return check_capabilities(settings, device, "model")
    with pytest.raises(UsageError, match="stay on the GPU"):
        check_capabilities(settings, device, "model")
    return None


@pytest.mark.parametrize("capability", DENIABLE)
def test_each_capability_is_required_by_name(capability, in_the_table):
    in_the_table()
    with pytest.raises(UsageError, match="the backend minimal") as refused:
        backends.require("minimal", capability)
    others = backends.capable(capability)
    assert others and all(other in refused.value.hint for other in others)
    for other in others:
        backends.require(other, capability)
    backends.require(backends.AUTO, capability)


# --- the digest of the code ----------------------------------------------------------------------------------------


@pytest.fixture
def sources(tmp_path):
    for name in ("kernels/one.py", "kernels/deep/two.py", "unet/three.py", "elsewhere/four.py"):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"# {name}\n")
    return tmp_path


def digest(root):
    return backends.digest(root, ("kernels", "unet"))


@pytest.mark.parametrize("name", ["kernels/one.py", "kernels/deep/two.py", "unet/three.py"])
def test_a_changed_byte_in_any_file_of_the_folders_changes_the_digest(sources, name):
    before = digest(sources)
    (sources / name).write_text((sources / name).read_text() + "#")
    assert digest(sources) != before


def test_files_elsewhere_and_bytecode_leave_the_digest_alone(sources):
    before = digest(sources)
    (sources / "elsewhere/four.py").write_text("")
    (sources / "kernels/__pycache__").mkdir()
    (sources / "kernels/__pycache__/one.pyc").write_bytes(b"1")
    assert digest(sources) == before


def test_renamed_swapped_new_and_removed_files_change_the_digest(sources):
    found = [digest(sources)]
    one, two = sources / "kernels/one.py", sources / "kernels/deep/two.py"
    texts = one.read_text(), two.read_text()
    one.write_text(texts[1])
    two.write_text(texts[0])
    found.append(digest(sources))
    one.rename(one.with_name("zero.py"))
    found.append(digest(sources))
    (sources / "unet/new.py").write_text("")
    found.append(digest(sources))
    two.unlink()
    found.append(digest(sources))
    assert len(set(found)) == len(found)


def test_a_graphs_key_has_the_digest_of_its_backends_folders():
    can = backends.get(backends.PREFERRED).CAPABILITIES
    assert set(can.code_folders) == {"backends/inductor", "models/vae", "networks", "unet"}
    assert backends.code(backends.PREFERRED) == backends.digest(backends.PACKAGE, can.code_folders)
