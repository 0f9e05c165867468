"""What a picture records of how it was drawn, in names that give nothing private away."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from ipa_cli.config import FIELDS, Settings
from ipa_cli.config.dropping import NO_IMAGE
from ipa_cli.config.privacy import public, public_name, public_settings
from ipa_cli.models.plan import DEMO_REFERENCE
from ipa_cli.pipeline import per_picture
from ipa_cli.pipeline.sampling import own_scheduler, schedule_name

if TYPE_CHECKING:
    from ipa_cli.engine.engine import Engine
    from ipa_cli.engine.ready import Ready
    from ipa_cli.images.reference import Reference
    from ipa_cli.models.ip_adapter.plan import AdapterPlan
    from ipa_cli.models.plan import Plan
    from ipa_cli.pipeline.init_image import Init
    from ipa_cli.pipeline.task import Request

# Settings that a picture records as they came out, for itself alone, ...
CAME_OUT = (
    *("prompt", "negative_prompt", "prompt_syntax"),
    *("image", "scale", "steps", "guidance_scale", "height", "width", "seed"),
    *("guidance_start", "guidance_end", "guidance_rescale"),
    *("model", "load_format", "variant", "revision", "backend", "device", "dtype"),
)
# ... and those that say nothing of how it looks. All others are recorded as they were asked for.
NOT_OF_THE_PICTURE = (
    *("num_images", "batch_size", "output", "preview", "warmup", "compile", "offload", "gpus", "vae_slicing"),
    *("cache_dir", "cache_max_size", "cache_remote", "cache_push", "cache_signing_key"),
    *("server", "server_token_file", "lora_dir", "embedding_dir"),
)


def record(engine: Engine, settings: Settings, ready: Ready, request: Request, number: int) -> dict[str, Any]:
    """Everything needed to draw picture `number` again, as its file carries it; `settings` are what was asked for."""
    request = request.of_picture(number)
    settings = per_picture.own_settings(settings, request.image_prompts)
    used = list(zip(settings.adapter, request.image_prompts, strict=False))
    of_flag = next((prompt.scale for adapter, prompt in used if "scale" not in adapter.stated), None)
    adapters = tuple(
        adapter if prompt.scale == of_flag else adapter.with_scale(prompt.scale) for adapter, prompt in used
    )
    recorded = {
        **({"image": list(NO_IMAGE)} if settings.image == NO_IMAGE else {}),
        "prompt": request.prompt,
        "negative_prompt": request.negative_prompt,
        "prompt_syntax": request.prompt_syntax,
        "width": request.width,
        "height": request.height,
        "steps": request.steps,
        "guidance_scale": request.guidance_scale,
        "guidance_start": request.guidance_start,
        "guidance_end": request.guidance_end,
        "guidance_rescale": request.guidance_rescale,
        "seed": request.seeds[0],
        "scheduler": scheduler_name(engine, request),
        "schedule": schedule_name(engine.plan, request.sampling),
        "eta": request.sampling.eta,
        "model": public_name(engine.plan.name),
        "load_format": settings.load_format,
        "revision": settings.revision,
        "variant": settings.variant,
        "dtype": str(engine.dtype).removeprefix("torch."),
        "device": engine.device.type,
        "backend": ready.backend,
        "graph": ready.entry.id if ready.entry else None,
        "adapters": _adapter_record(engine.plan, request),
        "embeddings": [
            {"word": embedding.words[0], "source": public_name(embedding.source), "sha256": embedding.sha256}
            for embedding in request.embeddings
            if embedding.is_in(request.texts, request.prompt_syntax)
        ],
        **({"loras": _lora_record(request)} if request.loras else {}),
        **({"controls": control_record(engine.plan, request)} if request.controls else {}),
        **({"init": init_record(request.init)} if request.init else {}),
        **({"regions": regions_record(request)} if request.regions else {}),
        **({"hires_pass": hires_record(request)} if request.hires else {}),
        "settings": public_settings(
            replace(
                settings,
                strength=request.init.strength if request.init else None,
                adapter=adapters,
                lora=tuple(lora.config for lora in request.loras if not lora.of_adapter),
                preset=request.preset,
            ),
            asked_settings(),
        ),
        **({} if of_flag is None else {"scale": of_flag}),  # so that --scale can say another
    }
    return public(recorded)


def drawn_by(engine: Engine, ready: Ready) -> dict[str, Any]:
    """What decides about the last bits of a picture beside its request: numbers, device, backend, graph, torch."""
    import torch

    device = engine.device
    return {
        "dtype": str(engine.dtype).removeprefix("torch."),
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else device.type,
        "backend": ready.backend,
        "graph": ready.entry.id if ready.entry else None,
        "torch": torch.__version__,
    }


def asked_settings() -> tuple[str, ...]:
    """The settings that a picture records as they were asked for."""
    return tuple(name for name in FIELDS if name not in (*CAME_OUT, *NOT_OF_THE_PICTURE))


def scheduler_name(engine: Engine, request: Request) -> str:
    """The scheduler asked for, else the class of the model's own."""
    return request.sampling.scheduler or own_scheduler(engine.plan)


def adapter_name(plan: Plan) -> str | None:
    """The adapters as people know them: repository or folder, and file."""
    return ", ".join(_name(plan, adapter) for adapter in plan.adapters) or None


def _name(plan: Plan, adapter: AdapterPlan) -> str:
    if plan.dummy:
        return "dummy"
    if plan.name == "demo" and adapter.location == plan.location:
        return "demo"
    return public_name(f"{adapter.location}/{adapter.file}")


def init_record(init: Init) -> dict[str, Any]:
    """The picture that drawing began with, its mask, and what the text for other programs says of them."""
    images = filter(None, (init.loaded.image, init.loaded.mask))
    return {
        "strength": init.strength,
        "mask_blur": init.mask_blur,
        "images": [{"source": public_name(one.source), "sha256": one.sha256} for one in images],
    }


def hires_record(request: Request) -> dict[str, Any] | None:
    """The second pass as it was drawn, `steps` where they were asked for; None without one."""
    if request.hires is None:
        return None
    second = request.passes[1]
    return {
        "size": request.hires.size,
        "width": second.width,
        "height": second.height,
        "strength": request.hires.strength,
        "steps": request.hires.steps,
        "upscaler": request.hires.upscaler,
    }


def control_record(plan: Plan, request: Request) -> list[dict[str, Any]]:
    """The ControlNets and the maps that they followed, for other programs and for a look."""
    return [
        {
            "model": str(plan.controls[one.network]),
            "image": {"source": public_name(one.image.source), "sha256": one.sha256},
            "scale": one.scale,
            "start": one.start,
            "end": one.end,
            "preprocess": one.preprocess,
            "mode": one.mode,
        }
        for one in request.controls
    ]


def regions_record(request: Request) -> list[dict[str, Any]] | None:
    """The prompt and the mask of each region; None without any."""
    return [
        {
            "prompt": one.prompt,
            "negative_prompt": one.negative,
            "weight": one.weight,
            "mask": {"source": public_name(one.mask.source), "sha256": one.mask.sha256},
        }
        for one in request.regions
    ] or None


def _lora_record(request: Request) -> list[dict[str, Any]]:
    return [
        {
            "name": public_name(lora.file.name),
            "sha256": lora.file.sha256,
            "data_sha256": lora.file.data_sha256,
            "weight": lora.weight,
            "text_weight": lora.text_weight,
            **({"inside_adapter": True} if lora.of_adapter else {}),
        }
        for lora in request.loras
    ]


def _adapter_record(plan: Plan, request: Request) -> list[dict[str, Any]]:
    return [
        {
            "model": _name(plan, adapter),
            "scale": image_prompt.scale,
            "mode": image_prompt.mode,
            "layers": None if image_prompt.table is None else json.loads(image_prompt.table),
            "start": image_prompt.start,
            "end": image_prompt.end,
            "fit": image_prompt.fit,
            "sharpening": image_prompt.sharpening,
            "combine": image_prompt.combine,
            **({"face_shortcut": image_prompt.faces.shortcut} if image_prompt.faces.adapter else {}),
            "images": [
                {"source": _recorded_source(reference), "sha256": reference.sha256, "weight": weight}
                for reference, weight in zip(image_prompt.references, image_prompt.weights, strict=False)
            ],
            "embeds": None
            if image_prompt.embeds is None
            else {"source": public_name(image_prompt.embeds.source), "sha256": image_prompt.embeds.sha256},
            "negative_image": None
            if image_prompt.negative is None
            else {"source": public_name(image_prompt.negative.source), "sha256": image_prompt.negative.sha256},
            "masks": [{"source": public_name(mask.source), "sha256": mask.sha256} for mask in image_prompt.masks],
        }
        for adapter, image_prompt in zip(plan.adapters, request.image_prompts, strict=False)
    ]


def _recorded_source(reference: Reference) -> str | None:
    """A reference's name as a picture records it: None for the model's own."""
    return None if reference.source == DEMO_REFERENCE else public_name(reference.source)
