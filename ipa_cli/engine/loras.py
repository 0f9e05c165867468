"""The LoRAs that are merged into a loaded model: those of the request it works on."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from ipa_cli.engine.access import Access
from ipa_cli.models.lora.lora import Lora
from ipa_cli.models.lora.merging import MergedModule
from ipa_cli.models.lora.targets import UNET

if TYPE_CHECKING:
    from ipa_cli.models.loader import Model


class Loras:
    """The UNet and the text encoders of a model, which the LoRAs of each request are merged into."""

    def __init__(self, model: Model, access: Access):
        self._access = access
        self._unet = MergedModule(UNET, model.unet, access.device)
        encoders = zip(model.architecture.text_encoders, model.text_encoders, strict=False)
        self._text = [MergedModule(part, encoder, access.device) for part, encoder in encoders]

    def merge_into_unet(self, loras: Sequence[Lora]) -> None:
        """Have the UNet changed by these LoRAs alone."""
        self._merge([self._unet], loras)

    def merge_into_text_encoders(self, loras: Sequence[Lora]) -> None:
        """Have the text encoders changed by these LoRAs alone."""
        self._merge(self._text, loras)

    def differ(self, loras: Sequence[Lora]) -> bool:
        """Whether anything has to be merged, or taken out again, before these count."""
        return any(module.differs(loras) for module in (self._unet, *self._text))

    def stay(self) -> None:
        """What is merged next stays: nothing else will be asked for, and no base of the weights is kept."""
        for module in (self._unet, *self._text):
            module.restorable = False

    def forget_text_encoders(self) -> None:
        """Let go of the text encoders, which leave memory, and of what was kept of their weights."""
        self._text = []

    def _merge(self, modules: Sequence[MergedModule], loras: Sequence[Lora]) -> None:
        differing = [module for module in modules if module.differs(loras)]
        if differing:
            with self._access.working("merging"):
                for module in differing:
                    module.merge(loras)
