"""Locations in the texts of `--adapter`, `--lora` and `--embedding`."""

import pytest

from ipa_cli.config import adapter_options, embeddings, loras
from ipa_cli.errors import UsageError


@pytest.mark.parametrize("parse", [loras.parse, embeddings.parse, adapter_options.parse])
def test_nothing_is_named_in_a_file(world, parse):
    (world.cwd / "a.safetensors").touch()
    with pytest.raises(UsageError, match=r"':0.8' after the file a.safetensors"):
        parse("a.safetensors:0.8", "--flag")
