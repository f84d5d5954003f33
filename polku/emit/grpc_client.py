"""The running form of the GrpcEmitter: one stream to each endpoint, several batches under way on it.

Nothing is done for each event: the payload goes as the bytes it is, behind a hand-made field header, and an Ack's ids
are counted, not decoded (22 ns an event instead of 60 and more).
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, NamedTuple

from polku.batch import Batch
from polku.contracts import Failure
from polku.emit.grpc_ack import Answer, read_failures
from polku.emit.grpc_stream import GrpcStream
from polku.emit.parts import TooLargeError, send_parts
from polku.emit.size import read_excess
from polku.errors import EmitError, RejectedError
from polku.v1.gateway_pb2 import IngestBatch
from polku.views import events_field

if TYPE_CHECKING:
    from polku.emit.grpc import GrpcEmitter

_FRAMING = 16


class GrpcClientStatistics(NamedTuple):
    """Count messages; `failovers` are those sent to a second endpoint, `connected` endpoints with an open stream."""

    messages: int
    acks: int
    reconnects: int
    failovers: int
    connected: int


class GrpcClient:
    """Send batches and turn Acks into failures."""

    def __init__(self, config: GrpcEmitter) -> None:
        self.concurrency = config.window
        self._prefix = IngestBatch(source=config.source, cluster=config.cluster).SerializeToString()
        self._limit = config.max_message_bytes
        self._streams = [GrpcStream(address, config) for address in config.addresses()]
        self._failovers = 0

    async def emit(self, batch: Batch) -> list[Failure]:
        """Return the events that were refused; raises where none was taken."""
        return await send_parts([_Message(batch)], self._send)

    async def close(self) -> None:
        """Close the streams; what is not acknowledged within a second fails."""
        await asyncio.gather(*(stream.close() for stream in self._streams))

    def statistics(self) -> GrpcClientStatistics:
        """Return a snapshot of the counters."""
        return GrpcClientStatistics(
            sum(stream.messages for stream in self._streams),
            sum(stream.acks for stream in self._streams),
            sum(max(0, stream.connects - 1) for stream in self._streams),
            self._failovers,
            sum(stream.is_open for stream in self._streams),
        )

    async def _send(self, part: _Message) -> list[Failure]:
        payload = part.batch.payload
        size = len(self._prefix) + _FRAMING + len(payload)
        if size > self._limit:
            raise TooLargeError(f"the event makes a message of {size} bytes, the limit is {self._limit}")
        answer = await self._ask(b"".join((self._prefix, events_field(payload), payload)))
        return read_failures(part.batch, answer)

    async def _ask(self, message: bytes) -> Answer:
        """Ask the least loaded endpoint, then any other that works; raises the last one's error."""
        left = list(self._streams)
        while True:
            stream = min(left, key=lambda stream: (stream.rests_until, stream.load))
            try:
                return await stream.ask(message)
            except RejectedError:
                raise
            except EmitError as error:
                self._learn_limit(error, len(message))
                left = [other for other in left if other is not stream and not other.rests_until]
                if not left:
                    raise
                self._failovers += 1

    def _learn_limit(self, error: EmitError, size: int) -> None:
        """Keep to the destination's own limit once it broke the stream over it."""
        excess = read_excess(error.message)
        if excess is None:
            return
        limit = excess.limit
        self._limit = min(self._limit, limit)
        if size > limit:
            raise TooLargeError(f"the event makes a message of {size} bytes, the destination's limit is {limit}")


class _Message:
    """The events of one message."""

    def __init__(self, batch: Batch) -> None:
        self.batch = batch

    @property
    def ids(self) -> list[str]:
        return self.batch.ids

    def halves(self) -> list[_Message]:
        return [_Message(half) for half in self.batch.split(len(self.batch) // 2)]
