"""What a step passes for that has new middleware next to it: the one in use."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from polku.candidate.configuration import WithCandidate
from polku.contracts import Step
from polku.hooks import snapshot_of


class Around:
    """A step around the one in use: it has its name, its state and its statistics, and drops for its reasons."""

    def __init__(self, config: WithCandidate, current: Step) -> None:
        self._config = config
        self._current: Any = current
        self._choose = config.choice()
        self.drop_reason = current.drop_reason
        self.reads_only = bool(getattr(current, "reads_only", False))

    @property
    def name(self) -> str:
        """What the one in use is called."""
        return str(self._current.name)

    @name.setter
    def name(self, name: str) -> None:
        self._current.name = name

    def snapshot(self) -> Mapping[str, Any]:
        """Return the state of the one in use."""
        state: Mapping[str, Any] = self._current.snapshot()
        return state

    def restore(self, state: Mapping[str, Any]) -> Any:
        """Give the one in use a state; what is tried next to it begins with nothing."""
        return self._current.restore(state)

    def statistics(self) -> object:
        """Return what the one in use says of itself."""
        return snapshot_of(self._current)
