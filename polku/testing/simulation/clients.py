"""Clients that send messages through each way in, compare the Acks with what they sent, and try again."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

from polku.codes import Code
from polku.errors import DrainingError, InputError, UnavailableError
from polku.event.v1.event_pb2 import Event
from polku.testing.simulation.ledger import Call, Input
from polku.testing.simulation.lineage import tokens_of
from polku.v1.gateway_pb2 import Ack, EventPayload, IngestBatch, IngestEvent, RawPayload

if TYPE_CHECKING:
    from polku.testing.simulation.world import World

RETRYABLE = frozenset({Code.BUFFER_FULL, Code.UNAVAILABLE, Code.DRAINING})
"""The codes after which a client sends again."""

_ACK_BYTES = 1024 * 1024
_UNARY = ("event", "together")
_AT_THE_DOOR = "events["  # so begins what the door says of an event that it does not let in


class SendChannel(Protocol):
    """The ways into a simulated pipeline; a call raises `UnavailableError` where it ends without an answer."""

    async def batch(self, message: bytes) -> Ack:
        """Send an `IngestBatch` by itself."""
        ...

    async def stream(self, client: str, message: bytes) -> Awaitable[Ack]:
        """Send an `IngestBatch` down a client's stream; return what will be its Ack."""
        ...

    async def event(self, message: bytes) -> Ack:
        """Send an `IngestEvent`."""
        ...

    async def together(self, message: bytes) -> Ack:
        """Send an `IngestEvent` that leaves with those of others that come at the same time."""
        ...


@dataclass(slots=True)
class Message:
    """What a client sends at once; `raw` through the ingestor; `leaves` seconds after which the client has gone."""

    events: list[Event]
    pause: float = 0.0
    raw: bool = False
    leaves: float = 0.0


@dataclass(slots=True)
class ClientScript:
    """Say how a client sends: by which way (`batch`, `stream`, `event`, `together`), and how often again."""

    name: str
    way: str
    messages: list[Message] = field(default_factory=list)
    attempts: int = 3
    in_flight: int = 4


class Client:
    """Send the messages of a script, one after the other or down a stream."""

    def __init__(self, world: World, door: SendChannel, script: ClientScript, *, deadline: Callable[[], float]) -> None:
        self._world = world
        self._ledger = world.ledger
        self._door = door
        self._script = script
        self._deadline = deadline  # the virtual time at which every call must have been answered

    async def run(self) -> None:
        """Send everything."""
        if self._script.way == "stream":
            await self._stream()
            return
        for message in self._script.messages:
            await asyncio.sleep(message.pause)
            await self._send(message)

    async def _stream(self) -> None:
        places = asyncio.Semaphore(self._script.in_flight)
        answering: list[asyncio.Task[None]] = []
        for message in self._script.messages:
            await asyncio.sleep(message.pause)
            await places.acquire()
            inputs = self._enter(message)
            answer = await self._bounded(message, self._door.stream(self._script.name, self._batch(message)))
            if not isinstance(answer, Awaitable):
                self._doubt(inputs)
                places.release()
                continue
            answering.append(asyncio.ensure_future(self._hear(message, inputs, answer, places)))
        await asyncio.gather(*answering)

    async def _hear(
        self, message: Message, inputs: list[Input], answer: Awaitable[Ack], places: asyncio.Semaphore
    ) -> None:
        ack = await self._bounded(message, answer)
        places.release()
        again = self._read(message, inputs, ack)
        if again is not None and self._script.attempts > 1:
            await asyncio.sleep(0.3)
            await self._send(again, attempt=2)

    async def _send(self, message: Message, attempt: int = 1) -> None:
        again: Message | None = message
        while again is not None and attempt <= self._script.attempts:
            inputs = self._enter(again, resent=attempt > 1)
            ack = await self._bounded(again, self._call(again))
            again = self._read(again, inputs, ack)
            attempt += 1
            if again is not None:
                await asyncio.sleep(0.2 * attempt * (1 + self._world.random.random()))

    async def _call(self, message: Message) -> Ack:
        if self._script.way in _UNARY:
            request = IngestEvent(source=self._script.name)
            if message.raw:
                request.raw = EventPayload(events=message.events).SerializeToString()
            elif len(message.events) == 1:
                request.event.CopyFrom(message.events[0])
            else:
                request.events.events.extend(message.events)
            way = self._door.event if self._script.way == "event" else self._door.together
            return await way(request.SerializeToString())
        return await self._door.batch(self._batch(message))

    def _batch(self, message: Message) -> bytes:
        batch = IngestBatch(source=self._script.name)
        if message.raw:
            data = EventPayload(events=message.events).SerializeToString()
            batch.raw.CopyFrom(RawPayload(data=data))
        else:
            batch.events.events.extend(message.events)
        return batch.SerializeToString()

    def _enter(self, message: Message, *, resent: bool = False) -> list[Input]:
        inputs = []
        for event in message.events:
            (token,) = tokens_of(event)
            known = self._ledger.inputs.setdefault(token, Input(token, event.id))
            known.attempts += 1
            known.resent |= resent
            inputs.append(known)
        return inputs

    async def _bounded(self, message: Message, call: Awaitable[object]) -> object:
        """Return the answer, the error, or None where the client left; an answer that is late is a broken promise."""
        waiting = asyncio.ensure_future(call)
        limit = message.leaves or max(1.0, self._deadline() - self._world.now)
        done, _ = await asyncio.wait((waiting,), timeout=limit)
        if not done:
            waiting.cancel()
            if not message.leaves:
                ids = [event.id for event in message.events]
                self._ledger.fault(f"unanswered: a call of {self._script.name} after {limit:.0f} s: {ids}")
            return None
        if waiting.cancelled():
            self._ledger.fault(f"cancelled: a call of {self._script.name} ended with CancelledError")
            return None
        error = waiting.exception()
        return waiting.result() if error is None else error

    def _read(self, message: Message, inputs: list[Input], answer: object) -> Message | None:
        """Write down what an answer says; return what is to be sent again."""
        if isinstance(answer, Ack):
            return self._read_ack(message, inputs, answer)
        if isinstance(answer, InputError):
            for entry in inputs:
                entry.refused.append((answer.code, answer.message))
            return message if answer.code in RETRYABLE else None
        if isinstance(answer, DrainingError):
            for entry in inputs:
                entry.refused.append((Code.DRAINING, str(answer)))
            return None
        self._doubt(inputs)
        if isinstance(answer, BaseException) and not isinstance(answer, UnavailableError):
            self._ledger.fault(f"error: a call of {self._script.name} ended with {type(answer).__name__}: {answer!r}")
        if message.leaves and answer is None:
            return Message(message.events, raw=message.raw)
        return message

    def _doubt(self, inputs: Sequence[Input]) -> None:
        for entry in inputs:
            entry.doubtful += 1

    def _read_ack(self, message: Message, inputs: list[Input], ack: Ack) -> Message | None:
        self._check_form(message, ack)
        if self._script.way in _UNARY:
            self._check_counts(inputs, ack)
        accepted = set(ack.event_ids)
        named = [error for error in ack.errors if error.event_id]
        whole = [error for error in ack.errors if not error.event_id]
        codes = {error.event_id: (error.code, error.message) for error in named if error.code != Code.DUPLICATE_ID}
        seen: set[str] = set()
        nameless = [entry for entry in inputs if not entry.event_id]
        given = [event_id for event_id in ack.event_ids if event_id not in {entry.event_id for entry in inputs}]
        again = []
        for event, entry in zip(message.events, inputs, strict=True):
            event_id = entry.event_id
            if not event_id:
                if len(given) == len(nameless):
                    entry.accepted += 1
                continue
            if event_id in seen:
                entry.refused.append((Code.DUPLICATE_ID, ""))
                continue
            seen.add(event_id)
            if event_id in accepted:
                entry.accepted += 1
                self._world.ledger.count("events acknowledged")
                self._on_accepted(entry)
            elif event_id in codes or whole:
                code, reason = codes.get(event_id) or (whole[0].code, whole[0].message)
                entry.refused.append((code, reason))
                if code in RETRYABLE:
                    again.append(event)
            else:
                self._ledger.fault(f"untold: the Ack says nothing about {event_id!r} of {self._script.name}")
        return Message(again, raw=message.raw) if again else None

    def _check_form(self, message: Message, ack: Ack) -> None:
        refused = {error.event_id for error in ack.errors if error.event_id and error.code != Code.DUPLICATE_ID}
        both = refused & set(ack.event_ids)
        if both:
            self._ledger.fault(f"contradiction: the Ack accepts and refuses {sorted(both)[:3]}")
        if ack.ByteSize() > _ACK_BYTES:
            self._ledger.fault(f"large: an Ack of {ack.ByteSize()} bytes")

    def _check_counts(self, inputs: Sequence[Input], ack: Ack) -> None:
        """Check that an Ack of a unary call counts its own events; what became of them, the judge compares."""
        stats = ack.middleware_stats
        received = len(ack.event_ids) + sum(not error.message.startswith(_AT_THE_DOOR) for error in ack.errors)
        if stats.total_received != received:
            self._ledger.fault(f"counts: {stats.total_received} of {received} events of {self._script.name} received")
        counts = {
            "rate_limited": stats.rate_limited_count,
            "sampled_out": stats.sampled_out_count,
            "deduplicated": stats.dedup_count,
            "filtered": stats.filtered_count,
            "forwarded": stats.total_forwarded,
        }
        if min(counts.values()) < 0:
            self._ledger.fault(f"counts: less than nothing of {self._script.name}: {counts}")
        self._ledger.calls.append(Call(self._script.name, tuple(entry.token for entry in inputs), counts))

    def _on_accepted(self, entry: Input) -> None:
        """Have what an acknowledgement promises checked at once, where it promises delivery."""
        for check in self._world.on_accepted:
            check(entry.token)
