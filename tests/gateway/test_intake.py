"""What was taken counts as in flight until it is discharged, whoever still waits for it and whoever reads it first."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Awaitable, Callable

import pytest

from polku import Event, JsonIngestor, new_event
from polku.aio.sequencer import Sequencer
from polku.batch.batch import Batch
from polku.batch.receipt import Receipt, Refusal
from polku.clock import SystemClock
from polku.codes import Code
from polku.contracts import IngestContext
from polku.errors import InputError
from polku.gateway import ingestors
from polku.gateway.admission import admit_events
from polku.gateway.intake import Intake
from polku.ingest.adapt import as_ingestor
from polku.limits import Limits
from polku.link.link import Link, LocalPeer
from polku.log import RepeatedLog
from polku.v1.gateway_pb2 import Ack, IngestBatch, IngestEvent, RawPayload


class Stuck:
    """Take batches and answer when the test says so."""

    def __init__(self, *, is_open: bool = False) -> None:
        self.go_on = asyncio.Event()
        if is_open:
            self.go_on.set()

    async def push(self, batch: Batch) -> Receipt:
        await self.go_on.wait()
        return Receipt()


def request(event: Event) -> bytes:
    return IngestEvent(source="test", event=event).SerializeToString()


async def test_a_client_that_leaves_takes_nothing_back() -> None:
    stuck = Stuck()
    message = request(new_event("user.login", source="test"))
    intake = Intake({}, None, Link("link", LocalPeer(stuck)), Limits(open_bytes=3 * len(message)))
    for left in range(1, 4):
        call = asyncio.create_task(intake.event(message))
        await asyncio.sleep(0)
        call.cancel()
        with pytest.raises(asyncio.CancelledError):
            await call
        assert intake.statistics().open == left
    with pytest.raises(InputError, match="under way already"):
        await intake.event(message)
    stuck.go_on.set()
    await intake.drain()
    assert (intake.statistics().open, intake.statistics().accepted) == (0, 3)
    assert (await intake.event(message)).event_ids
    await intake.close()


class Reading:
    """Read payloads when the test says so."""

    sources = ("test",)

    def __init__(self) -> None:
        self.go_on = asyncio.Event()

    async def ingest(self, data: bytes, context: IngestContext) -> list[Event]:
        await self.go_on.wait()
        return [new_event("user.login", source="test", payload=data)]


Call = Callable[[Intake], Awaitable[Ack]]
BODY = b"." * 100
UNARY = IngestEvent(source="test", raw=BODY).SerializeToString()
STREAMED = IngestBatch(source="test", raw=RawPayload(data=BODY)).SerializeToString()


def of_http(intake: Intake) -> Awaitable[Ack]:
    return intake.request(len(BODY), lambda: intake.admit_raw(BODY, IngestContext("test", "", ""), "test"))


CALLS: dict[str, Call] = {
    "unary": lambda intake: intake.event(UNARY),
    "http": of_http,
    "streamed": lambda intake: intake.batch(STREAMED),
}


@pytest.mark.parametrize("first", CALLS.values(), ids=CALLS.keys())
async def test_bytes_count_as_in_flight_while_an_ingestor_reads_them(first: Call) -> None:
    reading = Reading()
    intake = Intake({"test": reading}, None, Link("link", LocalPeer(Stuck(is_open=True))), Limits(open_bytes=150))
    call = asyncio.ensure_future(first(intake))
    await asyncio.sleep(0)
    for another in (CALLS["unary"], CALLS["http"]):
        with pytest.raises(InputError, match="under way already"):
            await another(intake)
    waiting = asyncio.ensure_future(CALLS["streamed"](intake))  # a stream waits for room
    await asyncio.sleep(0)
    assert intake.statistics().messages == 3
    reading.go_on.set()
    assert [len(ack.event_ids) for ack in await asyncio.gather(call, waiting)] == [1, 1]
    assert (await intake.event(UNARY)).event_ids, "nothing is counted any more"
    await intake.close()


@pytest.mark.parametrize("call", CALLS.values(), ids=CALLS.keys())
async def test_bytes_that_an_ingestor_could_not_read_count_no_longer(call: Call) -> None:
    class Fails:
        def ingest(self, data: bytes, context: IngestContext) -> list[Event]:
            raise ValueError("not today")

    intake = Intake({"test": Fails()}, None, Link("link", LocalPeer(Stuck(is_open=True))), Limits(open_bytes=150))
    for _ in range(3):
        with contextlib.suppress(InputError):
            await call(intake)
    assert (await intake.event(request(new_event("user.login", source="test", payload=BODY)))).event_ids
    await intake.close()


async def test_others_have_their_turn_while_json_is_read() -> None:

    intake = Intake({"json": JsonIngestor()}, None, Link("link", LocalPeer(Stuck(is_open=True))), Limits())
    large = b"\n".join(b'{"id":"%d"}' % number for number in range(2_000))
    order: list[str] = []

    async def send(name: str, data: bytes) -> None:
        ack = await intake.event(IngestEvent(source="json", raw=data).SerializeToString())
        assert not ack.errors
        order.append(name)

    await asyncio.gather(send("large", large), send("small", b'{"id":"a"}'))
    assert order == ["small", "large"]
    await intake.close()


async def test_the_batches_of_a_stream_of_json_keep_their_order() -> None:
    peer = Stuck(is_open=True)
    intake = Intake({"json": JsonIngestor()}, None, Link("link", LocalPeer(peer)), Limits())
    large = b"\n".join(b'{"id":"%d"}' % number for number in range(500))
    answers = [
        await intake.begin(IngestBatch(source="json", raw=RawPayload(data=data)).SerializeToString(), Sequencer())
        for data in (large, b'{"id":"last"}')
    ]
    assert [len((await answer).event_ids) for answer in answers] == [500, 1]
    await intake.close()


async def test_an_ingestor_that_fails_is_in_the_log_once_however_many_sources_call(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ingestors, "_REPEATED", RepeatedLog(logging.getLogger("polku.gateway.ingestors")))

    def unready(data: bytes, context: IngestContext) -> list[Event]:
        raise ValueError(context.source)

    intake = Intake({}, as_ingestor(unready, SystemClock()), Link("link", LocalPeer(Stuck(is_open=True))), Limits())
    for number in range(100):
        with pytest.raises(InputError):
            await intake.event(IngestEvent(source=f"source {number}", raw=b"x").SerializeToString())
    assert len(caplog.records) == 1
    await intake.close()


class Refuses:
    """Refuse the event at one place of every batch, under a name of its own."""

    def __init__(self, position: int, name: str) -> None:
        self.batches: list[Batch] = []
        self._refusal = Refusal(name, Code.UNDELIVERED, "no such account", position=position)

    async def push(self, batch: Batch) -> Receipt:
        self.batches.append(batch)
        return Receipt((self._refusal,))


async def test_two_clients_with_the_same_ids_hear_each_of_its_own_events() -> None:
    destination = Refuses(3, "b")
    intake = Intake({}, None, Link("link", LocalPeer(destination)), Limits())
    requests = [
        admit_events([new_event("x", id=event_id, source=source) for event_id in "ab"], source, "", Limits())
        for source in ("shop", "stranger")
    ]
    shop, stranger = await intake.together(requests, 100)
    assert [len(batch) for batch in destination.batches] == [4]
    assert (list(shop.event_ids), list(shop.errors)) == (["a", "b"], [])
    assert (list(stranger.event_ids), [error.event_id for error in stranger.errors]) == (["a"], ["b"])
    await intake.close()


async def test_a_client_hears_of_its_event_by_its_own_id_and_what_it_was_called_when_it_was_refused() -> None:
    intake = Intake({}, None, Link("link", LocalPeer(Refuses(0, "new"))), Limits())
    ack = await intake.event(request(new_event("x", id="old", source="test")))
    assert list(ack.event_ids) == []
    (error,) = ack.errors
    assert (error.event_id, error.code) == ("old", "UNDELIVERED")
    assert error.message == "no such account (it was event 'new' by then)"
    await intake.close()
