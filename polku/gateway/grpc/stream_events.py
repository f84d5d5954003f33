"""`StreamEvents`: batches in, an Ack for each in order, a bounded number of batches read ahead."""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Awaitable, Coroutine
from functools import partial

from polku.aio.eager import start_eagerly
from polku.aio.sequencer import Sequencer
from polku.aio.slices import in_slices
from polku.errors import InputError
from polku.gateway.ack_size import bounding
from polku.gateway.acks import to_stats
from polku.gateway.grpc.calls import StreamCall
from polku.gateway.grpc_status import Baselines, status_of
from polku.gateway.intake import Intake
from polku.gateway.places import Places
from polku.gateway.sending import PendingAck
from polku.log import RepeatedLog
from polku.rpc.status import Status, StatusCode
from polku.text import named
from polku.v1.gateway_pb2 import Ack

_REPEATED = RepeatedLog(logging.getLogger(__name__))
_MAKE_ROOM_SECONDS = 60.0  # idle for so long, a stream makes room for another one where all are taken
_WAITING_BYTES = 1024 * 1024  # of batches that are not taken yet: no more are read from the client
_UNREAD_ACKS = 64 * 1024  # bytes: no more batches are read from a client that leaves more than this unread


class StreamEvents:
    """Open streams, and limit their number."""

    def __init__(self, intake: Intake, baselines: Baselines) -> None:
        self._intake = intake
        self._baselines = baselines
        limits = intake.limits
        each = limits.address_streams
        self._places = Places("streams", total=limits.streams, each=each, idle_seconds=_MAKE_ROOM_SECONDS)

    def stream(self, call: StreamCall) -> AckStream:
        """Begin a stream; one too many is refused."""
        stream = AckStream(self._intake, self._baselines, call, self._places)
        reason = stream.account.enter_stream() if stream.account is not None else ""
        if reason:
            stream.account = None
        reason = reason or self._places.enter(call.address, stream)
        if reason:
            stream.finish(Status(StatusCode.RESOURCE_EXHAUSTED, reason))
        return stream


class AckStream:
    """One stream: take a batch when the one before is on its way, and answer in order."""

    def __init__(self, intake: Intake, baselines: Baselines, call: StreamCall, places: Places) -> None:
        self._intake = intake
        self._call = call
        self._places = places
        self.account = None if call.identity is None else call.identity.account  # which this stream counts for
        self._refusal = Status(StatusCode.OK)  # of what comes once the client is not known any more
        self._baseline = baselines.of(call.peer)
        self._sequencer = Sequencer()
        call.reader.keeps_packed = True
        self._batches: deque[bytes] = deque()  # that have come and are not taken yet
        self._waiting_bytes = 0  # of them
        self._taking: asyncio.Future[Awaitable[Ack]] | None = None
        self._acks: deque[asyncio.Future[Ack] | PendingAck] = deque()
        self._is_held = self._has_ended = self._is_over = False

    def messages(self, messages: list[bytes]) -> bool:
        """Take batches; return whether more may come."""
        if self._is_over or self._refusal.code != StatusCode.OK:
            return True
        self._batches += messages
        self._count_waiting(sum(map(len, messages)))
        self._take()
        self._is_held = not self._has_room
        return not self._is_held

    def ended(self) -> None:
        """Finish when all is answered."""
        self._has_ended = True
        self._finish_if_done()

    def drained(self) -> None:
        """Take more: the client reads its Acks."""
        self._go_on()

    def leave(self, status: Status) -> None:
        """Read no more; the end of the stream follows the last Ack of what has come."""
        if self._refusal.code == StatusCode.OK and not self._is_over:
            self._refusal = status
            self._has_ended = True
            self._finish_if_done()

    def lost(self) -> None:
        """Forget the client; what was taken stays taken."""
        self._is_over = True
        self._count_waiting(-sum(map(len, self._batches)))
        self._batches.clear()
        if self._taking is not None:
            self._taking.cancel()
        for ack in self._acks:
            ack.cancel()
        self._acks.clear()
        self._places.leave(self._call.address, self)
        if self.account is not None:
            self.account.leave_stream()
            self.account = None

    def finish(self, status: Status) -> None:
        """End the stream."""
        self.lost()
        self._call.finish(status)

    @property
    def idle_since(self) -> float | None:
        """When the client last sent something; None while a batch of it has no Ack."""
        return None if self._batches or self._acks or self._taking else self._call.idle_since

    @property
    def is_used(self) -> bool:
        """Whether a batch had its Ack."""
        return self._call.began

    def make_room(self, reason: str) -> None:
        """End an idle stream, since another one needs its place."""
        self.finish(Status(StatusCode.UNAVAILABLE, reason))

    @property
    def _has_room(self) -> bool:
        limit = self._intake.limits.stream_batches
        is_near = len(self._batches) + len(self._acks) < limit and self._waiting_bytes < _WAITING_BYTES
        return is_near and self._call.waiting_bytes < _UNREAD_ACKS

    @property
    def _may_take(self) -> bool:
        """Whether there is room for another Ack; one that nobody reads yet does not count while nothing is read."""
        has_read = self._call.waiting_bytes < _UNREAD_ACKS or self._call.is_unread
        return len(self._acks) < self._intake.limits.stream_batches and has_read

    def _take(self) -> None:
        while self._batches and self._taking is None and not self._is_over and self._may_take:
            try:
                self._call.check_identity()
            except InputError as error:
                self._refuse_rest(error)
                return
            identity = self._call.identity
            account = None if identity is None else identity.account
            message = self._batches.popleft()
            taking = start_eagerly(self._intake.begin(message, self._sequencer, account))
            if taking.done():
                self._count_waiting(-len(message))
                self._taken(taking)
            else:
                self._taking = taking
                taking.add_done_callback(partial(self._taken_later, len(message)))

    def _count_waiting(self, change: int) -> None:
        self._waiting_bytes += change
        self._call.count_waiting(change)

    def _taken_later(self, size: int, taking: asyncio.Future[Awaitable[Ack]]) -> None:
        self._taking = None
        self._count_waiting(-size)
        if not self._is_over:
            self._taken(taking)
            self._go_on()
        elif not taking.cancelled() and taking.exception() is None:
            _drop(taking.result())  # the batch is on its way, and nobody waits for its Ack

    def _taken(self, taking: asyncio.Future[Awaitable[Ack]]) -> None:
        try:
            answer = taking.result()
        except BaseException as error:
            self._fail(error)
            return
        ack: asyncio.Future[Ack] | PendingAck
        ack = answer if isinstance(answer, PendingAck) and answer.is_small else start_eagerly(_awaited(answer))
        self._acks.append(ack)
        if ack.done():
            self._answer()
        else:
            ack.add_done_callback(self._answered_later)

    def _answered_later(self, _: object) -> None:
        if not self._is_over:
            self._answer()
            self._go_on()

    def _answer(self) -> None:
        """Send the Acks that are there, up to the first that is not."""
        while self._acks and self._acks[0].done() and not self._is_over:
            try:
                ack = self._acks.popleft().result()
                ack.middleware_stats.CopyFrom(to_stats(self._intake.counts.minus(self._baseline)))
                self._call.send(ack.SerializeToString())
            except BaseException as error:
                self._fail(error)

    def _go_on(self) -> None:
        self._take()
        self._finish_if_done()
        if self._is_held and self._has_room and not self._is_over:
            self._is_held = False
            self._call.go_on()

    def _refuse_rest(self, error: InputError) -> None:
        """Take no more, and end the stream once what was taken is answered: the client's token has ended."""
        self._refusal = status_of(error)
        self._count_waiting(-sum(map(len, self._batches)))
        self._batches.clear()
        self._has_ended = True
        self._finish_if_done()

    def _finish_if_done(self) -> None:
        if self._has_ended and not (self._batches or self._acks or self._taking or self._is_over):
            self.finish(self._refusal)

    def _fail(self, error: BaseException) -> None:
        _REPEATED.error("stream", "a stream could not be answered: %s", named(error))
        self.finish(Status(StatusCode.INTERNAL, named(error)))


async def _awaited(answer: Awaitable[Ack]) -> Ack:
    """Return an Ack that fits."""
    return await in_slices(bounding(await answer))


def _drop(answer: Awaitable[Ack]) -> None:
    if isinstance(answer, Coroutine):  # a future goes on by itself
        answer.close()
