"""A letter leaves its file when its event is safe elsewhere; what found no room is tried again; each for itself."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator, Sequence
from itertools import pairwise
from pathlib import Path

import pytest

from polku import BufferStrategy, Code, Refusal
from polku.batch.batch import Identity
from polku.dead_letters import replay
from polku.dead_letters.disk import StoredDeadLetters
from polku.dead_letters.replay import to_intake, to_outlet
from polku.dead_letters.store import DeadLetterStore, Marked, Selection
from polku.errors import JournalError
from polku.v1.gateway_pb2 import Ack, AckError, IngestBatch
from tests.buffer.parts import Bench, Destination, batch
from tests.dead_letters.letters import found, ids, letter, wait_for


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

    async def send(self, marked: Marked, identity: Identity) -> Sequence[Refusal]:
        self.tries.append((marked.letter.event_id, identity))
        answer: asyncio.Future[Sequence[Refusal]] = asyncio.get_running_loop().create_future()
        self.answers.setdefault(marked.letter.event_id, []).append(answer)
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

    async def send(marked: Marked, identity: Identity) -> Sequence[Refusal]:
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


async def test_a_letter_does_not_go_because_another_event_of_its_id_has_died_again(
    letters: StoredDeadLetters, store: DeadLetterStore
) -> None:
    other = letter("a", "", "UNROUTABLE", payload=b"other")

    async def send(marked: Marked, identity: Identity) -> Sequence[Refusal]:
        if marked.letter.code == "INVALID_EVENT":  # refused at the gateway, which leaves no letter
            return [Refusal("a", Code.INVALID_EVENT, "bad")]
        store.add([other])
        return [Refusal("a", Code.UNROUTABLE, "nowhere")]

    store.add([letter("a", "", "INVALID_EVENT", payload=b"bad"), other])
    store.mark(Selection())
    letters.replay(send, [""])
    await wait_for(lambda: not any(one.replay for one in found(store)))
    assert [one.code for one in found(store)] == ["INVALID_EVENT", "UNROUTABLE"]


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
    refused = AckError(event_id="a", code=Code.METADATA_LIMIT, message="too long")
    answers = [Ack(errors=[refused]), Ack(event_ids=["a"])]
    taken: list[IngestBatch] = []

    async def take(message: bytes) -> Ack:
        taken.append(IngestBatch.FromString(message))
        return answers[len(taken) - 1]

    store.add([letter("a", "")])
    store.mark(Selection())
    letters.replay(to_intake(take), [""])
    await wait_for(lambda: found(store)[0].reason == "its replay was refused: METADATA_LIMIT: too long")
    await asyncio.sleep(0.05)
    assert len(taken) == 1
    store.mark(Selection())
    await wait_for(lambda: not ids(store))
    assert [message.events.events[0].id for message in taken] == ["a", "a"]


async def test_a_full_share_refuses_a_replay_only_while_it_is_full(
    letters: StoredDeadLetters, store: DeadLetterStore
) -> None:
    sink = Destination(is_open=False)
    bench = Bench(BufferStrategy.ring(2, overflow="drop_newest"), {"sink": sink})
    await bench.push(batch("busy-1"))
    await bench.push(batch("busy-2"))
    store.add([letter("a")])
    store.mark(Selection())
    letters.replay(to_outlet(bench.buffer.push), ["sink"])
    await wait_for(lambda: bench.buffer.statistics().overflowed > 1)
    sink.gate.set()
    await wait_for(lambda: not ids(store))
    await bench.buffer.drain()
    assert sink.ids == ["busy-1", "busy-2", "a"]
    await bench.buffer.close()


async def test_where_deliveries_are_awaited_a_letter_waits_for_its_own(
    letters: StoredDeadLetters, store: DeadLetterStore
) -> None:
    sink = Destination(is_open=False)
    bench = Bench(BufferStrategy.ring(10), {"sink": sink}, await_delivery=True)
    store.add([letter("a")])
    store.mark(Selection())
    letters.replay(to_outlet(bench.buffer.push), ["sink"])
    await wait_for(lambda: sink.calls == 1)
    await asyncio.sleep(0.05)
    assert ids(store) == ["a"]
    sink.gate.set()
    await wait_for(lambda: not ids(store))
    assert sink.ids == ["a"]
    await bench.buffer.close()
