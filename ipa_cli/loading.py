"""Build the parts of a planned model: from a folder, what was fetched from a hub, or one checkpoint file."""

from __future__ import annotations

import pickle
import sys
from collections.abc import Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

from . import devices, dummies, fetching, schedulers, single_file, weights
from .adapters import AdapterPlan
from .families import SDXL, Family
from .locations import Location, ModelError, read_json
from .models import Plan
from .report import Reporter
from .single_file import Checkpoint

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from .attention import Adapters


@dataclass(frozen=True)
class Model:
    """A loaded model; `adapters` holds the IP-Adapters installed in its UNet."""

    unet: Any
    vae: Any
    text_encoders: tuple[Any, ...]
    tokenizers: tuple[Any, ...]
    scheduler: Any
    image_encoders: tuple[Any, ...]  # of each adapter, one module where they share it; None where none is needed
    adapters: Adapters
    zeros_for_empty_prompt: bool


def load(
    plan: Plan, device: torch.device, home: torch.device, dtype: torch.dtype, reporter: Reporter, shows_bars: bool
) -> Model:
    """Fetch what is not here and build every part; a VAE that would overflow in fp16 is brought into its range.

    `home` is where the weights stay: `device`, or the CPU when they are offloaded.
    """
    if plan.dummy:
        _quiet_libraries()
        parts, states, encoders = dummies.parts(plan, device, home, dtype)
    else:
        plan = fetching.fetched(plan, dtype, reporter, shows_bars)
        for note in plan.checkpoint.notes if plan.checkpoint else ():
            reporter.note(note)
        sources = _sources(plan, home, dtype)
        in_main_memory = [source for source, where in sources.items() if where.type == "cpu"]
        devices.warn_of_little_memory(sum(weights.size(*source, dtype) for source in in_main_memory), reporter)
        with _reading(sources, dtype) as files:
            _quiet_libraries()
            parts = _model_parts(plan, dtype, files)
            states, encoders = _adapter_parts(plan, dtype, files)
    from . import attention, vae

    if _overflows(plan.family, parts["vae"].config, dtype):
        vae.shrink(parts["vae"])
    if device.type == "cuda":
        vae.channels_last(parts["vae"])
    for name in ("unet", "vae", *plan.family.text_encoders):
        parts[name].to(home).eval().requires_grad_(False)
    for encoder in filter(None, encoders):
        encoder.to(home).eval().requires_grad_(False)
    installed = attention.install(parts["unet"], states)
    index = read_json(plan.location, "model_index.json")
    return Model(
        unet=parts["unet"],
        vae=parts["vae"],
        text_encoders=tuple(parts[name] for name in plan.family.text_encoders),
        tokenizers=tuple(parts[name] for name in plan.family.tokenizers),
        scheduler=parts["scheduler"],
        image_encoders=tuple(encoders),
        adapters=installed,
        zeros_for_empty_prompt=plan.family is SDXL and bool(index.get("force_zeros_for_empty_prompt", True)),
    )


def _overflows(family: Family, config: Mapping[str, Any], dtype: torch.dtype) -> bool:
    """Whether a VAE of SDXL leaves the range of fp16: its config says `force_upcast`, and diffusers takes fp32."""
    return str(dtype) == "torch.float16" and family is SDXL and bool(config.get("force_upcast", True))


def load_encoders(
    plan: Plan, dtype: torch.dtype, reporter: Reporter, shows_bars: bool
) -> tuple[list[dict[str, dict[str, Tensor]]], list[Any]]:
    """The weights of each adapter and its image encoder alone, on the CPU: no UNet, no text encoder."""
    _quiet_libraries()
    return _adapter_parts(
        replace(plan, adapters=fetching.fetched_adapters(plan, dtype, reporter, shows_bars)), dtype, {}
    )


Source = tuple[Path, frozenset[str] | None]  # a file, and the names of its tensors where not all are wanted
Read = Future[dict[str, "Tensor"]]


def _sources(plan: Plan, home: torch.device, dtype: torch.dtype) -> dict[Source, torch.device]:
    """What the weights of a model, its adapters and their encoders are read from, and where they shall live."""
    import torch

    sources: dict[Source, torch.device] = {}
    for part in ("unet", "vae", *plan.family.text_encoders):
        of = plan.part(part)
        if of.checkpoint is not None:
            sources[of.checkpoint.source(part)] = home
        else:
            variant = _variant(plan, of.location)
            sources |= {(path, None): home for path in _paths(of.location, of.folder, variant, dtype)}
    for adapter in plan.adapters:
        # Not to the GPU, where `attention.install` puts them in another form.
        sources[_adapter_source(adapter)] = torch.device("cpu")
        if adapter.encodes:
            encoder = adapter.encoder
            variant = _variant(plan, encoder.location)
            sources |= {(path, None): home for path in _paths(encoder.location, encoder.part, variant, dtype)}
    return sources


def _adapter_source(adapter: AdapterPlan) -> Source:
    assert adapter.location.folder is not None
    path = adapter.location.folder / adapter.file
    return path, None if path.suffix in weights.PICKLES else weights.of_adapter(weights.header(path))


@contextmanager
def _reading(sources: Mapping[Source, torch.device], dtype: torch.dtype) -> Iterator[dict[Source, Read]]:
    """Begin to read all weights in threads of their own, while this one imports the libraries that take them."""
    bare = [source for source in sources if source[0].suffix not in weights.PICKLES]
    bare.sort(key=lambda source: -weights.size(source[0], source[1], dtype))  # the longest work first
    turn = sys.getswitchinterval()
    sys.setswitchinterval(1e-4)  # the readers need Python for a moment after each tensor, and would wait 5 ms for it
    pool = ThreadPoolExecutor(4)
    try:
        yield {source: pool.submit(weights.read, *source, sources[source], dtype) for source in bare}
    finally:
        pool.shutdown(cancel_futures=True)
        sys.setswitchinterval(turn)


def _variant(plan: Plan, location: Location) -> str | None:
    return plan.variant if location == plan.location else None


def _paths(location: Location, part: str, variant: str | None, dtype: torch.dtype) -> list[Path]:
    """The weight files of one part on disk, without their index."""
    assert location.folder is not None
    files = [location.folder / name for name in fetching.weight_files(location, part, variant, dtype)]
    return [path for path in files if path.suffix != ".json"]


def _built(
    kind: Any,
    location: Location,
    part: str,
    plan: Plan,
    dtype: torch.dtype,
    files: Mapping[Source, Read],
    config: Mapping[str, Any],
) -> Any:
    """A module with the weights of `files`, which were read where it shall live; else as the library builds it."""
    sources: list[Source] = [(path, None) for path in _paths(location, part, _variant(plan, location), dtype)]
    if not set(sources) <= files.keys():
        return _from_pretrained(kind, location, part, plan, dtype)
    module = _empty(kind, config)
    state = {name: tensor for source in sources for name, tensor in files[source].result().items()}
    renamed = _renamed(state, module.state_dict().keys())
    if renamed is None:
        return _from_pretrained(kind, location, part, plan, dtype)
    module.load_state_dict(renamed, assign=True)
    return module


def _of_checkpoint(
    kind: Any, checkpoint: Checkpoint, part: str, config: Mapping[str, Any], files: Mapping[Source, Read]
) -> Any:
    """A module with its part of the tensors in one file. Raises ModelError where they do not fit."""
    module = _empty(kind, config)
    state = files[checkpoint.source(part)].result()
    module.load_state_dict(single_file.converted(checkpoint, part, module, state), assign=True)
    return module


def _empty(kind: Any, config: Mapping[str, Any]) -> Any:
    """A module whose weights are still to come."""
    from accelerate import init_empty_weights

    with init_empty_weights(), _no_initial_values():
        return kind(_config(kind, config)) if _is_of_transformers(kind) else kind.from_config(config)


def _no_initial_values() -> Any:
    """Spare transformers' models the random numbers that are about to be replaced: half a second for SDXL's largest."""
    try:
        from transformers.initialization import no_init_weights
    except ImportError:  # transformers 4
        from transformers.modeling_utils import no_init_weights  # type: ignore[no-redef,attr-defined]
    return no_init_weights()


def _config(kind: Any, config: Mapping[str, Any]) -> Any:
    """The configuration of one of transformers' models; what it is made in is not its own business."""
    return kind.config_class(**{key: value for key, value in config.items() if key not in ("dtype", "torch_dtype")})


def _renamed(state: Mapping[str, Tensor], wanted: Any) -> dict[str, Tensor] | None:
    """The weights by the names wanted, None where some are missing. transformers 5 left a first "text_model." out."""
    for prefix in ("", "text_model."):
        if all(prefix + name in state for name in wanted):
            return {name: state[prefix + name] for name in wanted}
    return None


def _from_pretrained(kind: Any, location: Location, part: str, plan: Plan, dtype: torch.dtype) -> Any:
    assert location.folder is not None
    files = fetching.weight_files(location, part, _variant(plan, location), dtype)
    first = PurePosixPath(files[0]).name
    for name in files:
        if name.endswith(".safetensors"):
            weights.header(location.folder / name)
    try:
        return kind.from_pretrained(
            location.folder / part,
            variant="fp16" if ".fp16" in first else plan.variant if plan.variant and plan.variant in first else None,
            use_safetensors=".safetensors" in first,
            **{_dtype_argument(kind): dtype},
        )
    except (OSError, pickle.UnpicklingError) as error:
        raise ModelError(
            f"{location}/{files[0]} is no file of bare weights, or broken", "download it again, as .safetensors"
        ) from error


def _tokenizer(location: Location, part: str) -> Any:
    from transformers import CLIPTokenizer

    assert location.folder is not None
    if not location.has(f"{part}/vocab.json") and not location.has(f"{part}/tokenizer.json"):
        raise ModelError(f"{location} has no {part}/vocab.json", "name a whole diffusers folder with --model")
    return CLIPTokenizer.from_pretrained(location.folder / part)


def _is_of_transformers(kind: Any) -> bool:
    return bool(kind.__module__.startswith("transformers"))


def _dtype_argument(kind: Any) -> str:
    """transformers renamed `torch_dtype` to `dtype` in 4.56; diffusers keeps the old name."""
    if not _is_of_transformers(kind):
        return "torch_dtype"
    import transformers

    major, minor = (int(part) for part in transformers.__version__.split(".")[:2])
    return "dtype" if (major, minor) >= (4, 56) else "torch_dtype"


def _model_parts(plan: Plan, dtype: torch.dtype, files: Mapping[Source, Read]) -> dict[str, Any]:
    from diffusers import AutoencoderKL, UNet2DConditionModel
    from transformers import CLIPTextModel, CLIPTextModelWithProjection

    location, checkpoint = plan.location, plan.checkpoint
    kinds = {
        "text_encoder": CLIPTextModel,
        "text_encoder_2": CLIPTextModelWithProjection,
        "vae": AutoencoderKL,
        "unet": UNet2DConditionModel,
    }

    def built(part: str) -> Any:
        of = plan.part(part)
        if of.checkpoint is not None:
            return _of_checkpoint(kinds[part], of.checkpoint, part, of.config, files)
        return _built(kinds[part], of.location, of.folder, plan, dtype, files, of.config)

    return {
        # What waits longest for its weights comes last.
        "scheduler": schedulers.of_model(location, plan.family, checkpoint.scheduler if checkpoint else None),
        **{
            part: single_file.tokenizer(part) if checkpoint else _tokenizer(location, part)
            for part in plan.family.tokenizers
        },
        **{part: built(part) for part in (*plan.family.text_encoders, "vae", "unet")},
    }


def _adapter_parts(
    plan: Plan, dtype: torch.dtype, files: Mapping[Source, Read]
) -> tuple[list[dict[str, dict[str, Tensor]]], list[Any]]:
    """The weights of each adapter, and its image encoder: read once where several share it."""
    from transformers import CLIPVisionModelWithProjection

    states: list[dict[str, dict[str, Tensor]]] = []
    encoders: dict[tuple[str, str], Any] = {}
    places = [(str(adapter.encoder.location.folder), adapter.encoder.part) for adapter in plan.adapters]
    for place, adapter in zip(places, plan.adapters, strict=True):
        source = _adapter_source(adapter)
        read = files.get(source)
        states.append(weights.nested(read.result()) if read else weights.load_adapter(source[0]))
        if adapter.encodes and place not in encoders:
            kind, encoder = CLIPVisionModelWithProjection, adapter.encoder
            encoders[place] = _built(kind, encoder.location, encoder.part, plan, dtype, files, encoder.config)
    needed = [adapter.encodes for adapter in plan.adapters]
    return states, [encoders[place] if need else None for place, need in zip(places, needed, strict=True)]


def _quiet_libraries() -> None:
    """Keep diffusers and transformers from logging advice about packages nobody here needs."""
    import warnings

    from diffusers.utils import logging as diffusers_logging
    from transformers.utils import logging as transformers_logging

    diffusers_logging.set_verbosity_error()
    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()
    diffusers_logging.disable_progress_bar()
    # transformers 4.44 warns that a default, the one wanted here, is going to change.
    warnings.filterwarnings("ignore", "`clean_up_tokenization_spaces` was not set", FutureWarning)
