"""The way of a batch from the gateway to what comes next, and what became of it."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Generator, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, TypeAlias

from msgspec.structs import replace

from polku.aio.slices import in_slices
from polku.batch.batch import Batch, join
from polku.batch.receipt import Receipt, Refusal, joining
from polku.codes import Code
from polku.errors import DrainingError, InputError, PolkuError
from polku.event.v1.event_pb2 import Event
from polku.gateway.ack_size import bounded
from polku.gateway.acks import answer_events, answering
from polku.gateway.admission import Admission, admit_events
from polku.gateway.intake_statistics import IntakeCounters
from polku.gateway.large import is_large, piece_events
from polku.gateway.room import Room
from polku.limits import Limits
from polku.link.link import Link
from polku.log import RepeatedLog
from polku.tap.request import What
from polku.text import named, said
from polku.usercode import is_ours
from polku.v1.gateway_pb2 import Ack

if TYPE_CHECKING:
    from polku.tracing.tracer import Tracer

_REPLAYED_TOO_SOON = "a Deduplicator has dropped it, since it knows the id; replay it again once that is forgotten"
Pieces: TypeAlias = "Sequence[tuple[int, asyncio.Future[Receipt]]]"
_REPEATED = RepeatedLog(logging.getLogger(__name__))
_SMALL = 100  # events of a message whose Ack is made in one go; for more of them a task costs nothing


class IntakeSender:
    """Send batches down the link of an intake, and count what becomes of them; the options are those of `Intake`."""

    def __init__(
        self,
        link: Link,
        counters: IntakeCounters,
        room: Room,
        *,
        reads_routes: bool,
        seals: bool,
        tracer: Tracer | None,
    ) -> None:
        self.link = link
        self.tracer = tracer
        self._counters = counters
        self._room = room
        self.prepare_for(reads_routes=reads_routes, seals=seals)

    def prepare_for(self, *, reads_routes: bool, seals: bool) -> None:
        """Prepare batches for another part that comes next."""
        self._reads_routes, self._seals = reads_routes, seals

    def prepare(self, batch: Batch) -> Batch:
        """Return a batch as what comes next needs it."""
        if (tap := self._counters.tap) is not None:
            tap.show(What.OUT, batch)
        if self._reads_routes:
            batch.read_routes()
        if self.tracer is not None:
            self.tracer.read(batch)
        return batch.sealed() if self._seals else batch

    async def push_all(self, admission: Admission, size: int, way: str, *, with_stats: bool = False) -> Awaitable[Ack]:
        """Send what was admitted as `push` does, in pieces where it is large."""
        if not is_large(len(admission.ids), size):
            return self.pending(admission, size, way, with_stats=with_stats)
        self._counters.admit(len(admission.ids), admission.refused, way)
        admission.batch.wants_fates = with_stats
        sent = await self.send_pieces(admission, size + admission.filled_bytes)
        return self._acknowledge_pieces(admission, sent, with_stats=with_stats)

    def push(self, admission: Admission, size: int, way: str, *, with_stats: bool = False) -> Awaitable[Ack]:
        """Send what was admitted and return the awaitable of its Ack, with its own statistics if `with_stats`."""
        pending = self.pending(admission, size, way, with_stats=with_stats)
        return pending.wait() if isinstance(pending, PendingAck) else pending

    def pending(
        self, admission: Admission, size: int, way: str, *, with_stats: bool = False
    ) -> PendingAck | Awaitable[Ack]:
        """Send what was admitted as `push` does; return its Ack, of which the future of the receipt may be known."""
        self._counters.admit(len(admission.ids), admission.refused, way)
        if not admission.ids:
            return in_slices(answering(admission, self._counters.latest, with_stats=with_stats))
        admission.batch.wants_fates = with_stats
        size += admission.filled_bytes
        admission = replace(admission, batch=self.prepare(admission.batch))
        return PendingAck(self, admission, self.send(admission.batch, size), with_stats)

    def push_together(self, admissions: Sequence[Admission], size: int, way: str) -> asyncio.Future[Receipt]:
        """Send what was admitted of several requests as one batch; return the future of its receipt.

        `size` is that of the requests in bytes, with what was filled in.
        """
        refused = [refusal for admission in admissions if admission.refused for refusal in admission.refused]
        return self.push_with_stats(
            join([admission.batch for admission in admissions]), refused, len(admissions), size, way
        )

    def push_with_stats(
        self, batch: Batch, refused: Sequence[Refusal], messages: int, size: int, way: str
    ) -> asyncio.Future[Receipt]:
        """Send the events that were admitted of a number of messages, and count what was refused of these."""
        self._counters.admit(len(batch), refused, way, messages)
        if not len(batch):
            nothing: asyncio.Future[Receipt] = asyncio.get_running_loop().create_future()
            nothing.set_result(self._counters.latest)
            return nothing
        batch.wants_fates = True
        return self.send(self.prepare(batch), size)

    async def _acknowledge_pieces(self, admission: Admission, sent: Pieces, *, with_stats: bool) -> Ack:
        return await in_slices(answering(admission, await self.settle_pieces(sent), with_stats=with_stats))

    async def replay(self, event: Event, limits: Limits) -> Sequence[Refusal]:
        """Send the event of a dead letter again; return its refusals, which say more than an Ack."""
        size = event.ByteSize()
        await self._room.wait(size)
        try:
            self._room.check(size)
            admission = admit_events([event], event.source, "", limits)
        except InputError as error:
            return [Refusal(event.id, error.code, error.message)]
        self._counters.admit(len(admission.ids), admission.refused, "replay")
        if not admission.ids:
            return admission.refused
        admission.batch.wants_fates = True
        receipt = await self.settle(1, self.send(self.prepare(admission.batch), size + admission.filled_bytes))
        if any(what == "deduplicated" for _, what, _ in receipt.fates):  # it may be what it is said to be a copy of
            return (*receipt.refused, Refusal(event.id, Code.DUPLICATE_ID, _REPLAYED_TOO_SOON))
        return receipt.refused

    def send(self, batch: Batch, size: int) -> asyncio.Future[Receipt]:
        """Push a batch and return the future of its receipt, which may be cancelled.

        A client that leaves takes nothing back: what it has sent counts as in flight until it is discharged.
        """
        self._counters.push(batch, size)
        answer = self.link.push_nowait(batch) if self.tracer is None else self._push_traced(self.tracer, batch)
        if answer.done():
            self._on_answer(size, len(batch), batch.enqueued_ns, answer)
            return answer
        answer.add_done_callback(partial(self._on_answer, size, len(batch), batch.enqueued_ns))
        return asyncio.shield(answer)

    async def send_pieces(self, admission: Admission, size: int) -> Pieces:
        """Push the events of a large message piece by piece; what `settle_pieces` takes is returned.

        All of it counts as in flight meanwhile. The pieces before one that could not be pushed stay pushed.
        """
        batch, count, left = admission.batch, len(admission.batch), size
        self._counters.open_bytes += left
        sent: list[tuple[int, asyncio.Future[Receipt]]] = []
        try:
            for piece in admission.pieces or batch.pieces(piece_events(count, size)):
                if sent:
                    await asyncio.sleep(0)
                piece.trace, piece.wants_fates = batch.trace, batch.wants_fates
                share = size * len(piece) // count
                self._counters.open_bytes -= share
                left -= share
                sent.append((len(piece), self.send(self.prepare(piece), share)))
        finally:
            self._counters.open_bytes -= left
            self._room.free()
        return sent

    async def settle_pieces(self, sent: Pieces) -> Receipt:
        """Wait for the receipts of the pieces of a message; return that of the whole."""
        return await in_slices(joining([(count, await self.settle(count, answer)) for count, answer in sent]))

    def _push_traced(self, tracer: Tracer, batch: Batch) -> asyncio.Future[Receipt]:
        end = tracer.intake(batch)
        answer = self.link.push_nowait(batch)
        answer.add_done_callback(end)
        return answer

    def _on_answer(self, size: int, count: int, came: int, answer: asyncio.Future[Receipt]) -> None:
        self._counters.settle(size, count, came, answer)
        self._room.free()

    async def settle(self, count: int, answer: asyncio.Future[Receipt]) -> Receipt:
        """Wait for the receipt of that many events; where none came, all of them are refused."""
        try:
            return await answer
        except BaseException as error:
            if is_ours(error):
                raise
            return self._without_answer(count, error)

    def settled(self, count: int, answer: asyncio.Future[Receipt]) -> Receipt:
        """Return the receipt like `settle`, of an answer that is done."""
        try:
            return answer.result()
        except BaseException as error:
            return self._without_answer(count, error)

    def _without_answer(self, count: int, error: BaseException) -> Receipt:
        if isinstance(error, DrainingError):
            return self._unanswered(count, Code.DRAINING, said(error))
        if isinstance(error, PolkuError):
            return self._unanswered(count, Code.UNAVAILABLE, said(error))
        _REPEATED.exception("answer", "a batch has no answer")
        return self._unanswered(count, Code.UNAVAILABLE, named(error))

    def _unanswered(self, count: int, code: Code, message: str) -> Receipt:
        """Return a receipt that refuses all of `count` events: they count as received, and as nothing else."""
        refused = tuple(Refusal("", code, message, position=position) for position in range(count))
        return self._counters.latest._replace(
            refused=refused, fates=tuple((at, "forwarded", -1) for at in range(count))
        )


class PendingAck(Awaitable[Ack]):
    """The Ack of a message that is on its way: it is awaited, or, if it `is_small`, looked at like a future.

    That takes no task: the Ack is made once the receipt is there, by whoever asks for it then.
    """

    __slots__ = ("_admission", "_receipt", "_sender", "_with_stats")

    def __init__(
        self, sender: IntakeSender, admission: Admission, receipt: asyncio.Future[Receipt], with_stats: bool
    ) -> None:
        self._sender = sender
        self._admission = admission
        self._receipt = receipt
        self._with_stats = with_stats

    def __await__(self) -> Generator[Any, None, Ack]:
        return self.wait().__await__()

    async def wait(self) -> Ack:
        """Wait for the Ack, and make it in turns with others."""
        receipt = await self._sender.settle(len(self._admission.ids), self._receipt)
        return await in_slices(answering(self._admission, receipt, with_stats=self._with_stats))

    @property
    def is_small(self) -> bool:
        """Whether it is made in no time, whatever is said in it."""
        return len(self._admission.ids) + len(self._admission.refused) <= _SMALL

    def done(self) -> bool:
        """Return whether the receipt is there."""
        return self._receipt.done()

    def cancel(self) -> None:
        """Wait no more for the receipt; what was sent stays sent."""
        self._receipt.cancel()

    def add_done_callback(self, callback: Callable[[Any], object]) -> None:
        """Call when the receipt is there."""
        self._receipt.add_done_callback(callback)

    def result(self) -> Ack:
        """Return the Ack, bounded to what every client takes, once it is `done`."""
        receipt = self._sender.settled(len(self._admission.ids), self._receipt)
        return bounded(answer_events(self._admission, receipt, with_stats=self._with_stats))


async def ready(ack: Ack) -> Ack:
    """Return an Ack that is there already."""
    return ack
