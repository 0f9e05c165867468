"""Ed25519 signatures of manifests, in DSSE envelopes: a publisher signs, everybody with the public key can check.

Keys are written `ed25519:<43 characters of base64url>`. An envelope is DSSE's (secure-systems-lab/dsse on GitHub);
what is signed is its pre-authentication encoding, which holds the type of the payload, so that a signature of something
else is none of a graph. On the remote it carries the manifest as its payload; beside a graph in the cache, in
`publisher.json`, it goes without, since the manifest lies there.
"""

from __future__ import annotations

import base64
import binascii
import json
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ipa_cli.cache.entries import StoreError
from ipa_cli.cache.manifest import MAX_MANIFEST, Damage
from ipa_cli.errors import IpaError

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

PAYLOAD_TYPE = "application/vnd.ipa.graph-manifest+json"
PREFIX = "ed25519:"
MAX_ENVELOPE = 2 * MAX_MANIFEST
MAX_SIGNATURES = 16
_PRIME = 2**255 - 19
# Points of order 8 or less, by their y: of such a "key" anybody can make signatures, as of one that is all A.
_OF_ORDER_8 = 0x05FC536D880238B13933C6D305ACDFD5F098EFF289F4C345B027B2C28F95E826
_SMALL_ORDER = {0, 1, _PRIME - 1, _OF_ORDER_8, _PRIME - _OF_ORDER_8}


@dataclass(frozen=True)
class Signature:
    """A publisher's signature: the public key that it is said to be by, and the 64 bytes."""

    key: str
    proof: bytes


def public_bytes(key: str) -> bytes:
    """The 32 bytes of a public key as people write it. Raises ValueError for others, and where anybody can sign."""
    raw = b""
    with suppress(ValueError):
        raw = _decode(key.removeprefix(PREFIX) + "=") if key.startswith(PREFIX) else b""
    if len(raw) != 32 or _written(raw) != key:
        raise ValueError(f"not a public key: {key[:80]!r}")
    if (int.from_bytes(raw, "little") & (2**255 - 1)) % _PRIME in _SMALL_ORDER:
        raise ValueError(f"anybody can sign as {key}")
    return raw


def public_key(private: Ed25519PrivateKey) -> str:
    """The public key of a private one, as people write it."""
    return _written(private.public_key().public_bytes_raw())


def sign(manifest: bytes, private: Ed25519PrivateKey) -> Signature:
    """The signature of a manifest."""
    return Signature(public_key(private), private.sign(_encoding(manifest)))


def check(manifest: bytes, signatures: Sequence[Signature]) -> None:
    """Raise Damage unless every signature is valid for the key that it names; of keys nothing is said."""
    from_public = _library().Ed25519PublicKey.from_public_bytes
    from cryptography.exceptions import InvalidSignature

    for signature in signatures:
        try:
            from_public(public_bytes(signature.key)).verify(signature.proof, _encoding(manifest))
        except (InvalidSignature, ValueError):
            raise Damage(f"its signature by {signature.key} belongs to another manifest") from None


def render(signatures: Sequence[Signature], manifest: bytes | None = None) -> bytes:
    """The envelope of `signatures`, with the manifest or without."""
    envelope: dict[str, Any] = {
        "payloadType": PAYLOAD_TYPE,
        "signatures": [
            {"keyid": one.key, "sig": base64.b64encode(one.proof).decode()}
            for one in sorted(signatures, key=lambda one: one.key)
        ],
    }
    if manifest is not None:
        envelope["payload"] = base64.b64encode(manifest).decode()
    return json.dumps(envelope, sort_keys=True).encode() + b"\n"


def parse(text: bytes) -> tuple[bytes, tuple[Signature, ...]]:
    """The payload (empty where there is none) and the signatures of an envelope. Raises Damage."""
    try:
        envelope = json.loads(text)
        if envelope["payloadType"] != PAYLOAD_TYPE:
            raise Damage("its envelope holds something else than a manifest")
        found = tuple(Signature(str(public(one["keyid"])), _decode(one["sig"])) for one in envelope["signatures"])
        payload = _decode(envelope.get("payload", ""))
    except (ValueError, LookupError, TypeError, AttributeError, RecursionError):
        raise Damage("its envelope cannot be read") from None
    if len(found) > MAX_SIGNATURES or len({one.key for one in found}) != len(found):
        raise Damage("its envelope has too many signatures")
    return payload, found


def public(key: Any) -> str:
    """`key` if it is a public key as people write it. Raises ValueError or AttributeError."""
    public_bytes(key)
    return key


def private_from(pem: bytes) -> Ed25519PrivateKey:
    """The private key in a PEM file. Raises ValueError for another kind of key, or one with a password."""
    library = _library()
    if b"BEGIN OPENSSH PRIVATE KEY" in pem:
        raise ValueError("it is in the format of OpenSSH")
    from cryptography.exceptions import UnsupportedAlgorithm
    from cryptography.hazmat.primitives.serialization import load_pem_private_key

    try:
        key = load_pem_private_key(pem, password=None)
    except (TypeError, UnsupportedAlgorithm) as error:
        raise ValueError(str(error)) from error
    if not isinstance(key, library.Ed25519PrivateKey):
        raise ValueError("it is no Ed25519 key")
    return key


def new_private() -> tuple[Ed25519PrivateKey, bytes]:
    """A new private key, and its PEM file (PKCS #8, without a password)."""
    library = _library()
    from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

    key = library.Ed25519PrivateKey.generate()
    return key, key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())


def _library() -> Any:
    try:
        from cryptography.hazmat.primitives.asymmetric import ed25519
    except ImportError as error:
        raise MissingLibrary() from error
    return ed25519


class MissingLibrary(StoreError):
    """`cryptography` is not installed."""

    def __init__(self) -> None:
        IpaError.__init__(
            self, "signatures of publishers need the package cryptography", "`pip install 'ipa-cli[remote]'`"
        )


def _encoding(manifest: bytes) -> bytes:
    """DSSE's pre-authentication encoding of a manifest."""
    return b"DSSEv1 %d %s %d %s" % (len(PAYLOAD_TYPE), PAYLOAD_TYPE.encode(), len(manifest), manifest)


def _written(raw: bytes) -> str:
    return PREFIX + base64.urlsafe_b64encode(raw).decode().rstrip("=")


def _decode(text: str) -> bytes:
    """Base64 of either alphabet, as DSSE allows. Raises ValueError."""
    try:
        return base64.b64decode(text.translate(str.maketrans("-_", "+/")).encode("ascii"), validate=True)
    except (binascii.Error, UnicodeEncodeError) as error:
        raise ValueError(str(error)) from error
