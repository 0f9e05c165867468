"""Open a model from Python, and draw with it by keyword."""

from __future__ import annotations

import threading
import time
import weakref
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, overload

from ipa_cli import config
from ipa_cli.api.picture import Picture
from ipa_cli.api.progress import Progress
from ipa_cli.cache import tempdir
from ipa_cli.config.sources import check_together
from ipa_cli.engine import engine as core
from ipa_cli.engine import keywords as by_keyword
from ipa_cli.engine.access import State
from ipa_cli.engine.backend_choice import check_backend
from ipa_cli.engine.record import adapter_name, record
from ipa_cli.engine.store import graph_store
from ipa_cli.errors import UsageError
from ipa_cli.models import diffusers_schedulers, schedulers
from ipa_cli.models.lora.lora import load
from ipa_cli.models.plan import make_plan
from ipa_cli.pipeline import unused
from ipa_cli.pipeline.references import InMemory, load_references
from ipa_cli.pipeline.review import review
from ipa_cli.pipeline.task import make_request

if TYPE_CHECKING:
    from typing_extensions import Unpack

    from ipa_cli.engine.keywords import RequestSettings, Source


def open(
    model: str | Path | None = None,
    *,
    adapter: str | Sequence[str] | None = None,
    backend: str | None = None,
    device: str | None = None,
    dtype: str | None = None,
    progress: bool = True,
    project: bool = False,
    **settings: Any,
) -> Engine:
    """Load a model, "demo" unless named, with an IP-Adapter, and keep it ready to draw.

    Args:
        model: a preset (demo, sdxl, sd15), a hub id, a diffusers folder or a .safetensors file
        adapter: what `--adapter` takes: "own" or None for the model's own or usual one, a folder or hub id with a file
            in it ("h94/IP-Adapter:sdxl_models/ip-adapter-plus_sdxl_vit-h.safetensors"), several of them, or "none"
        backend, device, dtype: as the flags; auto unless given
        progress: whether bars are shown
        project: whether an `ipa.toml` in the working directory or above it is read too
        settings: any other setting by the name of its flag; those of pictures are what `draw` begins with

    What is not given is taken from the environment (`IPA_…`) and the user's own `ipa.toml`. Raises UsageError for what
    is wrong in itself, IpaError where the model, the device or a file is not as it must be.
    """
    reporter = Progress(progress)
    given = {"model": model, "backend": backend, "device": device, "dtype": dtype, **settings}
    resolved = config.resolve({**by_keyword.keywords(given), **by_keyword.of_adapters(adapter)}, reads_project=project)
    check_together(resolved)
    for ignored in resolved.ignored:
        reporter.warn(str(ignored))
    asked = resolved.settings
    schedulers.choose(asked.scheduler, asked.schedule, asked.eta)
    check_backend(asked.backend, asked.precision)
    plan = make_plan(asked, references_later=True)
    with ExitStack() as stack:
        # Graphs are unpacked there, and stay as long as they may be called.
        folder = stack.enter_context(tempdir.temporary_folder(graph_store(asked)))
        engine = core.Engine.open(asked, plan, reporter, shows_bars=progress, opening=lambda: _redirected_to(folder))
        return Engine(engine, reporter, stack.pop_all())


_REDIRECTING = threading.Lock()


@contextmanager
def _redirected_to(folder: Path) -> Iterator[None]:
    """As `tempdir.redirected_to`, for one engine at a time: they share the variables of the process."""
    with _REDIRECTING, tempdir.redirected_to(folder):
        yield


class Engine:
    """A loaded model, and the graphs that were opened for it; made by `open`.

    What prompts and references are encoded to is kept for the pictures that follow. One thread draws at a time, others
    wait; `state` may be read meanwhile. Used as a context manager, or closed, it gives its memory back.
    """

    def __init__(self, engine: core.Engine, reporter: Progress, lasting: ExitStack):
        self._engine: core.Engine | None = engine
        self._reporter = reporter
        self._leave = weakref.finalize(self, lasting.close)

    @overload
    def draw(
        self, prompt: str | None = None, *, num_images: None = None, **settings: Unpack[RequestSettings]
    ) -> Picture: ...

    @overload
    def draw(
        self, prompt: str | None = None, *, num_images: int, **settings: Unpack[RequestSettings]
    ) -> list[Picture]: ...

    def draw(
        self,
        prompt: str | None = None,
        *,
        num_images: int | None = None,
        image: Source | Sequence[Source] | None = None,
        scale: float | None = None,
        negative_prompt: str | None = None,
        prompt_syntax: str | None = None,
        width: int | None = None,
        height: int | None = None,
        steps: int | None = None,
        guidance_scale: float | None = None,
        guidance_start: float | None = None,
        guidance_end: float | None = None,
        guidance_rescale: float | None = None,
        step_cache: str | None = None,
        scheduler: str | None = None,
        sampler: str | None = None,
        schedule: str | None = None,
        eta: float | None = None,
        preset: str | None = None,
        seed: int | None = None,
        batch_size: int | None = None,
        image_weight: float | Sequence[float] | None = None,
        image_combine: str | None = None,
        image_per_picture: bool | None = None,
        face: int | None = None,
        face_shortcut: float | None = None,
        ip_lora: float | None = None,
        negative_image: Source | None = None,
        embeds: str | Path | None = None,
        fit: str | None = None,
        sharpening: float | None = None,
        mask: Source | Sequence[Source] | None = None,
        region: Sequence[str | Mapping[str, Any]] | None = None,
        init_image: Source | None = None,
        strength: float | None = None,
        inpaint_mask: Source | None = None,
        mask_blur: float | None = None,
        pad: str | None = None,
        hires: float | str | None = None,
        hires_strength: float | None = None,
        hires_steps: int | None = None,
        hires_upscaler: str | None = None,
        ip_mode: str | None = None,
        ip_layers: str | Mapping[str, Any] | None = None,
        ip_start: float | None = None,
        ip_end: float | None = None,
        adapter: Sequence[Mapping[str, Any]] | None = None,
        lora: str | Path | Sequence[str | Path] | None = None,
        control: Sequence[Mapping[str, Any]] | None = None,
    ) -> Picture | list[Picture]:
        """Draw one picture, or with `num_images` a list of them, each with the next seed.

        Every argument is the setting of that name, see `ipa generate --help`; `sampler` is another name of `scheduler`.
        What is None is as the engine was opened,
        else the model's. `image`, `negative_image`, `mask`, `init_image` and `inpaint_mask` are paths, addresses or PIL
        images, `embeds` is a file of `ipa embed`. With `image_per_picture` the pictures of the first reference come
        first.
        Where several adapters are loaded, `adapter` has a mapping for each, with the keys of `--adapter`. `lora` is
        what `--lora` takes, or a list of it; [] is none. `control` has a mapping for each map that a ControlNet
        follows: `image`, `scale` and the other keys of `--control`, and where several are loaded `model`, its name.

        Raises UsageError and IpaError as the command line does, before the long work where it can.
        """
        given = {name: value for name, value in locals().items() if name != "self"}
        engine, reporter, began = self._opened(), self._reporter, time.perf_counter()
        asked, in_memory = by_keyword.of_request(engine.settings, {**given, "num_images": num_images or 1})
        if (asked.image or asked.embeds) and not engine.plan.adapters:
            raise UsageError("no adapter is loaded that could follow a reference", 'ipa.open("sdxl", adapter="own")')
        schedulers.choose(asked.scheduler, asked.schedule, asked.eta)
        loras = load(asked.lora, engine.plan, reporter)
        loaded = load_references(asked, reporter, InMemory(in_memory))
        request = make_request(asked, engine.plan, loaded, loras, reporter)
        if num_images is None and len(request.seeds) > 1:
            raise UsageError(
                f"{len(request.seeds)} references are drawn one by one", "num_images=1 gives a list of their pictures"
            )
        for one in request.passes:
            diffusers_schedulers.check_steps(one.sampling, engine.plan, one.steps)
        unused.remark(asked, request, reporter)
        review(request, asked, engine.plan, reporter)
        ready = engine.prepare(request)
        drawing = engine.draw(request)
        timings = {
            "steps_s": drawing.steps_s,
            "decode_s": drawing.decode_s,
            "total_s": time.perf_counter() - began,
            "it_per_s": drawing.it_per_s,
        }
        pictures = [
            Picture(
                drawing.images[number],
                request.prompt,
                seed,
                request.scale,
                record(engine, asked, ready, request, number),
                timings,
            )
            for number, seed in enumerate(request.seeds)
        ]
        return pictures[0] if num_images is None else pictures

    @property
    def model(self) -> str:
        """The model as it was named."""
        return self._opened().plan.name

    @property
    def adapter(self) -> str | None:
        """The loaded adapters: repository or folder, and file."""
        return adapter_name(self._opened().plan)

    @property
    def device(self) -> str:
        """Where it draws."""
        return str(self._opened().device)

    @property
    def state(self) -> State:
        """What it is at, for any thread."""
        return self._opened().state

    def memory(self) -> dict[str, float]:
        """GiB in use at most so far: `peak_gib`, and on a GPU `reserved_gib`."""
        return self._opened().memory()

    def close(self) -> None:
        """Give back the memory of the model and its graphs; nothing can be drawn any more."""
        if self._engine is not None:
            self._engine.close()
            self._engine = None
            self._leave()

    def __enter__(self) -> Engine:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __repr__(self) -> str:
        if self._engine is None:
            return "<ipa_cli.Engine, closed>"
        return f"<ipa_cli.Engine {self.model} on {self.device}, adapter {self.adapter or 'none'}>"

    def _opened(self) -> core.Engine:
        if self._engine is None:
            raise UsageError("this engine is closed", "ipa.open opens another")
        return self._engine
