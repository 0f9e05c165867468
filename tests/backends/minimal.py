"""The smallest backend: it calls the UNet as it is and claims nothing. `docs/adding-a-backend.md` shows it."""

from __future__ import annotations

from ipa_cli.backends.base import Capabilities
from ipa_cli.backends.options import read_options
from ipa_cli.backends.requirements import COMMON, Requirements

CAPABILITIES = Capabilities(devices=("cpu",))
REQUIREMENTS = Requirements(COMMON, install="pip install torch diffusers transformers", imports="import torch")
PRESETS = {"default": {}}


def toolchain_problem():
    return None


def versions():
    return {}


def options(given):
    return read_options("minimal", given, PRESETS)


def compile(unet, example, folder, options, report):
    raise NotImplementedError


def load(unet, folder, options):
    import torch

    @torch.no_grad()
    def call(inputs):
        return unet(inputs)

    return call
