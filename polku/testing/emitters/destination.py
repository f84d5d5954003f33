"""What the author of an emitter tells the checks about its destination."""

from __future__ import annotations

import enum
from abc import ABC, abstractmethod
from collections.abc import Collection


class Ability(enum.Flag):
    """What a destination can be made to do, or can be relied on for."""

    NONE = 0
    ORDER = enum.auto()
    """`held` is in the order in which events came."""
    KILL = enum.auto()
    """`kill` breaks it off at once; `start` brings it back, at the same address, with what it has confirmed."""
    HANG = enum.auto()
    """`hang` makes it confirm nothing until `resume`."""
    REFUSE = enum.auto()
    """`refuse` makes it take no events of some ids, for good."""
    BUSY = enum.auto()
    """`busy` makes it take no events of some ids now, while it takes the others beside them."""
    UNIQUE = enum.auto()
    """It can tell a repeated batch or event: `held` names what came twice once."""


class Destination(ABC):
    """A real destination that a check may start, look into, hold up, and kill; each check gets a new one.

    Only what `abilities` promises is called. Everything runs on the event loop that the emitter runs on too.
    """

    abilities: Ability = Ability.NONE

    @abstractmethod
    async def start(self) -> None:
        """Begin to take events; also called again after `kill`."""

    @abstractmethod
    async def stop(self) -> None:
        """Let go of everything; called once, at the end."""

    @abstractmethod
    def emitter(self) -> object:
        """Return a new emitter, configuration or object, that sends here; called after the first `start`."""

    @abstractmethod
    async def held(self) -> list[str]:
        """Return the ids of the events that it holds, an id twice where it holds the event twice."""

    async def kill(self) -> None:
        """Break everything off at once: no connection ends in good order, nothing that is in flight is confirmed."""
        raise NotImplementedError

    async def hang(self) -> None:
        """Confirm nothing from now on; what comes may be taken or not."""
        raise NotImplementedError

    async def resume(self) -> None:
        """Confirm again."""
        raise NotImplementedError

    async def is_waited_for(self) -> bool:
        """Return whether something has come, while it hangs, that it owes a confirmation for."""
        raise NotImplementedError

    async def refuse(self, ids: Collection[str]) -> None:
        """Take no events of these ids, as if they could never be taken."""
        raise NotImplementedError

    async def busy(self, ids: Collection[str]) -> None:
        """Take no events of these ids from now on, as if they could be later; with no ids, take everything again."""
        raise NotImplementedError
