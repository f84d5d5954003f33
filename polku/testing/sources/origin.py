"""What the author of a source tells the checks about where its records come from."""

from __future__ import annotations

import enum
from abc import ABC, abstractmethod
from collections.abc import Sequence

from polku.event.v1.event_pb2 import Event


class OriginAbility(enum.Flag):
    """What an origin can be made to do, or can be relied on for."""

    NONE = 0
    COMMITS = enum.auto()
    """It is told which records are in: `committed` counts them, and the others come again to the next source."""
    AWAY = enum.auto()
    """`kill` breaks it off at once; `start` brings it back, at the same address, with its records and commits."""


class Origin(ABC):
    """A real origin of records that a check may start, fill, look into, and kill; each check gets a new one.

    Only what `abilities` promises is called.
    """

    abilities: OriginAbility = OriginAbility.NONE
    window: int = 100
    """About how many records a source may have handed in without an answer; `source` is to keep to it."""

    @abstractmethod
    async def start(self) -> None:
        """Be there, empty; also called again after `kill`."""

    @abstractmethod
    async def stop(self) -> None:
        """Release everything; called once, at the end."""

    @abstractmethod
    def source(self) -> object:
        """Return a new source, configuration or object, that pulls from here; called after the first `start`.

        One that is made later begins where the commits of the one before it ended.
        """

    @abstractmethod
    async def put(self, texts: Sequence[str]) -> None:
        """Add a record for each text, in order; each is to become one event."""

    async def committed(self) -> int:
        """Return how many of the records that were put are committed."""
        raise NotImplementedError

    async def kill(self) -> None:
        """Break everything off at once: no connection ends in good order, and no new one is made until `start`."""
        raise NotImplementedError

    def text(self, event: Event) -> str:
        """Return the text of the record that became an event: its payload, unless the source makes another one."""
        return event.payload.decode()
