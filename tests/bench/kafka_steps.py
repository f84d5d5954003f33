"""What each step of a mirrored record costs POLKU itself, in nanoseconds of its thread: no broker, no client.

    python -m tests.bench.kafka_steps

Steps are those of a `KafkaSource` and of a `KafkaEmitter(value="record")`, on blocks of a thousand records with a key
and two headers, the same for all records or (`distinct`) a trace of its own for each. Beside them stands what the same
costs record by record. Of each the best of many tries.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any

from confluent_kafka import Message

from polku import Event, Limits
from polku.batch.frames import split_frames
from polku.gateway.block_admission import admit_block
from polku.kafka.columns import ColumnReader
from polku.kafka.encoding import RecordEncoder
from polku.kafka.fields import Field
from polku.kafka.partition import Partition, split_places
from polku.kafka.reading import Decode, Reader
from polku.kafka.record import RecordMaker, Value
from polku.kafka.scanning import Scanner
from polku.pull.block import PulledBlock
from tests.bench.kafka import HEADERS, make

_RECORDS, _TRIES = 1_000, 40
_PLACE = ("topic", 1)


def records(*, distinct: bool) -> list[Message]:
    """Return records as a client hands them over."""
    made = []
    for number, event in enumerate(make(_RECORDS)):
        trace = ("traceparent", b"00-0af7651916cd43dd8448eb211c80319c-%016x-01" % number)
        headers = [trace, *HEADERS[1:]] if distinct else list(HEADERS)
        options: dict[str, Any] = {"headers": headers, "timestamp": (1, 1_700_000_000_000 + number // 20)}
        options |= {"key": event.source.encode(), "value": event.SerializeToString()}
        made.append(Message(_PLACE[0], _PLACE[1], 1_000_000 + number, **options))
    return made


def cost(work: Callable[[], object]) -> float:
    """Return the nanoseconds of this thread that some work takes for a record, at best."""
    best = float("inf")
    for _ in range(_TRIES):
        began = time.thread_time_ns()
        work()
        best = min(best, time.thread_time_ns() - began)
    return best / _RECORDS


def coder(decode: Decode) -> tuple[RecordEncoder, Reader]:
    """Return what encodes a partition's records, by the block and one by one."""
    is_record = decode is Decode.RECORD
    reader = Reader(decode, ["traceparent"], list(Field) if is_record else [Field.KEY], tombstones=is_record)
    encoder = reader.encoder(_PLACE, _PLACE[0], "")
    assert encoder is not None
    return encoder, reader


def come(messages: Sequence[Message]) -> None:
    """Sort records to their partition, as a source does."""
    unused: Any = None
    if not [message for message in messages if message.error() is not None]:
        for _, run in split_places(messages):
            Partition(unused).arrived(run)


def steps(messages: Sequence[Message], decode: Decode) -> dict[str, float]:
    """Measure the steps on the way in."""
    encoder, _ = coder(decode)

    def encode() -> PulledBlock:
        block = encoder.encode(messages)
        assert block is not None
        return block

    block = encode()
    return {
        "sort to partitions": cost(lambda: come(messages)),
        f"encode, `{decode}`": cost(encode),
        f"admit, `{decode}`": cost(lambda: admit_block(block, _PLACE[0], "", Limits())),
        f"encode one by one, `{decode}`, before it is admitted": cost(block.records),
    }


def steps_out(messages: Sequence[Message]) -> dict[str, float]:
    """Measure the steps on the way out."""
    block = coder(Decode.RECORD)[0].encode(messages)
    assert block is not None
    payload, frames = block.payload, split_frames(block.payload)
    scanner, maker = Scanner("copy"), RecordMaker(lambda event: "copy", None, Value.RECORD, (), fixed="copy")
    return {
        "cut a batch into events": cost(lambda: split_frames(payload)),
        "read in columns": cost(lambda: ColumnReader("copy").read(frames, 0)),
        "scan one by one": cost(lambda: scanner.scan(frames)),
        "parse and make one by one": cost(lambda: [maker.make(Event.FromString(frame), frame) for frame in frames]),
    }


def main() -> None:
    print("| ns a record | equal headers | distinct |\n|---|---|---|")
    both = []
    for distinct in (False, True):
        messages = records(distinct=distinct)
        both.append(steps(messages, Decode.EVENT) | steps(messages, Decode.RECORD) | steps_out(messages))
    for step, equal in both[0].items():
        print(f"| {step} | {equal:,.0f} | {both[1][step]:,.0f} |")


if __name__ == "__main__":
    main()
