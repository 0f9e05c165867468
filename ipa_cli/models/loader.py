"""Build the parts of a planned model: from a folder, what was fetched from a hub, or one checkpoint file."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ipa_cli.hardware import devices
from ipa_cli.models import download, dummy, single_file, vocabulary, weights
from ipa_cli.models.architectures.base import Architecture
from ipa_cli.models.controlnet.file import renamed
from ipa_cli.models.ip_adapter.plan import AdapterPlan
from ipa_cli.models.location import Location, ModelError, inside
from ipa_cli.models.plan import Plan
from ipa_cli.models.single_file import Checkpoint
from ipa_cli.models.vocabulary import Vocabulary
from ipa_cli.result import Reporter

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn

    from ipa_cli.unet.attention import Adapters


@dataclass(frozen=True)
class Model:
    """A loaded model; `adapters` holds the IP-Adapters installed in its UNet."""

    architecture: Architecture
    unet: Any
    vae: Any
    text_encoders: tuple[Any, ...]
    tokenizers: tuple[Any, ...]
    image_encoders: tuple[Any, ...]  # of each adapter, one module where they share it; None where none is needed
    hidden_states: tuple[bool, ...]  # whether each adapter takes those of its encoder, in place of its embedding
    adapters: Adapters
    zeros_for_empty_prompt: bool
    controls: tuple[Any, ...] = ()  # of each of the plan's ControlNets


def load(
    plan: Plan, device: torch.device, home: torch.device, dtype: torch.dtype, reporter: Reporter, shows_bars: bool
) -> Model:
    """Fetch what is not here and build every part; a VAE that would overflow in fp16 is brought into its range.

    `home` is where the weights stay: `device`, or the CPU when they are offloaded.
    """
    for warning in plan.unused:
        reporter.warn(warning)
    if plan.dummy:
        parts, states, encoders = dummy.parts(plan, device, home, dtype)
    else:
        plan = download.fetched(plan, dtype, reporter, shows_bars)
        for note in plan.checkpoint.notes if plan.checkpoint else ():
            reporter.note(note)
        words = _vocabularies(plan)
        sources = _sources(plan, home, dtype)
        in_main_memory = [source for source, where in sources.items() if where.type == "cpu"]
        devices.warn_of_little_memory(sum(weights.size(*source, dtype) for source in in_main_memory), reporter)
        with _reading(sources, dtype) as files:
            parts = _model_parts(plan, words, dtype, files)
            states, encoders = _adapter_parts(plan, dtype, files)
    import torch

    from ipa_cli.models.vae import channels_last, fp16
    from ipa_cli.unet import attention

    if dtype == torch.float16 and plan.architecture.vae_overflows_in_fp16(parts["vae"].config):
        fp16.shrink(parts["vae"])
    if device.type == "cuda":
        channels_last.convert(parts["vae"])
    named = [parts[name] for name in ("unet", "vae", *plan.architecture.text_encoders)]
    for module in (*named, *filter(None, encoders), *parts["controls"]):
        module.to(home).eval().requires_grad_(False)
    for control in parts["controls"]:
        attention.set_processors(control)
    installed = attention.install(parts["unet"], states)
    return Model(
        architecture=plan.architecture,
        unet=parts["unet"],
        vae=parts["vae"],
        text_encoders=tuple(parts[name] for name in plan.architecture.text_encoders),
        tokenizers=tuple(parts[name] for name in plan.architecture.tokenizers),
        image_encoders=tuple(encoders),
        hidden_states=_take_hidden_states(states),
        adapters=installed,
        zeros_for_empty_prompt=plan.zeros_for_empty_prompt,
        controls=tuple(parts["controls"]),
    )


def load_encoders(plan: Plan, device: torch.device, dtype: torch.dtype, reporter: Reporter, shows_bars: bool) -> Model:
    """The image encoder of each adapter alone: no UNet, no text encoder, no VAE."""
    import torch

    plan = replace(plan, adapters=download.fetched_adapters(plan, dtype, reporter, shows_bars))
    with _reading(_adapter_sources(plan, torch.device("cpu"), dtype), dtype) as files:
        states, encoders = _adapter_parts(plan, dtype, files)
    for encoder in filter(None, encoders):
        encoder.to(device).eval()
    nothing: Any = None
    return Model(
        architecture=plan.architecture,
        unet=None,
        vae=None,
        text_encoders=(),
        tokenizers=(),
        image_encoders=tuple(encoders),
        hidden_states=_take_hidden_states(states),
        adapters=nothing,
        zeros_for_empty_prompt=plan.zeros_for_empty_prompt,
    )


def _take_hidden_states(states: Sequence[Mapping[str, Mapping[str, Tensor]]]) -> tuple[bool, ...]:
    """Whether each adapter is one of the Plus kind, and not one of the plain kind, which has one product."""
    return tuple("proj.weight" not in state["image_proj"] for state in states)


Source = tuple[Path, frozenset[str] | None]  # a file, and the names of its tensors where not all are wanted
Read = Future[dict[str, "Tensor"]]


def _sources(plan: Plan, home: torch.device, dtype: torch.dtype) -> dict[Source, torch.device]:
    """What the weights of a model, its adapters and their encoders are read from, and where they shall live."""
    sources: dict[Source, torch.device] = {}
    for part in ("unet", "vae", *plan.architecture.text_encoders):
        of = plan.part(part)
        if of.checkpoint is not None:
            sources[of.checkpoint.source(part)] = home
        else:
            variant = _variant(plan, of.location)
            sources |= {(path, None): home for path in _paths(of.location, of.folder, variant, dtype)}
    for control in plan.controls:
        sources |= {(path, None): home for path in _paths(control.location, control.folder, plan.variant, dtype)}
    return sources | _adapter_sources(plan, home, dtype)


def _adapter_sources(plan: Plan, home: torch.device, dtype: torch.dtype) -> dict[Source, torch.device]:
    import torch

    sources: dict[Source, torch.device] = {}
    for adapter in plan.adapters:
        # Not to the GPU, where `attention.install` puts them in another form.
        sources[_adapter_source(adapter)] = torch.device("cpu")
        encoder = adapter.encoder
        if encoder is not None and adapter.encodes:
            variant = _variant(plan, encoder.location)
            sources |= {(path, None): home for path in _paths(encoder.location, encoder.part, variant, dtype)}
    return sources


def _adapter_source(adapter: AdapterPlan) -> Source:
    assert adapter.location.folder is not None
    path = adapter.location.folder / adapter.file
    return path, None if weights.is_pickle(path) else weights.of_adapter(weights.header(path))


@contextmanager
def _reading(sources: Mapping[Source, torch.device], dtype: torch.dtype) -> Iterator[dict[Source, Read]]:
    """Begin to read all weights in threads of their own, while this one imports the libraries that take them."""
    turn = sys.getswitchinterval()
    sys.setswitchinterval(1e-4)  # the readers need Python for a moment after each tensor, and would wait 5 ms for it
    pool = ThreadPoolExecutor(4)
    to_gpu = [source for source, home in sources.items() if home.type == "cuda" and weights.readable_by_gpu(source[0])]
    try:
        reading: dict[Source, Read] = {}
        if to_gpu:
            from ipa_cli.models import reader

            started = reader.start(to_gpu, sources[to_gpu[0]])
            pairs = zip(to_gpu, started, strict=True)
            finished = [pool.submit(weights.finished, source[0], one, dtype) for source, one in pairs]
            reading.update(zip(to_gpu, finished, strict=True))
        others = [source for source in sources if source not in reading]
        yield reading | {source: pool.submit(weights.read, *source, sources[source], dtype) for source in others}
    finally:
        pool.shutdown(cancel_futures=True)
        sys.setswitchinterval(turn)


def _variant(plan: Plan, location: Location) -> str | None:
    return plan.variant if location == plan.location else None


def _paths(location: Location, part: str, variant: str | None, dtype: torch.dtype) -> list[Path]:
    """The weight files of one part on disk, without their index."""
    assert location.folder is not None
    files = [location.folder / name for name in download.weight_files(location, part, variant, dtype)]
    return [path for path in files if path.suffix != ".json"]


def _built(
    module: nn.Module,
    where: str,
    paths: list[Path],
    files: Mapping[Source, Read],
    named: Callable[[Mapping[str, Any]], Mapping[str, Any]] = dict,
) -> Any:
    """`module` with the weights of `paths`, which are being read where it shall live; `named` gives their names in it.

    Raises ModelError, before they are all read, where they have not the shapes that the configuration asks for.
    """
    wanted = {weights.usual_name(name): (name, tuple(tensor.shape)) for name, tensor in module.state_dict().items()}
    for path in paths:
        if weights.is_safetensors(path):
            _check_shapes(path, named(weights.header(path)), wanted)
    state: dict[str, Tensor] = {}
    for path in paths:
        tensors = named(files[path, None].result())
        _check_shapes(path, {name: tuple(tensor.shape) for name, tensor in tensors.items()}, wanted)
        state |= {
            wanted[weights.usual_name(name)][0]: tensor
            for name, tensor in tensors.items()
            if weights.usual_name(name) in wanted
        }
    lacking = [name for name, _ in wanted.values() if name not in state]
    if lacking:
        raise ModelError(f"{where} lacks {len(lacking)} tensors, such as {lacking[0]}", "download it again")
    _assign(module, state, where)
    return module


def _assign(module: Any, state: Mapping[str, Tensor], where: str) -> None:
    """Give a module its weights. Raises ModelError for integers, booleans and complex numbers among them."""
    for name, tensor in module.state_dict().items():
        if tensor.is_floating_point() and not state[name].is_floating_point():
            kind = str(state[name].dtype).removeprefix("torch.")
            raise ModelError(f"{where}: {name} holds {kind}, not floating-point numbers", "download it again")
    module.load_state_dict(state, assign=True)


def _check_shapes(path: Path, found: weights.Shapes, wanted: Mapping[str, tuple[str, tuple[int, ...]]]) -> None:
    for name, shape in found.items():
        needed = wanted.get(weights.usual_name(name), (name, shape))[1]
        if shape != needed:
            raise ModelError(f"{path}: {name} is {shape}, its configuration asks for {needed}", "download both again")


def _of_checkpoint(
    architecture: Architecture,
    module: nn.Module,
    checkpoint: Checkpoint,
    part: str,
    files: Mapping[Source, Read],
) -> Any:
    """`module` with its part of the tensors in one file. Raises ModelError where they do not fit."""
    state = files[checkpoint.source(part)].result()
    _assign(module, single_file.converted(architecture, checkpoint, part, module, state), str(checkpoint.path))
    return module


def _empty(kind: Callable[..., nn.Module], *arguments: Any) -> nn.Module:
    """A module whose weights are still to come."""
    from ipa_cli.networks.common import without_weights

    with without_weights():
        return kind(*arguments)


def _model_parts(
    plan: Plan, words: Mapping[str, Vocabulary], dtype: torch.dtype, files: Mapping[Source, Read]
) -> dict[str, Any]:
    from ipa_cli.networks.autoencoder import AutoencoderKL
    from ipa_cli.networks.clip import TextEncoder
    from ipa_cli.unet.control import ControlNet
    from ipa_cli.unet.model import UNet

    def make(part: str) -> nn.Module:
        config = plan.part(part).config
        if part in plan.architecture.text_encoders:
            return TextEncoder(config, plan.architecture.text_encoders[part])
        return UNet(config) if part == "unet" else AutoencoderKL(config)

    def built(part: str) -> Any:
        of = plan.part(part)
        if of.checkpoint is not None:
            return _of_checkpoint(plan.architecture, _empty(make, part), of.checkpoint, part, files)
        paths = _paths(of.location, of.folder, _variant(plan, of.location), dtype)
        return _built(_empty(make, part), inside(str(of.location), of.folder), paths, files)

    return {
        # What waits longest for its weights comes last.
        "controls": [
            _built(
                _empty(ControlNet, one.config),
                str(one),
                _paths(one.location, one.folder, plan.variant, dtype),
                files,
                renamed,
            )
            for one in plan.controls
        ],
        **{
            part: vocabulary.tokenizer(words.get(part) or vocabulary.of_package(padding))
            for part, padding in plan.architecture.tokenizers.items()
        },
        **{part: built(part) for part in (*plan.architecture.text_encoders, "vae", "unet")},
    }


def _vocabularies(plan: Plan) -> dict[str, Vocabulary]:
    """What the tokenizers of a model in a folder are made of; a checkpoint has none."""
    if plan.checkpoint is not None:
        return {}
    pairs = zip(plan.architecture.tokenizers, plan.architecture.text_encoders, strict=True)
    return {part: vocabulary.read(plan.location, part, plan.configs[encoder]) for part, encoder in pairs}


def _adapter_parts(
    plan: Plan, dtype: torch.dtype, files: Mapping[Source, Read]
) -> tuple[list[dict[str, dict[str, Tensor]]], list[Any]]:
    """The weights of each adapter, and its image encoder: read once where several share it."""
    from ipa_cli.networks.clip import ImageEncoder

    states: list[dict[str, dict[str, Tensor]]] = []
    encoders: list[Any] = []
    built: dict[tuple[Path | None, str], Any] = {}
    for adapter in plan.adapters:
        states.append(weights.nested(files[_adapter_source(adapter)].result()))
        encoder = adapter.encoder
        if encoder is None or not adapter.encodes:
            encoders.append(None)
            continue
        known_by = encoder.location.folder, encoder.part
        if known_by not in built:
            paths = _paths(encoder.location, encoder.part, _variant(plan, encoder.location), dtype)
            built[known_by] = _built(_empty(ImageEncoder, encoder.config), str(encoder), paths, files)
        encoders.append(built[known_by])
    return states, encoders
