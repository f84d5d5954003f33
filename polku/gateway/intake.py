"""From a client's message to its acknowledgement: parse, admit, push, and say truly what became of each event.

An intake is what every door (gRPC, HTTP, senders inside an application) hands its messages to. It answers with an
`Ack`: the ids of what was accepted, an error for each event that was not, and the pipeline's real numbers.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import TYPE_CHECKING

from google.protobuf.message import DecodeError
from msgspec.structs import replace

from polku.aio.sequencer import Sequencer
from polku.aio.slices import in_slices
from polku.aio.tasks import TaskSet
from polku.batch.frames import read_envelope
from polku.batch.receipt import Counts, Receipt, Refusal
from polku.codes import Code
from polku.contracts import DeadEvent, IngestContext, Ingestor
from polku.errors import InputError
from polku.event.v1.event_pb2 import Event
from polku.gateway.acks import answer_message, answer_together
from polku.gateway.admission import Admission, admit_events, admit_in_turns, admit_payload, read_payload
from polku.gateway.authorization import authorized, authorizing
from polku.gateway.ingestors import Ingestors
from polku.gateway.intake_statistics import IntakeCounters, IntakeStatistics, SecurityFiles
from polku.gateway.large import admit_frames, is_large
from polku.gateway.plain import admit_plain
from polku.gateway.requests import Large, admit_request, parse_request
from polku.gateway.room import Room
from polku.gateway.sending import IntakeSender, ready
from polku.gateway.stream_ingest import StreamIngest
from polku.hooks import close_each
from polku.limits import Limits
from polku.link.link import Link
from polku.rpc.messages import Packed, unpacking
from polku.rpc.status import CallError
from polku.tap.point import TapPoint
from polku.v1.gateway_pb2 import Ack, IngestEvent, RawPayload

if TYPE_CHECKING:
    from polku.gateway.pulling import Sources
    from polku.security.account import Account
    from polku.security.failures import Failures
    from polku.tracing.tracer import Tracer


class Intake:
    """Take messages in and push their events down a link.

    `reads_routes` where the buffer comes next, `seals` where nobody in this process looks at the events again: they are
    released while they are still in the core's cache, and only their bytes wait.
    """

    steps = ()

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
        self.limits = limits
        self._counters = IntakeCounters()
        self.room = Room(limits, self._counters, link)
        self.count_messages = self._counters.count_messages
        self.sender = IntakeSender(
            link, self._counters, self.room, reads_routes=reads_routes, seals=seals, tracer=tracer
        )
        self._streams = StreamIngest(self.admit_raw, self.sender.push_all, self._refuse, self._counters, self.room)
        self._sources: Sources | None = None
        self._unpacking = asyncio.Lock()
        self._watched: list[TaskSet] = []
        self._bury: Callable[[Sequence[DeadEvent]], Awaitable[None] | None] | None = None
        self.count_connections: Callable[[], Mapping[str, int]] = dict  # those of its doors, by protocol
        self.look_at_files: Callable[[], SecurityFiles] = SecurityFiles  # of its doors

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
        await close_each([*closing, ("the link", self.sender.link.close), *self.ingestors.closing()])

    @property
    def tap(self) -> TapPoint | None:
        """Where somebody watches what comes in."""
        return self._counters.tap

    @tap.setter
    def tap(self, tap: TapPoint | None) -> None:
        self._counters.tap = tap

    @property
    def link(self) -> Link:
        """The link to what comes next."""
        return self.sender.link

    @property
    def sources(self) -> Sources | None:
        """What is pulled from, if anything is."""
        return self._sources

    def bound(self, limits: Limits) -> None:
        """Hold what comes from now on to these limits."""
        self.limits = limits
        self.ingestors.bound(limits)
        self.room.bound(limits)

    def hand_on(self, *, reads_routes: bool, seals: bool) -> None:
        """Prepare batches for another part that comes next, as the constructor's options say."""
        self.sender.prepare_for(reads_routes=reads_routes, seals=seals)

    async def begin(
        self, message: bytes, turns: Sequencer | None = None, account: Account | None = None
    ) -> Awaitable[Ack]:
        """Take a serialised `IngestBatch` and return the awaitable of its Ack, once its events are on their way.

        One that is `Packed` is decompressed where there is room for it. Messages that are begun one after the other
        keep their order. Waits while `limits.open_bytes` are in flight. Never raises for bad input: what is wrong is
        said in `Ack.errors`. With `turns`, one for each stream, it does not wait for an ingestor that takes several at
        once: the events then leave in their turn. With an `account` only what its principal may send is taken, no
        faster than it may.
        """
        way = "sender" if turns is None else "stream"
        if account is not None:
            await account.wait_for_rate()
            account.count(0, len(message))
        await self.room.wait(len(message))
        try:
            if type(message) is Packed:
                packed, message = len(message), await self._unpack(message)
                if account is not None:
                    account.count(0, len(message) - packed)
            self.room.check(len(message))
            envelope = read_envelope(message)
            source, cluster = envelope.source, envelope.cluster
            if envelope.which == "events":
                frames = read_payload(envelope.content, self.limits)
                if is_large(len(frames), len(message)):
                    with self.room.held(len(message)):
                        admission = await admit_frames(frames, source, cluster, self.limits, account)
                else:
                    admission = admit_payload(envelope.content, source, cluster, self.limits, frames)
                    if account is not None:
                        admission = authorized(admission, account, envelope.content)
            elif envelope.which == "raw":
                raw = RawPayload.FromString(envelope.content)
                context = IngestContext(source, cluster, raw.format)
                if turns is not None and self.ingestors.takes_several(source):
                    return self._streams.start(raw.data, context, turns, len(message), account)
                with self.room.held(len(message)):
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
        return await self.sender.push_all(admission, len(message), way)

    async def _unpack(self, message: bytes) -> bytes:
        """Decompress a message in turns with others, one at a time; raises `CallError`."""
        steps = unpacking(message, self.limits.message_bytes)
        async with self._unpacking:
            await self.room.wait(len(message))
            return await in_slices(steps)

    async def batch(self, message: bytes) -> Ack:
        """Take a serialised `IngestBatch` and return its Ack."""
        return await (await self.begin(message))

    async def replay(self, event: Event) -> Sequence[Refusal]:
        """Take the event of a dead letter again; return its refusals, which say more than an Ack."""
        return await self.sender.replay(event, self.limits)

    async def event(self, message: bytes, account: Account | None = None) -> Ack:
        """Take a serialised `IngestEvent` and return its Ack; with an `account` only what its principal may send.

        Raises `InputError` where the message as a whole is refused and `DrainingError` at the end of the pipeline.
        """
        request = self.parse(message, account)
        admission = self.admit(request, len(message), account)
        if admission is None:
            admission = await self.ingest(request, len(message), account)
        return await (await self.sender.push_all(admission, len(message), "call", with_stats=True))

    async def ingest(self, request: IngestEvent | Large, size: int, account: Account | None = None) -> Admission:
        """Admit what `admit` does not: raw bytes, and many events; `size` in bytes. Raises `InputError`."""
        if isinstance(request, Large):
            with self.room.held(size):
                return await admit_frames(request.frames, request.source, request.cluster, self.limits, account)
        context = IngestContext(request.source, request.cluster, request.format)
        try:
            with self.room.held(size):
                return await self.admit_raw(request.raw, context, request.source, account, in_turns=True)
        except InputError as error:
            self._counters.refuse(error.code, "call", error.message)
            raise

    def parse(self, message: bytes, account: Account | None = None) -> IngestEvent | Large:
        """Check that there is room for a serialised `IngestEvent` and parse it; raises like `event`."""
        try:
            self.room.check_request(len(message))
            if account is not None:
                account.check_rate()
                account.count(0, len(message))
            return parse_request(message, self.limits)
        except InputError as error:
            self._counters.refuse(error.code, "call", error.message)
            raise

    def admit(self, request: IngestEvent | Large, size: int, account: Account | None = None) -> Admission | None:
        """Admit the events of a request of `size` bytes; None where that takes its time: `ingest` does it then.

        Raises `InputError`.
        """
        try:
            admission = admit_request(request, size, self.limits)
            return admission if admission is None or account is None else authorized(admission, account)
        except InputError as error:
            self._counters.refuse(error.code, "call", error.message)
            raise

    async def together(self, admissions: Sequence[Admission], size: int, way: str = "call") -> list[Ack]:
        """Push the events of several requests as one batch; return an Ack for each.

        `size` is that of the requests in bytes, with what was filled in.
        """
        if not admissions:
            return []
        count = sum([len(admission.ids) for admission in admissions])
        if len(admissions) == 1 and is_large(count + len(admissions[0].refused), size):
            return [await (await self.sender.push_all(admissions[0], size, way, with_stats=True))]
        receipt = await self.sender.settle(count, self.sender.push_together(admissions, size, way))
        return answer_together(admissions, receipt)

    def watch(self, tasks: TaskSet) -> None:
        """Show in the statistics what of these tasks fails."""
        self._watched.append(tasks)

    async def request(self, size: int, admit: Callable[[], Awaitable[Admission]]) -> Ack:
        """Take a request of `size` bytes that `admit` reads, and return its Ack; raises like `event`."""
        admission = await self.read(size, admit, "http")
        return await (await self.sender.push_all(admission, size, "http", with_stats=True))

    async def read(self, size: int, admit: Callable[[], Awaitable[Admission]], way: str) -> Admission:
        """Let `admit` read a request of `size` bytes; raises like `event`."""
        try:
            self.room.check_request(size)
            with self.room.held(size):
                return await admit()
        except InputError as error:
            self._counters.refuse(error.code, way, error.message)
            raise

    async def settle(self, size: int, admit: Callable[[], Awaitable[Admission]]) -> tuple[Admission, Receipt]:
        """Take a request like `request`; return what was admitted of it, and what became of that."""
        admission = await self.read(size, admit, "otlp")
        self._counters.admit(len(admission.ids), admission.refused, "otlp")
        if not admission.ids:
            return admission, self._counters.latest
        size += admission.filled_bytes
        if is_large(len(admission.ids), size):
            return admission, await self.sender.settle_pieces(await self.sender.send_pieces(admission, size))
        sending = self.sender.send(self.sender.prepare(admission.batch), size)
        return admission, await self.sender.settle(len(admission.ids), sending)

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
        await self.room.wait(size)
        self.room.check(size)
        return self.sender.push(admission, size, "source")

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
        plain = admit_plain(data, context, self.ingestors, reader, self.limits, account)
        if plain is not None:
            return plain
        events, refused, reply = await self.ingestors.read(data, context, reader, in_turns=in_turns)
        source, cluster = context.source, context.cluster
        if in_turns:
            admission = await admit_in_turns(events, source, cluster, self.limits, refused)
        else:
            admission = admit_events(events, source, cluster, self.limits, refused)
        if reply is not None:
            admission = replace(admission, reply=reply)
        if account is None:
            return admission
        if in_turns:
            return await in_slices(authorizing(admission, account))
        return authorized(admission, account)

    @property
    def draining(self) -> bool:
        """Whether new messages are refused."""
        return self.room.draining

    @property
    def is_traced(self) -> bool:
        """Whether what travels with a batch's `trace` is used."""
        return self.sender.tracer is not None

    def stop(self) -> None:
        """Refuse what comes from now on."""
        self.room.draining = True
        if self._sources is not None:
            self._sources.stop()

    async def drain(self) -> None:
        """Return when every message taken so far has its answer."""
        await self._streams.drain()
        await self.sender.link.drain()
        if self._sources is not None:
            await self._sources.drain()

    @property
    def counts(self) -> Counts:
        """The running totals of the whole pipeline, as far as receipts have told."""
        return self._counters.latest.counts._replace(received=self._counters.received)

    def count_refused(self, code: Code, way: str, message: str) -> None:
        """Count a message that was refused as a whole before any of it was read."""
        self._counters.refuse(code, way, message)

    def count_failures(self, failures: Failures) -> None:
        """Show in the statistics what authentications have failed at a port."""
        self._counters.failures.add(failures)

    def statistics(self) -> IntakeStatistics:
        """Return a snapshot of the counters."""
        sources = self._sources.states() if self._sources else {}
        fault = "; ".join(tasks.fault for tasks in self._watched if tasks.fault)
        connections = self.count_connections()
        draining = self.room.draining
        plugins = self.ingestors.plugins()
        counts = self._counters.statistics(plugins, sources, fault, draining=draining, connections=connections)
        return replace(counts, link=self.sender.link.statistics(), security_files=self.look_at_files())

    def _refuse(self, code: Code, message: str, way: str) -> Awaitable[Ack]:
        """Answer a message of which nothing is taken: one error, about all of it."""
        self._counters.refuse_message(code, way, message)
        return ready(answer_message(code, message, self._counters.latest))
