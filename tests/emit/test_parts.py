"""Batches that need several messages."""

from __future__ import annotations

from typing import NamedTuple

import pytest

from polku import Failure, MisconfiguredError, RejectedError, RetryableError
from polku.emit.parts import TooLargeError, send_parts


class Letters(NamedTuple):
    ids: list[str]
    positions: range

    def halves(self) -> list[Letters]:
        middle = len(self.ids) // 2
        return [
            Letters(self.ids[:middle], self.positions[:middle]),
            Letters(self.ids[middle:], self.positions[middle:]),
        ]


class Destination:
    """Take up to two letters at a time; fail with the error of a letter."""

    def __init__(self, **errors: Exception) -> None:
        self.errors = errors
        self.sent: list[str] = []

    async def take(self, part: Letters) -> list[Failure]:
        if len(part.ids) > 2:
            raise TooLargeError("two are enough")
        for name in part.ids:
            if name in self.errors:
                raise self.errors[name]
        self.sent.append("".join(part.ids))
        return []


def letters(*words: str) -> list[Letters]:
    """Return a part for each word, one after the other in a batch."""
    parts: list[Letters] = []
    start = 0
    for word in words:
        parts.append(Letters(list(word), range(start, start + len(word))))
        start += len(word)
    return parts


async def test_parts_go_in_order_and_what_is_too_large_in_halves() -> None:
    destination = Destination()
    assert await send_parts(letters("abcde", "fg"), destination.take) == []
    assert destination.sent == ["ab", "c", "de", "fg"]


async def test_what_is_too_large_alone_is_refused_for_good() -> None:
    destination = Destination(b=TooLargeError("too large"))
    assert await send_parts(letters("abc"), destination.take) == [
        Failure("b", "too large", retryable=False, position=1)
    ]
    assert destination.sent == ["a", "c"]


async def test_nothing_is_sent_behind_a_part_that_may_be_tried_again() -> None:
    destination = Destination(c=RetryableError("later"))
    failures = await send_parts(letters("ab", "cd", "ef"), destination.take)
    # What was not sent was not tried.
    assert failures == [
        Failure("c", "later", position=2),
        Failure("d", "later", position=3),
        Failure("e", "later", attempts=0, position=4),
        Failure("f", "later", attempts=0, position=5),
    ]
    assert destination.sent == ["ab"]


async def test_a_part_that_is_refused_for_good_does_not_stop_the_others() -> None:
    destination = Destination(c=RejectedError("never"))
    failures = await send_parts(letters("ab", "cd", "ef"), destination.take)
    assert failures == [Failure("c", "never", False, position=2), Failure("d", "never", False, position=3)]
    assert destination.sent == ["ab", "ef"]


@pytest.mark.parametrize("error", [RetryableError("x"), MisconfiguredError("x"), RejectedError("x")])
async def test_an_error_is_raised_where_nothing_else_was_decided(error: Exception) -> None:
    with pytest.raises(type(error)):
        await send_parts(letters("ab"), Destination(a=error).take)


class Sealed:
    """A part whose ids cost something: its events would have to be decoded."""

    positions = range(2)

    @property
    def ids(self) -> list[str]:
        raise AssertionError("nobody has to know them")

    def halves(self) -> list[Sealed]:
        raise AssertionError("it is small enough")


async def test_what_is_confirmed_is_not_decoded_for_it() -> None:
    async def take(_: Sealed) -> list[Failure]:
        return []

    assert await send_parts([Sealed()], take) == []
