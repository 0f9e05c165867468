"""Which graph is wanted: its key, and which others would do."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ipa_cli import backends
from ipa_cli.cache import Entry, keys
from ipa_cli.cache.keys import GraphKey
from ipa_cli.cache.remote import Offer
from ipa_cli.config import Settings
from ipa_cli.engine import tuned
from ipa_cli.errors import IpaError, UsageError
from ipa_cli.hardware import probe

if TYPE_CHECKING:
    import torch

    from ipa_cli.backends.base import Backend
    from ipa_cli.unet.inputs import ControlInputs, UNetInputs

    Inputs = UNetInputs | ControlInputs

# Facts in which a graph may differ from the one wanted and still serve, as long as it covers size and text.
SIZE = ("width", "height", "options.dynamic", "text tokens", "options.text")
HOW = ("width", "height", "options", "text tokens")


@dataclass(frozen=True)
class Wanted:
    """A graph someone asks for; one that differs in no more than the facts that `may_differ` names will do."""

    backend: str
    model: str
    example: Inputs
    options: Mapping[str, Any]
    may_differ: tuple[str, ...]
    latent_factor: int = backends.LATENT_FACTOR  # of the model's architecture
    other_size: tuple[int, int] | None = None  # the size of another pass: a graph that serves both comes first

    @property
    def size(self) -> tuple[int, int]:
        """Width and height of the picture in pixels."""
        height, width = self.example.sample.shape[-2:]
        return width * self.latent_factor, height * self.latent_factor

    @property
    def text_tokens(self) -> int:
        """How many tokens the prompt has, with those that fill up its chunks; 0 where no layer reads it."""
        return next((pair.shape[3] for pair in self.example.context.text), 0)

    @property
    def compile_options(self) -> dict[str, Any]:
        """The options for `compile`: backends count `LATENT_FACTOR` pixels for each latent pixel."""
        span = self.options.get("dynamic")
        if not span or self.latent_factor == backends.LATENT_FACTOR:
            return dict(self.options)
        counted = [pixels * backends.LATENT_FACTOR // self.latent_factor for pixels in span]
        return {**self.options, "dynamic": counted}


def asked_options(backend: Backend, name: str, settings: Settings) -> dict[str, Any]:
    """The backend's options as the settings want them; raises UsageError for a precision that it does not have."""
    options = backend.options(settings.compile_options)
    if "tuning" in options and options["tuning"] is None and (found := tuned.usable(settings, name)):
        options = backend.options({**options, "tuning": found["tuning"]})
    if settings.precision == "half":  # or what --compile-options say
        return options
    backends.require(name, "fp8")
    return {**options, "precision": settings.precision}


def ask(
    backend: Backend,
    name: str,
    model: str,
    example: Inputs,
    settings: Settings,
    latent_factor: int = backends.LATENT_FACTOR,
    other_size: tuple[int, int] | None = None,
) -> Wanted:
    """The graph that a picture with these inputs wants; without `--compile-options` any way to compile will do."""
    options = asked_options(backend, name, settings)
    may_differ = HOW if settings.compile_options is None else SIZE
    return Wanted(name, model, example, options, may_differ, latent_factor, other_size)


def key(unet: Any, wanted: Wanted) -> GraphKey:
    """The graph's identity: everything that can change its code or meaning, but not the weights."""
    gpu, of_machine = machine(unet.device)
    example = wanted.example
    width, height = wanted.size
    options = in_the_code(wanted.backend, wanted.options)
    span = options.get("dynamic")
    batch = example.sample.shape[0]
    facts: dict[str, Any] = {
        **of_machine,
        **backends.get(wanted.backend).versions(),
        "code": backends.code(wanted.backend),
        unet.KIND: plain(dict(unet.config)),
        "dtype": str(unet.dtype).removeprefix("torch."),
        "batch": batch,
        "text tokens": wanted.text_tokens if not options.get("text") else "{}..{}".format(*options["text"]),
        "image tokens": [adapter[0].shape[3] for adapter in example.context.image],
        **({"masks": True} if example.context.mask else {}),
        **({"regions": len(example.context.regions)} if example.context.regions else {}),
        "options": plain(options),
        **({} if span else {"width": width, "height": height}),
    }
    shape = f"{span[0]}..{span[1]}" if span else f"{width}x{height}"
    return GraphKey(wanted.backend, gpu, f"{shape}-b{batch}", keys.flatten(facts))


def in_the_code(backend: str, options: Mapping[str, Any]) -> dict[str, Any]:
    """Options without those that are read anew whenever a graph is loaded."""
    read_later = backends.get(backend).CAPABILITIES.load_options
    return {name: value for name, value in options.items() if name not in read_later}


def machine(device: torch.device) -> tuple[str, dict[str, Any]]:
    """The slug of the device, and what of this machine a graph for it depends on."""
    here = probe.machine(device.index or 0)
    if device.type == "cpu":
        return probe.CPU, here.factors(probe.CPU)
    if here.gpu is None:  # torch sees a GPU where NVML shows none
        raise IpaError(
            f"the NVIDIA driver does not describe the GPU that torch uses as {device}",
            f"`ipa doctor --device cuda` says why; or use --backend {backends.UNCOMPILED}",
        )
    return here.gpu.slug, here.factors(here.gpu.slug)


def fits(entry: Entry | Offer, own: GraphKey, wanted: Wanted) -> bool:
    """Whether a graph differs from the one wanted only where it may, and covers the picture's size."""

    def what(factors: Mapping[str, Any]) -> dict[str, Any]:
        return {k: v for k, v in factors.items() if not any(f"{k}.".startswith(f"{n}.") for n in wanted.may_differ)}

    if entry.key.gpu != own.gpu or what(entry.key.factors) != what(own.factors):
        return False
    made = made_with(entry)
    if made is None:
        return False
    if made.get("precision") != wanted.options.get("precision"):
        return False  # it shows in the pictures
    if (chosen := wanted.options.get("tuning")) and made.get("tuning") != chosen:
        return False
    if wanted.options.get("dynamic") or wanted.options.get("text"):  # only a graph of its own serves a whole range
        return False
    tokens, texts = wanted.text_tokens, made.get("text")
    if not (texts[0] <= tokens <= texts[1] if texts else entry.key.factors.get("text tokens") == tokens):
        return False
    width, height = wanted.size
    if span_of(entry):
        return covers(entry, wanted.size)
    return (entry.key.factors.get("width"), entry.key.factors.get("height")) == (width, height)


def covers(entry: Entry | Offer, size: tuple[int, int]) -> bool:
    """Whether a graph is for a range of sizes, and this one is in it."""
    span = span_of(entry)
    return span is not None and span[0] <= min(size) and max(size) <= span[1]


def made_with(entry: Entry | Offer) -> dict[str, Any] | None:
    """The options a graph was compiled with; None where its maker wrote no such options."""
    made = entry.describe.get("options")
    if not isinstance(made, dict):
        return None
    try:
        whole = backends.get(entry.backend).options(made)
    except UsageError:
        return None
    return {name: whole[name] for name in made} if made.keys() <= whole.keys() else None


def span_of(entry: Entry | Offer) -> list[int] | None:
    return (made_with(entry) or {}).get("dynamic")


def plain(value: Any) -> Any:
    """Values as JSON keeps them."""
    if isinstance(value, Mapping):
        return {str(k): plain(v) for k, v in value.items() if not str(k).startswith("_")}
    if isinstance(value, list | tuple):
        return [plain(v) for v in value]
    return value if value is None or isinstance(value, bool | int | float | str) else str(value)
