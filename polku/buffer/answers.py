"""The answers that batches were given, for those that are sent a second time."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping, Sequence
from typing import NamedTuple, TypeAlias

from polku.batch.batch import Batch, Identity
from polku.batch.receipt import Receipt, Refusal, located
from polku.buffer.filing import Filing
from polku.codes import Code

LIVES = 4
"""How many lives of a sender are remembered: it may take another epoch, and send again what it sent under the first."""

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
    # A later answer takes the place of the one that these were added to.
    told = [refusal for awaited in filing.waits for refusal in awaited.refused[: awaited.told]]
    refused = (*filing.refused, *told)
    return Answer(filing.identity, first, last, refused, pieces, None if complete else dict(filing.taken))


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
    """Remember the answers of the latest batches of each origin, and of the parts that some were sent in."""

    _KEPT = 256  # far more than a window; what is older and was answered cannot be sent again

    def __init__(self) -> None:
        self._lives: dict[str, dict[int, dict[int, Known]]] = {}  # by origin, epoch and number
        self._parts: dict[Identity, dict[range, Known]] = {}  # by the whole batch, and which of its events they are

    def get(self, batch: Batch) -> Known | None:
        """Return the answer of a batch of this identity if it was here; a `Filing` where it was dealt with in part.

        A part of what was here is answered as that was.
        """
        if batch.identity is None:
            return None
        whole, place = batch.identity.place
        known = self._lives.get(whole.origin, {}).get(whole.epoch, {}).get(whole.seq)
        return known if place is None else self._of_part(batch, known, self._parts.get(whole, {}), place)

    def put(self, identity: Identity | None, answer: Known) -> None:
        """Remember an answer; the latest lives of an origin end the memory of those before."""
        if identity is None:
            return
        whole, place = identity.place
        if place is not None:
            self._put_part(whole, place, answer)
            return
        lives = self._lives.setdefault(identity.origin, {})
        answers = lives[identity.epoch] = lives.pop(identity.epoch, {})  # the life that was heard last stands last
        answers[identity.seq] = answer
        while len(answers) > self._KEPT and _is_final(answers[next(iter(answers))]):
            del answers[next(iter(answers))]
        while len(lives) > LIVES:
            del lives[next(iter(lives))]

    def _put_part(self, whole: Identity, place: range, answer: Known) -> None:
        self._parts.setdefault(whole, {})[place] = answer
        while len(self._parts) > self._KEPT and all(map(_is_final, self._parts[next(iter(self._parts))].values())):
            del self._parts[next(iter(self._parts))]

    def _of_part(self, batch: Batch, whole: Known | None, parts: dict[range, Known], place: range) -> Known | None:
        if place in parts:
            return parts[place]
        larger = (known for part, known in parts.items() if part.start <= place.start and place.stop <= part.stop)
        known = next(larger, whole)
        if isinstance(known, asyncio.Future):
            return asyncio.ensure_future(_narrow_later(known, batch))
        return _narrow(known, batch) if isinstance(known, Receipt) else None


def _narrow(receipt: Receipt, batch: Batch) -> Receipt:
    """Return an answer for a part of the batch that was given it.

    Middleware may have left more or less of the batch than of its parts, so that ids alone tell what was refused, and
    nothing tells what was dropped.
    """
    receipt = receipt._replace(fates=())
    if not receipt.refused:
        return receipt
    ids = set(batch.ids)
    refused = [refusal._replace(position=-1) for refusal in receipt.refused if refusal.event_id in ids]
    return receipt._replace(refused=located(refused, batch))


async def _narrow_later(answer: asyncio.Future[Receipt], batch: Batch) -> Receipt:
    return _narrow(await asyncio.shield(answer), batch)


def _is_final(answer: Known) -> bool:
    return answer.done() if isinstance(answer, asyncio.Future) else True
