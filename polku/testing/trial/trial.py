"""The run itself: a lane with recorders at its end, what is sent into it, and the account of what became of it."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import NamedTuple

from polku.aio.sequencer import Sequencer
from polku.batch.batch import Batch
from polku.batch.receipt import Answer
from polku.buffer.statistics import OutletStatistics
from polku.buffer.strategy import Overflow
from polku.clock import Clock
from polku.dead_letters import DeadLetter, DeadLetters
from polku.dead_letters.kinds import PrincipalLetters
from polku.errors import NotRunningError
from polku.event.v1.event_pb2 import Event
from polku.link.link import Peer, Receiver
from polku.plan import OutletPlan, Plan
from polku.runtime.lane import Lane
from polku.testing.trial.given import Given, Message, Pause, message_of
from polku.testing.trial.outcome import Dropped, Outcome, Records, Refused
from polku.text import counted
from polku.v1.gateway_pb2 import Ack, EventPayload

_FLUSH_SECONDS = 0.01
_LETTERS = 1_000_000
_LETTER_BYTES = 1 << 40


class _Sent(NamedTuple):
    message: Message
    answer: asyncio.Task[Ack]


class Trial:
    """Run a plan, made for a test, on what it is given; `records` are filled by the plan's parts."""

    def __init__(
        self,
        plan: Plan,
        given: Sequence[Given],
        clock: Clock,
        records: Records,
        *,
        source: str,
        within: float,
        progress: Callable[[int], None] | None = None,
    ) -> None:
        self._plan = plan
        self._progress = progress
        self._given = given
        self._clock = clock
        self._records = records
        self._source = source
        self._within = within
        self._letters = _Letters(clock, records)
        self._lane = _Lane(plan, self._letters, clock=clock)
        self._sent: list[_Sent] = []
        self._step = "it starts"

    async def live(self) -> Outcome:
        """Start the lane, send, drain it, and return what became of everything."""
        began = self._clock.monotonic()
        try:
            await self._lane.open()
            await self._send()
            await self._drain()
            lags = self._lane.statistics().buffer.outlets
        finally:
            await self._lane.close()
        acks = [(sent.message, await sent.answer) for sent in self._sent]
        dropped, held = self._missing(lags)
        return Outcome(
            {outlet.name: self._records.taken[outlet.name] for outlet in self._plan.outlets},
            [*self._records.dropped, *dropped],
            self._letters.latest(),
            [refused for message, ack in acks for refused in _refused(message, ack)],
            held,
            [event for message, _ in acks for event in message.events],
            self._clock.monotonic() - began,
        )

    def describe(self) -> str:
        """Return in a sentence what is not done."""
        open_ = sum(not sent.answer.done() for sent in self._sent)
        try:
            busy = [stage.step for stage in self._lane.statistics().stages.values() if stage.step]
        except NotRunningError:
            busy = []
        parts = [f"middleware {', '.join(busy)} is busy"] if busy else []
        parts += [f"{counted(open_, 'message', 'has', 'have')} no answer"] if open_ else []
        return ", ".join([self._step, *parts])

    async def _send(self) -> None:
        turns = Sequencer()
        count = 0
        for item in self._given:
            if isinstance(item, Pause):
                self._step = f"it pauses for {item.seconds:g} s"
                await asyncio.sleep(item.seconds)
                continue
            self._step = "events are sent"
            message = message_of(item, self._source, self._clock)
            answer = await self._lane.intake.begin(message.content, turns)
            self._sent.append(_Sent(message, task := asyncio.create_task(_awaited(answer))))
            task.add_done_callback(lambda done: self._records.stirred.set())
            count += len(message.events) or 1
            if self._progress is not None:
                self._progress(count)

    async def _drain(self) -> None:
        """Flush what stages hold, and let outlets deliver; what is then left is held."""
        self._step = "it drains"
        self._lane.intake.stop()
        try:
            async with asyncio.timeout(self._within):
                await self._until(lambda: all(sent.answer.done() for sent in self._sent))
                await self._until(self._is_delivered)
        except TimeoutError:
            await self._lane.release()

    async def _until(self, is_over: Callable[[], bool]) -> None:
        """Flush what is held until something is over: as a drain does, but ever more rarely where nothing happens."""
        wait = _FLUSH_SECONDS
        while not is_over():
            await self._lane.flush()
            self._records.stirred.clear()
            try:
                async with asyncio.timeout(wait):
                    await self._records.stirred.wait()
            except TimeoutError:
                wait *= 1.5
            else:
                wait = _FLUSH_SECONDS

    def _is_delivered(self) -> bool:
        return not any(outlet.lag for outlet in self._lane.statistics().buffer.outlets.values())

    def _missing(self, lags: Mapping[str, OutletStatistics]) -> tuple[list[Dropped], dict[str, list[Event]]]:
        """Return what got into the buffer and neither to its emitter nor among the dead letters."""
        dropped: list[Dropped] = []
        held: dict[str, list[Event]] = {}
        for outlet in self._plan.outlets:
            dead = [letter.event.id for letter in self._letters.latest() if letter.emitter == outlet.name]
            arrived = Counter([*(event.id for event in self._records.taken[outlet.name]), *dead])
            missing = []
            for event in self._lane.buffered:
                if not _goes_to(outlet, event):
                    continue
                arrived[event.id] -= 1
                if arrived[event.id] < 0:
                    missing.append(event)
            lag = lags[outlet.name].lag
            rule = outlet.overflow or self._plan.buffer.overflow
            cut = len(missing) - lag if rule is Overflow.DROP_OLDEST else lag
            first, second = missing[:cut], missing[cut:]
            lost, kept = (first, second) if rule is Overflow.DROP_OLDEST else (second, first)
            dropped += [Dropped(event, outlet.name, "overflowed") for event in lost]
            if kept:
                held[outlet.name] = kept
        return dropped, held


class _Letters(DeadLetters):
    """Dead letters that are all kept, and noted."""

    def __init__(self, clock: Clock, records: Records) -> None:
        super().__init__(_LETTERS, max_bytes=_LETTER_BYTES, clock=clock)
        self._records = records

    def _keep(self, letter: DeadLetter) -> PrincipalLetters:
        part = super()._keep(letter)
        self._records.stirred.set()
        return part


class _Lane(Lane):
    """A lane that writes down what gets into its buffer."""

    buffered: list[Event]

    async def _connect(self, receiver: Receiver) -> Peer:
        self.buffered = []
        return await super()._connect(_Watched(receiver, self.buffered))


class _Watched:
    def __init__(self, buffer: Receiver, seen: list[Event]) -> None:
        self._buffer = buffer
        self._seen = seen

    async def push(self, batch: Batch) -> Answer:
        self._seen += EventPayload.FromString(batch.payload).events
        return await self._buffer.push(batch)


async def _awaited(answer: Awaitable[Ack]) -> Ack:
    return await answer


def _goes_to(outlet: OutletPlan, event: Event) -> bool:
    return outlet.always or not event.route_to or outlet.name in event.route_to


def _refused(message: Message, ack: Ack) -> list[Refused]:
    by_id = {event.id: event for event in reversed(message.events)}
    return [Refused(by_id.get(error.event_id), error.code, error.message) for error in ack.errors]
