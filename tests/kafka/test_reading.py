"""What the fields of one record become, for those that no record of a mock broker has."""

from __future__ import annotations

from typing import Any

from confluent_kafka import TIMESTAMP_CREATE_TIME, TIMESTAMP_LOG_APPEND_TIME, TIMESTAMP_NOT_AVAILABLE, Message

from polku.kafka.fields import MAX_KEY_BYTES, Field
from polku.kafka.reading import Decode, Reader


def metadata(reader: Reader, **fields: Any) -> dict[str, str]:
    record = reader.read(Message("orders", 3, 7, value=b"x", **fields))
    assert record is not None
    return dict(record.metadata)


def reader(*fields: Field) -> Reader:
    return Reader(Decode.EVENT, [], list(fields), tombstones=False)


def test_a_time_that_the_broker_set_says_so() -> None:
    timed = reader(Field.TIMESTAMP)
    assert metadata(timed, timestamp=(TIMESTAMP_CREATE_TIME, 5)) == {"kafka.timestamp": "5"}
    assert metadata(timed, timestamp=(TIMESTAMP_LOG_APPEND_TIME, 5)) == {
        "kafka.timestamp": "5",
        "kafka.timestamp.type": "append",
    }
    assert metadata(timed, timestamp=(TIMESTAMP_NOT_AVAILABLE, 0)) == {}


def test_a_key_that_is_too_long_is_left_out_and_counted() -> None:
    keyed = reader(Field.KEY)
    assert metadata(keyed, key=b"k" * MAX_KEY_BYTES) == {"kafka.key": "k" * MAX_KEY_BYTES}
    assert keyed.keys_left_out == 0
    assert metadata(keyed, key=b"k" * (MAX_KEY_BYTES + 1)) == {}
    assert keyed.keys_left_out == 1
