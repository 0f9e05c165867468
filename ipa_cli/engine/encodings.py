"""Prompts and references as what steers the UNet: encoded once, kept by content for the requests that follow."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from ipa_cli.config.hires import UPSCALERS
from ipa_cli.engine import content, together
from ipa_cli.engine.access import Access
from ipa_cli.engine.content import LRU
from ipa_cli.engine.loras import Loras
from ipa_cli.engine.side_stream import SideStream
from ipa_cli.hardware import devices
from ipa_cli.pipeline.task import Request
from ipa_cli.result import Reporter

if TYPE_CHECKING:
    from torch import Tensor

    from ipa_cli.models.architectures.base import PromptEmbeds
    from ipa_cli.models.loader import Model
    from ipa_cli.pipeline.decoding import Decode
    from ipa_cli.pipeline.denoise import Conditions
    from ipa_cli.pipeline.image_encoding import Embeds
    from ipa_cli.pipeline.init_image import Init
    from ipa_cli.pipeline.start import Encoded, Start

ENCODED = 64  # encoded prompts, and as many encoded sets of references, that are kept: less than 2 MB each
CONDITIONED = 2  # sets of keys and values that are kept: 51 MB each for SDXL and one picture


class Encodings:
    """The encoders of a model, which may be dropped, and what they made last."""

    def __init__(self, model: Model, access: Access, reporter: Reporter):
        self.model, self._access, self._reporter = model, access, reporter
        self._loras, self._side = Loras(model, access), SideStream(access.device)
        self._texts: LRU[list[PromptEmbeds]] = LRU(ENCODED)  # of the picture, then of its regions
        self._images: LRU[list[Embeds]] = LRU(ENCODED)
        self._conditions: LRU[Conditions] = LRU(CONDITIONED)
        self._together: LRU[Conditions] = LRU(1)  # of several requests, which take as much for each picture
        self._halves: LRU[Conditions] = LRU(CONDITIONED)  # positive halves of the same
        self._begun_with: LRU[Encoded] = LRU(CONDITIONED)
        self._graphs = access.state.graphs

    def encode(self, requests: Sequence[Request], drop_encoders: bool = False) -> None:
        """Encode the prompts and references of `requests`, which are all kept from now on, and what they begin with.

        With `drop_encoders` the encoders then leave memory, and only these requests, or others with the same prompts
        and references, can be drawn; nor do the adapters' weights stay where all share their keys and values. Where all
        have the same LoRAs, these are merged to stay.
        """
        with self._access.lock:
            self._side.wait_for_current()
            if drop_encoders and len({request.loras for request in requests}) == 1:
                self._loras.stay()
            each = [one for request in requests for one in request.each]
            self._texts.size = max(self._texts.size, len(requests))
            self._images.size = max(self._images.size, len(each))
            for request in each:
                self._encoded([request])
                if request.init is not None:
                    self._init(request.init)
            if drop_encoders:
                self.conditions(requests[0])
                joined = {content.of_conditions(one) for request in each for one in request.passes}
                self._drop_encoders(joined=len(joined) == 1)

    def embed(self, request: Request) -> list[tuple[Embeds, Embeds]]:
        """The negative and the positive embeddings of each adapter's references, (images, …)."""
        from ipa_cli.pipeline import image_encoding

        with self._access.working("encoding", *distinct(self.model.image_encoders)):
            return image_encoding.embed_each(self.model, [request.image_prompts], self._access.device)[0]

    def conditions(self, request: Request, numbers: Sequence[int] = (0,)) -> Conditions:
        """What steers the UNet: every layer's keys and values, kept by content, at the scales of this request.

        They are those of the pictures `numbers`, where these have references of their own. From now on the UNet has the
        LoRAs of this request.
        """
        with self._access.lock:
            self._side.wait_for_current()
            return self._of_pictures(request, numbers)

    def _of_pictures(self, request: Request, numbers: Sequence[int]) -> Conditions:
        if not request.image_per_picture:
            return self._conditions_of(request)
        if len(numbers) == 1:
            return self._conditions_of(request.of_picture(numbers[0]))
        each = [self._conditions_of(replace(request.of_picture(number), batch_size=1)) for number in numbers]
        found = together.joined(each)
        assert found is not None, "they differ in their references alone, and have as many each"
        return found

    def of_several(self, requests: Sequence[Request], overlap: bool = False) -> Conditions | None:
        """The conditions of requests that are `alike` as those of one batch; None where their shapes differ.

        Each encoder is called once, and what makes keys and values once for all rows. `overlap`: a GPU may encode while
        it still draws earlier pictures, unless weights have to change or move for it, or have since it last did.
        """
        from ipa_cli.pipeline import denoise

        with self._access.lock:
            if self._graphs is not self._access.state.graphs:  # opening one lays out weights anew
                self._side.wait_for_current()
                self._graphs = self._access.state.graphs
            if not overlap or self._access.offload != "none" or self._loras.differ(requests[0].loras):
                self._side.wait_for_current()
                return self._of_several(requests)
            with self._side.running():
                found = self._of_several(requests)
            if found is not None:
                self._side.record(denoise.tensors(found))
            return found

    def _of_several(self, requests: Sequence[Request]) -> Conditions | None:
        from ipa_cli.pipeline import conditioning

        if len(requests) == 1:
            return self._of_pictures(requests[0], (0,))
        first, embeds = requests[0], self._encoded(requests)
        if not together.weighed_alike(requests):
            return together.joined([self._conditions_of(one) for one in requests])
        found = together.embeds(embeds)
        if found is None:
            return None

        def make() -> Conditions:
            with self._access.working("encoding", self.model.unet):
                return conditioning.join(self.model, *found, first)

        self._loras.merge_into_unet(first.loras)
        known_by = tuple(map(content.of_conditions, requests))
        return self._at_scale(first, known_by, self._together.get(known_by, make))

    def _conditions_of(self, request: Request) -> Conditions:
        from ipa_cli.pipeline import conditioning, denoise, residuals

        def make() -> Conditions:
            [(texts, images)] = self._encoded([request])
            with self._access.working("encoding", self.model.unet, *self.controls(request)):
                conditions = conditioning.join(self.model, texts, images, request)
                conditions = replace(conditions, controls=residuals.condition(self.model, texts[0], request))
                return denoise.for_several(conditions, request.batch_size)

        with self._access.lock:
            self._loras.merge_into_unet(request.loras)
            known_by = content.of_conditions(request)
            return self._at_scale(request, known_by, self._conditions.get(known_by, make))

    def _at_scale(self, request: Request, known_by: Hashable, made: Conditions) -> Conditions:
        """Conditions that were made, at the scales of a request, with their positive half where it counts alone."""
        from ipa_cli.pipeline import conditioning, denoise
        from ipa_cli.unet import attention

        half = self._halves.get(known_by, lambda: denoise.positive_half(made)) if request.guided_in_part else None
        scale = conditioning.scales(request.image_prompts, attention.layers(self.model.unet))
        scale, spans = devices.sent(scale, self._access.device), conditioning.spans(request.image_prompts)

        def at_scale(one: Conditions, unguided: Conditions | None = None) -> Conditions:
            found = zip(one.controls, request.controls, strict=True)
            controls = tuple(replace(made, control=asked) for made, asked in found)
            context = one.context._replace(scale=scale)
            return replace(one, context=context, spans=spans, unguided=unguided, controls=controls)

        return at_scale(made, half and at_scale(half))

    def controls(self, request: Request) -> list[Any]:
        """The ControlNets that a request has maps for, each once."""
        return distinct([self.model.controls[one.network] for one in request.controls])

    def start(self, request: Request, seeds: Sequence[int]) -> Start:
        """What the steps of pictures with these seeds begin with."""
        from ipa_cli.pipeline import start

        model, device, dtype = self.model, self._access.device, self.model.unet.dtype
        if request.init is None:
            return start.from_noise(request, seeds, model.architecture, device, dtype)
        encoded = self._init(request.init)
        return start.from_image(request, encoded, seeds, model.architecture, model.vae, device, dtype)

    def enlarged(
        self, request: Request, latents: Tensor, seeds: Sequence[int], loras: Sequence[str], by: Decode | None
    ) -> Start:
        """What the second pass of a request begins with, from the latents of its first; the rest is as in `decode`."""
        from ipa_cli.pipeline import decoding, hires, start

        assert request.hires is not None
        second, model, device, dtype = request.passes[1], self.model, self._access.device, self.model.unet.dtype
        upscaler, architecture = request.hires.upscaler, model.architecture
        if UPSCALERS[upscaler].latent:
            size = second.width // architecture.latent_factor, second.height // architecture.latent_factor
            image = hires.enlarged_latents(latents, size, upscaler)
            return start.from_latents(second, image, seeds, architecture, device, dtype)
        with self._access.working("enlarging", model.vae):
            pictures = decoding.decode(model.vae, latents, self._reporter.warn, loras, by)
            pictures = hires.enlarged_pictures(pictures, (second.width, second.height), upscaler)
            wide = architecture.vae_overflows_in_fp16(model.vae.config)
            return start.from_pictures(second, pictures, seeds, architecture, model.vae, wide, device, dtype)

    def _init(self, init: Init) -> Encoded:
        from ipa_cli.pipeline import start

        model = self.model

        def encode() -> Encoded:
            inpainting = model.unet.config.in_channels > model.architecture.latent_channels
            wide = model.architecture.vae_overflows_in_fp16(model.vae.config)
            factor = model.architecture.latent_factor
            with self._access.working("encoding", model.vae):
                return start.encode(model.vae, init, factor, inpainting, wide, self._access.device, model.unet.dtype)

        with self._access.lock:
            return self._begun_with.get(init.picture.digest, encode)

    def forget(self) -> None:
        """Let go of all that is encoded: the next request is encoded anew."""
        with self._access.lock:
            conditions = self._conditions, self._together, self._halves
            for kept in (self._texts, self._images, *conditions, self._begun_with):
                kept.clear()

    def _encoded(self, requests: Sequence[Request]) -> list[together.Embedded]:
        """The prompts and references of requests with the same LoRAs, of which some may be known, by one call each."""
        from ipa_cli.pipeline import image_encoding, text_encoding

        model, device = self.model, self._access.device

        def texts(places: Sequence[int]) -> list[list[PromptEmbeds]]:
            self._check_encoders()
            self._loras.merge_into_text_encoders(requests[0].loras)
            with self._access.working("encoding", *model.text_encoders):
                return text_encoding.encode_texts(model, [requests[at] for at in places], device, self._reporter)

        def images(places: Sequence[int]) -> list[list[Embeds]]:
            self._check_encoders()
            seen = [requests[at].image_prompts for at in places]
            with self._access.working("encoding", *distinct(model.image_encoders)):
                return image_encoding.encode_images(model, seen, requests[0].guided, device)

        found = self._texts.get_all(list(map(content.of_text, requests)), texts)
        return list(zip(found, self._images.get_all(list(map(content.of_images, requests)), images), strict=True))

    def _check_encoders(self) -> None:
        if not self._access.state.encoders:
            raise RuntimeError("the encoders were dropped, and this request was not encoded before")

    def _drop_encoders(self, joined: bool) -> None:
        import torch

        model, nothing = self.model, torch.device("meta")
        self._loras.forget_text_encoders()
        if self._access.offload == "none":
            unused = [*model.text_encoders, *distinct(model.image_encoders)]
            for module in [*unused, model.adapters] if joined else unused:
                module.to(nothing)  # others may still hold it
            if self._access.device.type == "cuda":
                torch.cuda.empty_cache()  # CUDA graphs have memory of their own
        self.model = replace(model, text_encoders=(), image_encoders=())
        self._access.publish(encoders=False)


def distinct(encoders: Sequence[Any]) -> list[Any]:
    """Each module once; adapters may share one, and need none where their references come encoded."""
    return list(dict.fromkeys(filter(None, encoders)))
