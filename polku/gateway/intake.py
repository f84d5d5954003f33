"""From a client's message to its acknowledgement: parse, admit, push, and say truly what became of each event.

An intake is what every door (gRPC, HTTP, senders inside an application) hands its messages to. It answers with an
`Ack`: the ids of what was accepted, an error for each event that was not, and the pipeline's real numbers.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

from google.protobuf.message import DecodeError

from polku.aio.sequencer import Sequencer, Ticket
from polku.aio.tasks import TaskSet
from polku.batch.batch import Batch, join
from polku.batch.frames import read_envelope
from polku.batch.receipt import Counts, Receipt, Refusal
from polku.codes import Code
from polku.contracts import DeadEvent, IngestContext, Ingestor
from polku.errors import DrainingError, InputError, PolkuError
from polku.event.v1.event_pb2 import Event
from polku.gateway.admission import Admission, admit_events, admit_in_turns, admit_payload
from polku.gateway.answers import answer_events, answer_message, answer_together
from polku.gateway.authorization import authorized
from polku.gateway.ingestors import Ingestors
from polku.gateway.intake_statistics import IntakeCounters, IntakeStatistics
from polku.gateway.requests import admit_request, parse_request
from polku.gateway.room import Room
from polku.hooks import close_each
from polku.limits import Limits
from polku.link.link import Link
from polku.log import RepeatedLog
from polku.rpc.messages import Packed, unpack
from polku.rpc.status import CallError
from polku.tap.point import TapPoint
from polku.tap.request import What
from polku.text import named, said
from polku.usercode import is_ours
from polku.v1.gateway_pb2 import Ack, IngestEvent, RawPayload

if TYPE_CHECKING:
    from polku.gateway.pulling import Sources
    from polku.security.account import Account
    from polku.security.failures import Failures
    from polku.tracing.tracer import Tracer

_REPEATED = RepeatedLog(logging.getLogger(__name__))
_REPLAYED_TOO_SOON = "a Deduplicator has dropped it, since it knows the id; replay it again once that is forgotten"


class Intake:
    """Take messages in and push their events down a link.

    `reads_routes` where the buffer comes next, `seals` where nobody in this process looks at the events again: they are
    released while they are still in the core's cache, and only their bytes wait.
    """

    def __init__(
        self,
        ingestors: Mapping[str, Ingestor],
        default: Ingestor | None,
        link: Link,
        limits: Limits,
        *,
        reads_routes: bool = True,
        seals: bool = False,
        tracer: Tracer | None = None,
    ) -> None:
        self.ingestors = Ingestors(ingestors, default, limits)
        self.tap: TapPoint | None = None
        self.steps = ()
        self._link = link
        self._reads_routes = reads_routes
        self._seals = seals
        self._tracer = tracer
        self.limits = limits
        self._counters = IntakeCounters()
        self._room = Room(limits, self._counters, link)
        self._ingesting: set[asyncio.Task[Any]] = set()
        self._sources: Sources | None = None
        self._watched: list[TaskSet] = []
        self._bury: Callable[[Sequence[DeadEvent]], Awaitable[None] | None] | None = None
        self.count_connections: Callable[[], Mapping[str, int]] = dict  # those of its doors, by protocol

    async def start(self) -> None:
        """Start the ingestors, and then to pull."""
        await self.ingestors.start()
        if self._sources is not None:
            await self._sources.start()

    async def close(self) -> None:
        """Close the link and the ingestors; messages without an answer fail."""
        closing: list[tuple[str, Callable[[], Awaitable[None]]]] = []
        if self._sources is not None:
            closing.append(("the sources", self._sources.close))
        await close_each([*closing, ("the link", self._link.close), *self.ingestors.closing()])

    @property
    def link(self) -> Link:
        """The link to what comes next."""
        return self._link

    @property
    def sources(self) -> Sources | None:
        """What is pulled from, if anything is."""
        return self._sources

    def bound(self, limits: Limits) -> None:
        """Hold what comes from now on to these limits."""
        self.limits = limits
        self.ingestors.bound(limits)
        self._room.bound(limits)

    def hand_on(self, *, reads_routes: bool, seals: bool) -> None:
        """Prepare batches for another part that comes next, as the constructor's options say."""
        self._reads_routes, self._seals = reads_routes, seals

    async def begin(
        self, message: bytes, turns: Sequencer | None = None, account: Account | None = None
    ) -> Awaitable[Ack]:
        """Take a serialised `IngestBatch` and return the awaitable of its Ack, once its events are on their way.

        One that is `Packed` is decompressed where there is room for it. Messages that are begun one after the other
        keep their order. Waits while `limits.open_bytes` are under way. Never raises for bad input: what is wrong is
        said in `Ack.errors`. With `turns`, one for each stream, it does not wait for an ingestor that takes several at
        once: the events then leave in their turn. With an `account` only what its principal may send is taken, no
        faster than it may.
        """
        way = "sender" if turns is None else "stream"
        if account is not None:
            await account.wait_for_rate()
            account.count(0, len(message))
        await self._room.wait(len(message))
        try:
            if type(message) is Packed:
                packed, message = len(message), unpack(message, self.limits.message_bytes)
                if account is not None:
                    account.count(0, len(message) - packed)
            self._room.check(len(message))
            envelope = read_envelope(message)
            source, cluster = envelope.source, envelope.cluster
            if envelope.which == "events":
                admission = admit_payload(envelope.content, source, cluster, self.limits)
                if account is not None:
                    admission = authorized(admission, account, envelope.content)
            elif envelope.which == "raw":
                raw = RawPayload.FromString(envelope.content)
                context = IngestContext(source, cluster, raw.format)
                if turns is not None and self.ingestors.takes_several(source):
                    return self._ingest_beside(raw.data, context, turns, len(message), account)
                with self._room.held(len(message)):
                    admission = await self.admit_raw(raw.data, context, source, account, in_turns=turns is not None)
            else:
                raise InputError(Code.NO_PAYLOAD, "payload: neither `events` nor `raw` is set; set one of them")
        except DecodeError as error:
            return self._refuse(Code.MALFORMED, f"IngestBatch: not a valid message ({error}); send it again whole", way)
        except CallError as error:
            return self._refuse(Code.MALFORMED, f"{error.status.message}; send it again whole", way)
        except InputError as error:
            return self._refuse(error.code, error.message, way)
        if turns is not None:
            await turns.all_over()
        return self._push(admission, len(message), way)

    async def batch(self, message: bytes) -> Ack:
        """Take a serialised `IngestBatch` and return its Ack."""
        return await (await self.begin(message))

    async def replay(self, event: Event) -> Sequence[Refusal]:
        """Take the event of a dead letter again; return its refusals, which say more than an Ack."""
        size = event.ByteSize()
        await self._room.wait(size)
        try:
            self._room.check(size)
            admission = admit_events([event], event.source, "", self.limits)
        except InputError as error:
            return [Refusal(event.id, error.code, error.message)]
        self._note(len(admission.ids), admission.refused, "replay")
        if not admission.ids:
            return admission.refused
        admission.batch.counted = True
        receipt = await self._settle(1, self._send(self._prepared(admission.batch), size + admission.filled_bytes))
        if any(what == "deduplicated" for _, what, _ in receipt.fates):  # it may be what it is said to be a copy of
            return (*receipt.refused, Refusal(event.id, Code.DUPLICATE_ID, _REPLAYED_TOO_SOON))
        return receipt.refused

    async def event(self, message: bytes, account: Account | None = None) -> Ack:
        """Take a serialised `IngestEvent` and return its Ack; with an `account` only what its principal may send.

        Raises `InputError` where the message as a whole is refused and `DrainingError` at the end of the pipeline.
        """
        request = self.parse(message, account)
        admission = self.admit(request, len(message), account)
        if admission is None:
            admission = await self.ingest(request, len(message), account)
        return await self._push(admission, len(message), "call", counted=True)

    async def ingest(self, request: IngestEvent, size: int, account: Account | None = None) -> Admission:
        """Let an ingestor read the raw bytes of a request of `size` bytes; raises `InputError`."""
        context = IngestContext(request.source, request.cluster, request.format)
        try:
            with self._room.held(size):
                return await self.admit_raw(request.raw, context, request.source, account, in_turns=True)
        except InputError as error:
            self._note_refused(error.code, error.message, "call")
            raise

    def parse(self, message: bytes, account: Account | None = None) -> IngestEvent:
        """Check that there is room for a serialised `IngestEvent` and parse it; raises like `event`."""
        try:
            self._room.check_request(len(message))
            if account is not None:
                account.check_rate()
                account.count(0, len(message))
            return parse_request(message, self.limits)
        except InputError as error:
            self._note_refused(error.code, error.message, "call")
            raise

    def admit(self, request: IngestEvent, size: int, account: Account | None = None) -> Admission | None:
        """Admit the events of a request of `size` bytes; None where an ingestor has to read it first.

        Raises `InputError`.
        """
        try:
            admission = admit_request(request, size, self.limits)
            return admission if admission is None or account is None else authorized(admission, account)
        except InputError as error:
            self._note_refused(error.code, error.message, "call")
            raise

    async def together(self, admissions: Sequence[Admission], size: int) -> list[Ack]:
        """Push the events of several requests as one batch; return an Ack for each.

        `size` is that of the requests in bytes, with what was filled in.
        """
        if not admissions:
            return []
        count = sum([len(admission.ids) for admission in admissions])
        refused = [refusal for admission in admissions if admission.refused for refusal in admission.refused]
        self._note(count, refused, "call", len(admissions))
        receipt = self._counters.latest
        if count:
            batch = join([admission.batch for admission in admissions])
            batch.counted = True
            receipt = await self._settle(count, self._send(self._prepared(batch), size))
        return answer_together(admissions, receipt)

    def watch(self, tasks: TaskSet) -> None:
        """Show in the statistics what of these tasks fails."""
        self._watched.append(tasks)

    async def request(self, size: int, admit: Callable[[], Awaitable[Admission]]) -> Ack:
        """Take a request of `size` bytes that `admit` reads, and return its Ack; raises like `event`."""
        try:
            self._room.check_request(size)
            with self._room.held(size):
                admission = await admit()
        except InputError as error:
            self._note_refused(error.code, error.message, "http")
            raise
        return await self._push(admission, size, "http", counted=True)

    async def settle(self, size: int, admit: Callable[[], Awaitable[Admission]]) -> tuple[Admission, Receipt]:
        """Take a request like `request`; return what was admitted of it, and what became of that."""
        try:
            self._room.check_request(size)
            with self._room.held(size):
                admission = await admit()
        except InputError as error:
            self._note_refused(error.code, error.message, "otlp")
            raise
        self._note(len(admission.ids), admission.refused, "otlp")
        if not admission.ids:
            return admission, self._counters.latest
        sending = self._send(self._prepared(admission.batch), size + admission.filled_bytes)
        return admission, await self._settle(len(admission.ids), sending)

    def keep_refused(self, bury: Callable[[Sequence[DeadEvent]], Awaitable[None] | None]) -> None:
        """Have `bury` keep records that are refused although their clients must not send them again."""
        self._bury = bury

    async def bury(self, dead: Sequence[DeadEvent]) -> None:
        """Return when these records are dead letters."""
        if dead and self._bury is not None and (stored := self._bury(dead)) is not None:
            await stored

    def pull(self, sources: Sources) -> None:
        """Take what these sources pull too: they start, drain and close with this."""
        self._sources = sources

    async def take(self, admission: Admission, size: int) -> Awaitable[Ack]:
        """Take what a source pulled, once there is room, and return the awaitable of its Ack; raises `InputError`."""
        await self._room.wait(size)
        self._room.check(size)
        return self._push(admission, size, "source")

    async def admit_raw(
        self,
        data: bytes,
        context: IngestContext,
        reader: str,
        account: Account | None = None,
        *,
        in_turns: bool = False,
    ) -> Admission:
        """Let the ingestor of the source `reader` read bytes that come from `context.source`; raises `InputError`.

        With `in_turns` others have their turn meanwhile, also where the ingestor is not async: what is begun later may
        then be read sooner.
        """
        if account is not None:
            account.check_origin(context.source, context.cluster)
        events, refused, reply = await self.ingestors.read(data, context, reader, in_turns=in_turns)
        source, cluster = context.source, context.cluster
        if in_turns:
            admission = await admit_in_turns(events, source, cluster, self.limits, refused)
        else:
            admission = admit_events(events, source, cluster, self.limits, refused)
        if reply is not None:
            admission = admission._replace(reply=reply)
        return admission if account is None else authorized(admission, account)

    @property
    def draining(self) -> bool:
        """Whether new messages are refused."""
        return self._room.draining

    @property
    def is_traced(self) -> bool:
        """Whether what travels with a batch's `trace` is used."""
        return self._tracer is not None

    def stop(self) -> None:
        """Refuse what comes from now on."""
        self._room.draining = True
        if self._sources is not None:
            self._sources.stop()

    async def drain(self) -> None:
        """Return when every message taken so far has its answer."""
        while self._ingesting:
            await asyncio.wait(self._ingesting)
        await self._link.drain()
        if self._sources is not None:
            await self._sources.drain()

    @property
    def counts(self) -> Counts:
        """The running totals of the whole pipeline, as far as receipts have told."""
        return self._counters.latest.counts._replace(received=self._counters.received)

    def count_failures(self, failures: Failures) -> None:
        """Show in the statistics what authentications have failed at a port."""
        self._counters.failures.add(failures)

    def statistics(self) -> IntakeStatistics:
        """Return a snapshot of the counters."""
        sources = self._sources.states() if self._sources else {}
        fault = "; ".join(tasks.fault for tasks in self._watched if tasks.fault)
        connections = self.count_connections()
        draining = self._room.draining
        plugins = self.ingestors.plugins()
        counts = self._counters.statistics(plugins, sources, fault, draining=draining, connections=connections)
        return counts._replace(link=self._link.statistics())

    def _ingest_beside(
        self, data: bytes, context: IngestContext, turns: Sequencer, size: int, account: Account | None
    ) -> Awaitable[Ack]:
        """Ingest while the stream is read on; cancelled or not, the bytes count as under way until that is done."""
        self._counters.open_bytes += size
        task = asyncio.get_running_loop().create_task(self._ingest_in_turn(data, context, turns.take(), size, account))
        self._ingesting.add(task)
        task.add_done_callback(self._ingesting.discard)
        return task

    async def _ingest_in_turn(
        self, data: bytes, context: IngestContext, ticket: Ticket, size: int, account: Account | None
    ) -> Ack:
        counted = size
        try:
            admission = await self.admit_raw(data, context, context.source, account)
            await ticket.wait()
            self._counters.open_bytes, counted = self._counters.open_bytes - counted, 0
            answer = self._push(admission, size, "stream")
        except InputError as error:
            answer = self._refuse(error.code, error.message, "stream")
        except BaseException as error:
            if is_ours(error):
                raise
            _REPEATED.exception("answer", "raw bytes could not be taken in")
            answer = self._refuse(Code.UNAVAILABLE, f"the gateway failed: {named(error)}; send it again", "stream")
        finally:
            self._counters.open_bytes -= counted
            self._room.free()
            ticket.done()
        return await answer

    def _push(self, admission: Admission, size: int, way: str, *, counted: bool = False) -> Awaitable[Ack]:
        """Send what was admitted and return the awaitable of its Ack, with its own statistics where it is `counted`."""
        self._note(len(admission.ids), admission.refused, way)
        if not admission.ids:
            return _ready(answer_events(admission, self._counters.latest, counted=counted))
        admission.batch.counted = counted
        size += admission.filled_bytes
        admission = admission._replace(batch=self._prepared(admission.batch))
        return self._acknowledge(admission, self._send(admission.batch, size), counted=counted)

    def _note(self, events: int, refused: Sequence[Refusal], way: str, messages: int = 1) -> None:
        """Count what was admitted of messages, and what was not; `way` is how they came."""
        self._counters.admit(events, refused, way, messages)
        if self.tap is not None:
            for refusal in refused:
                self.tap.tell(What.REFUSED, refusal.event_id, refusal.code, refusal.message)

    def _note_refused(self, code: Code, message: str, way: str) -> None:
        """Count a request that is refused as a whole."""
        self._counters.refuse(code, way)
        if self.tap is not None:
            self.tap.tell(What.REFUSED, "", code, message)

    def _prepared(self, batch: Batch) -> Batch:
        if self.tap is not None:
            self.tap.show(What.OUT, batch)
        if self._reads_routes:
            batch.read_routes()
        if self._tracer is not None:
            self._tracer.read(batch)
        return batch.sealed() if self._seals else batch

    def _send(self, batch: Batch, size: int) -> asyncio.Future[Receipt]:
        """Push a batch and return the future of its receipt, which may be cancelled.

        A client that leaves takes nothing back: what it has sent counts as under way until it is discharged.
        """
        self._counters.push(batch, size)
        answer = self._link.push_nowait(batch) if self._tracer is None else self._push_traced(self._tracer, batch)
        if answer.done():
            self._on_answer(size, len(batch), batch.enqueued_ns, answer)
            return answer
        answer.add_done_callback(partial(self._on_answer, size, len(batch), batch.enqueued_ns))
        return asyncio.shield(answer)

    def _push_traced(self, tracer: Tracer, batch: Batch) -> asyncio.Future[Receipt]:
        end = tracer.intake(batch)
        answer = self._link.push_nowait(batch)
        answer.add_done_callback(end)
        return answer

    def _on_answer(self, size: int, count: int, came: int, answer: asyncio.Future[Receipt]) -> None:
        self._counters.settle(size, count, came, answer)
        self._room.free()

    async def _acknowledge(self, admission: Admission, answer: asyncio.Future[Receipt], *, counted: bool) -> Ack:
        return answer_events(admission, await self._settle(len(admission.ids), answer), counted=counted)

    async def _settle(self, count: int, answer: asyncio.Future[Receipt]) -> Receipt:
        """Wait for the receipt of that many events; where none came, all of them are refused."""
        try:
            return await answer
        except DrainingError as error:
            return self._unanswered(count, Code.DRAINING, said(error))
        except PolkuError as error:
            return self._unanswered(count, Code.UNAVAILABLE, said(error))
        except BaseException as error:
            if is_ours(error):
                raise
            _REPEATED.exception("answer", "a batch has no answer")
            return self._unanswered(count, Code.UNAVAILABLE, named(error))

    def _unanswered(self, count: int, code: Code, message: str) -> Receipt:
        """Return a receipt that refuses all of `count` events: they count as received, and as nothing else."""
        refused = tuple(Refusal("", code, message, position=position) for position in range(count))
        return self._counters.latest._replace(
            refused=refused, fates=tuple((at, "forwarded", -1) for at in range(count))
        )

    def _refuse(self, code: Code, message: str, way: str) -> Awaitable[Ack]:
        """Answer a message of which nothing is taken: one error, about all of it."""
        self._counters.refuse_message(code, way)
        if self.tap is not None:
            self.tap.tell(What.REFUSED, "", code, message)
        return _ready(answer_message(code, message, self._counters.latest))


async def _ready(ack: Ack) -> Ack:
    return ack
