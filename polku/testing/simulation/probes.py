"""What a world listens in on: steps that drop, aggregates, the buffer's entrance, dead letters."""

from __future__ import annotations

import asyncio
import inspect
from collections import Counter, defaultdict
from collections.abc import Awaitable, Callable, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

from msgspec.structs import replace

from polku.batch.batch import Batch
from polku.batch.receipt import Answer, Receipt
from polku.buffer.log import Log, open_log
from polku.buffer.strategy import BufferStrategy, Kind
from polku.contracts import Outcome
from polku.dead_letters.disk import StoredDeadLetters
from polku.dead_letters.store import DeadLetterStore, Letter, as_event
from polku.event.v1.event_pb2 import Event
from polku.link.link import Push
from polku.link.receiver import LinkReceiver
from polku.testing.simulation.disk import Disk, ModelLog
from polku.testing.simulation.lineage import mark, tokens_of
from polku.testing.simulation.loop import current_process
from polku.v1.gateway_pb2 import EventPayload

if TYPE_CHECKING:
    from polku.buffer.push_state import Draft
    from polku.dead_letters.kinds import PrincipalLetters
    from polku.testing.simulation.world import World

_MOST_KEPT = 100  # entries about one sender, in all containers, besides those of what is held: a window is 2 to 8
_KEPT_OF_HELD = 5  # entries about each batch that is held: a collecting emitter holds many


class ProbedStep:
    """A step, and which tokens go into it and come out of it."""

    def __init__(self, step: Any, world: World) -> None:
        self._step = step
        self._world = world
        self._passed: dict[str, set[str]] = defaultdict(set)
        self.name = step.name
        self.drop_reason = step.drop_reason

    def __getattr__(self, name: str) -> Any:
        return getattr(self._step, name)

    def snapshot(self) -> Any:
        """Return the step's state, and which tokens have passed it."""
        return self._step.snapshot(), self._passed

    def restore(self, state: Any) -> Any:
        """Take both over."""
        own, self._passed = state
        return self._step.restore(own)

    def process(self, events: list[Event], batch: int) -> Outcome | Awaitable[Outcome]:
        """Let the step work."""
        given = [(event.id, tokens_of(event)) for event in events]
        result = self._step.process(events, batch)
        if inspect.isawaitable(result):
            return self._await(given, result)
        self._compare(given, result)
        outcome: Outcome = result
        return outcome

    async def _await(self, given: Sequence[tuple[str, tuple[str, ...]]], result: Awaitable[Outcome]) -> Outcome:
        outcome = await result
        self._compare(given, outcome)
        return outcome

    def _compare(self, given: Sequence[tuple[str, tuple[str, ...]]], outcome: Outcome) -> None:
        ledger = self._world.ledger
        left = Counter(token for event in outcome.events for token in tokens_of(event))
        left.update(token for dead in outcome.refused for token in tokens_of(dead.event))
        cut = {token.rpartition("/")[0] for token in left}
        for event_id, tokens in given:
            if tokens and left[tokens[0]] <= 0 and tokens[0] not in cut:
                ledger.fate(tokens, self.drop_reason)
            for token in tokens:
                if left[token] > 0 or token in cut:  # an event may appear twice, and be dropped once
                    left[token] -= 1
                    self._passed[event_id].add(token)
                    if self.name in ledger.dropped.get(token, ()):  # by chance, as its batch came before: it is late
                        ledger.remade.add(token)
                elif self.drop_reason == "deduplicated":
                    ledger.same_id[token] |= self._passed[event_id] - {token}
                    ledger.count("events deduplicated")
                else:
                    ledger.dropped[token].add(self.name)
                    ledger.count("events dropped by middleware")


def install(world: World) -> None:
    """Put the probes of a world in place."""
    from polku.buffer import buffer
    from polku.buffer.buffer import Buffer
    from polku.buffer.enqueuing import Enqueuer
    from polku.dead_letters import replay
    from polku.dead_letters.memory import DeadLetter, DeadLetters
    from polku.emit.probe import Probe
    from polku.middleware import adapt, aggregator
    from polku.runtime import lane

    ledger = world.ledger
    as_step, push, keep, write = adapt.as_step, Buffer.push, DeadLetters._keep, DeadLetterStore.add
    combine: Any = vars(aggregator)["combine"]

    def probed(component: object, clock: Any) -> Any:
        step = as_step(component, clock)
        seen_elsewhere = hasattr(step, "hold") or hasattr(step, "candidate_counts")  # made of steps that are probed
        return step if seen_elsewhere else ProbedStep(step, world)

    def combined(events: Sequence[Event], *rest: Any, **options: Any) -> Event:
        tokens = list(dict.fromkeys(token for event in events for token in tokens_of(event)))
        ledger.merge(tokens)
        return mark(combine(events, *rest, **options), tokens)

    async def pushed(self: Buffer, batch: Batch) -> Any:
        events = EventPayload.FromString(batch.payload).events
        ledger.pushed(batch, self.outlets)
        world.trace(f"buffer: {batch.identity} {[' '.join(tokens_of(event)) for event in events]}")
        process = current_process()
        tokens = [token for event in events for token in tokens_of(event)]
        ledger.came_by.update(dict.fromkeys(tokens, process.name.partition("/")[0] if process else ""))
        answer = await push(self, batch)
        _when_answered(answer, partial(ledger.answer, process.name if process else "", tokens))
        return answer

    def kept(self: DeadLetters, letter: DeadLetter) -> PrincipalLetters:
        ledger.letter(letter.emitter, letter.event, letter.code, letter.reason)
        world.trace(f"dead letter for {letter.emitter!r}: {letter.event.id!r} {letter.code}: {letter.reason!r}")
        part = keep(self, letter)
        if not isinstance(self, StoredDeadLetters):
            ledger.keep(letter.emitter, letter.event)
        return part

    def written(self: DeadLetterStore, letters: Sequence[Letter]) -> Any:
        forgotten = write(self, letters)
        for letter in letters:
            ledger.keep(letter.emitter, as_event(letter))
        return forgotten

    def replayed(self: DeadLetterStore, letters: Sequence[Letter]) -> None:
        leave(self, letters)
        process = current_process()
        if letters and world.fuse_of_replay and process is not None:
            process.fuse, world.fuse_of_replay = world.fuse_of_replay, 0

    forget = Buffer.forget

    async def forgotten(self: Buffer, name: str) -> None:
        outlet = self._outlets.leaving[name]
        await forget(self, name)
        ledger.destinations[name].dropped += outlet.statistics().dropped
        ledger.count("emitters gone")

    take_in, rearrange = Enqueuer.take_in, Buffer.rearrange
    refuse, on_held = Enqueuer._refuse, Enqueuer._on_held

    def refused(self: Enqueuer, piece: Batch, *about: Any) -> Any:
        turn_away(piece)
        return refuse(self, piece, *about)

    def settled(self: Enqueuer, drafts: Sequence[Draft], held: asyncio.Future[None]) -> None:
        if not held.cancelled() and held.exception() is not None:
            for draft in drafts:
                turn_away(draft.piece)
        on_held(self, drafts, held)

    def turn_away(piece: Batch) -> None:
        ledger.turned_away.update(_tokens_in(piece))

    ask = Probe.send

    async def asked(self: Probe, rest: Any, attempts: int, send: Callable[[Batch], Awaitable[bool]]) -> bool:
        def noted(batch: Batch) -> Awaitable[bool]:
            ledger.sent_ahead.update(_tokens_in(batch))
            return send(batch)

        return await ask(self, rest, attempts, noted)

    async def taken_in(self: Enqueuer, pieces: Sequence[Batch], push: Any, **options: Any) -> Any:
        if ledger.counts.get("rearrangements"):
            ledger.taken_in(pieces, self._outlets.by_name)
        answer = await take_in(self, pieces, push, **options)
        if ledger.is_timed:
            ledger.put(token for piece in pieces for token in _tokens_in(piece))
        return answer

    async def rearranged(self: Buffer, *arguments: Any, **options: Any) -> None:
        ledger.count("rearrangements")
        await rearrange(self, *arguments, **options)

    _patch_all(world, (Enqueuer, "take_in", taken_in), (Buffer, "rearrange", rearranged))
    _patch_all(world, (Enqueuer, "_refuse", refused), (Enqueuer, "_on_held", settled), (Probe, "send", asked))
    world.patch(Buffer, "forget", forgotten)
    received, leave = LinkReceiver.push, DeadLetterStore.replayed

    async def receive(self: LinkReceiver, push: Push, batch: Batch) -> Any:
        ledger.counts["pushes"] += 1
        if ledger.counts["pushes"] % 16 == 0:
            _check_size(world, self)
        return await received(self, push, batch)

    def opened(strategy: BufferStrategy, *, final: bool, formerly: Mapping[str, str] | None = None) -> Log:
        if strategy.kind is not Kind.DURABLE:
            return open_log(strategy, final=final, formerly=formerly)
        if world.open_log is not None:
            return world.open_log(strategy, final=final, formerly=formerly)
        disk = world.disks.setdefault(strategy.path, Disk())
        return ModelLog(world, disk, path=strategy.path, final=final, window=world.random.choice([1, 3, 4096]))

    turns = world.random.choice([0, 3, 3, 3, 12])  # that a few events wait for more: forty would show the same
    for name in ("_JOINED", "GATHERED"):
        world.patch(lane, name, replace(getattr(lane, name), gather_turns=turns))
    world.patch(replay, "_LOOK", world.random.choice([1.0, 4.0, 8.0]))  # most looks find nothing
    _patch_all(world, (buffer, "open_log", opened), (LinkReceiver, "push", receive))
    _patch_all(world, (adapt, "as_step", probed), (aggregator, "combine", combined))
    _patch_all(world, (Buffer, "push", pushed), (DeadLetters, "_keep", kept), (DeadLetterStore, "add", written))
    world.patch(DeadLetterStore, "replayed", replayed)


def _tokens_in(batch: Batch) -> list[str]:
    """Return the tokens of all events of a batch."""
    return [token for event in EventPayload.FromString(batch.payload).events for token in tokens_of(event)]


def _when_answered(answer: Answer, call: Callable[[], None]) -> None:
    """Call once a batch has its receipt, if it gets one."""
    if isinstance(answer, Receipt):
        call()
        return
    outcome = answer.outcome()
    if isinstance(outcome, asyncio.Future):
        outcome.add_done_callback(lambda done: call() if not done.cancelled() and done.exception() is None else None)


def _check_size(world: World, inlet: LinkReceiver) -> None:
    """See that what a receiver keeps of its senders does not grow with what they have sent."""
    for link, sender in inlet._senders.items():
        kept = sum(
            len(value) for value in vars(sender).values() if hasattr(value, "__len__") and not isinstance(value, str)
        )
        held = sum(entry.outcome is not None and not entry.outcome.done() for entry in sender.entries.values())
        if kept > _MOST_KEPT + _KEPT_OF_HELD * held:
            world.ledger.fault(f"growth: a receiver keeps {kept} entries of {link}")


def _patch_all(world: World, *patches: tuple[Any, str, Callable[..., Any]]) -> None:
    for owner, name, value in patches:
        world.patch(owner, name, value)
