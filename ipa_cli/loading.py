"""Fetch and build the parts of a planned model: from a folder, a hub, one checkpoint file, or seeded random numbers."""

from __future__ import annotations

import pickle
import sys
from collections.abc import Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

from . import adapters, hub, weights
from .families import SD15, SDXL, Family
from .locations import Location, ModelError, folder_location, read_json
from .models import DEMO, Plan
from .report import Reporter

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from .attention import Adapters

DUMMY_SEED = 0
DUMMY_TOKENS = 4
WEIGHT_NAMES = {"unet": "diffusion_pytorch_model", "vae": "diffusion_pytorch_model"}


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
        parts, states, encoders = _dummy_parts(plan, device, home, dtype)
    else:
        plan = _fetched(plan, dtype, reporter, shows_bars)
        with _reading(plan, home, dtype) as files:
            _quiet_libraries()
            parts = _single_file_parts(plan, dtype) if plan.single_file else _folder_parts(plan, dtype, files)
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
    return _adapter_parts(replace(plan, adapters=_fetched_adapters(plan, dtype, reporter, shows_bars)), dtype, {})


def _fetched_adapters(
    plan: Plan, dtype: torch.dtype, reporter: Reporter, shows_bars: bool
) -> tuple[adapters.AdapterPlan, ...]:
    found = []
    for adapter in plan.adapters:
        where = adapter.location
        if where.folder is None:
            assert where.repo is not None
            encoder = [f"{adapter.encoder}/config.json"]
            if adapter.encodes:
                encoder += _weight_files(where, adapter.encoder, None, dtype)
            folder = hub.fetch(where.repo, where.revision, [adapter.file, *encoder], reporter, shows_bars)
            adapter = replace(adapter, location=replace(where, folder=folder))
            adapters.check_fetched(adapter, plan.unet_config, plan.family)
        found.append(adapter)
    return tuple(found)


def _fetched(plan: Plan, dtype: torch.dtype, reporter: Reporter, shows_bars: bool) -> Plan:
    """The plan with every hub location replaced by a local folder."""
    fetched, location = _fetched_adapters(plan, dtype, reporter, shows_bars), plan.location
    if location.repo is not None:
        files = ["model_index.json"]
        for part in plan.family.parts:
            inside = sorted(name for name in location.names if name.startswith(part + "/"))
            files += [name for name in inside if name.endswith((".json", ".txt", ".model"))]
            if not part.startswith(("tokenizer", "scheduler")):
                files += _weight_files(location, part, plan.variant, dtype)
        folder = hub.fetch(location.repo, location.revision, dict.fromkeys(files), reporter, shows_bars)
        location = replace(folder_location(folder), repo=location.repo, revision=location.revision)
    return replace(plan, location=location, adapters=fetched)


def _weight_files(location: Location, part: str, variant: str | None, dtype: torch.dtype) -> list[str]:
    """The weight files of one part: safetensors before pickles, and half-size ones where they are enough."""
    stem = WEIGHT_NAMES.get(part, "model")
    pickle_stem = stem if stem != "model" else "pytorch_model"
    suits = [variant] if variant else (["fp16", None] if str(dtype) != "torch.float32" else [None, "fp16"])
    for ending, base in ((".safetensors", stem), (".bin", pickle_stem)):
        for suit in suits:
            middle = f".{suit}" if suit else ""
            whole = f"{part}/{base}{middle}{ending}"
            if whole in location.names:
                return [whole]
            index = f"{part}/{base}{ending}.index{middle}.json"
            if index in location.names:
                head = f"{part}/{base}{middle}-"
                return [index, *sorted(n for n in location.names if n.startswith(head) and n.endswith(ending))]
    kind = f" of variant '{variant}'" if variant else ""
    raise ModelError(f"{location} has no weights{kind} for {part}", "check --variant, or name a whole model")


Read = Future[dict[str, "Tensor"]]


@contextmanager
def _reading(plan: Plan, home: torch.device, dtype: torch.dtype) -> Iterator[dict[Path, Read]]:
    """Begin to read all weights in threads of their own, while this one imports the libraries that take them."""
    import torch

    paths: dict[Path, torch.device] = {}
    if plan.single_file is None:
        for part in ("unet", "vae", *plan.family.text_encoders):
            paths |= dict.fromkeys(_paths(plan.location, part, plan.variant, dtype), home)
    for adapter in plan.adapters:
        assert adapter.location.folder is not None
        # Not to the GPU, where `attention.install` puts them in another form.
        paths[adapter.location.folder / adapter.file] = torch.device("cpu")
        if adapter.encodes:
            variant = _variant(plan, adapter.location)
            paths |= dict.fromkeys(_paths(adapter.location, adapter.encoder, variant, dtype), home)
    whole = [path for path in paths if path.suffix == ".safetensors"]
    whole.sort(key=lambda path: -path.stat().st_size)  # the longest work first
    turn = sys.getswitchinterval()
    sys.setswitchinterval(1e-4)  # the readers need Python for a moment after each tensor, and would wait 5 ms for it
    pool = ThreadPoolExecutor(4)
    try:
        yield {path: pool.submit(weights.read, path, paths[path], dtype) for path in whole}
    finally:
        pool.shutdown(cancel_futures=True)
        sys.setswitchinterval(turn)


def _variant(plan: Plan, location: Location) -> str | None:
    return plan.variant if location == plan.location else None


def _paths(location: Location, part: str, variant: str | None, dtype: torch.dtype) -> list[Path]:
    """The weight files of one part on disk, without their index."""
    assert location.folder is not None
    files = [location.folder / name for name in _weight_files(location, part, variant, dtype)]
    return [path for path in files if path.suffix != ".json"]


def _built(kind: Any, location: Location, part: str, plan: Plan, dtype: torch.dtype, files: Mapping[Path, Read]) -> Any:
    """A module with the weights of `files`, which were read where it shall live; else as the library builds it."""
    from accelerate import init_empty_weights

    paths = _paths(location, part, _variant(plan, location), dtype)
    if not set(paths) <= files.keys():
        return _from_pretrained(kind, location, part, plan, dtype)
    config = read_json(location, f"{part}/config.json")
    with init_empty_weights(), _no_initial_values():
        module = kind(_config(kind, config)) if _is_of_transformers(kind) else kind.from_config(config)
    state = {name: tensor for path in paths for name, tensor in files[path].result().items()}
    renamed = _renamed(state, module.state_dict().keys())
    if renamed is None:
        return _from_pretrained(kind, location, part, plan, dtype)
    module.load_state_dict(renamed, assign=True)
    return module


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
    files = _weight_files(location, part, _variant(plan, location), dtype)
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
    if not {f"{part}/vocab.json", f"{part}/tokenizer.json"} & location.names:
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


def _folder_parts(plan: Plan, dtype: torch.dtype, files: Mapping[Path, Read]) -> dict[str, Any]:
    from diffusers import AutoencoderKL, UNet2DConditionModel
    from transformers import CLIPTextModel, CLIPTextModelWithProjection

    location = plan.location
    assert location.folder is not None
    kinds = {"text_encoder": CLIPTextModel, "text_encoder_2": CLIPTextModelWithProjection}
    return {
        # What waits longest for its weights comes last.
        "scheduler": _scheduler(plan),
        **{part: _tokenizer(location, part) for part in plan.family.tokenizers},
        **{part: _built(kinds[part], location, part, plan, dtype, files) for part in plan.family.text_encoders},
        "vae": _built(AutoencoderKL, location, "vae", plan, dtype, files),
        "unet": _built(UNet2DConditionModel, location, "unet", plan, dtype, files),
    }


def _scheduler(plan: Plan) -> Any:
    """The model's own scheduler; that of an old SD 1.5 with the two settings that diffusers' pipeline corrects."""
    import diffusers

    location = plan.location
    config = read_json(location, "scheduler/scheduler_config.json")
    kind = getattr(diffusers, str(config.get("_class_name", "EulerDiscreteScheduler")), None)
    if kind is None:
        raise ModelError(f"{location} wants the scheduler {config['_class_name']}, unknown to this diffusers", "")
    scheduler = kind.from_config(config)
    if plan.family is not SD15:
        return scheduler
    right = {key: value for key, value in {"steps_offset": 1, "clip_sample": False}.items() if key in scheduler.config}
    return kind.from_config(scheduler.config, **right)


def _single_file_parts(plan: Plan, dtype: torch.dtype) -> dict[str, Any]:
    """One checkpoint file; diffusers fetches the small configuration files and tokenizers it lacks."""
    from diffusers import StableDiffusionXLPipeline

    assert plan.single_file is not None
    with hub.in_words(plan.family.repo, None):
        pipeline = StableDiffusionXLPipeline.from_single_file(str(plan.single_file), torch_dtype=dtype)
    return {name: getattr(pipeline, name) for name in plan.family.parts}


def _adapter_parts(
    plan: Plan, dtype: torch.dtype, files: Mapping[Path, Read]
) -> tuple[list[dict[str, dict[str, Tensor]]], list[Any]]:
    """The weights of each adapter, and its image encoder: read once where several share it."""
    from transformers import CLIPVisionModelWithProjection

    states: list[dict[str, dict[str, Tensor]]] = []
    encoders: dict[tuple[str, str], Any] = {}
    places = [(str(adapter.location.folder), adapter.encoder) for adapter in plan.adapters]
    for place, adapter in zip(places, plan.adapters, strict=True):
        assert adapter.location.folder is not None
        path = adapter.location.folder / adapter.file
        states.append(weights.nested(files[path].result()) if path in files else weights.load_adapter(path))
        if adapter.encodes and place not in encoders:
            kind = CLIPVisionModelWithProjection
            encoders[place] = _built(kind, adapter.location, adapter.encoder, plan, dtype, files)
    needed = [adapter.encodes for adapter in plan.adapters]
    return states, [encoders[place] if need else None for place, need in zip(places, needed, strict=True)]


def _dummy_parts(
    plan: Plan, device: torch.device, home: torch.device, dtype: torch.dtype
) -> tuple[dict[str, Any], list[dict[str, dict[str, Tensor]]], list[Any]]:
    """The whole architecture with seeded random weights, built straight on the device in its final dtype."""
    import torch
    from diffusers import AutoencoderKL, UNet2DConditionModel
    from transformers import (
        CLIPTextConfig,
        CLIPTextModel,
        CLIPTextModelWithProjection,
        CLIPTokenizer,
        CLIPVisionConfig,
        CLIPVisionModelWithProjection,
    )

    def read(part: str) -> dict[str, Any]:
        config = read_json(plan.location, f"{part}/config.json")
        return {key: value for key, value in config.items() if key not in ("dtype", "torch_dtype")}

    def build(make: Any, kind: torch.dtype) -> Any:
        before = torch.get_default_dtype()
        torch.set_default_dtype(kind)
        try:
            with torch.device(device):
                made = make()
            return made.to(home) if isinstance(made, torch.nn.Module) else made
        finally:
            torch.set_default_dtype(before)

    def text(part: str) -> Any:
        kind = CLIPTextModel if part == "text_encoder" else CLIPTextModelWithProjection
        return build(lambda: kind(CLIPTextConfig(**read(part))), dtype)

    devices = [device] if device.type == "cuda" else []
    with torch.random.fork_rng(devices=devices):
        torch.manual_seed(DUMMY_SEED)
        parts = {
            "unet": build(lambda: UNet2DConditionModel.from_config(read("unet")), dtype),
            "vae": build(lambda: AutoencoderKL.from_config(read("vae")), dtype),
            **{part: text(part) for part in plan.family.text_encoders},
            "scheduler": _scheduler(plan),
        }
        states, encoders = [], []
        if plan.adapters:
            config = CLIPVisionConfig(**read("ip_adapter/image_encoder"))
            encoders = [build(lambda: CLIPVisionModelWithProjection(config), dtype)] * len(plan.adapters)
            states = [build(lambda: _dummy_adapter(parts["unet"], config.projection_dim), dtype) for _ in plan.adapters]
    for part, encoder_part in zip(plan.family.tokenizers, plan.family.text_encoders, strict=True):
        # Words mean nothing to random weights; what counts is their number, which sets the graph's shape.
        parts[part] = CLIPTokenizer.from_pretrained(DEMO / part)
        parts[part].model_max_length = read(encoder_part)["max_position_embeddings"]
    return parts, states, encoders


def _dummy_adapter(unet: Any, image_width: int) -> dict[str, dict[str, Tensor]]:
    """Random weights in the layout of h94's `ip-adapter_sdxl`: four tokens, keys and values of every layer."""
    import torch

    from .attention import layers

    cross = unet.config.cross_attention_dim
    state: dict[str, dict[str, Tensor]] = {
        "image_proj": {
            "proj.weight": torch.randn(DUMMY_TOKENS * cross, image_width) * image_width**-0.5,
            "proj.bias": torch.zeros(DUMMY_TOKENS * cross),
            "norm.weight": torch.ones(cross),
            "norm.bias": torch.zeros(cross),
        },
        "ip_adapter": {},
    }
    for number, name in enumerate(layers(unet)):
        inner = unet.get_submodule(name).to_k.out_features
        for kind in "kv":
            weight = torch.randn(inner, cross) * cross**-0.5
            state["ip_adapter"][f"{2 * number + 1}.to_{kind}_ip.weight"] = weight
    return state


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
