"""Several senders feed one receiver that dies of some events: those alone are taken out, and none of another sender."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Coroutine
from typing import Any

import pytest

from polku import Batch, BufferStrategy, Code, Event
from polku.batch.batch import Identity
from polku.batch.receipt import Accepted, Answer, Receipt, Refusal, Turn
from polku.errors import UnavailableError
from polku.link.link import Link, Push, Window
from polku.link.quarantine import Patience
from polku.link.receiver import LinkReceiver
from tests.buffer.parts import Bench, Destination
from tests.support.peers import asked_for
from tests.support.virtual_time import in_virtual_time

pytestmark = pytest.mark.usefixtures("both_ways")


class Life:
    """One life of the receiver: what it works on and holds is gone when it dies."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.turn = asyncio.Lock()
        self.died = asyncio.Event()
        self.held: list[tuple[Batch, asyncio.Future[Receipt]]] = []
        self.inlet = LinkReceiver(self, patience=0.01, alone=Patience(quiet=1, push=1, work=1, held=0.05))

    async def push(self, batch: Batch) -> Answer:
        if self.world.holds:
            outcome: asyncio.Future[Receipt] = asyncio.get_running_loop().create_future()
            self.held.append((batch, outcome))
            late = 0.0 if len(self.held) > self.world.random.randrange(8) else self.world.within
            self.world.timers.append(asyncio.get_running_loop().call_later(late, self.release))
            return Accepted(outcome)
        async with self.turn:
            await self.work(batch)
        return Receipt()

    def release(self) -> None:
        self.world.tasks.append(asyncio.ensure_future(self.flush(everything=True)))

    async def flush(self, everything: bool) -> None:
        async with self.turn:
            held, self.held = self.held, []
            for batch, outcome in held:
                await self.work(batch)
                outcome.set_result(Receipt())

    async def work(self, batch: Batch) -> None:
        for _ in range(self.world.random.randrange(5)):
            await asyncio.sleep(0)
        if self.world.deadly & set(batch.ids) or await self.world.forward(batch):
            self.world.die(self)
        if self.died.is_set():  # nothing of a dead life continues
            await asyncio.Event().wait()
        self.world.done.append(batch)


class World:
    """A receiver that comes back after each death."""

    def __init__(self, seed: int, deadly: set[str], *, holds: bool = False, hits: int = 0) -> None:
        self.random = random.Random(seed)
        self.deadly, self.holds, self.hits = deadly, holds, hits
        self.within = 0.02
        self.timers: list[asyncio.TimerHandle] = []
        self.tasks: list[asyncio.Future[None]] = []
        self.struck: set[str] = set()
        self.deaths = 0
        self.done: list[Batch] = []
        self.buried: list[str] = []
        self.begin: Callable[[World], Life] = Life
        self.life = Life(self)
        self.past: list[Life] = []

    async def forward(self, batch: Batch) -> bool:
        """Return whether the receiver dies now by chance, which does not strike twice on one event."""
        if not self.hits or self.random.random() > 0.1 or self.struck & set(batch.ids):
            return False
        self.hits -= 1
        self.struck |= set(batch.ids)
        return True

    def die(self, life: Life) -> None:
        if life is self.life:
            self.deaths += 1
            self.past.append(life)
            self.life = self.begin(self)
            life.died.set()

    def bury(self, one: Batch, refused: tuple[Refusal, ...]) -> None:
        self.buried += one.ids

    async def end(self) -> None:
        """Leave nothing of any life."""
        while tasks := asyncio.all_tasks() - {asyncio.current_task()}:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            for timer in self.timers:
                timer.cancel()

    def link(self, name: str, window: Window | None = None) -> Link:
        return Link(name, Wire(self), window=window, retry_delay=lambda attempt: 0, bury=self.bury)


class Wire:
    """Reach the receiver; whoever waits for an answer when it dies hears so."""

    def __init__(self, world: World) -> None:
        self.world = world

    async def push(self, push: Push, batch: Batch) -> Answer | Turn:
        answer: Answer | Turn = await self.unless_dead(self.world.life.inlet.push(push, batch))
        return asked_for(answer, self._outcome, push)

    async def _outcome(self, push: Push) -> Receipt:
        receipt: Receipt = await self.unless_dead(self.world.life.inlet.outcome(push))
        return receipt

    async def unless_dead(self, call: Coroutine[Any, Any, Any]) -> Any:
        dead = asyncio.ensure_future(self.world.life.died.wait())
        answer = asyncio.ensure_future(call)
        await asyncio.wait((answer, dead), return_when=asyncio.FIRST_COMPLETED)
        if dead.done():
            answer.cancel()
            raise UnavailableError("it died", died=True)
        dead.cancel()
        return answer.result()

    async def flush(self, everything: bool) -> None:
        raise AssertionError("nobody asks for it here")


def batch(*ids: str) -> Batch:
    return Batch.from_events([Event(id=event_id) for event_id in ids])


@pytest.mark.parametrize("hits", [0, 4])
@pytest.mark.parametrize("holds", [False, True])
@pytest.mark.parametrize("seed", range(4))
@in_virtual_time
async def test_innocent_events_are_never_taken_out_whoever_sent_what_kills(seed: int, holds: bool, hits: int) -> None:
    dice = random.Random(seed)
    sent = [[f"{name}{number}.{n}" for n in range(dice.choice([1, 4, 20]))] for name in "abc" for number in range(12)]
    everything = [event_id for ids in sent for event_id in ids]
    deadly = set(dice.sample(everything, dice.randrange(4)))
    world = World(seed, deadly, holds=holds, hits=hits)
    links = {name: world.link(name, Window(batches=3, join_events=0)) for name in "abc"}

    async def send(name: str) -> list[Refusal]:
        answers = []
        for ids in sent:
            if ids[0].startswith(name):
                answers.append(links[name].push_nowait(batch(*ids)))
                for _ in range(dice.randrange(30)):
                    await asyncio.sleep(0)
        return [refusal for receipt in await asyncio.gather(*answers) for refusal in receipt.refused]

    refused = [one for some in await asyncio.wait_for(asyncio.gather(*map(send, "abc")), 60) for one in some]
    assert {refusal.event_id for refusal in refused} == deadly == set(world.buried)
    assert {refusal.code for refusal in refused} <= {Code.POISON}
    assert {event_id for one in world.done for event_id in one.ids} == set(everything) - deadly
    assert world.deaths <= 12 * len(deadly) + 4
    await world.end()


@pytest.mark.parametrize("holds", [False, True])
@in_virtual_time
async def test_what_was_sent_in_pieces_has_one_identity_for_each_event_whatever_happens(holds: bool) -> None:
    world = World(1, {"07"}, holds=holds)
    one = batch(*(f"{number:02d}" for number in range(16)))
    one.identity = Identity("polku/lane-2/ingest", 5, 9)
    receipt = await asyncio.wait_for(world.link("link").push(one), 30)
    assert [refusal.event_id for refusal in receipt.refused] == ["07"]
    pieces = {piece.identity: piece.ids for piece in world.done}
    assert len(pieces) == len(world.done)
    for identity, ids in pieces.items():
        assert identity is not None
        whole, place = identity.place
        assert whole == Identity("polku/lane-2/ingest", 5, 9)
        assert place is not None
        assert ids == [f"{number:02d}" for number in place]
    await world.end()


@in_virtual_time
async def test_what_the_buffer_has_is_not_held_again_when_its_sender_dies_before_it_can_say_so() -> None:
    destination = Destination()
    bench = Bench(BufferStrategy.ring(100), {"a": destination})

    class Forwards(World):
        async def forward(self, batch: Batch) -> bool:
            await bench.push(batch)
            self.hits -= 1
            return self.hits >= 0

    world = Forwards(1, set(), hits=4)  # a death alone, after the first one, divides a batch; two more a piece of it
    receipt = await asyncio.wait_for(world.link("link").push(batch(*(f"{n:02d}" for n in range(9)))), 30)
    await bench.buffer.drain()
    assert receipt.refused == ()
    assert world.deaths == 4
    assert destination.ids == [f"{n:02d}" for n in range(9)]
    await world.end()


def test_the_piece_of_a_piece_is_named_by_its_place_in_the_whole() -> None:
    whole = Identity("p/ingest", 1, 2)
    piece = whole.piece(8, 4)
    assert (whole.place, piece.place) == ((whole, None), (whole, range(8, 12)))
    assert piece.piece(1, 2) == whole.piece(9, 2) != whole.piece(9, 3)
    assert piece.piece(1, 2).place == (whole, range(9, 11))


def test_what_is_made_of_a_piece_and_a_piece_of_that_have_names_of_their_own() -> None:
    whole = Identity("p/lane-1/ingest", 1, 2)
    made = whole.piece(8, 4).made("0f")
    piece = made.piece(1, 2)
    assert piece.place == (made, range(1, 3))
    assert made.place == (made, None)
    assert {one.whole for one in (whole, made, piece, piece.made("1e"), whole.made("0f"))} == {whole}
    assert len({whole, made, piece, whole.piece(9, 2), whole.made("0f"), whole.made("0f").piece(1, 2)}) == 6


@in_virtual_time
async def test_thousands_that_were_held_at_one_death_are_sent_again_at_once_in_their_order() -> None:
    world = World(3, set(), holds=True)
    world.within = 3_600
    world.random.randrange = lambda *_: 1_000_000  # type: ignore[method-assign]
    link = world.link("link", Window(batches=2, join_events=0))
    answers = [link.push_nowait(batch(str(number))) for number in range(2_000)]
    taken: list[None] = []
    link.notify(taken=lambda: taken.append(None))
    await until(lambda: len(taken) == 2_000)
    world.die(world.life)
    await until(lambda: len(taken) == 4_000)
    assert [one.ids for one, _ in world.life.held] == [[str(number)] for number in range(2_000)]
    world.random.randrange = lambda *_: 0  # type: ignore[method-assign]
    await world.life.flush(everything=True)
    assert {receipt.refused for receipt in await asyncio.gather(*answers)} == {()}
    await world.end()


@in_virtual_time
async def test_no_piece_of_what_kills_passes_a_batch_before_it_that_is_held_for_long() -> None:
    passed: list[tuple[str, bool]] = []  # what was worked on, and whether the first batch had been taken by then

    class HoldsForLong(Life):
        def __init__(self, world: World) -> None:
            super().__init__(world)
            self.has_first = False

        async def push(self, batch: Batch) -> Answer:
            if batch.ids == ["first"]:  # no flush hurries it, as where something outside is waited for
                self.has_first = True
                return Accepted(first)
            passed.append((batch.ids[0], self.has_first))
            await self.work(batch)
            return Receipt()

        async def flush(self, everything: bool) -> None:
            return None

    first: asyncio.Future[Receipt] = asyncio.get_running_loop().create_future()
    world = World(1, {"5"})
    world.begin = HoldsForLong
    world.life = HoldsForLong(world)
    link = world.link("link")
    answers = link.push_nowait(batch("first")), link.push_nowait(batch(*(str(n) for n in range(9))))
    refused = (await asyncio.wait_for(answers[1], 30)).refused
    first.set_result(Receipt())
    assert (await asyncio.wait_for(answers[0], 30)).refused == ()
    await world.end()
    assert [one.event_id for one in refused] == ["5"]
    assert [one for one, had_first in passed if not had_first] == []
    assert world.deaths > 3


async def until(reached: Callable[[], bool]) -> None:
    async with asyncio.timeout(30):
        while not reached():  # noqa: ASYNC110 - nobody tells
            await asyncio.sleep(0)
