"""What differs between architectures, as a protocol.

Common to all are `unet.model.UNet` and `networks.autoencoder.AutoencoderKL`. An IP-Adapter attaches to every
cross-attention layer of the UNet, in the order of `attention.layers`: it follows from the UNet itself.
"""

from __future__ import annotations

from collections.abc import Container, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from ipa_cli.models.prompts.syntax import Prompt
    from ipa_cli.models.tokenizer import Tokenizer
    from ipa_cli.networks.clip import TextEncoder
    from ipa_cli.unet.inputs import AddedConditions

IP_ADAPTERS = "h94/IP-Adapter"  # on the hub
PRESETS = Path(__file__).parents[2] / "presets"

Config = Mapping[str, Any]


class TextParts(Protocol):
    """What a loaded model reads prompts with, in the order of `Architecture.text_encoders`."""

    @property
    def tokenizers(self) -> Sequence[Tokenizer]: ...

    @property
    def text_encoders(self) -> Sequence[TextEncoder]: ...


@dataclass(frozen=True)
class Text:
    """A parsed prompt, and how many chunks it takes up at least.

    vectors: for each text encoder, textual inversion as (tokens, hidden) by the words that it stands for.
    """

    prompt: Prompt
    vectors: Sequence[Mapping[str, Tensor]] = ()
    chunks: int = 1


class PromptEmbeds(NamedTuple):
    """An encoded prompt; B is 1, or 2 with guidance, the negative prompt first."""

    hidden: Tensor  # (B, tokens, cross_attention_dim), what cross attention reads
    pooled: Tensor | None = None  # (B, pooled), None where the UNet takes none


@dataclass(frozen=True)
class IPAdapterFiles:
    """The files of `IP_ADAPTERS` that are made for an architecture."""

    base: str
    plus: str
    plus_face: str
    face_plus_is_v2: bool = False  # whether all FaceID-Plus adapters made for it are of v2


class Architecture(Protocol):
    """What the models of one architecture have in common, and how their parts work together."""

    @property
    def name(self) -> str:
        """For people, such as "SD 1.5"."""

    @property
    def preset(self) -> str:
        """What `--model` calls it, and the folder of its usual configurations in `PRESETS`."""

    @property
    def repo(self) -> str:
        """The hub repository that the preset stands for."""

    @property
    def text_encoders(self) -> Mapping[str, bool]:
        """The folders of the text encoders in diffusers' layout, and whether each projects its pooled state."""

    @property
    def tokenizers(self) -> Mapping[str, str]:
        """The folders of the tokenizers, in the order of `text_encoders`, and the token that each fills up with."""

    @property
    def cross_attention_dim(self) -> int:
        """The width of the hidden states that cross attention reads, in the usual model."""

    @property
    def latent_channels(self) -> int:
        """Channels of the latents."""

    @property
    def latent_factor(self) -> int:
        """Pixels a side of the picture for each latent pixel."""

    @property
    def native_size(self) -> int:
        """Pixels a side of the pictures it was trained on, where the UNet's configuration does not say it."""

    @property
    def guidance_scale(self) -> float:
        """The usual one, as in diffusers' pipeline."""

    @property
    def ip_adapters(self) -> IPAdapterFiles:
        """The IP-Adapters made for it."""

    @property
    def vae(self) -> str:
        """The hub repository of a VAE to name where a model comes without."""

    @property
    def checkpoint_prefixes(self) -> Mapping[str, str]:
        """Where a checkpoint in one file (LDM, SGM) keeps "unet", "vae" and the text encoders."""

    @property
    def open_clip(self) -> Container[str]:
        """The text encoders whose tensors a checkpoint has by OpenCLIP's names."""

    def fits_unet(self, config: Config) -> bool:
        """Whether a UNet of this configuration is of this architecture."""

    def matching_sizes(self, unet: Config, texts: Sequence[Config]) -> Mapping[str, tuple[Any, Any]]:
        """Pairs of sizes, by their names in a message, that have to be equal in the configurations of a model."""

    def zeros_for_empty_prompt(self, model_index: Config) -> bool:
        """Whether an empty negative prompt means zeros, as a model says in its `model_index.json`."""

    def vae_overflows_in_fp16(self, vae: Config) -> bool:
        """Whether the decoder's activations leave the range of fp16."""

    def scheduler_changes(self, config: Config) -> Mapping[str, Any]:
        """What diffusers' pipeline changes in a model's own scheduler, of the settings that it has."""

    def checkpoint_scheduler(self, names: Container[str]) -> Mapping[str, Any]:
        """What the names of a checkpoint's tensors say of its scheduler, as settings of diffusers'."""

    def encode_prompts(self, model: TextParts, texts: Sequence[Text], device: torch.device) -> list[PromptEmbeds]:
        """Encode each prompt as diffusers' pipeline does, B 1, by one call of each text encoder of `model`."""

    def added_conditions(self, pooled: Tensor | None, width: int, height: int) -> AddedConditions | None:
        """What the UNet takes beside the prompt, for a picture of this size in pixels; None if it takes nothing."""


def folders(architecture: Architecture) -> tuple[str, ...]:
    """The folders of a model in diffusers' layout that are read."""
    return (*architecture.text_encoders, *architecture.tokenizers, "unet", "vae", "scheduler")


def latents_of(unet: Config, latent_channels: int) -> int:
    """How many channels of a UNet's input are latents: one made for inpainting takes a mask and as many again."""
    channels = unet.get("in_channels", 4)
    return latent_channels if channels == 2 * latent_channels + 1 else channels
