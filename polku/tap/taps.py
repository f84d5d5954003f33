"""Those who look at the parts of one process."""

from __future__ import annotations

from collections.abc import Mapping

from polku.errors import UnavailableError
from polku.tap.point import Tap, Tapped, TapPoint
from polku.tap.redaction import Redaction
from polku.tap.request import TapReply, TapRequest, What

_MOST = 8  # who look at the same time


class Taps:
    """Show the events of some parts, by name, to who asks; all in the event loop of the parts."""

    def __init__(self, parts: Mapping[str, Tapped], redaction: Redaction) -> None:
        self._parts = parts
        self._redaction = redaction
        self._taps: dict[str, Tap] = {}

    def read(self, request: TapRequest) -> TapReply:
        """Return what has passed since the same session asked before; from the first time on events are kept for it.

        Without wants the session ends. Raises `UnavailableError` where too many look already.
        """
        self._end_those_over()
        tap = self._taps.get(request.session)
        if not any(request.wants.values()):
            self._taps.pop(request.session, None)
            self._attach()
            return TapReply()
        if tap is None or tap.request != request:
            if tap is None and len(self._taps) >= _MOST:
                raise UnavailableError(f"{_MOST} taps are open already; end one of them, or wait until it ends")
            tap = self._taps[request.session] = Tap(request, self._redaction)
            self._attach()
        tap.extend()
        return tap.take(self._names())

    def __len__(self) -> int:
        return len(self._taps)

    def _names(self) -> list[str]:
        return [name for part, tapped in self._parts.items() for name in _names_of(part, tapped)]

    def _end_those_over(self) -> None:
        over = [session for session, tap in self._taps.items() if tap.is_over]
        for session in over:
            del self._taps[session]
        if over:
            self._attach()

    def _attach(self) -> None:
        """Give each part that somebody looks at a point, and take it from the others."""
        for part, tapped in self._parts.items():
            names = _names_of(part, tapped)
            wanted = [
                tap for tap in self._taps.values() if any(tap.wants(name, what) for name in names for what in What)
            ]
            tapped.tap = TapPoint(part, wanted, self._end_those_over) if wanted else None


def _names_of(part: str, tapped: Tapped) -> list[str]:
    return [f"{part}/{step}" for step in tapped.steps] or [part]
