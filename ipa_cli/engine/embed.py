"""Image embeddings on disk: references encoded once, so that drawing needs no image encoder."""

from __future__ import annotations

import hashlib
import json
import os
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

from ipa_cli import __version__
from ipa_cli.config import Settings
from ipa_cli.config.modes import CONCAT, TILES
from ipa_cli.config.privacy import public_name
from ipa_cli.engine.engine import Engine
from ipa_cli.engine.record import adapter_name
from ipa_cli.errors import IpaError, UsageError
from ipa_cli.images import faces
from ipa_cli.models.plan import Plan, make_plan
from ipa_cli.pipeline.face_embeds import FACES, STATES
from ipa_cli.pipeline.image_embeds import FORMAT
from ipa_cli.pipeline.references import load_references
from ipa_cli.pipeline.task import Request, make_request
from ipa_cli.result import Reporter
from ipa_cli.system import files

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class Embedded:
    """A written file; `shape` is that of its embeddings, (images, …)."""

    path: Path
    sources: tuple[str, ...]
    shape: tuple[int, ...]
    adapter: str
    sha256: str


def embed(settings: Settings, output: Path, force: bool, reporter: Reporter, shows_bars: bool) -> Embedded:
    """Encode the reference pictures of `settings` into a safetensors file, loading the image encoder alone."""
    if output.suffix != ".safetensors":
        named = output.with_suffix(".safetensors") if output.name else output / "embeds.safetensors"
        raise UsageError(f"{output} is not named .safetensors", f"--output {named}")
    if os.path.lexists(output) and not force:
        raise IpaError(f"{output} is there already", "choose another name, or --force")
    if settings.load_format == "dummy" or settings.adapter or settings.embeds or settings.ip_adapter == "none":
        raise UsageError("embeddings are made with one real adapter from pictures", "ipa embed cat.png")
    if settings.fit == TILES:
        raise UsageError("tiles act in places of a picture, which embeddings do not have", "give --fit when drawing")
    if settings.image_weight and settings.image_combine == CONCAT:
        raise UsageError(
            "weights of images side by side are no part of their embeddings",
            "give --image-weight when drawing, or --image-combine",
        )
    settings = replace(settings, control=())  # nothing is drawn
    files.check_writable(output, replacing=force)
    loaded = load_references(settings, reporter)
    plan = make_plan(settings)
    request = make_request(replace(settings, prompt=""), plan, loaded, reporter=reporter)
    if plan.adapter is not None and plan.adapter.face is not None and settings.image_combine != CONCAT:
        raise UsageError("embeddings of faces are combined when drawing", "leave out --image-combine")
    with reporter.stage("encoding references"):
        from safetensors.torch import save

        tensors = _encoded(settings, plan, request, reporter, shows_bars)
    name = adapter_name(plan)
    assert name is not None and plan.adapter is not None
    used = [{"source": public_name(one.source), "sha256": one.sha256} for one in request.references]
    negative_image = request.image_prompts[0].negative
    metadata: dict[str, Any] = {
        "format": FORMAT,
        "ipa": __version__,
        "model": public_name(plan.name),
        "adapter": name,
        "file": PurePosixPath(plan.adapter.file).name,
        "fit": settings.fit,
        "sharpening": settings.sharpening,
        "combine": settings.image_combine,
        "weights": list(settings.image_weight),
        "negative": negative_image and {"source": public_name(negative_image.source), "sha256": negative_image.sha256},
        "sources": used,
    }
    if plan.adapter.face is not None:
        metadata |= {"recogniser": f"insightface {faces.PACK}", "normed": False}
    data = save(
        {key: tensor.contiguous() for key, tensor in tensors.items()}, {"ipa": json.dumps(metadata, sort_keys=True)}
    )
    if plan.adapter.face is not None:  # biometric data
        files.write_private(output, data)
        path = output
    else:
        path = files.write(output, data, force)
    sources = tuple(one["source"] for one in used)
    shape = tuple(tensors[FACES if plan.adapter.face else "positive"].shape)
    return Embedded(path, sources, shape, name, hashlib.sha256(data).hexdigest())


def _encoded(
    settings: Settings, plan: Plan, request: Request, reporter: Reporter, shows_bars: bool
) -> dict[str, Tensor]:
    """The tensors of the file by name, float32: those of `image_embeds.read`."""
    import numpy as np
    import torch

    from ipa_cli.networks.image_projection import FacePictures

    (image_prompt,) = request.image_prompts
    found: dict[str, Tensor] = {}
    if image_prompt.faces.adapter is not None:
        found[FACES] = torch.from_numpy(np.stack([one.vector for one in image_prompt.faces.found]))
        if not image_prompt.faces.adapter.picture:
            return found
    engine = Engine.open_encoders(settings, plan, reporter, shows_bars)
    ((negative, positive),) = engine.embed(request)
    if isinstance(negative, FacePictures) and isinstance(positive, FacePictures):
        return found | {STATES: torch.stack([negative.states, positive.states]).to("cpu", torch.float32)}
    halves = {"positive": positive, "negative": negative}
    return {name: half.to("cpu", torch.float32) for name, half in halves.items() if isinstance(half, torch.Tensor)}
