"""The graph of the decoder: its key, where it is found, and that pictures are decoded by it."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from ipa_cli import backends, cache
from ipa_cli.backends.inductor import backend as inductor
from ipa_cli.backends.inductor import decoder as inductor_decoder
from ipa_cli.cache import Store
from ipa_cli.config import Settings
from ipa_cli.engine import decoders
from ipa_cli.engine.engine import Engine
from ipa_cli.errors import IpaError
from ipa_cli.models.plan import DEMO, make_plan
from ipa_cli.models.vae import channels_last
from ipa_cli.networks.autoencoder import AutoencoderKL
from ipa_cli.pipeline.references import load_references
from ipa_cli.pipeline.task import make_request
from ipa_cli.result import KeepingReporter, NullReporter

WANTED = decoders.Wanted("inductor", 64, 32, None)


@pytest.fixture
def vae():
    torch.manual_seed(0)
    config = json.loads((DEMO / "vae" / "config.json").read_text())
    return AutoencoderKL(config).eval().requires_grad_(False)


@pytest.fixture
def compiled(monkeypatch):
    """Shapes of latents for which decoders were compiled, by a compiler that writes down their shape alone."""
    shapes = []

    def compile_decoder(vae, latents, folder, options, report):
        shapes.append(tuple(latents.shape))
        (folder / "shape").write_text(json.dumps(shapes[-1]))

    def load_decoder(vae, folder):
        shape = json.loads((folder / "shape").read_text())
        assert shape

        def decode(latents):
            assert list(latents.shape) == shape
            return -vae.decode(latents)  # so that it shows

        return decode

    monkeypatch.setattr(inductor, "CAPABILITIES", replace(inductor.CAPABILITIES, decoders=("cpu",)))
    monkeypatch.setattr(inductor, "compile_decoder", compile_decoder)
    monkeypatch.setattr(inductor, "load_decoder", load_decoder)
    return shapes


def test_a_decoder_is_compiled_once_for_a_size(vae, compiled, tmp_path):
    store, reporter = Store(tmp_path / "cache"), KeepingReporter()
    assert decoders.find(vae, WANTED, store, reporter) is None
    first = decoders.prepare(vae, WANTED, "demo", store, reporter)
    again = decoders.prepare(vae, WANTED, "demo", store, reporter)
    assert (first.origin, again.origin) == ("compiled", "cache")
    assert compiled == [(1, 4, 4, 8)]
    assert decoders.find(vae, replace(WANTED, width=32), store, reporter) is None
    (entry,) = cache.scan_backend(store, "inductor")
    assert entry.shape == "decoder-64x32"


def test_the_key_tells_what_changes_the_code_and_not_the_weights(vae):
    own = decoders.key(vae, WANTED)
    with torch.no_grad():
        vae.decoder.conv_in.weight.add_(1)
    assert decoders.key(vae, WANTED) == own
    assert decoders.key(vae.half(), WANTED) != own
    vae.float().decoder.conv_norm_out.eps /= 64**2
    assert decoders.key(vae, WANTED) != own


def test_a_graph_of_another_version_of_the_code_is_not_opened(vae, compiled, tmp_path, monkeypatch):
    store, reporter = Store(tmp_path / "cache"), KeepingReporter()
    decoders.prepare(vae, WANTED, "demo", store, reporter)
    monkeypatch.setattr(backends, "code", lambda name: "0123")
    assert decoders.find(vae, WANTED, store, reporter) is None
    assert not reporter.warnings
    assert decoders.prepare(vae, WANTED, "demo", store, reporter).origin == "compiled"


def test_a_damaged_graph_is_reported_and_not_used(vae, compiled, tmp_path):
    store, reporter = Store(tmp_path / "cache"), KeepingReporter()
    made = decoders.prepare(vae, WANTED, "demo", store, reporter)
    shape = Path(made.entry.folder, "shape")
    shape.chmod(0o600)
    shape.write_text("[9, 9, 9, 9]")
    assert decoders.find(vae, WANTED, store, reporter) is None
    assert len(reporter.warnings) == 1 and "decoded without it" in reporter.warnings[0]


def test_pictures_are_decoded_by_the_graph_where_the_unet_has_one(compiled, monkeypatch, tmp_path):
    settings = Settings(
        model="demo", prompt="a star", image=(str(DEMO / "reference.png"),), seed=1, steps=1, width=64, height=64,
        device="cpu", backend="inductor", cache_dir=tmp_path / "cache", compile=True, warmup=0,
    )  # fmt: skip
    monkeypatch.setattr(inductor, "toolchain_problem", lambda: None)
    monkeypatch.setattr(inductor, "compile", lambda unet, example, folder, options, report: (folder / "x").touch())
    monkeypatch.setattr(inductor, "load", lambda unet, folder, options: backends.get("eager").load(unet, None, {}))
    plan = make_plan(settings)
    request = make_request(settings, plan, load_references(settings, NullReporter()))

    def drawn(compiles):
        engine = Engine.open(settings, plan, NullReporter())
        engine.encode([request])
        engine.prepare(request)
        made = engine.compile_decoder(request) if compiles else None
        assert compiles == (made is not None)
        return torch.tensor(list(engine.draw(request).images[0].tobytes()))

    plain, by_graph, later = drawn(False), drawn(True), drawn(False)
    assert (plain + by_graph - 255).abs().max() <= 1
    assert torch.equal(by_graph, later)


@pytest.mark.parametrize(
    ("dtype", "converted", "config", "capability", "fused"),
    [
        (torch.float16, True, {}, (9, 0), True),
        (torch.float16, True, {}, (8, 9), False),
        (torch.float16, False, {}, (9, 0), False),
        (torch.bfloat16, True, {}, (9, 0), False),
        (torch.float32, True, {}, (9, 0), False),
        (torch.float16, True, {"act_fn": "mish"}, (9, 0), False),
        (torch.float16, True, {"out_channels": 4}, (9, 0), False),
        (torch.float16, True, {"block_out_channels": [8, 32, 64, 64]}, (9, 0), False),
    ],
)
def test_our_kernels_decode_only_where_they_were_checked(dtype, converted, config, capability, fused, monkeypatch):
    given = json.loads((DEMO / "vae" / "config.json").read_text())
    vae = AutoencoderKL({**given, **config}).requires_grad_(False).to(dtype)
    if converted:
        channels_last.convert(vae)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: capability)
    monkeypatch.setattr(inductor_decoder, "compile", lambda *given, fused=False: [fused])
    assert inductor.compile_decoder(vae, None, None, {}, None) == [fused]


def test_a_decoder_that_fails_to_compile_with_our_kernels_is_compiled_without_and_warned_of(monkeypatch):
    vae = AutoencoderKL(json.loads((DEMO / "vae" / "config.json").read_text())).to(torch.float16)
    channels_last.convert(vae)

    def compile(*given: object, fused: bool = False) -> list[str]:
        if fused:
            raise IpaError("compiling the decoder failed twice")
        return ["the rest"]

    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (9, 0))
    monkeypatch.setattr(inductor_decoder, "compile", compile)
    warning, rest = inductor.compile_decoder(vae, None, None, {}, None)
    assert "without our kernels: compiling the decoder failed twice" in warning and rest == "the rest"


@pytest.mark.gpu
@torch.no_grad()
def test_a_compiled_decoder_is_the_same_function_on_a_gpu(vae, tmp_path):
    vae = vae.to("cuda", torch.float16)
    channels_last.convert(vae)
    made = decoders.prepare(vae, WANTED, "demo", Store(tmp_path / "cache"), NullReporter())
    latents = torch.randn(1, 4, 4, 8, device="cuda", dtype=torch.float16)
    expected = vae.decode(latents)
    assert (made.decode(latents) - expected).norm() < 0.01 * expected.norm()
