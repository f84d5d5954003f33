"""Read a gateway's Acks: which events of a batch it did not take, and whether trying again can help."""

from __future__ import annotations

from typing import NamedTuple

from polku.batch.batch import Batch
from polku.batch.frames import read_ack
from polku.batch.varint import varint
from polku.codes import Code
from polku.contracts import Failure
from polku.emit.parts import RefusedPartError, TooLargeError
from polku.errors import EmitError, RetryableError
from polku.v1.gateway_pb2 import Ack, AckError

_AGAIN = frozenset({Code.BUFFER_FULL, Code.RATE_LIMITED, Code.UNAVAILABLE, Code.DRAINING})
_ID_TAG = b"\x0a"  # of an entry of `event_ids`, and of an error's `event_id`
_SMALLER = frozenset({Code.TOO_LARGE, Code.TOO_MANY_EVENTS})


class CountedAck(NamedTuple):
    """An Ack, its ids counted and not decoded; `fullness` is its buffer's, from 0 to 1 (0 where it does not say)."""

    data: bytes
    taken: int
    refused: int
    fullness: float


def read_answer(data: bytes) -> CountedAck:
    """Read a serialised Ack; raises protobuf's `DecodeError`."""
    ack = read_ack(data)
    fullness = ack.buffer_size / ack.buffer_capacity if ack.buffer_capacity > 0 else 0.0
    return CountedAck(data, len(ack.event_ids), len(ack.errors), fullness)


def read_failures(batch: Batch, answer: CountedAck) -> list[Failure]:
    """Return the events that an Ack does not confirm; raises where it refuses the message as a whole."""
    if not answer.refused and answer.taken == len(batch) and _names_first(batch, answer):
        return []
    ack = Ack.FromString(answer.data)
    refused = {error.event_id: error for error in ack.errors if error.event_id}
    unnamed = _about_the_rest(ack)
    if unnamed is not None and not refused and not ack.event_ids:
        raise _whole(unnamed)
    taken = set(ack.event_ids)  # an id that is taken and refused stood twice in the message: the destination has it
    left = [(place, event_id) for place, event_id in enumerate(batch.ids) if event_id not in taken]
    return [_failure(place, event_id, refused.get(event_id, unnamed)) for place, event_id in left]


def names_any(batch: Batch, answer: CountedAck) -> bool:
    """Return whether an Ack may be that of a batch: it names one of its events, or none at all."""
    if not (answer.taken or answer.refused) or _names_first(batch, answer):
        return True
    ack = Ack.FromString(answer.data)
    names = {*ack.event_ids, *(error.event_id for error in ack.errors if error.event_id)}
    return not names or not names.isdisjoint(batch.ids)


def _names_first(batch: Batch, answer: CountedAck) -> bool:
    """Return whether an Ack names a batch's first event: one of another batch does not, and it costs 2 µs to see."""
    name = batch.first_id
    return _ID_TAG + varint(len(name)) + name in answer.data


def _about_the_rest(ack: Ack) -> AckError | None:
    """Return the error about what is not named; where there are several, one after which sending again may help."""
    unnamed = [error for error in ack.errors if not error.event_id]
    return next((error for error in unnamed if error.code in _AGAIN), unnamed[0] if unnamed else None)


def _failure(place: int, event_id: str, error: AckError | None) -> Failure:
    if error is None:
        return Failure(event_id, "the Ack names it neither as taken nor as refused", position=place)
    text = f"{error.code}: {error.message}"
    return Failure(event_id, text, retryable=error.code in _AGAIN, position=place)


def _whole(error: AckError) -> EmitError:
    text = f"{error.code}: {error.message}"
    if error.code in _SMALLER:
        return TooLargeError(text)
    return RetryableError(text) if error.code in _AGAIN else RefusedPartError(text)
