"""The running form of the AhtiEmitter: one stream to each endpoint, several batches in flight on it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

from polku.batch.batch import Batch
from polku.batch.frames import join_frames, split_frames
from polku.contracts import Failure
from polku.emit.ahti.ack import AckVerdict, read_failures, read_verdict
from polku.emit.ahti.mapping import ahti_batch, ahti_event
from polku.emit.encode import write_each
from polku.emit.grpc.endpoints import Endpoints, GrpcClientStatistics
from polku.emit.grpc.stream import Dialect
from polku.emit.parts import TooLargeError, send_parts
from polku.errors import RetryableError
from polku.tracing.context import with_traceparent

if TYPE_CHECKING:
    from polku.emit.ahti.emitter import AhtiEmitter

_DIALECT = Dialect("/ahti.v1.AhtiService/StreamEvents", read_verdict)
_REMEMBERED = 64


class AhtiClient:
    """Send batches and turn acks into failures."""

    def __init__(self, config: AhtiEmitter) -> None:
        self.concurrency = config.window
        self._endpoints = Endpoints(config.addresses(), config, _DIALECT, config.max_message_bytes)
        self._refused = _Refused(config.refusals)

    async def emit(self, batch: Batch) -> list[Failure]:
        """Return the events that were refused; raises where none was taken."""
        message, failures = _message(with_traceparent(batch))
        if not message.ids:
            return failures
        return failures + await send_parts([message], _Delivery(self._endpoints, self._refused).send)

    async def close(self) -> None:
        """Close the streams; what is not acknowledged within a second fails."""
        await self._endpoints.close()

    def statistics(self) -> GrpcClientStatistics:
        """Return a snapshot of the counters."""
        return self._endpoints.statistics()


class _Delivery:
    """One batch: the events that AHTI refuses are found by halving it, and are at fault if it takes others."""

    def __init__(self, endpoints: Endpoints[AckVerdict], refused: _Refused) -> None:
        self._endpoints = endpoints
        self._refused = refused
        self._has_taken = False

    async def send(self, part: _Message) -> list[Failure]:
        verdict = await self._endpoints.ask((part.data,))
        if verdict.success:
            self._has_taken = True
            self._refused.forget(part.ids[0])
            return read_failures(part.ids, verdict)
        if len(part.ids) > 1:
            raise TooLargeError(verdict.error)
        if self._has_taken or self._refused.is_final(part.ids[0]):
            self._refused.forget(part.ids[0])
            return [Failure(part.ids[0], verdict.error, retryable=False, position=0)]
        raise RetryableError(verdict.error)


class _Refused:
    """Count how often in a row AHTI has refused an event that nothing was taken beside."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._counts: dict[str, int] = {}

    def is_final(self, event_id: str) -> bool:
        """Count a refusal and say whether it was the last that is waited for."""
        count = self._counts.pop(event_id, 0) + 1
        self._counts[event_id] = count
        if len(self._counts) > _REMEMBERED:
            self._counts.pop(next(iter(self._counts)))
        return count >= self._limit

    def forget(self, event_id: str) -> None:
        self._counts.pop(event_id, None)


class _Message(NamedTuple):
    """The ids of some events, where they are in the batch, and the serialised `AhtiEventBatch` that they make."""

    ids: Sequence[str]
    positions: Sequence[int]
    data: bytes

    def halves(self) -> list[_Message]:
        middle = len(self.ids) // 2
        frames = split_frames(self.data)
        return [
            _Message(self.ids[:middle], self.positions[:middle], join_frames(frames[:middle])),
            _Message(self.ids[middle:], self.positions[middle:], join_frames(frames[middle:])),
        ]


def _message(batch: Batch) -> tuple[_Message, list[Failure]]:
    """Return the message that a batch makes, and the failures of those events that cannot be mapped."""
    ids = batch.ids
    try:
        return _Message(ids, range(len(ids)), ahti_batch(batch).SerializeToString()), []
    except MemoryError:
        raise
    except Exception:  # one of them, as it seems: each is mapped alone
        events = write_each(batch.events, lambda event: ahti_event(event).SerializeToString())
    return _Message([ids[place] for place in events.positions], events.positions, join_frames(events.contents)), (
        events.failures
    )
