"""The answers that batches were given, for those that are sent a second time."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping, Sequence
from typing import NamedTuple, TypeAlias

from polku.batch import Identity
from polku.buffer.filing import Filing
from polku.codes import Code
from polku.receipt import Receipt, Refusal

Known: TypeAlias = "Receipt | asyncio.Future[Receipt] | Filing"


class Answer(NamedTuple):
    """The answer that a batch was given, as a log keeps it.

    Its pieces lie between the positions `first` and `last` (`last` below `first`: none). `pieces` are the position of
    each and the place of its first event in the batch; empty: one piece that is the whole batch, or, from an older
    journal, pieces whose places are not known. `taken` is None where all of the batch was dealt with; else it has for
    each outlet how many of the batch's first events were.
    """

    identity: Identity
    first: int
    last: int
    refused: tuple[Refusal, ...] = ()
    pieces: tuple[tuple[int, int], ...] = ()
    taken: Mapping[str, int] | None = None

    def place(self, position: int) -> int | None:
        """Return the place in the batch of the piece at a position: -1 if unknown, None if it is another batch's."""
        if self.pieces:
            return dict(self.pieces).get(position)
        return 0 if self.first == self.last else -1


def answer_of(filing: Filing, *, complete: bool) -> Answer | None:
    """Return the answer to a push as far as it is known; None where nobody could ask for it again."""
    if filing.identity is None:
        return None
    positions = [position for position, _ in filing.pieces]
    first, last = (min(positions), max(positions)) if positions else (0, -1)
    is_whole = filing.pieces in ([], [(first, 0)])
    pieces = () if is_whole else tuple(filing.pieces)
    return Answer(filing.identity, first, last, tuple(filing.refused), pieces, None if complete else dict(filing.taken))


def write_refusals(refused: Sequence[Refusal]) -> str:
    """Return refusals as a journal keeps them."""
    return json.dumps([(r.event_id, r.code, r.message, r.attempts, r.position) for r in refused]) if refused else ""


def read_refusals(text: str) -> tuple[Refusal, ...]:
    """Read refusals; those of an older journal have no number of attempts and no position."""
    return tuple(Refusal(i, Code(code), message, *more) for i, code, message, *more in json.loads(text)) if text else ()


def write_pieces(answer: Answer) -> str:
    """Return where the pieces of a batch lie, and what of it is yet to be dealt with, as a journal keeps it."""
    if not answer.pieces and answer.taken is None:
        return ""
    return json.dumps([answer.pieces, answer.taken])


def read_answer(identity: Identity, first: int, last: int, refused: str, pieces: str) -> Answer:
    """Read an answer from a journal's row."""
    where, taken = json.loads(pieces) if pieces else ((), None)
    places = tuple((position, place) for position, place in where)
    return Answer(identity, first, last, read_refusals(refused), places, taken)


class Answered:
    """Remember the answers of the latest batches of each origin."""

    _KEPT = 256  # far more than a window; what is older and was answered cannot be sent again
    _LIVES = 4  # a sender may take another epoch, and then send again what it sent under the one before

    def __init__(self) -> None:
        self._lives: dict[str, dict[int, dict[int, Known]]] = {}  # by origin, epoch and number

    def get(self, identity: Identity | None) -> Known | None:
        """Return the answer of a batch of this identity if it was here; a `Filing` where it was dealt with in part."""
        if identity is None:
            return None
        return self._lives.get(identity.origin, {}).get(identity.epoch, {}).get(identity.seq)

    def put(self, identity: Identity | None, answer: Known) -> None:
        """Remember an answer; the latest lives of an origin end the memory of those before."""
        if identity is None:
            return
        lives = self._lives.setdefault(identity.origin, {})
        answers = lives.setdefault(identity.epoch, {})
        answers[identity.seq] = answer
        while len(answers) > self._KEPT and _is_final(answers[next(iter(answers))]):
            del answers[next(iter(answers))]
        while len(lives) > self._LIVES:
            del lives[next(iter(lives))]


def _is_final(answer: Known) -> bool:
    return answer.done() if isinstance(answer, asyncio.Future) else True
