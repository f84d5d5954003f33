"""What a link sends, and to whom: the contracts between the parts of a pipeline."""

from __future__ import annotations

import asyncio
from typing import Protocol, runtime_checkable

from msgspec import Struct

from polku.batch.batch import Batch
from polku.batch.receipt import Answer, Receipt, Turn


class Push(Struct, frozen=True):
    """Identify one push: which link, in which life of its sender, and its number.

    Numbers without a final answer are open. `floor` is the sender's lowest open number, `after` the highest one below
    this (0: there is none): the push that must be applied first. `gap` are two neighbours among the open numbers, each
    time other ones: between them all have their answers, and the receiver may forget what it keeps of them. `alone` is
    the wish to be worked on alone: the batch may be one that kills its receiver.
    """

    link: str
    epoch: int
    seq: int
    floor: int
    after: int
    gap: tuple[int, int] = (0, 0)
    alone: bool = False


LOCAL_PUSH = Push("", 0, 0, 0, 0)
"""What a `LocalPeer` is told, which does not look at it: to find out the numbers takes 3 µs."""


class Peer(Protocol):
    """The receiving end, as a link sees it: an actor behind Ray, or an object of the same process."""

    async def push(self, push: Push, batch: Batch) -> Answer | Turn:
        """Deliver; raise `UnavailableError` where the outcome is unknown, here or from `Accepted.outcome`."""
        ...

    async def flush(self, everything: bool) -> None:
        """Let the receiver release what it has taken and holds: all of it, or enough to make room."""
        ...


class LocalPeer:
    """Make a link's peer of any object with `async push(batch)`: the neighbour in the same process."""

    def __init__(self, receiver: Receiver) -> None:
        self._receiver = receiver

    async def push(self, push: Push, batch: Batch) -> Answer:
        """Hand the batch over."""
        return await self._receiver.push(batch)

    async def flush(self, everything: bool) -> None:
        """Hand the wish on to a receiver that holds back."""
        if isinstance(self._receiver, Holding):
            await self._receiver.flush(everything)


class Outgoing(Protocol):
    """What a stage hands its batches to: a link, or something that chooses one."""

    def push_nowait(self, batch: Batch) -> asyncio.Future[Receipt]:
        """Queue the batch and return the future of its receipt."""
        ...

    async def wait_room(self) -> None:
        """Return when a batch pushed now would leave at once."""
        ...

    async def close(self) -> None:
        """Stop."""
        ...


class Receiver(Protocol):
    """Take batches: a stage, a buffer, an emitter's runner."""

    async def push(self, batch: Batch) -> Answer:
        """Return the receipt once the batch is done, or `Accepted` once it is held."""
        ...


@runtime_checkable
class Holding(Receiver, Protocol):
    """A receiver that takes batches and answers them later."""

    async def flush(self, everything: bool) -> None:
        """Release everything that is held, or enough of it to make room."""
        ...
