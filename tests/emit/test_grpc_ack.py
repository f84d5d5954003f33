"""What a gateway's Ack says about a batch."""

from __future__ import annotations

import pytest

from polku import Batch, Event, Failure, RejectedError, RetryableError
from polku.emit.grpc.ack import names_any, read_answer, read_failures
from polku.emit.parts import TooLargeError
from polku.v1.gateway_pb2 import Ack, AckError


def failures(ids: str, ack: Ack) -> list[Failure]:
    return read_failures(Batch.from_events([Event(id=name) for name in ids]), read_answer(ack.SerializeToString()))


def test_all_ids_confirm_the_batch() -> None:
    assert failures("abc", Ack(event_ids=["a", "b", "c"])) == []


@pytest.mark.parametrize(("ids", "missing"), [("xyz", "abc"), ("xbc", "a"), ("bcx", "a")])
def test_an_ack_of_as_many_other_ids_confirms_only_what_it_names(ids: str, missing: str) -> None:
    found = failures("abc", Ack(event_ids=ids))
    assert [(failure.event_id, failure.retryable) for failure in found] == [(name, True) for name in missing]


@pytest.mark.parametrize(
    ("ack", "is_about"),
    [
        (Ack(event_ids="ab"), True),
        (Ack(event_ids="ba"), True),
        (Ack(event_ids="b"), True),
        (Ack(errors=[AckError(event_id="a")]), True),
        (Ack(errors=[AckError(event_id="b")]), True),
        (Ack(errors=[AckError(code="DRAINING")]), True),
        (Ack(), True),
        (Ack(event_ids="xy"), False),
        (Ack(errors=[AckError(event_id="x")]), False),
    ],
)
@pytest.mark.parametrize("sealed", [False, True])
def test_an_ack_is_about_a_batch_where_it_names_one_of_its_events_or_none(
    ack: Ack, is_about: bool, sealed: bool
) -> None:
    batch = Batch.from_events([Event(id="a"), Event(id="b")])
    if sealed:
        batch = Batch.from_wire(batch.header, batch.payload)
    assert names_any(batch, read_answer(ack.SerializeToString())) is is_about


def test_an_id_that_came_twice_is_confirmed_by_the_first() -> None:
    ack = Ack(event_ids=["a"], errors=[AckError(event_id="a", code="DUPLICATE_ID", message="twice")])
    assert failures("aa", ack) == []


@pytest.mark.parametrize(
    ("code", "kind"),
    [
        ("DRAINING", RetryableError),
        ("UNKNOWN_SOURCE", RejectedError),
        ("A_CODE_OF_A_LATER_VERSION", RejectedError),
        ("TOO_LARGE", TooLargeError),
    ],
)
def test_an_error_without_an_id_is_about_the_whole_message(code: str, kind: type[Exception]) -> None:
    with pytest.raises(kind, match=f"{code}: why"):
        failures("ab", Ack(errors=[AckError(code=code, message="why")]))


def test_an_error_without_an_id_explains_the_events_that_are_missing() -> None:
    ack = Ack(event_ids=["a"], errors=[AckError(code="MALFORMED", message="no event")])
    assert failures("ab", ack) == [Failure("b", "MALFORMED: no event", retryable=False, position=1)]


def test_an_event_that_is_named_nowhere_may_be_tried_again() -> None:
    (failure,) = failures("ab", Ack(event_ids=["a"]))
    assert (failure.event_id, failure.retryable) == ("b", True)


def test_fullness_is_the_buffer_s() -> None:
    assert read_answer(Ack(buffer_size=1, buffer_capacity=4).SerializeToString()).fullness == 0.25
    assert read_answer(Ack(buffer_size=1).SerializeToString()).fullness == 0
