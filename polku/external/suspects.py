"""Tell an event for which a plugin's code fails from a plugin that fails for all: the first becomes a dead letter."""

from __future__ import annotations

from collections.abc import Sequence

_ATTEMPTS = 5  # of an event alone, until it is given up
_FEW = 3  # events that may be at fault although the plugin has taken no other meanwhile; of more, the plugin is
_KNOWN = 10_000


class Suspects:
    """Count how often a plugin's code failed for an event that was sent alone, and decide which are given up.

    An event is given up after some attempts where the plugin has taken others meanwhile. Where it has not, that is so
    of a few events in a row, and of none while the plugin says that it is unwell. All others are held, as for a
    destination that is down.
    """

    def __init__(self) -> None:
        self._failures: dict[str, tuple[int, int]] = {}  # by id: how many alone, and what had been taken before
        self._accused: set[str] = set()  # since anything was taken
        self._taken = 0

    def __len__(self) -> int:
        return len(self._failures)

    def take(self) -> None:
        """Take note that the plugin has taken events, or decided about them itself."""
        self._taken += 1
        self._accused.clear()

    def suspect(self, ids: Sequence[str]) -> None:
        """Take note of events among which there may be one for which its code fails."""
        for event_id in ids:
            self._failures.setdefault(event_id, (0, self._taken))
        while len(self._failures) > _KNOWN:
            del self._failures[next(iter(self._failures))]

    def forget(self, ids: Sequence[str]) -> None:
        """Suspect these events no longer."""
        for event_id in ids:
            self._failures.pop(event_id, None)

    def accuse(self, event_id: str, *, is_well: bool) -> bool:
        """Count a failure of an event alone; return whether it is to be given up."""
        self.suspect([event_id])
        count, before = self._failures.pop(event_id)
        if len(self._accused) <= _FEW:
            self._accused.add(event_id)
        is_at_fault = self._taken > before or (is_well and len(self._accused) <= _FEW)
        if count + 1 >= _ATTEMPTS and is_at_fault:
            return True
        self._failures[event_id] = count + 1, before
        return False
