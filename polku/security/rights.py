"""What a principal may send, and how much of it."""

from __future__ import annotations

import re
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from fnmatch import translate

from polku.errors import PlanError

RESERVED = "polku."
"""How metadata begins that POLKU itself writes, and clients only with a right to it."""
_SHOWN = 5  # patterns in a message


@dataclass(frozen=True, slots=True, kw_only=True)
class Rights:
    """Bound what one principal may send.

    `sources` and `clusters` are patterns (`*` any text, `?` any character), of which one must fit each event, as it is
    once what it lacks is filled in; `may_route` allows `route_to`; `may_set_reserved` allows metadata that begins with
    `polku.`, which another POLKU in front of this one may need. `plugins` are patterns of the names by which it may
    register as a plugin, which then serves and makes events of its `sources` alone; none: it may not.
    `events_per_second`, `bytes_per_second`, `streams` and `connections` are limits at one port, for all clients of the
    principal together; none without a number.

    Raises `PlanError`.
    """

    sources: tuple[str, ...] = ("*",)
    clusters: tuple[str, ...] = ("*",)
    may_route: bool = False
    may_set_reserved: bool = False
    plugins: tuple[str, ...] = ()
    events_per_second: float | None = None
    bytes_per_second: float | None = None
    streams: int | None = None
    connections: int | None = None

    def __post_init__(self) -> None:
        for name in ("sources", "clusters"):
            object.__setattr__(self, name, _patterns(name, getattr(self, name)))
        if self.plugins != ():
            object.__setattr__(self, "plugins", _patterns("plugins", self.plugins))
        for name in ("may_route", "may_set_reserved"):
            if not isinstance(getattr(self, name), bool):
                raise _fault(name, getattr(self, name), "must be true or false")
        for name in ("events_per_second", "bytes_per_second"):
            _check_rate(name, getattr(self, name))
        for name in ("streams", "connections"):
            value = getattr(self, name)
            if value is not None and (not isinstance(value, int) or isinstance(value, bool) or value < 1):
                raise _fault(name, value, "must be a whole number of at least 1")

    @classmethod
    def from_fields(cls, given: Mapping[str, object]) -> Rights:
        """Return the rights that a table of the token file describes; raises `PlanError`."""
        for name in given:
            if name not in NAMES:
                raise PlanError(f"{name} is no right; known are {', '.join(NAMES)}", where="rights")
        return cls(**given)  # type: ignore[arg-type] # each field is checked


NAMES = tuple(field.name for field in fields(Rights))


class Patterns:
    """Patterns of which one must fit."""

    def __init__(self, patterns: Sequence[str]) -> None:
        self.patterns = tuple(patterns)
        self.take_all = "*" in self.patterns
        any_of = "|".join(f"(?:{translate(pattern)})" for pattern in self.patterns)
        self._match = re.compile(any_of or r"(?!)").match  # without patterns nothing fits

    def fit(self, text: str) -> bool:
        """Return whether one of the patterns fits the whole text."""
        return self.take_all or self._match(text) is not None

    def __str__(self) -> str:
        shown = ", ".join(map(repr, self.patterns[:_SHOWN]))
        more = len(self.patterns) - _SHOWN
        return f"{shown} and {more} more" if more > 0 else shown


def _patterns(name: str, value: object) -> tuple[str, ...]:
    one = [value] if isinstance(value, str) else value
    if not isinstance(one, (list, tuple)) or not one or not all(isinstance(item, str) for item in one):
        raise _fault(name, value, "must be a list of patterns such as 'agent-*'; '*' fits all")
    return tuple(one)


def _check_rate(name: str, value: object) -> None:
    if value is None:
        return
    if not isinstance(value, (int, float)) or isinstance(value, bool) or not 0 < value <= sys.float_info.max:
        raise _fault(name, value, "must be a number above 0")


def _fault(name: str, value: object, fix: str) -> PlanError:
    return PlanError(f"{name}={value!r} {fix}", where="rights")
