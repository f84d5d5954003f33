"""An Ack is never larger than every client takes, and says of all events what became of them."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import grpc
import pytest

from polku import Batch, Code, Event, Hub, Validator
from polku.emit.grpc.ack import read_answer, read_failures
from polku.gateway.ack_size import LIMIT, bounded
from polku.gateway.http.answer import ack_json
from polku.v1.gateway_pb2 import Ack, AckError, EventPayload, IngestBatch, IngestEvent, MiddlewareStats
from tests.gateway.http_client import curl

REASON = "the document does not match the schema: " + "x" * 460


def errors(count: int, code: Code = Code.MIDDLEWARE_ERROR, message: str = REASON, start: int = 0) -> list[AckError]:
    return [AckError(event_id=f"event-{n:05}", code=code, message=message) for n in range(start, start + count)]


def wire(ack: Ack) -> Ack:
    data = bounded(ack).SerializeToString()
    assert len(data) <= LIMIT
    return Ack.FromString(data)


def as_json(ack: Ack) -> Ack:
    data = ack_json(ack)
    assert len(data) <= LIMIT
    fields = json.loads(data)
    return Ack(event_ids=fields["event_ids"], errors=[AckError(**error) for error in fields["errors"]])


both = pytest.mark.parametrize("send", [wire, as_json])
Send = Callable[[Ack], Ack]


def test_what_fits_stays_as_it_is() -> None:
    ack = Ack(event_ids=["a"], errors=errors(1_000), buffer_size=3)
    assert bounded(ack) is ack


@both
def test_what_does_not_fit_is_summed_up_and_the_first_ones_are_named(send: Send) -> None:
    ack = send(Ack(event_ids=["good"], errors=errors(10_000), buffer_size=3))
    *named, rest = ack.errors
    assert list(ack.event_ids) == ["good"]
    assert [error.event_id for error in named] == [f"event-{n:05}" for n in range(len(named))]
    assert all(error.message == REASON for error in named)
    first = ", ".join(f"event-{n:05}" for n in range(len(named), len(named) + 3))
    assert rest.message.startswith(f"… and {10_000 - len(named):,} more ({first}, …): the document does not match")
    assert (rest.event_id, rest.code) == ("", Code.MIDDLEWARE_ERROR)
    assert len(named) > 1_000


@both
def test_each_code_is_summed_up_for_itself(send: Send) -> None:
    full = errors(3, Code.BUFFER_FULL, "full", start=9_000)
    ack = send(Ack(errors=[*errors(5_000), *full, *errors(1_000, start=5_000)]))
    rest = {error.code: error.message for error in ack.errors if not error.event_id}
    assert rest.keys() == {Code.MIDDLEWARE_ERROR, Code.BUFFER_FULL}
    assert rest[Code.BUFFER_FULL] == "… and 3 more (event-09000, event-09001, event-09002): full"


@both
def test_one_that_is_too_large_to_be_named_costs_no_others(send: Send) -> None:
    huge = AckError(event_id="i" * 2_000_000, code=Code.DUPLICATE_ID, message="appears twice")
    ack = send(Ack(event_ids=["a"], errors=[huge, *errors(100)]))
    assert len(ack.errors) == 101
    assert ack.errors[-1].code == Code.DUPLICATE_ID
    assert ack.errors[-1].message.startswith("… and 1 more (iiii")


def test_text_that_grows_as_json_is_weighed_as_json() -> None:
    as_json(Ack(errors=errors(10_000, message='"\\"' * 30)))


def test_many_accepted_ids_leave_room_for_the_first_errors() -> None:
    ack = Ack(event_ids=[f"{n:0250}" for n in range(9_000)], errors=errors(1_000))
    out = Ack.FromString(bounded(ack).SerializeToString())
    assert out.event_ids == ack.event_ids
    assert len(out.errors) > 50
    assert out.ByteSize() < ack.ByteSize() - 400_000


def test_a_gateway_in_front_reads_what_is_summed_up() -> None:
    batch = Batch.from_events([Event(id=f"event-{n:05}") for n in range(10_000)])
    refused = [*errors(9_990, Code.MIDDLEWARE_ERROR), *errors(5, Code.BUFFER_FULL, start=9_990)]
    ack = Ack(event_ids=batch.ids[9_995:], errors=refused)
    failures = read_failures(batch, read_answer(bounded(ack).SerializeToString()))
    assert [failure.event_id for failure in failures] == batch.ids[:9_995]
    named = [failure for failure in failures if REASON in failure.reason]
    assert not any(failure.retryable for failure in named)
    assert all(failure.retryable for failure in failures[len(named) :])  # some of them may be taken later
    only = Ack(errors=errors(10_000))
    failures = read_failures(batch, read_answer(bounded(only).SerializeToString()))
    assert len(failures) == 10_000
    assert not any(failure.retryable for failure in failures)


def check(event: Event) -> str:
    return "x" * 600 if event.source == "bad" else ""


def test_every_door_keeps_its_answers_within_bounds_and_a_stream_goes_on() -> None:
    bad = EventPayload(events=[Event(id=f"event-{n:05}") for n in range(10_000)])
    good = EventPayload(events=[Event(id="good")])
    messages = [IngestBatch(source=source, events=events) for source, events in (("bad", bad), ("s", good))]
    hub = (
        Hub(runtime="inline")
        .middleware(Validator(check, on_invalid="dead_letter"))
        .emitter(lambda batch: None, name="out")
    )
    with hub.start(grpc_addr="127.0.0.1:0", http_addr="127.0.0.1:0") as pipeline:
        options = [("grpc.max_receive_message_length", LIMIT)]
        with grpc.insecure_channel(str(pipeline.address), options) as channel:
            stream: Any = channel.stream_stream("/polku.v1.Gateway/StreamEvents", None, Ack.FromString)
            unary: Any = channel.unary_unary("/polku.v1.Gateway/SendEvent", None, Ack.FromString)
            first, second = stream((message.SerializeToString() for message in messages), timeout=60)
            third = unary(IngestEvent(source="bad", events=bad).SerializeToString(), timeout=60)
        body = bad.SerializeToString()
        answer = curl(str(pipeline.http_address), "/v1/events?source=bad", body=body, type="application/x-protobuf")
    assert list(second.event_ids) == ["good"]
    for ack in (first, third):
        assert ack.middleware_stats != MiddlewareStats()
        assert ack.errors[-1].message.startswith(f"… and {10_001 - len(ack.errors):,} more (")
    assert answer.status == 400
    assert answer.body["errors"][-1]["message"].startswith(f"… and {10_001 - len(answer.body['errors']):,} more (")
