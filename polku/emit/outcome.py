"""Read what an emitter returned, so that a wrong answer is an error with a sentence and not a loss."""

from __future__ import annotations

import inspect
from collections.abc import Iterable, Sequence, Set

from polku.aio.slices import few_in_turns
from polku.batch.batch import Batch
from polku.checks import shorten
from polku.contracts import Failure
from polku.errors import RejectedError
from polku.text import BLOCK, block, line, redacted


class WrongAnswerError(RejectedError):
    """Say that an emitter returned what is no answer: nothing is known about any event of the call."""


async def read_outcome(result: object, batch: Batch) -> list[Failure]:
    """Await what `emit` returned, if it is async, and return the failures; raises `WrongAnswerError` for anything else.

    None means that all events were taken. A generator of failures runs here.
    """
    if inspect.isawaitable(result):
        result = await result
    if result is None:
        return []
    if not isinstance(result, Iterable) or isinstance(result, (str, bytes)):
        raise WrongAnswerError(
            f"the emitter returned {shorten(result)}; return None, or a Failure for each failed event"
        )
    failures = list(result)
    if not failures:
        return failures
    ids = batch.ids
    known = set(ids)
    printable: list[Failure] = []
    async for some in few_in_turns(failures):
        _check(some, ids, known)
        printable += map(_printable, some)
    return printable


def _check(failures: Sequence[object], ids: Sequence[str], known: Set[str]) -> None:
    """Raise `WrongAnswerError` where one is no failure of an event of the batch."""
    for failure in failures:
        if not isinstance(failure, Failure):
            raise WrongAnswerError(
                f"the emitter returned {shorten(failure)} among its failures; return Failure objects"
            )
        if failure.event_id not in known:
            raise WrongAnswerError(
                f"the emitter returned a Failure for {shorten(failure.event_id)}, which is not in the batch"
            )
        place = failure.position
        if place != -1 and not (0 <= place < len(ids) and ids[place] == failure.event_id):
            raise WrongAnswerError(
                f"the emitter returned a Failure for {shorten(failure.event_id)} at {place}, which is another"
            )


def _printable(failure: Failure) -> Failure:
    detail = block(redacted(block(failure.detail, 2 * BLOCK), 4 * BLOCK)) if failure.detail else ""
    reason = line(redacted(failure.reason))
    if reason == failure.reason and detail == failure.detail:
        return failure
    return failure._replace(reason=reason, detail=detail)
