"""Messages that are larger than most go on in pieces: others have their turn, and nothing else is different."""

from __future__ import annotations

import asyncio
import random
import zlib
from collections.abc import Callable
from typing import Any

import pytest
from backports import zstd
from hypothesis import given
from hypothesis import strategies as st

from polku import Code, Event
from polku.aio.sequencer import Sequencer
from polku.aio.slices import at_once, in_slices
from polku.batch.batch import Batch
from polku.batch.frames import split_frames
from polku.batch.receipt import Receipt, Refusal, joining
from polku.errors import InputError
from polku.gateway import large
from polku.gateway.admission import admit_payload
from polku.gateway.intake import Intake
from polku.gateway.large import PIECE_EVENTS, admit_frames
from polku.gateway.requests import Large, parse_request
from polku.limits import Limits
from polku.link.link import Link, LocalPeer
from polku.rpc.messages import Packed, unpack, unpacking
from polku.rpc.status import CallError
from polku.v1.gateway_pb2 import Ack, EventPayload, IngestBatch, IngestEvent, RawPayload
from tests.support.examples import examples

LIMITS = Limits()
GZIP = zlib.compressobj(1, zlib.DEFLATED, 31)


class Taking:
    """Take batches, refuse the events called so, and count how often others had their turn between two."""

    def __init__(self) -> None:
        self.batches: list[Batch] = []
        self.turns: list[int] = []
        self.turn = 0

    async def push(self, batch: Batch) -> Receipt:
        self.batches.append(batch)
        self.turns.append(self.turn)
        bad = [place for place, event in enumerate(batch) if event.event_type == "bad"]
        fates = tuple((place, "filtered", 1) for place in bad) if batch.wants_fates else ()
        refused = tuple(Refusal(batch.events[place].id, Code.UNROUTABLE, "no", position=place) for place in bad)
        return Receipt(refused=refused, buffer_size=len(self.batches), fates=fates)

    async def others(self) -> None:
        while True:
            self.turn += 1
            await asyncio.sleep(0)


def events(count: int, **fields: Any) -> list[Event]:
    return [Event(**{"id": f"e{n}", "event_type": "bad" if n % 700 == 699 else "t", **fields}) for n in range(count)]


async def through(taking: Taking, call: Callable[[Intake], Any], limits: Limits = LIMITS) -> Ack:
    """Have an intake take something while others have their turns; return the Ack."""
    intake = Intake({}, None, Link("link", LocalPeer(taking), eager=True), limits)
    others = asyncio.ensure_future(taking.others())
    await asyncio.sleep(0)
    try:
        ack: Ack = await call(intake)
        assert (intake.statistics().open, intake.statistics().open_bytes) == (0, 0)
        return ack
    finally:
        others.cancel()
        await intake.close()


def stream(message: bytes) -> Callable[[Intake], Any]:
    async def call(intake: Intake) -> Ack:
        return await (await intake.begin(message, Sequencer()))

    return call


def unary(message: bytes) -> Callable[[Intake], Any]:
    return lambda intake: intake.event(message)


PAYLOAD = EventPayload(events=events(4_000))
WAYS = {
    "stream": stream(IngestBatch(source="s", events=PAYLOAD).SerializeToString()),
    "stream, with a cluster": stream(IngestBatch(source="s", cluster="c", events=PAYLOAD).SerializeToString()),
    "call": unary(IngestEvent(source="s", events=PAYLOAD).SerializeToString()),
    "call, in two halves": unary(
        IngestEvent(source="s", events=EventPayload(events=PAYLOAD.events[:1_000])).SerializeToString()
        + IngestEvent(events=EventPayload(events=PAYLOAD.events[1_000:])).SerializeToString()
    ),
}


@pytest.mark.parametrize("way", WAYS)
async def test_a_large_message_is_taken_in_pieces_and_answered_as_one(way: str) -> None:
    taking = Taking()
    ack = await through(taking, WAYS[way])
    bad = {f"e{n}" for n in range(699, 4_000, 700)}
    assert list(ack.event_ids) == [event.id for event in PAYLOAD.events if event.id not in bad]
    assert {(error.event_id, error.code) for error in ack.errors} == {(name, "UNROUTABLE") for name in bad}
    assert [event.id for batch in taking.batches for event in batch] == [event.id for event in PAYLOAD.events]
    assert max(map(len, taking.batches)) <= PIECE_EVENTS
    assert len(set(taking.turns)) == len(taking.batches) == 8
    if "call" in way:
        stats = ack.middleware_stats
        assert (stats.total_received, stats.filtered_count) == (4_000, len(bad))


async def test_what_most_clients_send_goes_on_whole_at_once() -> None:
    taking = Taking()
    await through(taking, stream(IngestBatch(events=EventPayload(events=events(1_000))).SerializeToString()))
    assert ([len(batch) for batch in taking.batches], taking.turns) == ([1_000], [1])


async def test_a_few_events_of_many_bytes_are_cut_too() -> None:
    taking = Taking()
    large_events = events(30, payload=bytes(100_000))
    await through(taking, stream(IngestBatch(events=EventPayload(events=large_events)).SerializeToString()))
    assert [len(batch) for batch in taking.batches] == [1] * 30


async def test_raw_bytes_with_many_events_leave_in_pieces() -> None:
    from polku.ingest import PassthroughIngestor

    taking = Taking()
    intake = Intake({"polku": PassthroughIngestor()}, None, Link("link", LocalPeer(taking), eager=True), LIMITS)
    raw = RawPayload(data=PAYLOAD.SerializeToString())
    ack = await (await intake.begin(IngestBatch(source="polku", raw=raw).SerializeToString(), Sequencer()))
    assert len(ack.event_ids) + len(ack.errors) == 4_000
    assert [len(batch) for batch in taking.batches] == [PIECE_EVENTS] * 8
    await intake.close()


async def test_batches_of_a_stream_keep_their_order_behind_a_large_one() -> None:
    taking = Taking()
    intake = Intake({}, None, Link("link", LocalPeer(taking), eager=True), LIMITS)
    turns = Sequencer()
    first = await intake.begin(WAYS_MESSAGE, turns)
    second = await intake.begin(IngestBatch(events=EventPayload(events=[Event(id="last")])).SerializeToString(), turns)
    await asyncio.gather(first, second)
    assert [event.id for batch in taking.batches for event in batch][-1] == "last"
    await intake.close()


WAYS_MESSAGE = IngestBatch(source="s", events=PAYLOAD).SerializeToString()


async def test_all_of_a_large_message_counts_as_in_flight_while_it_is_taken() -> None:
    intake = Intake({}, None, Link("link", LocalPeer(Taking()), eager=True), Limits(open_bytes=100_000))
    taking = asyncio.ensure_future(intake.begin(WAYS_MESSAGE))
    await asyncio.sleep(0)
    assert not taking.done()
    assert intake.statistics().open_bytes >= len(WAYS_MESSAGE)
    with pytest.raises(InputError, match="under way already"):
        await intake.event(IngestEvent(event=Event(id="other", payload=bytes(90_000))).SerializeToString())
    await (await taking)
    assert intake.statistics().open_bytes == 0
    await intake.close()


@examples(60)
@given(st.lists(st.tuples(st.sampled_from(["", "a", "b", "c", "d"]), st.booleans()), max_size=12), st.booleans())
def test_pieces_are_admitted_as_the_whole_is(drawn: list[tuple[str, bool]], has_cluster: bool) -> None:
    payload = b"".join(
        EventPayload(
            events=[Event(id=event_id, source="s", timestamp_unix_ns=1, event_type="t" * (300 if is_bad else 1))]
        ).SerializeToString()
        for event_id, is_bad in drawn
    )
    cluster = "c" if has_cluster else ""
    whole = admit_payload(payload, "s", cluster, LIMITS)
    kept, large.PIECE_EVENTS = large.PIECE_EVENTS, 3
    try:
        pieces = asyncio.run(admit_frames(split_frames(payload), "s", cluster, LIMITS, None))
    finally:
        large.PIECE_EVENTS = kept
    assert pieces.refused == whole.refused
    assert [event_id for event_id in pieces.ids if len(event_id) == 1] == [i for i in whole.ids if len(i) == 1]
    assert len(pieces.ids) == len(whole.ids) == len(pieces.batch) == sum(map(len, pieces.pieces))


def test_the_receipts_of_pieces_make_that_of_the_whole() -> None:
    first = Receipt(refused=(Refusal("b", Code.UNROUTABLE, "no", position=1),), buffer_size=1)
    second = Receipt(refused=(Refusal("c", Code.UNROUTABLE, "no", position=0),), buffer_size=2, fates=((1, "x", 1),))
    whole = at_once(joining([(2, first), (3, second)]))
    assert [(refusal.event_id, refusal.position) for refusal in whole.refused] == [("b", 1), ("c", 2)]
    assert (whole.fates, whole.buffer_size) == (((3, "x", 1),), 2)


MANY = {
    "metadata": (b"".join(b"*\x08\n\x04%04x\x12\x00" % n for n in range(20_000)), Code.METADATA_LIMIT, "metadata has"),
    "routes": (b":\x01a" * 50_000, Code.INVALID_EVENT, "route_to has"),
    "fields": (b"P\x01" * 50_000, Code.INVALID_EVENT, "fields"),
}


@pytest.mark.parametrize("what", MANY)
def test_an_event_of_too_many_fields_is_refused_before_it_is_decoded(what: str) -> None:
    more, code, fault = MANY[what]
    monster = Event(id="monster").SerializeToString() + more
    payload = b"".join([b"\x0a\x03\n\x01a", large_frame(monster), b"\x0a\x03\n\x01b"])
    admission = admit_payload(payload, "s", "", LIMITS)
    assert (admission.ids, [(refusal.event_id, refusal.code) for refusal in admission.refused]) == (
        ["a", "b"],
        [("monster", code)],
    )
    assert fault in admission.refused[0].message
    assert admission.refused[0].message.startswith("events[1].")
    with pytest.raises(InputError, match=fault):
        parse_request(IngestEvent(source="s").SerializeToString() + b"\x22" + large_frame(monster)[1:], LIMITS)


def large_frame(event: bytes) -> bytes:
    """Return an event as it stands in an `EventPayload`."""
    size, head = len(event), bytearray(b"\x0a")
    while size > 127:
        head.append(size & 127 | 128)
        size >>= 7
    return bytes([*head, size]) + event


def test_a_large_event_with_a_usual_number_of_fields_is_taken() -> None:
    event = Event(id="e", payload=bytes(1_000_000), metadata={str(n): "" for n in range(LIMITS.metadata_entries)})
    request = parse_request(IngestEvent(source="s", event=event).SerializeToString(), LIMITS)
    assert isinstance(request, IngestEvent)
    assert request.event == event


def test_a_request_with_fields_that_are_not_known_is_read_all_the_same() -> None:
    few = IngestEvent(source="s", event=Event(id="e", payload=bytes(4_000))).SerializeToString() + b"\x78\x01"
    assert isinstance(parse_request(few, LIMITS), IngestEvent)
    many = parse_request(IngestEvent(source="s", events=PAYLOAD).SerializeToString() + b"\x78\x01", LIMITS)
    assert isinstance(many, Large)
    assert (many.source, list(many.frames)) == ("s", split_frames(PAYLOAD.SerializeToString()))


PACK = {"gzip": lambda data: zlib.compress(data, 1, 31), "zstd": zstd.compress}


@pytest.mark.parametrize("encoding", PACK)
@pytest.mark.parametrize("size", [0, 1, 65_536, 262_145, 3_000_000])
async def test_steps_of_decompression_make_what_was_compressed(encoding: str, size: int) -> None:
    for data in (bytes(size), random.Random(1).randbytes(size)):
        packed = PACK[encoding](data)
        assert unpack(packed, size) == data
        assert len(unpack(packed, size - 1)) == size if size else True
        assert await in_slices(unpacking(packed, size)) == data
        assert sum(1 for _ in unpacking(packed, size)) <= size // 262_144
        if size:
            with pytest.raises(CallError, match=r"too early|not valid"):
                unpack(packed[:-1], size)


async def test_compressed_messages_are_decompressed_one_at_a_time() -> None:
    """Else a thousand streams of a few kilobytes each would take 4 MiB each at once."""
    batch = IngestBatch(events=EventPayload(events=[Event(payload=bytes(3_000_000))])).SerializeToString()
    packed = Packed(zlib.compress(batch, 9, 31))
    intake = Intake({}, None, Link("link", LocalPeer(Taking()), eager=True), LIMITS)
    begun = [asyncio.ensure_future(intake.begin(packed)) for _ in range(5)]
    done = []
    while not all(task.done() for task in begun):
        await asyncio.sleep(0)
        done.append(sum(task.done() for task in begun))
    assert set(range(1, 5)) <= set(done)
    for task in begun:
        await (await task)
    await intake.close()
