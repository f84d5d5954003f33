"""Several endpoints of one service: each message goes to the least loaded that works."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import Generic, NamedTuple

from polku.emit.grpc.addresses import Address
from polku.emit.grpc.channels import open_stream
from polku.emit.grpc.config import StreamConfig
from polku.emit.grpc.size import read_excess
from polku.emit.grpc.stream import A, Dialect
from polku.emit.parts import TooLargeError
from polku.emit.progress import current
from polku.errors import EmitError, RejectedError


class GrpcClientStatistics(NamedTuple):
    """Count messages; `failovers` are those sent to a second endpoint, `connected` endpoints with an open stream."""

    messages: int
    acks: int
    reconnects: int
    failovers: int
    connected: int


class Endpoints(Generic[A]):
    """Hold a stream to each endpoint; `limit` is the size in bytes that a message may have, as far as is known."""

    def __init__(self, addresses: Sequence[Address], config: StreamConfig, dialect: Dialect[A], limit: int) -> None:
        self.limit = limit
        self._streams = [open_stream(address, config, dialect) for address in addresses]
        self._failovers = 0
        self._timeout = config.timeout

    async def ask(self, pieces: Sequence[bytes], fits: Callable[[A], bool] | None = None) -> A:
        """Send a message, given in pieces, to the least loaded endpoint, then to any other that works.

        `fits` returns whether an Ack can be that of the message. Raises the last one's error.
        """
        size = sum(map(len, pieces))
        self.check_size(size)
        left = list(self._streams)
        while True:
            stream = min(left, key=lambda stream: (stream.rests_until, stream.load))
            current().step(self._timeout)
            try:
                return await stream.ask(pieces, fits)
            except RejectedError:
                raise
            except EmitError as error:
                self._learn_limit(error, size)
                left = [other for other in left if other is not stream and not other.rests_until]
                if not left:
                    raise
                self._failovers += 1

    def check_size(self, size: int) -> None:
        """Raise `TooLargeError` for a message over the limit."""
        if size > self.limit:
            raise TooLargeError(f"the event makes a message of {size} bytes, the limit is {self.limit}")

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

    def _learn_limit(self, error: EmitError, size: int) -> None:
        """Keep to the destination's own limit once it broke the stream over it."""
        excess = read_excess(error.message)
        if excess is None:
            return
        self.limit = min(self.limit, excess.limit)
        if size > excess.limit:
            text = f"the event makes a message of {size} bytes, the destination's limit is {excess.limit}"
            raise TooLargeError(text)
