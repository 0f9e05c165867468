"""Draw pictures with SDXL and an IP-Adapter, compiled once and reloaded in seconds.

import ipa_cli as ipa

engine = ipa.open("sdxl")
picture = engine.draw("a fox", image="cat.png", scale=0.6)
picture.save("fox.png")
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ipa_cli.api.engine import Engine, open
    from ipa_cli.api.picture import Picture
    from ipa_cli.errors import IpaError, UsageError

__all__ = ["Engine", "IpaError", "Picture", "UsageError", "__version__", "open"]
__version__ = "0.1.0"

# Imported when they are first asked for: the command line starts without.
_HOMES = {
    "Engine": "ipa_cli.api.engine",
    "IpaError": "ipa_cli.errors",
    "Picture": "ipa_cli.api.picture",
    "UsageError": "ipa_cli.errors",
    "open": "ipa_cli.api.engine",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
