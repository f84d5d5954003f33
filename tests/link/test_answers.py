"""Every push is answered, whatever the work on it ends with."""

from __future__ import annotations

import asyncio
import logging
import threading
from typing import NoReturn

import pytest

from polku import Batch, Event
from polku.aio import loop_thread
from polku.aio.eager import start_eagerly
from polku.aio.loops import new_event_loop
from polku.aio.sequencer import Sequencer
from polku.batch.receipt import Accepted, Answer, Receipt, Turn
from polku.contracts import Collecting
from polku.emit.collect import CollectingDelivery
from polku.emit.delivery import CollectionStatistics
from polku.errors import PolkuError, UserCodeError
from polku.gateway.intake import Intake
from polku.limits import Limits
from polku.link.link import Link, LinkStatistics, LocalPeer, Push, Window
from polku.link.local import LocalLink
from polku.link.receiver import LinkReceiver
from polku.v1.gateway_pb2 import EventPayload, IngestBatch, RawPayload
from tests.support.hostile import HOSTILE

pytestmark = pytest.mark.usefixtures("both_ways")


class Broken:
    """Take batches, and answer `Accepted` first if asked to; the ones called `bad` end with an exception."""

    def __init__(self, error: type[BaseException], *, accepts_first: bool = False, late: bool = True) -> None:
        self.error = error
        self.accepts_first = accepts_first
        self.late = late

    async def push(self, batch: Batch) -> Answer:
        return Accepted(start_eagerly(self._work(batch))) if self.accepts_first else await self._work(batch)

    async def _work(self, batch: Batch) -> Receipt:
        if self.late:
            await asyncio.sleep(0)
        if "bad" in batch.ids:
            raise self.error
        return Receipt()


def batch(event_id: str) -> Batch:
    return Batch.from_events([Event(id=event_id)])


def message(event_id: str) -> bytes:
    return IngestBatch(source="s", events=EventPayload(events=[Event(id=event_id)])).SerializeToString()


CASES = pytest.mark.parametrize(
    ("error", "accepts_first", "late"),
    [(error, accepts_first, late) for error in HOSTILE for accepts_first in (False, True) for late in (False, True)],
)


@CASES
async def test_a_link_answers_and_goes_on(error: type[BaseException], accepts_first: bool, late: bool) -> None:
    link = Link("link", LocalPeer(Broken(error, accepts_first=accepts_first, late=late)), window=Window(batches=1))
    async with asyncio.timeout(30):
        for _ in range(3):
            with pytest.raises(UserCodeError, match=error.__name__):
                await link.push(batch("bad"))
        assert await link.push(batch("good")) == Receipt()
        await link.drain()
    await link.close()


@CASES
async def test_an_inlet_answers_and_goes_on(error: type[BaseException], accepts_first: bool, late: bool) -> None:
    inlet = LinkReceiver(Broken(error, accepts_first=accepts_first, late=late))
    pushes = [Push("link", 1, seq, seq, 0) for seq in (1, 2)]
    answers = {}
    async with asyncio.timeout(30):
        for event_id, push in zip(("bad", "good"), pushes, strict=True):
            answers[event_id] = await outcome(inlet, push, batch(event_id))
    assert answers["good"] == Receipt()
    # A batch that failed before anybody asked for its outcome has to be pushed again.
    assert answers["bad"] == error.__name__ or (accepts_first and "is not known here" in str(answers["bad"]))


async def outcome(inlet: LinkReceiver, push: Push, given: Batch) -> Receipt | Turn | str:
    try:
        answer = await inlet.push(push, given)
        return await inlet.outcome(push) if isinstance(answer, Accepted) else answer
    except PolkuError as error:
        return str(error)


@CASES
async def test_a_neighbour_answers_and_goes_on(error: type[BaseException], accepts_first: bool, late: bool) -> None:
    neighbour = LocalLink("next", Broken(error, accepts_first=accepts_first, late=late))
    async with asyncio.timeout(30):
        with pytest.raises(UserCodeError, match=error.__name__):
            await neighbour.push_nowait(batch("bad"))
        assert await neighbour.push_nowait(batch("good")) == Receipt()


@CASES
async def test_an_intake_says_that_the_outcome_is_unknown(
    error: type[BaseException], accepts_first: bool, late: bool
) -> None:
    intake = Intake({}, None, Link("link", LocalPeer(Broken(error, accepts_first=accepts_first, late=late))), Limits())
    async with asyncio.timeout(30):
        ack = await intake.batch(message("bad"))
        assert [(e.event_id, e.code) for e in ack.errors] == [("bad", "UNAVAILABLE")]
        assert error.__name__ in ack.errors[0].message
        assert (await intake.batch(message("good"))).event_ids == ["good"]
        await intake.drain()
    seen = intake.statistics()
    assert (seen.messages, seen.received, seen.accepted, seen.refused, seen.open) == (2, 2, 1, 1, 0)


class Cancelled:
    """Be a link whose answers are cancelled."""

    def push_nowait(self, given: Batch) -> asyncio.Future[Receipt]:
        answer: asyncio.Future[Receipt] = asyncio.get_running_loop().create_future()
        asyncio.get_running_loop().call_soon(answer.cancel)
        return answer

    async def wait_backlog(self) -> None:
        pass

    def statistics(self) -> LinkStatistics:
        return LinkStatistics(2, 2, 0, 0, 0)


async def test_an_intake_answers_where_the_answer_was_cancelled() -> None:
    intake = Intake({}, None, Cancelled(), Limits(open_bytes=1))  # type: ignore[arg-type]
    async with asyncio.timeout(30):
        for _ in range(2):  # the second one needs the room of the first
            ack = await intake.batch(message("a"))
            assert [(e.event_id, e.code) for e in ack.errors] == [("a", "UNAVAILABLE")]
    assert intake.statistics().open == 0


@pytest.mark.parametrize("kind", ["sync", "async", "iterator"])
@pytest.mark.parametrize("error", HOSTILE)
async def test_an_ingestor_that_fails_costs_its_own_message(error: type[BaseException], kind: str) -> None:
    def fail() -> NoReturn:
        raise error

    async def fail_later() -> NoReturn:
        await asyncio.sleep(0)
        raise error

    class Reader:
        def ingest(self, data: bytes, context: object) -> object:
            if kind == "iterator":
                return (fail() for _ in range(1))
            return fail_later() if kind == "async" else fail()

    intake = Intake({"s": Reader()}, None, Link("link", LocalPeer(Broken(error))), Limits())  # type: ignore[dict-item]
    raw = IngestBatch(source="s", raw=RawPayload(data=b"x")).SerializeToString()
    async with asyncio.timeout(30):
        ack = await intake.batch(raw)
    assert [e.code for e in ack.errors] == ["INGESTOR_ERROR"]
    assert error.__name__ in ack.errors[0].message


@pytest.mark.parametrize("error", [*HOSTILE, RuntimeError])
async def test_raw_bytes_that_are_read_beside_a_stream_are_answered(
    error: type[BaseException], monkeypatch: pytest.MonkeyPatch
) -> None:
    class Reader:
        concurrency = 8

        async def ingest(self, data: bytes, context: object) -> list[Event]:
            return [Event(id="a")]

    async def fail(*given: object) -> None:
        raise error

    intake = Intake({"s": Reader()}, None, Link("link", LocalPeer(Broken(SystemExit))), Limits())
    raw = IngestBatch(source="s", raw=RawPayload(data=b"x")).SerializeToString()
    turns = Sequencer()
    with monkeypatch.context() as patch:
        patch.setattr(intake._streams, "_admit", fail)
        failing = await intake.begin(raw, turns)
        async with asyncio.timeout(30):
            ack = await failing
    assert [(e.code, error.__name__ in e.message) for e in ack.errors] == [("UNAVAILABLE", True)]
    async with asyncio.timeout(30):  # and its turn is over
        assert (await (await intake.begin(raw, turns))).event_ids == ["a"]


class Stuck:
    """Be an emitter that collects, whose call cannot even be made."""

    collecting = Collecting(10, 10_000, 3600.0, 100, 1_000_000)

    def __init__(self, error: type[BaseException]) -> None:
        self.error = error

    def group(self, event: Event) -> str:
        if event.id == "bad":
            raise self.error
        return "all"

    def emit(self, given: Batch) -> None:
        raise AssertionError


@pytest.mark.parametrize("error", HOSTILE)
async def test_an_event_whose_group_cannot_be_had_is_refused_alone(error: type[BaseException]) -> None:
    stuck = Stuck(error)
    collected = CollectingDelivery("stuck", stuck, stuck)
    answer = await collected.push(Batch.from_events([Event(id="bad")]))
    assert isinstance(answer, Accepted)
    assert [(r.event_id, r.message) for r in (await answer.outcome()).refused] == [("bad", error.__name__)]


async def test_a_group_that_cannot_be_delivered_is_answered(monkeypatch: pytest.MonkeyPatch) -> None:
    stuck = Stuck(SystemExit)
    collected = CollectingDelivery("stuck", stuck, stuck)

    async def deliver(given: Batch) -> Receipt:
        raise SystemExit

    monkeypatch.setattr(collected, "deliver", deliver)
    answers = [await collected.push(batch(event_id)) for event_id in "ab"]
    await collected.flush(True)
    async with asyncio.timeout(30):
        for answer in answers:
            assert isinstance(answer, Accepted)
            with pytest.raises(PolkuError, match="SystemExit"):
                await answer.outcome()
    assert collected.statistics().collection == CollectionStatistics(0, 0, 0, 1, 3600.0)


@pytest.mark.parametrize("error", [SystemExit, KeyboardInterrupt])
def test_the_loop_of_pipelines_survives_what_a_task_of_user_code_raises(
    error: type[BaseException], caplog: pytest.LogCaptureFixture
) -> None:
    async def fail() -> None:
        raise error

    async def spawn() -> str:
        task = asyncio.ensure_future(fail())
        await asyncio.wait([task])
        return "still here"

    loop = new_event_loop()
    ended = threading.Event()
    thread = threading.Thread(target=loop_thread.run, args=(loop, ended.is_set), daemon=True)
    thread.start()
    with caplog.at_level(logging.ERROR):
        assert asyncio.run_coroutine_threadsafe(spawn(), loop).result(30) == "still here"
    assert error.__name__ in caplog.text
    ended.set()
    loop.call_soon_threadsafe(loop.stop)
    thread.join(30)
    assert not thread.is_alive()
    loop.close()


@pytest.mark.parametrize("error", HOSTILE)
def test_what_is_submitted_to_the_loop_of_pipelines_fails_with_an_error_of_ours(error: type[BaseException]) -> None:
    async def fail() -> None:
        raise error

    with pytest.raises(UserCodeError, match=error.__name__):
        loop_thread.submit(fail()).result(30)
