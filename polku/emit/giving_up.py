"""Which events are given up for which code of a destination's emitter raises, and which are held."""

from __future__ import annotations

from collections.abc import Callable

from polku.batch.batch import Batch
from polku.emit.attempts import is_attempt_of_code, is_sure_of_code
from polku.emit.outcome import WrongAnswerError
from polku.emit.parts import FaultyPartError
from polku.emit.piece import PieceSize
from polku.emit.remainder import Remainder
from polku.emit.retry import Retry
from polku.emit.suspects import Suspects
from polku.errors import EmitError

_HOPELESS = 8  # events in a row that fail alone, after which the rest of the batch is given up


class GivingUp:
    """Give up what was tried often enough; where code fails on many events at once, find those at fault first.

    `is_attempt` returns whether an error is one of the attempts that count. Unless whoever chose their number wants it
    to hold for whatever is raised, what a library raises may mean that the destination is down: then events are given
    up that fail while others are taken.
    """

    def __init__(
        self, retry: Retry, size: PieceSize, is_attempt: Callable[[Exception | None], bool], *, may_cut: bool
    ) -> None:
        self._retry = retry
        self._size = size
        self._is_attempt = is_attempt
        self._may_cut = may_cut
        self._suspects = Suspects()

    def give_up(self, rest: Remainder, error: Exception | None, events: int) -> None:
        """Make final what was tried often enough; `events` is the number of all that could be tried."""
        is_wrong = isinstance(error, WrongAnswerError)  # no event is given twice to code that answers so
        if error is not None and not is_wrong and not self._is_attempt(error):
            return  # whatever was found before, now it is the destination
        exhausted = rest.wrong() if is_wrong else rest.exhausted(self._retry)
        piece = rest.stopped_at
        if not exhausted or error is None or not (is_wrong or _is_of_code(error)) or not self._may_cut:
            rest.give_up(exhausted)
        elif len(piece) > 1:
            self._suspects.suspect(rest.ids(piece))
            self._size.cut(len(piece))
        elif is_wrong or self._is_certain(error):
            rest.failed_alone += 1
            rest.give_up(exhausted if rest.failed_alone >= _HOPELESS else [e for e in exhausted if e in piece])
        else:
            alone = {*rest.passed, *piece}
            rest.give_up(self._proven(rest, [position for position in exhausted if position in alone], events))

    def _proven(self, rest: Remainder, positions: list[int], events: int) -> list[int]:
        """Return which events that failed alone are at fault, and not the destination."""
        named = zip(positions, rest.ids(positions), strict=True)
        return [position for position, name in named if self._suspects.accuse(name, is_well=False, others=events - 1)]

    def doubts(self, error: Exception | None) -> bool:
        """Return whether an error may be about the events or the destination: then others are worth a try."""
        if error is None or not self._may_cut:
            return False
        if isinstance(error, FaultyPartError):
            return True
        return _is_of_code(error) and self._is_attempt(error) and not self._is_certain(error)

    def take(self, batch: Batch) -> None:
        """Take note that events of a batch were taken, or decided about."""
        self._suspects.take()
        if self._suspects:
            self._suspects.forget(batch.ids)

    def _is_certain(self, error: Exception) -> bool:
        return self._is_attempt is not is_attempt_of_code or is_sure_of_code(error)


def _is_of_code(error: Exception) -> bool:
    """Return whether an error may be about an event: not one that says what the destination is about."""
    return not isinstance(error, (EmitError, OSError))
