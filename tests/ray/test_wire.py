"""What actors send each other arrives as it was."""

from __future__ import annotations

import pytest

from polku import Code, Refusal, new_event
from polku.actors.wire import pack_answer, pack_push, unpack_answer, unpack_push
from polku.batch.batch import Batch, Identity
from polku.batch.receipt import Answer, Counts, Output, Receipt
from polku.link.link import Push


def test_a_push_arrives_as_it_was() -> None:
    push = Push("pipeline/ingest", 3, 7, 5, 6)
    batch = Batch.from_events([new_event("user.login", source="ada")], routes=("audit",))
    batch.identity, batch.enqueued_ns, batch.trace = Identity("pipeline/ingest", 3, 7), 42, "00-aa-bb-01"
    head, payload = pack_push(push, batch)
    assert payload == batch.payload
    arrived_push, arrived = unpack_push(head, payload)
    assert arrived_push == push
    assert arrived.header == batch.header
    assert arrived.events == batch.events


@pytest.mark.parametrize(
    "answer",
    [
        Receipt(),
        Receipt((Refusal("1", Code.BUFFER_FULL, "full"),), Counts(filtered=2), buffer_size=3, buffer_capacity=4),
    ],
)
def test_an_answer_arrives_as_it_was(answer: Answer) -> None:
    arrived = unpack_answer(pack_answer(answer))
    assert arrived == answer
    assert type(arrived) is type(answer)


def test_the_work_of_a_replica_arrives_as_it_was() -> None:
    batch = Batch.from_events([new_event("user.login")])
    arrived = unpack_answer(pack_answer(Receipt(output=(Output(batch),))))
    assert isinstance(arrived, Receipt)
    assert arrived.output[0].batch.events == batch.events
