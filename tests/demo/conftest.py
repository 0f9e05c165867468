"""The shipped model in plain diffusers."""

import pytest

from tests.zoo.layouts import DEMO


@pytest.fixture(scope="package")
def pipe():
    import torch
    from diffusers import StableDiffusionXLPipeline

    pipe = StableDiffusionXLPipeline.from_pretrained(str(DEMO))
    pipe.load_ip_adapter(
        str(DEMO), subfolder="ip_adapter", weight_name="ip-adapter.safetensors", image_encoder_folder="image_encoder"
    )
    pipe.set_progress_bar_config(disable=True)
    assert pipe.unet.dtype == pipe.text_encoder.dtype == pipe.image_encoder.dtype == torch.float32
    return pipe
