"""`--output` of every command that writes on disk."""

import pytest


@pytest.mark.parametrize(
    "command",
    [
        ("generate", "-o"),
        ("sweep-scale", "-i", "cat.png", "-o"),
        ("embed", "cat.png", "-o"),
        ("bench", "-o"),
        ("cache", "export"),
    ],
)
@pytest.mark.parametrize("place", ["s3://bucket/x.png", "s3:/bucket/x", "file:///tmp/x.png"])
def test_an_address_is_no_folder_of_that_name(ipa, world, command, place):
    ran = ipa(*command, place)
    assert ran.exit_code == 2 and "an address is for `ipa batch` alone" in ran.stderr
    assert world.files() == []
