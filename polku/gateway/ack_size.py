"""Keep an Ack within what every client takes: where there is no room for all errors, the rest of them are summed up.

gRPC clients take 4 MiB by default, and ten thousand events, each refused with a long sentence, would make more: the
client would never hear the answer, and send all of it again. What is summed up stands in one error for each code, which
has no id, so that the sender knows whether to send again what the Ack names neither as accepted nor as refused.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence

from polku.aio.slices import at_once
from polku.codes import Code
from polku.text import line
from polku.v1.gateway_pb2 import Ack, AckError

LIMIT = 1024 * 1024
"""The most bytes of an Ack; one whose accepted ids would fill it still has room for some errors."""

PIECE = 500
"""Errors, or ids, until others have their turn: half a millisecond or so."""

_LEAST = 64 * 1024  # for errors
_SUM = 1024  # for the summing up of one code
_NUMBERS = 1024  # for what else is in an Ack
_LARGE = 4 * 1024  # what is larger is not named: an id may be of any length
_NAMED = 3

Weigh = Callable[[AckError], int]


def weigh(error: AckError) -> int:
    """Return the bytes that an error takes in a serialised Ack."""
    return error.ByteSize() + 4


def weigh_ids(ids: Sequence[str]) -> int:
    """Return the bytes that ids take in a serialised Ack."""
    return sum(map(len, map(str.encode, ids))) + 4 * len(ids)


def bounded(ack: Ack) -> Ack:
    """Return an Ack that is no larger than `LIMIT`; one without errors is as large as the ids that it accepts."""
    return at_once(bounding(ack))


def bounding(
    ack: Ack, weigh: Weigh = weigh, weigh_ids: Callable[[Sequence[str]], int] = weigh_ids
) -> Generator[None, None, Ack]:
    """Do what `bounded` does, in slices; sizes are those of the form in which the Ack is sent."""
    if not ack.errors:
        return ack
    errors = list(ack.errors)
    sizes: list[int] = []
    for start in range(0, len(errors), PIECE):
        if start:
            yield
        sizes += map(weigh, errors[start : start + PIECE])
    room = LIMIT - _NUMBERS - weigh_ids(ack.event_ids)
    if sum(sizes) <= room:
        return ack
    yield
    room = max(room, _LEAST) - _SUM * len(Code)
    answer = Ack(event_ids=ack.event_ids, buffer_size=ack.buffer_size, buffer_capacity=ack.buffer_capacity)
    if ack.HasField("middleware_stats"):
        answer.middleware_stats.CopyFrom(ack.middleware_stats)
    rest: dict[str, list[AckError]] = {}
    for place, (error, size) in enumerate(zip(errors, sizes, strict=True), 1):
        if size <= _LARGE:
            room -= size
        if size <= _LARGE and room >= 0:
            answer.errors.append(error)
        else:
            rest.setdefault(error.code, []).append(error)
        if not place % PIECE:
            yield
    answer.errors.extend([_sum_up(code, errors) for code, errors in rest.items()])
    return answer


def _sum_up(code: str, errors: Sequence[AckError]) -> AckError:
    first = ", ".join(line(error.event_id, 64) for error in errors[:_NAMED] if error.event_id)
    which = f" ({first}{', …' if len(errors) > _NAMED else ''})" if first else ""
    return AckError(code=code, message=f"… and {len(errors):,} more{which}: {line(errors[0].message, 120)}")
