"""A denoiser that is ready to be called, and where it came from."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from ipa_cli.cache import Entry

if TYPE_CHECKING:
    from ipa_cli.backends.base import Denoiser


@dataclass(frozen=True)
class Ready:
    """A denoiser and where it came from: `origin` is uncompiled, cache or compiled; times in seconds.

    `unguided` is that of the steps without guidance where a request has both kinds, `hires` that of a second pass; the
    times are those of all.
    """

    denoiser: Denoiser
    backend: str
    origin: str
    why: str
    entry: Entry | None = None
    open_s: float = 0.0
    compile_s: float = 0.0
    unguided: Ready | None = None
    hires: Ready | None = None
    controls: tuple[Ready, ...] = ()  # of the ControlNets

    @property
    def facts(self) -> dict[str, Any]:
        """Which graph it is, as data."""
        own: dict[str, Any] = {"origin": self.origin, "id": self.entry.id if self.entry else None, "why": self.why}
        if self.controls:
            own["controls"] = [{"backend": one.backend, **one.facts} for one in self.controls]
        beside = {"unguided": self.unguided, "hires": self.hires}
        return {**own, **{name: one.facts for name, one in beside.items() if one is not None}}

    @property
    def all(self) -> list[Ready]:
        """Itself and those beside it."""
        return [self, *(one for part in (self.unguided, self.hires) if part is not None for one in part.all)]

    def beside(self, unguided: Ready) -> Ready:
        """This one for steps with guidance, and another for those without, which may be the same."""
        return self._with_times_of(unguided, unguided=unguided)

    def before(self, hires: Ready) -> Ready:
        """This one for the first pass, and another for the second, which may have the same graph."""
        return self._with_times_of(hires, hires=hires)

    def with_controls(self, controls: Sequence[Ready]) -> Ready:
        """The same with those of ControlNets, whose times it has too."""
        return self._with_times_of(*controls, controls=tuple(controls)) if controls else self

    def _with_times_of(self, *others: Ready, **changes: Any) -> Ready:
        """The same with these changes and the times of others too, those of each graph once."""
        each = {one.entry.id if one.entry else id(one): one for one in (*others, self)}.values()
        opened, compiled = sum(one.open_s for one in each), sum(one.compile_s for one in each)
        return replace(self, open_s=opened, compile_s=compiled, **changes)
