"""Read what an emitter returned, so that a wrong answer is an error with a sentence and not a loss."""

from __future__ import annotations

import inspect
from collections.abc import Iterable, Sequence, Set

from polku.aio.slices import few_in_turns
from polku.batch.batch import Batch
from polku.checks import shorten
from polku.contracts import Emitter, Failure
from polku.errors import RejectedError
from polku.text import BLOCK, block, line, redacted


class WrongAnswerError(RejectedError):
    """Say that an emitter returned what is no answer: nothing is known about any event of the call."""


async def outcome_of(emitter: Emitter, batch: Batch) -> list[Failure]:
    """Call an emitter and return the failures; raises what it raises, and `WrongAnswerError` for a wrong answer.

    It gets a batch of its own: code that takes events out of it, sorts or changes them changes no later call, no answer
    and no dead letter.
    """
    given = batch.sealed()
    return await read_outcome(emitter.emit(given), batch, given)


async def read_outcome(result: object, batch: Batch, given: Batch) -> list[Failure]:
    """Await what `emit` returned, if it is async, and return the failures; raises `WrongAnswerError` for anything else.

    None means that all events were taken. A generator of failures runs here. `given` is the copy of the batch that the
    emitter had; it may have given the events other ids there, by which it names them.
    """
    if result is None:  # as most say at once
        return []
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
    if not given.is_sealed and given.ids != ids:
        failures = _original(failures, ids, known, given.ids)
    printable: list[Failure] = []
    async for some in few_in_turns(failures):
        _check(some, ids, known)
        printable += map(_printable, some)
    return printable


def _original(failures: Sequence[object], ids: Sequence[str], known: Set[str], changed: Sequence[str]) -> list[object]:
    """Return failures with the ids that the events came with, where one has an id that the emitter gave an event."""
    if len(changed) != len(ids):
        return list(failures)
    places = {event_id: place for place, event_id in enumerate(changed) if event_id not in known}
    original: list[object] = []
    for failure in failures:
        if isinstance(failure, Failure) and failure.event_id in places:
            place = failure.position if failure.position in range(len(ids)) else places[failure.event_id]
            failure = failure._replace(event_id=ids[place], position=place)
        original.append(failure)
    return original


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
