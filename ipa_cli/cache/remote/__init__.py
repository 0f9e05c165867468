"""A graph cache that machines share, in a folder or an object store: graphs are sent there, listed and fetched.

    <url>/graphs/<backend>/<gpu>/<shape>-<16 hex>.json   a graph's manifest in an envelope with its signatures
    <url>/blobs/<2 hex>/<sha256>                         the files of all graphs, by the digest of their content
    <url>/ipa-graphs.json                                the names of all graphs, for servers that cannot list

Whoever can write there can put anything there: nothing is trusted because of where it lies.
"""

from ipa_cli.cache.remote.location import Remote, RemoteError, at
from ipa_cli.cache.remote.offers import Offer, find, id_of, names, read, read_ahead
from ipa_cli.cache.remote.pulling import Pulled, check_signed, present, pull
from ipa_cli.cache.remote.pushing import Pushed, push, sign, write_index

__all__ = [
    "Offer",
    "Pulled",
    "Pushed",
    "Remote",
    "RemoteError",
    "at",
    "check_signed",
    "find",
    "id_of",
    "names",
    "present",
    "pull",
    "push",
    "read",
    "read_ahead",
    "sign",
    "write_index",
]
