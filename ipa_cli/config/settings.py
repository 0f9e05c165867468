"""Every setting: its default, help, check and flag."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from ipa_cli.config import checks, faces, padding, remote
from ipa_cli.config.adapters import OWN as OWN_OF_ADAPTER
from ipa_cli.config.adapters import SETTINGS as ADAPTER_SETTINGS
from ipa_cli.config.adapters import AdapterConfig
from ipa_cli.config.checks import Choice, between, short
from ipa_cli.config.controls import ControlConfig
from ipa_cli.config.dropping import NO_IMAGE
from ipa_cli.config.embeddings import EmbeddingConfig
from ipa_cli.config.hires import HIRES, HIRES_STEPS, HIRES_STRENGTH, HIRES_UPSCALER
from ipa_cli.config.loras import LoraConfig
from ipa_cli.config.modes import COMBINES, CONCAT, FITS, INSTANTSTYLE, MODES
from ipa_cli.config.presets import PRESET
from ipa_cli.config.regions import REGION, RegionConfig
from ipa_cli.config.setting import MACHINE, MODEL, OUTPUT, OWN, PICTURE, PLACE, REFERENCE
from ipa_cli.config.setting import setting as _setting
from ipa_cli.config.step_cache import STEP_CACHE
from ipa_cli.errors import IpaError, UsageError

EXPLAINED = "`ipa generate --help` explains every setting"
EXAMPLE = "--adapter 'owner/name:folder/file.safetensors,image=cat.png,scale=0.6,mode=style'"
# The miniature that comes along, and the folders of configurations: `models.architectures` has the table.
MODELS = ("demo", *sorted(path.parent.name for path in Path(__file__).parents[1].glob("presets/*/model_index.json")))


class ConfigError(UsageError):
    """A settings file has an unknown key or an invalid value."""


@contextmanager
def collecting(problems: list[IpaError] | None) -> Iterator[None]:
    """Collect an IpaError raised within in `problems`; without such a list, let it propagate."""
    try:
        yield
    except IpaError as error:
        if problems is None:
            raise
        problems.append(error)


@dataclass(frozen=True)
class Settings:
    """Everything that can be set by flag, environment or file; `None` leaves the choice to the model or machine."""

    prompt: str | None = _setting(PICTURE, "what to draw", None, checks.prompt, of_model=True)
    negative_prompt: str = _setting(PICTURE, "what to keep out of the picture", "", checks.prompt)
    prompt_syntax: str = _setting(
        PICTURE,
        "how prompts are read: a1111 or comfyui for weights such as (fox:1.3), or literal",
        "a1111",
        Choice(("a1111", "comfyui", "literal")),
    )
    region: tuple[RegionConfig, ...] = REGION
    init_image: str | None = _setting(
        PICTURE, "picture to begin with in place of noise: a file, URL or - for stdin", kind=PLACE, metavar="IMAGE"
    )
    strength: float | None = _setting(
        PICTURE,
        "how much of the init image is redrawn, 0 to 1 [default: 0.6, with a mask or a border 1]",
        None,
        between(0, 1),
    )
    inpaint_mask: str | None = _setting(
        PICTURE, "image that is white where the init image is redrawn, and black where not", kind=PLACE, metavar="IMAGE"
    )
    mask_blur: float = _setting(
        PICTURE, "pixels by which the edge of what is redrawn is softened", 0.0, between(0, 256)
    )
    pad: str | None = _setting(
        PICTURE, "border to draw around the init image, such as left=128,top=64", None, padding.check, metavar="SIDES"
    )
    image: tuple[str, ...] = _setting(
        REFERENCE,
        "reference image: a file, folder, pattern, URL, - for stdin, or none for words alone; repeatable",
        (),
        kind=PLACE,
        short="-i",
        metavar="IMAGE",
    )
    image_weight: tuple[float, ...] = _setting(
        REFERENCE, "weight of each reference image (1 unless given); repeatable", (), checks.each(between(0, 10))
    )
    image_combine: str = _setting(
        REFERENCE,
        f"what several reference images are: all of them (concat), or one, made by {', '.join(COMBINES[1:])}",
        CONCAT,
        Choice(COMBINES),
        metavar="HOW",
    )
    image_per_picture: bool = _setting(REFERENCE, "draw each reference image on its own, not all together", False)
    negative_image: str | None = _setting(
        REFERENCE, "image to keep away from, in the place of none at all", kind=PLACE, metavar="IMAGE"
    )
    embeds: str | None = _setting(
        REFERENCE,
        "image embeddings from `ipa embed`, or a face's (.npy, .safetensors), in place of --image",
        kind=PLACE,
        metavar="FILE",
    )
    fit: str = _setting(
        REFERENCE,
        "how to make reference images square: pad (whole), crop (the middle), stretch, or cut into tiles",
        "pad",
        Choice(FITS),
    )
    sharpening: float = _setting(REFERENCE, "how much reference images are sharpened, 0 to 1", 0.0, between(0, 1))
    mask: tuple[str, ...] = _setting(
        REFERENCE,
        "image that is white where the reference acts; one for all references, or one for each",
        (),
        kind=PLACE,
        metavar="IMAGE",
    )
    adapter: tuple[AdapterConfig, ...] = _setting(
        REFERENCE,
        "an IP-Adapter with images of its own, such as own,image=a.png,scale=0.6; repeatable",
        (),
        kind=PLACE,
        metavar="SPEC",
    )
    scale: float | None = _setting(
        REFERENCE,
        "strength of the reference image (0: none)",
        None,
        between(0, 10),
        short="-s",
        of_model=True,
    )
    ip_mode: str = _setting(
        REFERENCE,
        f"layers that the reference acts on: {', '.join(INSTANTSTYLE)}, or a weight type of ComfyUI such as ease-in",
        "full",
        Choice(MODES),
        metavar="MODE",
    )
    ip_layers: str | None = _setting(
        REFERENCE, "scales by layer as JSON, in diffusers' form; --scale multiplies them", metavar="JSON"
    )
    ip_start: float = _setting(
        REFERENCE, "fraction of the steps at which the reference starts to act", 0.0, between(0, 1)
    )
    ip_end: float = _setting(REFERENCE, "fraction of the steps at which it stops acting", 1.0, between(0, 1))
    face: int | None = _setting(REFERENCE, faces.NUMBER, None, between(1, 1000), metavar="N")
    face_shortcut: float | None = _setting(REFERENCE, faces.SHORTCUT, None, between(0, 10), metavar="SCALE")
    ip_lora: float = _setting(REFERENCE, faces.LORA, 1.0, between(0, 10), metavar="WEIGHT")
    steps: int | None = _setting(PICTURE, "number of denoising steps", None, between(1, 1000), of_model=True)
    guidance_scale: float | None = _setting(
        PICTURE,
        "how closely to follow the prompt; above 1 each step takes twice the work",
        None,
        between(0, 100),
        of_model=True,
    )
    guidance_start: float = _setting(
        PICTURE,
        "fraction of the steps at which guidance begins; steps without it take half the work",
        0.0,
        between(0, 1),
    )
    guidance_end: float = _setting(PICTURE, "fraction of the steps at which guidance ends", 1.0, between(0, 1))
    guidance_rescale: float = _setting(
        PICTURE, "against overexposure by strong guidance, as in diffusers; 0 is off, 0.7 usual", 0.0, between(0, 1)
    )
    height: int | None = _setting(PICTURE, "height in pixels, a multiple of 8", None, checks.side, of_model=True)
    width: int | None = _setting(PICTURE, "width in pixels, a multiple of 8", None, checks.side, of_model=True)
    step_cache: str = STEP_CACHE
    hires: str | None = HIRES
    hires_strength: float = HIRES_STRENGTH
    hires_steps: int | None = HIRES_STEPS
    hires_upscaler: str = HIRES_UPSCALER
    seed: int | None = _setting(PICTURE, "seed of the first picture; random unless given", None, checks.seed)
    num_images: int = _setting(
        PICTURE, "number of pictures, each with the next seed", 1, between(1, 10_000), short="-n"
    )
    batch_size: int = _setting(PICTURE, "number of pictures drawn at once", 1, between(1, 64))
    scheduler: str | None = _setting(
        PICTURE,
        "sampler by its name in diffusers, A1111 or ComfyUI, such as 'DPM++ 2M Karras'; `ipa samplers` lists them",
        metavar="NAME",
        of_model=True,
        also="--sampler",
    )
    schedule: str | None = _setting(
        PICTURE,
        "where the sampler's steps lie: karras, exponential, beta, trailing, sgm_uniform, …",
        metavar="NAME",
        of_model=True,
    )
    eta: float | None = _setting(
        PICTURE,
        "share of fresh noise that the samplers ddim and tcd add in each step; 0 unless given",
        None,
        between(0, 1),
    )
    preset: str | None = PRESET
    lora: tuple[LoraConfig, ...] = _setting(
        PICTURE,
        "LoRA: a file, folder or hub id (owner/name:file), such as style.safetensors,weight=0.8; repeatable",
        (),
        kind=PLACE,
        metavar="SPEC",
    )
    control: tuple[ControlConfig, ...] = _setting(
        PICTURE,
        "ControlNet: a file, folder or hub id with its map, such as owner/name,image=pose.png,scale=0.7; repeatable",
        (),
        kind=PLACE,
        metavar="SPEC",
    )
    embedding: tuple[EmbeddingConfig, ...] = _setting(
        PICTURE,
        "textual inversion: a file or hub id (owner/name:file), such as style.safetensors,token=<style>; repeatable",
        (),
        kind=PLACE,
        metavar="SPEC",
    )
    embedding_dir: str | None = _setting(
        PICTURE, "folder in which embedding:name in a prompt finds its file", kind=PLACE, metavar="FOLDER"
    )
    lora_dir: str | None = _setting(
        PICTURE, "folder in which <lora:name:0.8> in a prompt finds its file", kind=PLACE, metavar="FOLDER"
    )
    model: str = _setting(
        MODEL,
        f"preset ({', '.join(MODELS)}), hub id, diffusers folder or .safetensors file",
        "demo",
        kind=PLACE,
        short="-m",
        metavar="MODEL",
        words=MODELS,
    )
    load_format: str = _setting(
        MODEL, "weights to load: auto, or dummy for random ones with a fixed seed", "auto", Choice(("auto", "dummy"))
    )
    variant: str | None = _setting(
        MODEL, "variant of the weight files, such as fp16", None, checks.inside, metavar="NAME"
    )
    revision: str | None = _setting(MODEL, "branch, tag or commit on the hub", None, checks.inside, metavar="NAME")
    vae: str | None = _setting(
        MODEL,
        "VAE to use in place of the model's own: hub id, folder or .safetensors file",
        kind=PLACE,
        metavar="MODEL",
    )
    ip_adapter: str | None = _setting(
        MODEL,
        "IP-Adapter: hub id, folder or file; none for no adapter",
        kind=PLACE,
        metavar="MODEL",
        words=("none",),
    )
    ip_adapter_subfolder: str | None = _setting(
        MODEL, "folder of the adapter in its repository", None, checks.inside, metavar="NAME"
    )
    ip_adapter_weight_name: str | None = _setting(
        MODEL, "file name of the adapter's weights", None, checks.inside, metavar="NAME"
    )
    image_encoder: str | None = _setting(
        MODEL, "image encoder of the adapter: file, folder or hub id (owner/name:folder)", kind=PLACE, metavar="MODEL"
    )
    backend: str = _setting(
        MACHINE,
        "how to run the UNet: auto, eager, inductor, …; `ipa doctor` lists them all",
        "auto",
        short="-b",
        metavar="NAME",
    )
    compile: bool = _setting(MACHINE, "compile when no graph is in the cache", True)
    compile_options: str | None = _setting(
        MACHINE,
        "options of the backend: a preset such as fast, or JSON",
        kind=OWN,
        metavar="OPTIONS",
    )
    device: str = _setting(
        MACHINE,
        "where to run: auto, cpu, cuda, cuda:N or mps",
        "auto",
        metavar="DEVICE",
        words=("auto", "cpu", "cuda", "mps"),
    )
    dtype: str = _setting(
        MACHINE,
        "number format: auto, float16, bfloat16 or float32",
        "auto",
        Choice(("auto", "float16", "bfloat16", "float32")),
        metavar="DTYPE",
    )
    precision: str = _setting(
        MACHINE,
        "precision of the UNet's matrix products: half, or on a GPU fp8, which is faster",
        "half",
        Choice(("half", "fp8")),
    )
    offload: str = _setting(
        MACHINE,
        "keep weights in main memory: none, model or sequential",
        "none",
        Choice(("none", "model", "sequential")),
    )
    gpus: int = _setting(
        MACHINE, "GPUs that share each picture: with 2 a half of guidance is computed on each", 1, checks.gpus
    )
    vae_tiling: bool = _setting(MACHINE, "decode in tiles to save memory", False)
    vae_slicing: bool = _setting(MACHINE, "decode pictures one at a time to save memory", False)
    warmup: int = _setting(MACHINE, "calls of the UNet before timing starts", 1, between(0, 100))
    cache_dir: Path | None = _setting(
        MACHINE, "folder of compiled graphs", None, checks.folder, kind=OWN, metavar="FOLDER"
    )
    cache_max_size: str = _setting(
        MACHINE, "graphs beyond this size are removed, least recently used first", "20GB", kind=OWN, metavar="SIZE"
    )
    cache_remote: str | None = remote.CACHE_REMOTE
    cache_push: bool = remote.CACHE_PUSH
    cache_signing_key: Path | None = remote.CACHE_SIGNING_KEY
    server: str | None = _setting(
        MACHINE,
        "draw on a running `ipa serve`: its address, or auto for one of yours; none draws here",
        None,
        checks.server,
        kind=OWN,
        metavar="URL",
        words=("auto", "none"),
    )
    server_token_file: Path | None = _setting(
        MACHINE, "file with the token that the server asks for", kind=OWN, metavar="FILE"
    )
    output: str | None = _setting(
        OUTPUT,
        "file, folder or template with {seed} {scale} {index} {prompt} {image}; - is stdout",
        kind=PLACE,
        short="-o",
        metavar="PATH",
    )
    preview: bool = _setting(OUTPUT, "show the pictures in the terminal", False)
    # Not a setting: names of settings that come from the environment, a file or a picture, not a flag or request.
    inherited: frozenset[str] = dataclasses.field(default=frozenset(), compare=False, repr=False)

    @cached_property
    def adapters(self) -> tuple[AdapterConfig, ...]:
        """The settings of each IP-Adapter: every `adapter` over the plain settings, or without any these alone.

        Raises UsageError for settings that contradict each other.
        """
        if (both := contradiction(self)) is not None:
            first, second = (f"--{name.replace('_', '-')}" for name in both)
            raise contradicting(first, second)
        plain = AdapterConfig(**{name: getattr(self, setting) for name, setting in ADAPTER_SETTINGS.items()})
        if self.image == NO_IMAGE:
            plain = dataclasses.replace(plain, image=(), follows_none=True)
        return tuple(one.with_defaults(plain) for one in self.adapter) or (plain,)

    def given(self, *names: str) -> list[str]:
        """Those of these settings that a flag or a request gives another value than the default."""
        return [name for name in names if name not in self.inherited and getattr(self, name) != FIELDS[name].default]


FIELDS = {f.name: f for f in dataclasses.fields(Settings) if f.metadata}


def contradiction(settings: Settings) -> tuple[str, str] | None:
    """Two settings that cannot both be given: those of one adapter beside `adapter`, or images beside embeddings."""
    own = [ADAPTER_SETTINGS[name] for name in OWN_OF_ADAPTER]
    given = [name for name in own if getattr(settings, name) not in (FIELDS[name].default, NO_IMAGE)]
    if settings.adapter and given:
        return given[0], "adapter"
    return ("image", "embeds") if {"image", "embeds"} <= set(given) else None


def contradicting(first: str, second: str, hint: str = "") -> UsageError:
    """The error for two settings that contradict each other, by the names of where they are given."""
    inside = f"leave one of them out, or give it inside --adapter: {EXAMPLE}"
    return UsageError(f"{first} and {second} are both given", hint or inside)


def checked(name: str, value: Any, where: str, error: type[IpaError] = UsageError, hint: str = EXPLAINED) -> Any:
    """`value` if the setting `name` may have it. Raises `error`, which names `where` the value came from."""
    check = FIELDS[name].metadata["check"]
    problem = check(value) if check and value is not None else None
    if problem:
        shown = f"{where} {short(value)}" if error is UsageError else f"{where}: {name} = {short(value)}"
        raise error(f"{shown}: {problem}", hint)
    return value
