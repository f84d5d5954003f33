"""The faults of the first review, by their numbers there: each mutant undoes one mend for as long as it is entered."""

from __future__ import annotations

import asyncio
import contextlib
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any

Mutant = Callable[[], contextlib.AbstractContextManager[None]]
MUTANTS: dict[str, tuple[str, Mutant]] = {}


def mutant(number: str, text: str) -> Callable[[Callable[[], Iterator[None]]], Mutant]:
    """Register a generator function as a mutant."""

    def register(function: Callable[[], Iterator[None]]) -> Mutant:
        made = contextlib.contextmanager(function)
        MUTANTS[number] = text, made
        return made

    return register


@contextlib.contextmanager
def replaced(owner: Any, name: str, value: Any) -> Iterator[None]:
    """Put something in the place of an attribute, in all modules of the product that have imported it by its name."""
    old = getattr(owner, name)
    places = [owner]
    if not isinstance(owner, type):
        modules = [module for key, module in list(sys.modules.items()) if key.startswith("polku.")]
        places += [module for module in modules if vars(module).get(name) is old and module is not owner]
    for place in places:
        setattr(place, name, value)
    try:
        yield
    finally:
        for place in places:
            setattr(place, name, old)


@mutant("1", "a refusal is matched to inputs by id, so one of a new id is lost")
def refusals_by_id() -> Iterator[None]:
    from polku.batch import lineage

    trace_back = lineage.trace_back

    def by_id(given: Any, outcome: Any, refused: Any) -> Any:
        ids = {event.id for event in given}
        return trace_back(given, outcome, {at: r for at, r in refused.items() if r.event_id in ids})

    with replaced(lineage, "trace_back", by_id):
        yield


@mutant("2", "what a push to an emitter fails with counts as a verdict about its events")
def exceptions_are_verdicts() -> Iterator[None]:
    from polku.batch.receipt import Receipt, Refusal
    from polku.buffer.delivery import OutletDelivery
    from polku.codes import Code
    from polku.errors import DrainingError
    from polku.link.transmission import Transmission

    async def once(self: Any, seq: int, batch: Any) -> Any:
        return await self._send_until_answered(seq, batch)

    async def verdict(self: Any, batch: Any, answer: Any) -> Any:
        try:
            return await answer
        except DrainingError:
            return None
        except Exception as error:
            return Receipt(tuple(Refusal(i, Code.UNDELIVERED, str(error), position=n) for n, i in enumerate(batch.ids)))

    with replaced(Transmission, "send", once), replaced(OutletDelivery, "wait_for_receipt", verdict):
        yield


@mutant("3", "a timestamp outside of years 1 to 9999 gets in")
def no_check_of_times() -> Iterator[None]:
    from polku.gateway import times

    with replaced(times, "time_fault", lambda event: ""):
        yield


@mutant("4", "CancelledError and SystemExit of user code are not its failure")
def only_exceptions() -> Iterator[None]:
    from polku import usercode

    async def bare(work: Any) -> Any:
        return await work

    def ours(error: BaseException, **options: Any) -> bool:
        return not isinstance(error, Exception)

    with replaced(usercode, "is_ours", ours), replaced(usercode, "contained", bare):
        yield


@mutant("5", "the time limit cuts a whole call off, and forgets what was confirmed")
def limit_of_the_whole() -> Iterator[None]:
    from polku.emit.piece import PieceSize
    from polku.emit.progress import Progress

    def nothing(self: Any, *arguments: Any, **options: Any) -> None:
        return None

    with (
        replaced(Progress, "step", nothing),
        replaced(Progress, "settle", nothing),
        replaced(PieceSize, "shrink", nothing),
    ):
        yield


@mutant("6", "texts that cannot be encoded reach Acks and letters")
def raw_texts() -> Iterator[None]:
    from polku import text

    with (
        replaced(text, "line", lambda value, limit=500: str(value)[:limit]),
        replaced(text, "block", lambda value, limit=16_000: str(value)[:limit]),
    ):
        yield


@mutant("7", "a replay that was refused is answered from memory, and never tried again")
def replays_from_memory() -> Iterator[None]:
    from polku.dead_letters import replay
    from polku.dead_letters.store import DeadLetterStore

    with (
        replaced(replay, "_refused", lambda letter, reason, store: None),
        replaced(DeadLetterStore, "try_again", lambda self, *rest, **options: None),
    ):
        yield


@mutant("7b", "a letter leaves its file before what replaces it is safe")
def letters_leave_early() -> Iterator[None]:
    from polku.batch.batch import Batch
    from polku.dead_letters import replay
    from polku.dead_letters.store import as_event
    from polku.runtime import assembly

    def to_outlet(push: Any) -> Any:
        async def send(letter: Any, identity: Any) -> tuple[()]:
            event = as_event(letter)
            batch = Batch(events=[event], routes=(letter.emitter,), identity=identity)
            asyncio.get_running_loop().create_task(push(batch))
            return ()

        return send

    del assembly
    with replaced(replay, "to_outlet", to_outlet):
        yield


@mutant("8", "a dead letter is overwritten by that of another event of the same id")
def letters_by_id() -> Iterator[None]:
    from polku.dead_letters import schema

    with replaced(schema, "digest", lambda event: b""):
        yield


@mutant("8b", "an answer of several messages is told apart by ids, which they may share")
def answers_by_id() -> Iterator[None]:
    from polku.link import link

    def answer(parts: Any, receipt: Any) -> None:
        for part in parts:
            if not part.answer.done():
                places = {event_id: place for place, event_id in enumerate(part.batch.ids)}
                own = [r._replace(position=places[r.event_id]) for r in receipt.refused if r.event_id in places]
                part.answer.set_result(receipt._replace(refused=tuple(own)))

    with replaced(link, "_answer", answer):
        yield


@mutant("11", "what kills its receiver while it is held is never found")
def held_is_innocent() -> Iterator[None]:
    from polku.link.suspects import PoisonDetector

    record_crash = PoisonDetector.record_crash

    def only_open(self: Any, seq: int, *, alone: bool, held: bool = False, events: int = 1) -> bool:
        return False if held else record_crash(self, seq, alone=alone, events=events)

    with replaced(PoisonDetector, "record_crash", only_open):
        yield


@mutant("11b", "whoever has something in flight to a receiver that dies is a culprit after three deaths")
def innocent_is_poison() -> Iterator[None]:
    from polku.link.suspects import PoisonDetector

    record_crash = PoisonDetector.record_crash

    def anyone(self: Any, seq: int, *, alone: bool, held: bool = False, events: int = 1) -> bool:
        return record_crash(self, seq, alone=True, held=held, events=events)

    with replaced(PoisonDetector, "record_crash", anyone):
        yield


@mutant("12", "a receiver keeps what its sender has the answers of, above what is held")
def receivers_grow() -> Iterator[None]:
    from polku.link.receiver import _Sender

    def learn(self: Any, push: Any) -> None:
        self._close(0, push.floor - 1)

    with replaced(_Sender, "learn", learn):
        yield


@mutant("17", "of a push of several commits only the last one says that it was here")
def last_commit_alone_answers() -> Iterator[None]:
    from polku.buffer import remembered

    answer_of = remembered.answer_of

    def complete_only(push: Any, *, complete: bool) -> Any:
        return answer_of(push, complete=True) if complete else None

    with replaced(remembered, "answer_of", complete_only):
        yield


@mutant("18", "an epoch is the wall clock, and a link whose clock was set back is refused for ever")
def epochs_by_the_clock() -> Iterator[None]:
    from polku.link import epoch
    from polku.link.numbering import Numbering

    def nothing(self: Any, error: Any) -> None:
        return None

    with replaced(epoch, "new_epoch", lambda above=0: time.time_ns()), replaced(Numbering, "outlive", nothing):
        yield


@mutant("19", "a unary call hears of all events that travelled with its own")
def everybody_s_counts() -> Iterator[None]:
    from polku.batch.receipt import Receipt

    piece = Receipt.piece

    def whole(self: Any, start: int, count: int) -> Any:
        return piece(self, start, count)._replace(fates=self.fates)

    with replaced(Receipt, "piece", whole):
        yield


@mutant("20", "what is made of a batch that comes again has the name of what was made of it first")
def one_name_for_two_contents() -> Iterator[None]:
    from polku.batch import lineage

    with replaced(lineage, "order_digest", lambda trail: ""):
        yield


@mutant("21", "the shares of a batch have its identity in each partition")
def one_name_for_all_shares() -> Iterator[None]:
    from polku.batch.batch import Identity

    with replaced(Identity, "share", lambda self, partition, digest: self):
        yield


@mutant("22", "links of several partitions to one receiver have one name")
def one_name_for_several_links() -> Iterator[None]:
    from polku.runtime import assembly

    with replaced(assembly, "partition_plan", lambda plan, stage, part: plan):
        yield


@mutant("23", "replicas that go are ended with the batches that they have")
def nobody_waits_for_replicas() -> Iterator[None]:
    from polku.stage.replicas import Replicas

    exchange = Replicas.exchange

    async def at_once(self: Any, links: Any) -> int:
        await exchange(self, links)
        return 0

    with replaced(Replicas, "exchange", at_once):
        yield


@mutant("25", "the outlets of a buffer deliver one after the other")
def outlets_take_turns() -> Iterator[None]:
    from polku.buffer.outlet import Outlet

    send = Outlet._send
    turns: dict[int, tuple[object, asyncio.Lock]] = {}  # by the log, which is that of one buffer

    async def in_turn(self: Any) -> None:
        log = self._cursor._log
        async with turns.setdefault(id(log), (log, asyncio.Lock()))[1]:
            await send(self)
            while self.usage.in_flight:  # noqa: ASYNC110 - it is no event
                await asyncio.sleep(0.01)

    with replaced(Outlet, "_send", in_turn):
        yield


@mutant("24", "batches go to other partitions while the first ones still have some")
def nobody_rests() -> Iterator[None]:
    from polku.link.link import Link

    nothing, paused = property(lambda self: 0), property(lambda self: self._is_paused)
    with replaced(Link, "open", nothing), replaced(Link, "is_at_rest", paused):
        yield
