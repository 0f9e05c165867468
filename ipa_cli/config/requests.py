"""What a request to a server is made of, and where no token is needed: the server and its client agree on it here."""

from __future__ import annotations

from ipa_cli.config.setting import PICTURE, PLAIN, REFERENCE
from ipa_cli.config.settings import FIELDS

LOOPBACK = ("127.0.0.1", "::1", "localhost")
PICTURES = ("image", "mask")  # settings whose values are pictures, ...
ONE_PICTURE = ("init_image", "inpaint_mask", "negative_image")  # ... and those with one
FOLDERS = ("lora_dir", "embedding_dir")  # in which names in a prompt find files: the server's
# What a request may set: all that describes the picture and names no place.
PLAIN_SETTINGS = tuple(
    name
    for name, one in FIELDS.items()
    if one.metadata["panel"] in (PICTURE, REFERENCE) and one.metadata["kind"] == PLAIN
)
