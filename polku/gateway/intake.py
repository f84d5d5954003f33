"""From a client's message to its acknowledgement: parse, admit, push, and say truly what became of each event.

An intake is what every door (gRPC, HTTP, senders inside an application) hands its messages to. It answers with an
`Ack`: the ids of what was accepted, an error for each event that was not, and the pipeline's real numbers.
"""

from __future__ import annotations

import asyncio
import contextlib
import inspect
import logging
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple

from google.protobuf.message import DecodeError

from polku.aio.sequencer import Sequencer, Ticket
from polku.aio.tasks import TaskSet
from polku.batch.batch import Batch, join
from polku.batch.frames import count_events, read_envelope
from polku.batch.receipt import Counts, Receipt, Refusal
from polku.checks import label, shorten
from polku.codes import Code
from polku.contracts import IngestContext, Ingestor, Records
from polku.errors import DrainingError, InputError, PolkuError, RecordError
from polku.event.v1.event_pb2 import Event
from polku.gateway.admission import Admission, admit_event, admit_events, admit_in_turns, admit_payload, check_count
from polku.gateway.authorization import authorized
from polku.gateway.event_limits import check_envelope
from polku.histogram import Distribution, Histogram
from polku.hooks import CLOSE_SECONDS, call_hook, close_each, start_hook
from polku.limits import Limits
from polku.link.link import Link
from polku.log import RepeatedLog
from polku.rpc.messages import Packed, unpack
from polku.rpc.status import CallError
from polku.text import as_id, line, named, said
from polku.usercode import is_ours
from polku.v1.gateway_pb2 import Ack, AckError, IngestEvent, MiddlewareStats, RawPayload

if TYPE_CHECKING:
    from polku.contracts import SourceState
    from polku.dead_letters import DeadLetterStatistics
    from polku.external.client import PluginState
    from polku.gateway.pulling import Sources
    from polku.security.account import Account

_LOG = logging.getLogger(__name__)
_REPEATED = RepeatedLog(_LOG)
_REPLAYED_TOO_SOON = "a Deduplicator has dropped it, since it knows the id; replay it again once that is forgotten"
_TURN = 50  # records of an ingestor, which take a millisecond or two, until others have theirs
_MESSAGE = 1_000  # characters of what is said about a whole message


class IntakeStatistics(NamedTuple):
    """Count messages and events; `open` messages have no answer yet, and `open_bytes` are theirs.

    `plugins` are the external ingestors by source, `sources` what is pulled from, by name. `fault` says what does not
    work in the background. `refused_by` counts events, and messages that were refused whole, by code; `bytes` came in.
    `ack_seconds` is how long events waited for their answer, `batch_events` how many events came together.
    """

    messages: int
    received: int
    accepted: int
    refused: int
    open: int
    latest: Receipt
    plugins: Mapping[str, PluginState] = {}
    sources: Mapping[str, SourceState] = {}
    fault: str = ""
    refused_by: Mapping[str, int] = {}
    bytes: int = 0
    open_bytes: int = 0
    draining: bool = False
    ack_seconds: Distribution = Distribution()
    batch_events: Distribution = Distribution(unit=1.0)
    letters: DeadLetterStatistics | None = None  # those that are kept in an actor of its own


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
    ) -> None:
        self._ingestors = dict(ingestors)
        self._default = default
        self._unopened = set(map(id, self._components()))
        self._link = link
        self._reads_routes = reads_routes
        self._seals = seals
        self.limits = limits
        self._draining = False
        self._latest = Receipt()
        self._messages = self._received = self._accepted = self._refused = self._open = self._open_bytes = 0
        self._bytes = 0
        self._refused_by: Counter[str] = Counter()
        self._ack_seconds, self._batch_events = Histogram(), Histogram(unit=1.0)
        self._answered = asyncio.Event()
        self._ingesting: set[asyncio.Task[Any]] = set()
        self._plugins_due = 0.0
        self._sources: Sources | None = None
        self._watched: list[TaskSet] = []

    async def start(self) -> None:
        """Start the ingestors, and then to pull."""
        for ingestor in self._components():
            self._unopened.discard(id(ingestor))
            await start_hook(f"ingestor {label(ingestor)}", ingestor)
        if self._sources is not None:
            await self._sources.start()

    async def close(self) -> None:
        """Close the link and the ingestors; messages without an answer fail."""
        closing: list[tuple[str, Callable[[], Awaitable[None]]]] = []
        if self._sources is not None:
            closing.append(("the sources", self._sources.close))
        closing.append(("the link", self._link.close))
        for ingestor in self._components():
            if id(ingestor) not in self._unopened:
                name = f"ingestor {label(ingestor)}"
                closing.append((name, partial(call_hook, ingestor, "close", seconds=CLOSE_SECONDS)))
        await close_each(closing)

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
        if account is not None:
            await account.wait_for_rate()
            account.count(0, len(message))
        await self._wait_for_room(len(message))
        try:
            if type(message) is Packed:
                packed, message = len(message), unpack(message, self.limits.message_bytes)
                if account is not None:
                    account.count(0, len(message) - packed)
            self._check(len(message))
            envelope = read_envelope(message)
            source, cluster = envelope.source, envelope.cluster
            if envelope.which == "events":
                admission = admit_payload(envelope.content, source, cluster, self.limits)
                if account is not None:
                    admission = authorized(admission, account, envelope.content)
            elif envelope.which == "raw":
                raw = RawPayload.FromString(envelope.content)
                context = IngestContext(source, cluster, raw.format)
                if turns is not None and self._takes_several(source):
                    return self._ingest_beside(raw.data, context, turns, len(message), account)
                with self.reading(len(message)):
                    admission = await self.admit_raw(raw.data, context, source, account, in_turns=turns is not None)
            else:
                raise InputError(Code.NO_PAYLOAD, "payload: neither `events` nor `raw` is set; set one of them")
        except DecodeError as error:
            return self._refuse(Code.MALFORMED, f"IngestBatch: not a valid message ({error}); send it again whole")
        except CallError as error:
            return self._refuse(Code.MALFORMED, f"{error.status.message}; send it again whole")
        except InputError as error:
            return self._refuse(error.code, error.message)
        if turns is not None:
            await turns.all_over()
        return self._push(admission, len(message))

    async def batch(self, message: bytes) -> Ack:
        """Take a serialised `IngestBatch` and return its Ack."""
        return await (await self.begin(message))

    async def replay(self, event: Event) -> Sequence[Refusal]:
        """Take the event of a dead letter again; return its refusals, which say more than an Ack."""
        size = event.ByteSize()
        await self._wait_for_room(size)
        try:
            self._check(size)
            admission = admit_events([event], event.source, "", self.limits)
        except InputError as error:
            return [Refusal(event.id, error.code, error.message)]
        self._received += len(admission.ids)
        self._count_refused(admission.refused)
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
        return await self._push(admission, len(message), counted=True)

    async def ingest(self, request: IngestEvent, size: int, account: Account | None = None) -> Admission:
        """Let an ingestor read the raw bytes of a request of `size` bytes; raises `InputError`."""
        context = IngestContext(request.source, request.cluster, request.format)
        try:
            with self.reading(size):
                return await self.admit_raw(request.raw, context, request.source, account, in_turns=True)
        except InputError as error:
            self._refused_by[error.code] += 1
            raise

    def parse(self, message: bytes, account: Account | None = None) -> IngestEvent:
        """Check that there is room for a serialised `IngestEvent` and parse it; raises like `event`."""
        try:
            self._check_request(len(message))
            if account is not None:
                account.check_rate()
                account.count(0, len(message))
            if len(message) > 2 * self.limits.batch_events:  # an event takes two bytes at least
                check_count(count_events(message), self.limits)
            return IngestEvent.FromString(message)
        except InputError as error:
            self._refused_by[error.code] += 1
            raise
        except DecodeError as error:
            self._refused_by[Code.MALFORMED] += 1
            reason = f"IngestEvent: not a valid message ({error}); strings must be UTF-8, fields as in gateway.proto"
            raise InputError(Code.MALFORMED, reason) from None

    def admit(self, request: IngestEvent, size: int, account: Account | None = None) -> Admission | None:
        """Admit the events of a request of `size` bytes; None where an ingestor has to read it first.

        Raises `InputError`.
        """
        try:
            admission = self._admit(request, size)
            return admission if admission is None or account is None else authorized(admission, account)
        except InputError as error:
            self._refused_by[error.code] += 1
            raise

    def _admit(self, request: IngestEvent, size: int) -> Admission | None:
        which = request.WhichOneof("payload")
        if which == "event":
            return admit_event(request.event, request.source, request.cluster, self.limits, size)
        if which == "events":
            return admit_events(list(request.events.events), request.source, request.cluster, self.limits, size=size)
        if which == "raw":
            return None
        raise InputError(Code.NO_PAYLOAD, "payload: none of `event`, `events` and `raw` is set; set one of them")

    async def together(self, admissions: Sequence[Admission], size: int) -> list[Ack]:
        """Push the events of several requests as one batch; return an Ack for each.

        `size` is that of the requests in bytes, with what was filled in.
        """
        if not admissions:
            return []
        count = sum(len(admission.ids) for admission in admissions)
        self._received += count
        for admission in admissions:
            self._count_refused(admission.refused)
        receipt = self._latest
        if count:
            batch = join([admission.batch for admission in admissions])
            batch.counted = True
            receipt = await self._settle(count, self._send(self._prepared(batch), size))
        acks = []
        start = 0
        for admission in admissions:
            acks.append(self._ack(admission, receipt.part(start, len(admission.ids)), counted=True))
            start += len(admission.ids)
        return acks

    def serve(self, source: str, ingestor: Ingestor) -> None:
        """Let an ingestor, which is started, serve a source from now on."""
        self._ingestors[source] = ingestor

    def watch(self, tasks: TaskSet) -> None:
        """Show in the statistics what of these tasks fails."""
        self._watched.append(tasks)

    def expect_plugins(self, seconds: float) -> None:
        """Answer UNAVAILABLE, not UNKNOWN_SOURCE, for so long: after a restart plugins have yet to register again."""
        self._plugins_due = time.monotonic() + seconds

    async def request(self, size: int, admit: Callable[[], Awaitable[Admission]]) -> Ack:
        """Take a request of `size` bytes that `admit` reads, and return its Ack; raises like `event`."""
        try:
            self._check_request(size)
            with self.reading(size):
                admission = await admit()
        except InputError as error:
            self._refused_by[error.code] += 1
            raise
        return await self._push(admission, size, counted=True)

    @contextlib.contextmanager
    def reading(self, size: int) -> Iterator[None]:
        """Count the bytes of a message as in flight while an ingestor reads it; pushed, they count as its events'."""
        self._open_bytes += size
        try:
            yield
        finally:
            self._open_bytes -= size
            self._answered.set()

    def pull(self, sources: Sources) -> None:
        """Take what these sources pull too: they start, drain and close with this."""
        self._sources = sources

    async def take(self, admission: Admission, size: int) -> Awaitable[Ack]:
        """Take what a source pulled, once there is room, and return the awaitable of its Ack; raises `InputError`."""
        await self._wait_for_room(size)
        self._check(size)
        return self._push(admission, size)

    async def read(self, data: bytes, context: IngestContext, reader: str) -> tuple[list[Event], list[Refusal]]:
        """Let the ingestor of the source `reader` read bytes; raises `InputError`."""
        return await self._ingest(data, context, reader)

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
        events, refused = await self._ingest(data, context, reader, in_turns=in_turns)
        source, cluster = context.source, context.cluster
        if in_turns:
            admission = await admit_in_turns(events, source, cluster, self.limits, refused)
        else:
            admission = admit_events(events, source, cluster, self.limits, refused)
        return admission if account is None else authorized(admission, account)

    def serves(self, source: str) -> bool:
        """Return whether a source has an ingestor of its own."""
        return source in self._ingestors

    def verifies(self, source: str) -> bool:
        """Return whether the ingestor of a source finds out itself who has sent something (a `HmacVerifier`)."""
        return getattr(self._ingestors.get(source), "authenticates", False) is True

    @property
    def has_default(self) -> bool:
        """Whether there is an ingestor for all sources that have none of their own."""
        return self._default is not None

    @property
    def draining(self) -> bool:
        """Whether new messages are refused."""
        return self._draining

    def stop(self) -> None:
        """Refuse what comes from now on."""
        self._draining = True
        if self._sources is not None:
            self._sources.stop()

    async def drain(self) -> None:
        """Return when every message taken so far has its answer."""
        while self._ingesting:
            await asyncio.wait(self._ingesting)
        await self._link.drain()
        if self._sources is not None:
            await self._sources.drain()

    def stats_since(self, start: Counts) -> MiddlewareStats:
        """Return the pipeline's counters since `start`."""
        return _stats(self.counts.minus(start))

    @property
    def counts(self) -> Counts:
        """The running totals of the whole pipeline, as far as receipts have told."""
        return self._latest.counts._replace(received=self._received)

    def statistics(self) -> IntakeStatistics:
        """Return a snapshot of the counters."""
        counts = (self._messages, self._received, self._accepted, self._refused, self._open)
        sources = self._sources.states() if self._sources else {}
        fault = "; ".join(tasks.fault for tasks in self._watched if tasks.fault)
        return IntakeStatistics(
            *counts,
            self._latest,
            self._plugins(),
            sources,
            fault,
            self._refused_by.copy(),
            self._bytes,
            self._open_bytes,
            self._draining,
            self._ack_seconds.distribution(),
            self._batch_events.distribution(),
        )

    def _components(self) -> list[Ingestor]:
        default = [self._default] if self._default is not None else []
        return list({id(ingestor): ingestor for ingestor in [*self._ingestors.values(), *default]}.values())

    def _plugins(self) -> dict[str, PluginState]:
        states: dict[str, PluginState] = {}
        seen: set[int] = set()
        default = {"*": self._default} if self._default is not None else {}
        for source, ingestor in (self._ingestors | default).items():
            state = getattr(ingestor, "state", None)
            if callable(state) and id(ingestor) not in seen:
                seen.add(id(ingestor))
                states[source] = state()
        return states

    def _takes_several(self, source: str) -> bool:
        return getattr(self._ingestors.get(source, self._default), "concurrency", 1) > 1

    def _ingest_beside(
        self, data: bytes, context: IngestContext, turns: Sequencer, size: int, account: Account | None
    ) -> Awaitable[Ack]:
        """Ingest while the stream is read on; cancelled or not, the bytes count as under way until that is done."""
        self._open_bytes += size
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
            self._open_bytes, counted = self._open_bytes - counted, 0
            answer = self._push(admission, size)
        except InputError as error:
            answer = self._refuse(error.code, error.message)
        except BaseException as error:
            if is_ours(error):
                raise
            _REPEATED.exception("answer", "raw bytes could not be taken in")
            answer = self._refuse(Code.UNAVAILABLE, f"the gateway failed: {named(error)}; send it again")
        finally:
            self._open_bytes -= counted
            self._answered.set()
            ticket.done()
        return await answer

    def _check_request(self, size: int) -> None:
        if self._draining:
            self._refused_by[Code.DRAINING] += 1
            raise DrainingError("the pipeline is stopping; send to another gateway, or again later")
        self._check(size)
        if self._is_full(size):
            raise InputError(Code.BUFFER_FULL, f"{self._open_bytes} bytes are under way already; send again later")

    def _check(self, size: int) -> None:
        self._messages += 1
        if self._draining:
            raise InputError(Code.DRAINING, "the pipeline is stopping; send to another gateway, or again later")
        if size > self.limits.message_bytes:
            limit = self.limits.message_bytes
            raise InputError(Code.TOO_LARGE, f"message: {size} bytes, the limit is {limit}; send smaller ones")

    def _is_full(self, size: int) -> bool:
        return self._open_bytes > 0 and self._open_bytes + size > self.limits.open_bytes

    async def _wait_for_room(self, size: int) -> None:
        while self._is_full(size):
            self._answered.clear()
            await self._answered.wait()
        # Events are decoded just before they can leave: decoded early they would cool down in memory (0.5 µs each).
        await self._link.wait_backlog()

    async def _ingest(
        self, data: bytes, context: IngestContext, reader: str, *, in_turns: bool = False
    ) -> tuple[list[Event], list[Refusal]]:
        check_envelope(self.limits, context.source, context.cluster, context.format)
        ingestor = self._ingestors.get(reader, self._default)
        source = shorten(context.source)
        if ingestor is None:
            known = ", ".join(sorted(self._ingestors)) or "none"
            if time.monotonic() < self._plugins_due:
                reason = f"source={source}: no plugin has registered for it yet; send again later"
                raise InputError(Code.UNAVAILABLE, reason)
            raise InputError(
                Code.UNKNOWN_SOURCE,
                f"source={source}: no ingestor serves it and there is no default one; known are {known}",
            )
        try:
            result = ingestor.ingest(data, context)
            records = await result if inspect.isawaitable(result) else result
            events: list[Event] = []
            refused: list[Refusal] = []
            takes_turns = in_turns and getattr(ingestor, "takes_turns", False)
            for _ in _sort(records, self.limits.batch_events, events, refused):
                if takes_turns:
                    await asyncio.sleep(0)
            return events, refused
        except (InputError, RecordError) as error:
            raise InputError(error.code, said(error)) from error
        except PolkuError as error:
            raise InputError(Code.INGESTOR_ERROR, f"ingestor for source={source}: {said(error)}") from error
        except BaseException as error:
            if is_ours(error):
                raise
            kind = reader if reader in self._ingestors else ""  # any number of sources may share the default one
            _REPEATED.exception(("ingestor", kind), "the ingestor for source %s failed", source)
            raise InputError(Code.INGESTOR_ERROR, f"ingestor for source={source}: {named(error)}") from error

    def _push(self, admission: Admission, size: int, *, counted: bool = False) -> Awaitable[Ack]:
        """Send what was admitted and return the awaitable of its Ack, with its own statistics where it is `counted`."""
        self._received += len(admission.ids)
        self._count_refused(admission.refused)
        if not admission.ids:
            return _ready(self._ack(admission, self._latest, counted=counted))
        admission.batch.counted = counted
        size += admission.filled_bytes
        admission = admission._replace(batch=self._prepared(admission.batch))
        return self._acknowledge(admission, self._send(admission.batch, size), counted=counted)

    def _prepared(self, batch: Batch) -> Batch:
        if self._reads_routes:
            batch.read_routes()
        return batch.sealed() if self._seals else batch

    def _send(self, batch: Batch, size: int) -> asyncio.Future[Receipt]:
        """Push a batch and return the future of its receipt, which may be cancelled.

        A client that leaves takes nothing back: what it has sent counts as under way until it is discharged.
        """
        self._open += 1
        self._open_bytes += size
        self._bytes += size
        self._batch_events.record(len(batch))
        batch.enqueued_ns = came = time.time_ns()
        answer = self._link.push_nowait(batch)
        if answer.done():
            self._close(size, len(batch), came, answer)
            return answer
        answer.add_done_callback(partial(self._close, size, len(batch), came))
        return asyncio.shield(answer)

    def _close(self, size: int, count: int, came: int, answer: asyncio.Future[Receipt]) -> None:
        """Count what became of a batch that came in at `came`, in Unix nanoseconds."""
        self._ack_seconds.record((time.time_ns() - came) / 1e9, count)
        self._open -= 1
        self._open_bytes -= size
        refused = count
        if not answer.cancelled() and answer.exception() is None:
            receipt = answer.result()
            refused = len(receipt.refused)
            if refused:
                self._refused_by.update(refusal.code for refusal in receipt.refused)
            self._latest = receipt._replace(refused=(), fates=())
        else:
            draining = not answer.cancelled() and isinstance(answer.exception(), DrainingError)
            self._refused_by[Code.DRAINING if draining else Code.UNAVAILABLE] += count
        self._refused += refused
        self._accepted += count - refused
        self._answered.set()

    async def _acknowledge(self, admission: Admission, answer: asyncio.Future[Receipt], *, counted: bool) -> Ack:
        return self._ack(admission, await self._settle(len(admission.ids), answer), counted=counted)

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
        return self._latest._replace(refused=refused, fates=tuple((at, "forwarded", -1) for at in range(count)))

    def _ack(self, admission: Admission, receipt: Receipt, *, counted: bool) -> Ack:
        """Answer a client about its own events, by the ids that it knows them by, and count them if it asks for that.

        What a stream is told are the counters of the whole pipeline: its door adds them.
        """
        given = ids = admission.ids
        errors = [AckError(event_id=r.event_id, code=r.code, message=r.message) for r in admission.refused]
        if receipt.refused:
            out = {refusal.position for refusal in receipt.refused}
            ids = [event_id for position, event_id in enumerate(given) if position not in out]
            errors += [_error(given[refusal.position], refusal) for refusal in receipt.refused]
        return Ack(
            event_ids=ids,
            errors=errors,
            buffer_size=receipt.buffer_size,
            buffer_capacity=receipt.buffer_capacity,
            middleware_stats=_stats(receipt.counts_of(len(given))) if counted else None,
        )

    def _refuse(self, code: Code, message: str) -> Awaitable[Ack]:
        """Answer a message of which nothing is taken: one error, about all of it."""
        ack = Ack(
            errors=[AckError(code=code, message=line(message, _MESSAGE))],
            buffer_size=self._latest.buffer_size,
            buffer_capacity=self._latest.buffer_capacity,
        )
        self._refused += 1
        self._refused_by[code] += 1
        return _ready(ack)

    def _count_refused(self, refused: Sequence[Refusal]) -> None:
        if refused:
            self._refused += len(refused)
            self._refused_by.update(refusal.code for refusal in refused)


def _sort(records: Records, limit: int, events: list[Event], refused: list[Refusal]) -> Iterator[None]:
    """Put an ingestor's records into either list; yields after each `_TURN` of them.

    Raises `InputError`, and what ingestors raise.
    """
    for number, record in enumerate(records, 1):
        if isinstance(record, RecordError):
            refused.append(Refusal(as_id(record.event_id), record.code, said(record)))
        elif isinstance(record, Event):
            events.append(record)
            if len(events) > limit:
                reason = f"data: more than {limit} events in one message; send fewer"
                raise InputError(Code.TOO_MANY_EVENTS, reason)
        else:
            raise TypeError(f"an ingestor must return Events and RecordErrors, not {type(record).__name__}")
        if not number % _TURN:
            yield


def _error(event_id: str, refusal: Refusal) -> AckError:
    message = refusal.message
    if refusal.event_id not in ("", event_id):  # middleware made another event of it
        message = f"{message} (it was event {refusal.event_id!r} by then)"
    return AckError(event_id=event_id, code=refusal.code, message=message)


def _stats(counts: Counts) -> MiddlewareStats:
    return MiddlewareStats(
        rate_limited_count=counts.rate_limited,
        sampled_out_count=counts.sampled_out,
        dedup_count=counts.deduplicated,
        filtered_count=counts.filtered,
        buffer_overflow_count=counts.overflowed,
        total_received=counts.received,
        total_forwarded=counts.forwarded,
    )


async def _ready(ack: Ack) -> Ack:
    return ack
