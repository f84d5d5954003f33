"""A letter leaves its file when its event is safe elsewhere; what found no room is tried again; each for itself."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator, Sequence
from itertools import pairwise
from pathlib import Path

import pytest

from polku import BufferStrategy, Code, Deduplicator, Event, Refusal, Transform
from polku.batch.batch import Identity
from polku.dead_letters import replay
from polku.dead_letters.disk import StoredDeadLetters
from polku.dead_letters.replay import to_intake, to_outlet
from polku.dead_letters.store import DeadLetterStore, Letter, Selection, as_event
from polku.errors import JournalError
from polku.gateway.intake import Intake
from polku.limits import Limits
from polku.link.link import Link, LocalPeer
from polku.middleware.adapt import as_step
from polku.stage.stage import Stage
from tests.buffer.durable import durable
from tests.buffer.parts import Bench, Destination, batch
from tests.dead_letters.letters import found, ids, letter, wait_for
from tests.support.clock import FakeClock


@pytest.fixture(autouse=True)
def soon(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(replay, "_LOOK", 0.01)


@pytest.fixture
async def letters(tmp_path: Path) -> AsyncIterator[StoredDeadLetters]:
    letters = StoredDeadLetters(str(tmp_path / "dead.db"), 1_000, 1_000_000)
    yield letters
    await letters.close()


@pytest.fixture
def store(tmp_path: Path) -> Iterator[DeadLetterStore]:
    store = DeadLetterStore(tmp_path / "dead.db")
    yield store
    store.close()


class Pipeline:
    """Take replays, and answer them as a test says."""

    def __init__(self) -> None:
        self.tries: list[tuple[str, Identity]] = []
        self.answers: dict[str, list[asyncio.Future[Sequence[Refusal]]]] = {}

    async def send(self, letter: Letter, identity: Identity) -> Sequence[Refusal]:
        self.tries.append((letter.event_id, identity))
        answer: asyncio.Future[Sequence[Refusal]] = asyncio.get_running_loop().create_future()
        self.answers.setdefault(letter.event_id, []).append(answer)
        return await answer

    async def tried(self, event_id: str, times: int = 1) -> asyncio.Future[Sequence[Refusal]]:
        await wait_for(lambda: len(self.answers.get(event_id, [])) == times)
        return self.answers[event_id][-1]


async def test_a_letter_stays_until_its_event_is_answered(letters: StoredDeadLetters, store: DeadLetterStore) -> None:
    pipeline = Pipeline()
    store.add([letter("a"), letter("b")])
    store.mark(Selection())
    letters.replay(pipeline.send, ["sink"])
    a, b = await pipeline.tried("a"), await pipeline.tried("b")
    b.set_result([])
    await asyncio.sleep(0.05)
    assert ids(store) == ["a", "b"]
    a.set_result([])
    await wait_for(lambda: not ids(store))
    assert len(pipeline.tries) == 2


async def test_what_found_no_room_is_tried_again_as_another_attempt(
    letters: StoredDeadLetters, store: DeadLetterStore
) -> None:
    pipeline = Pipeline()
    store.add([letter("a")])
    store.mark(Selection())
    letters.replay(pipeline.send, ["sink"])
    (await pipeline.tried("a")).set_result([Refusal("a", Code.BUFFER_FULL, "full")])
    (await pipeline.tried("a", 2)).set_result([])
    await wait_for(lambda: not ids(store))
    first, second = (identity for _, identity in pipeline.tries)
    assert first.origin == second.origin
    assert first.seq != second.seq


async def test_letters_that_find_no_room_again_and_again_are_tried_ever_more_rarely(
    letters: StoredDeadLetters, store: DeadLetterStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    loop = asyncio.get_running_loop()
    monkeypatch.setattr(replay, "_LOOK", 0.001)
    tries: list[float] = []

    async def send(letter: Letter, identity: Identity) -> Sequence[Refusal]:
        tries.append(loop.time())
        return [Refusal("a", Code.BUFFER_FULL, "full")] if len(tries) < 8 else []

    store.add([letter("a")])
    store.mark(Selection())
    letters.replay(send, ["sink"])
    await wait_for(lambda: not ids(store))
    pauses = [later - earlier for earlier, later in pairwise(tries)]
    assert all(pause >= 0.001 * 2**number for number, pause in enumerate(pauses))


async def test_an_attempt_whose_outcome_is_not_known_is_made_again_under_its_own_name(
    letters: StoredDeadLetters, store: DeadLetterStore
) -> None:
    pipeline = Pipeline()
    store.add([letter("a")])
    store.mark(Selection())
    letters.replay(pipeline.send, ["sink"])
    (await pipeline.tried("a")).set_exception(JournalError("x", "the disk\n is away"))
    await pipeline.tried("a", 2)
    assert "replaying to sink: JournalError: journal x: the disk\\n is away" in letters.statistics().fault
    pipeline.answers["a"][-1].set_result([])
    await wait_for(lambda: not ids(store))
    await wait_for(lambda: letters.statistics().fault == "")
    assert pipeline.tries[0] == pipeline.tries[1]


async def test_a_letter_does_not_go_because_another_event_of_its_id_has_died(
    letters: StoredDeadLetters, store: DeadLetterStore
) -> None:
    async def send(letter_: Letter, identity: Identity) -> Sequence[Refusal]:
        store.add([letter("a", "", "UNROUTABLE", payload=b"another event, which some client sends")])
        return [Refusal("a", Code.INVALID_EVENT, "refused at the gateway, which leaves no letter")]

    store.add([letter("a", "", "INVALID_EVENT", payload=b"bad")])
    store.mark(Selection())
    letters.replay(send, [""])
    await wait_for(lambda: not any(one.replay for one in found(store)))
    assert [one.code for one in found(store)] == ["INVALID_EVENT", "UNROUTABLE"]


async def test_a_letter_goes_when_its_event_is_in_another_one_and_stays_when_it_died_as_before(
    letters: StoredDeadLetters, store: DeadLetterStore
) -> None:
    async def send(one: Letter, identity: Identity) -> Sequence[Refusal]:
        payload = b"changed" if one.event_id == "moves" else b""
        store.add([letter(one.event_id, "", payload=payload)])
        return [Refusal(one.event_id, Code.MIDDLEWARE_ERROR, "again", letter=True)]

    store.add([letter("moves", ""), letter("stays", "")])
    before = {one.event_id: one.id for one in found(store)}
    store.mark(Selection())
    letters.replay(send, [""])
    await wait_for(lambda: not any(one.replay for one in found(store)))
    left = {one.event_id: one for one in found(store)}
    assert left["stays"].id == before["stays"]
    assert left["moves"].id > before["moves"]
    assert as_event(left["moves"]).payload == b"changed"


async def test_what_a_replay_through_the_pipeline_leaves_is_told_by_its_place_and_not_by_its_id(
    letters: StoredDeadLetters, store: DeadLetterStore
) -> None:
    def change(event: Event) -> None:
        event.payload += b"!"

    def fail(event: Event) -> None:
        raise ValueError("cannot")

    clock = FakeClock()
    bench = Bench(BufferStrategy.ring(10), {"sink": Destination()})
    steps = [as_step(Transform(function), clock) for function in (change, fail)]
    stage = Stage(steps, Link("stage", LocalPeer(bench.buffer)), letters, clock)
    intake = Intake({}, None, Link("ingest", LocalPeer(stage)), Limits(message_bytes=90))
    store.add([letter("a", ""), letter("a", "", payload=b"too large for the gateway" * 9)])
    store.mark(Selection())
    letters.replay(to_intake(intake.replay), [""])
    await wait_for(lambda: not any(one.replay for one in found(store)))
    left = [(as_event(one).payload[:9], one.code, one.reason.partition(":")[0]) for one in found(store)]
    assert left == [
        (b"too large", "UNDELIVERED", "its replay was refused"),
        (b"!", "MIDDLEWARE_ERROR", "Transform(fail)"),
    ]


async def test_a_letter_stays_whose_replay_is_dropped_as_a_copy_of_its_own_event(
    letters: StoredDeadLetters, store: DeadLetterStore
) -> None:
    clock = FakeClock()
    bench = Bench(BufferStrategy.ring(10), {"sink": Destination()})
    stage = Stage([as_step(Deduplicator(ttl=60), clock)], Link("stage", LocalPeer(bench.buffer)), letters, clock)
    intake = Intake({}, None, Link("ingest", LocalPeer(stage)), Limits())
    lost = letter("a", "", "UNROUTABLE")
    assert await intake.replay(as_event(lost)) == ()
    store.add([lost])
    store.mark(Selection())
    letters.replay(to_intake(intake.replay), [""])
    await wait_for(lambda: "a Deduplicator has dropped it" in found(store)[0].reason)
    clock.advance(61)
    store.mark(Selection())
    await wait_for(lambda: not ids(store))


async def test_letters_of_an_emitter_that_is_stuck_or_gone_hold_up_no_others(
    letters: StoredDeadLetters, store: DeadLetterStore
) -> None:
    pipeline = Pipeline()
    store.add([letter(f"stuck-{n}", "stuck") for n in range(300)] + [letter(f"gone-{n}", "gone") for n in range(300)])
    store.add([letter("last", "sink")])
    store.mark(Selection())
    letters.replay(pipeline.send, ["stuck", "sink"])
    (await pipeline.tried("last")).set_result([])
    await wait_for(lambda: "last" not in ids(store))
    assert len(ids(store)) == 600
    assert not any(event_id.startswith("gone") for event_id, _ in pipeline.tries)
    assert letters.statistics().waiting == {"gone": 300}


async def test_a_replay_that_is_refused_for_good_waits_until_it_is_asked_for_again(
    letters: StoredDeadLetters, store: DeadLetterStore
) -> None:
    answers = [[Refusal("a", Code.METADATA_LIMIT, "too long")], []]
    taken: list[Event] = []

    async def take(event: Event) -> Sequence[Refusal]:
        taken.append(event)
        return answers[len(taken) - 1]

    store.add([letter("a", "")])
    store.mark(Selection())
    letters.replay(to_intake(take), [""])
    await wait_for(lambda: found(store)[0].reason == "its replay was refused: METADATA_LIMIT: too long")
    await asyncio.sleep(0.05)
    assert len(taken) == 1
    store.mark(Selection())
    await wait_for(lambda: not ids(store))
    assert [event.id for event in taken] == ["a", "a"]


async def test_at_the_end_a_letter_goes_whose_event_has_its_answer_and_the_others_stay(
    tmp_path: Path, store: DeadLetterStore
) -> None:
    letters, pipeline = StoredDeadLetters(str(tmp_path / "dead.db"), 1_000, 1_000_000), Pipeline()
    store.add([letter("a"), letter("b"), letter("c")])
    store.mark(Selection())
    letters.replay(pipeline.send, ["sink"])
    a, _, c = await pipeline.tried("a"), await pipeline.tried("b"), await pipeline.tried("c")
    a.set_result([])
    c.set_result([Refusal("c", Code.METADATA_LIMIT, "too long")])
    await letters.close()
    assert [(one.event_id, one.replay > 0) for one in found(store)] == [("b", True), ("c", False)]
    assert len(pipeline.tries) == 3


async def test_a_full_share_refuses_a_replay_only_while_it_is_full(
    letters: StoredDeadLetters, store: DeadLetterStore
) -> None:
    sink = Destination(is_open=False)
    bench = Bench(BufferStrategy.ring(2, overflow="drop_newest"), {"sink": sink})
    await bench.push(batch("busy-1"))
    await bench.push(batch("busy-2"))
    store.add([letter("a")])
    store.mark(Selection())
    letters.replay(to_outlet(bench.buffer.replay), ["sink"])
    await wait_for(lambda: bench.buffer.statistics().overflowed > 1)
    sink.gate.set()
    await wait_for(lambda: not ids(store))
    await bench.buffer.drain()
    assert sink.ids == ["busy-1", "busy-2", "a"]
    await bench.buffer.close()


@pytest.mark.parametrize("await_delivery", [False, True])
async def test_where_events_lie_in_memory_a_letter_stays_in_its_file_until_it_is_delivered(
    letters: StoredDeadLetters, store: DeadLetterStore, await_delivery: bool
) -> None:
    sink = Destination(is_open=False)
    bench = Bench(BufferStrategy.ring(10), {"sink": sink}, await_delivery=await_delivery)
    store.add([letter("a")])
    store.mark(Selection())
    letters.replay(to_outlet(bench.buffer.replay), ["sink"])
    await wait_for(lambda: sink.calls == 1)
    await asyncio.sleep(0.05)
    assert ids(store) == ["a"]
    sink.gate.set()
    await wait_for(lambda: not ids(store))
    assert sink.ids == ["a"]
    await bench.buffer.close()


async def test_where_events_lie_in_a_journal_a_letter_goes_once_it_is_written(
    letters: StoredDeadLetters, store: DeadLetterStore, tmp_path: Path
) -> None:
    sink = Destination(is_open=False)
    async with durable(tmp_path / "journal", {"sink": sink}) as bench:
        store.add([letter("a")])
        store.mark(Selection())
        letters.replay(to_outlet(bench.buffer.replay), ["sink"])
        await wait_for(lambda: not ids(store))
        assert sink.ids == []
        sink.gate.set()
        await wait_for(lambda: sink.ids == ["a"])
