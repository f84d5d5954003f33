"""The ways into a cluster whose lanes come and go, as a client has them."""

from __future__ import annotations

from collections.abc import Awaitable
from typing import TYPE_CHECKING, TypeVar

from polku.errors import DrainingError, UnavailableError
from polku.testing.simulation.inline import IntakeDoor
from polku.v1.gateway_pb2 import Ack

if TYPE_CHECKING:
    from tests.simulation.lanes import GrowingCluster

T = TypeVar("T")


class RoamingDoor:
    """The ways into the lanes that there are; a client keeps to one for as long as that takes what is new.

    One that sends batches from `inside` of the application learns of that by its errors, and knows those that there
    were when it began.
    """

    def __init__(self, cluster: GrowingCluster, number: int, *, inside: bool) -> None:
        self._cluster = cluster
        self._turn = number
        self._known = cluster.taking
        self._inside = inside
        self.lane = 0

    async def batch(self, message: bytes) -> Ack:
        """Send an `IngestBatch`."""
        if not self._inside:
            return await self._sent(self._port().batch(message))
        known = self._known[self._turn % len(self._known)]
        return await self._sent(self._cluster.doors[known].submit(message))

    async def event(self, message: bytes) -> Ack:
        """Send an `IngestEvent`."""
        return await self._sent(self._port().event(message))

    async def together(self, message: bytes) -> Ack:
        """Send an `IngestEvent` with those that come in the same moment."""
        return await self._sent(self._port().together(message))

    async def stream(self, client: str, message: bytes) -> Awaitable[Ack]:
        """Send an `IngestBatch` down a stream."""
        return self._sent(await self._sent(self._port().stream(client, message)))

    def _port(self) -> IntakeDoor:
        doors = self._cluster.doors
        lanes = [number for number in self._cluster.taking if number in self._cluster.open]
        if not lanes:
            raise UnavailableError("connection refused")
        if self.lane not in lanes or doors[self.lane].is_leaving:
            self._turn += 1
            self.lane = lanes[self._turn % len(lanes)]
        return doors[self.lane]

    async def _sent(self, call: Awaitable[T]) -> T:
        """Return the answer; where the lane is away, or takes nothing any more, the next call turns to another one."""
        try:
            return await call
        except (UnavailableError, DrainingError) as error:
            self._turn, self.lane = self._turn + 1, 0
            raise UnavailableError(str(error)) from None
