"""The answers that batches were given, for those that are sent a second time."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping, Sequence
from typing import TypeAlias

from msgspec import Struct

from polku.batch.batch import Batch, Identity
from polku.batch.receipt import Receipt, Refusal, located
from polku.buffer.push_state import PushState
from polku.codes import Code

LIVES = 16
"""How many lives of a sender are remembered: it may take another epoch, and send again what it sent under the first."""

Known: TypeAlias = "Receipt | asyncio.Future[Receipt] | PushState"

_Variants: TypeAlias = "dict[tuple[str, range | None], Known]"  # by the origin of a batch and which piece of it it is
_MANY = 1 << 62


class StoredAnswer(Struct, frozen=True):
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


def answer_of(push: PushState, *, complete: bool) -> StoredAnswer | None:
    """Return the answer to a push as far as it is known; None where nobody could ask for it again."""
    if push.identity is None:
        return None
    positions = [position for position, _ in push.pieces]
    first, last = (min(positions), max(positions)) if positions else (0, -1)
    is_whole = push.pieces in ([], [(first, 0)])
    pieces = () if is_whole else tuple(push.pieces)
    # A later answer takes the place of the one that these were added to.
    told = [refusal for pending in push.waits for refusal in pending.refused[: pending.told]]
    refused = (*push.refused, *told)
    return StoredAnswer(push.identity, first, last, refused, pieces, None if complete else dict(push.taken))


def write_refusals(refused: Sequence[Refusal]) -> str:
    """Return refusals as a journal keeps them."""
    return json.dumps([(r.event_id, r.code, r.message, r.attempts, r.position) for r in refused]) if refused else ""


def read_refusals(text: str) -> tuple[Refusal, ...]:
    """Read refusals; those of an older journal have no number of attempts and no position."""
    return tuple(Refusal(i, Code(code), message, *more) for i, code, message, *more in json.loads(text)) if text else ()


def write_pieces(answer: StoredAnswer) -> str:
    """Return where the pieces of a batch lie, and what of it is yet to be dealt with, as a journal keeps it."""
    if not answer.pieces and answer.taken is None:
        return ""
    return json.dumps([answer.pieces, answer.taken])


def read_answer(identity: Identity, first: int, last: int, refused: str, pieces: str) -> StoredAnswer:
    """Read an answer from a journal's row."""
    where, taken = json.loads(pieces) if pieces else ((), None)
    places = tuple((position, place) for position, place in where)
    return StoredAnswer(identity, first, last, read_refusals(refused), places, taken)


class RememberedAnswers:
    """Remember the answers of the latest batches of each origin, and of what was derived from them.

    What was made of a batch otherwise than the first time has another identity: no answer is about it.
    """

    _KEPT = 256  # far more than a window; what is older and was answered cannot be sent again

    def __init__(self) -> None:
        self._lives: dict[str, dict[int, dict[int, _Variants]]] = {}  # by origin, epoch and number of the whole

    def get(self, identity: Identity | None, batch: Batch) -> Known | None:
        """Return the answer of a batch of this identity if it was here; a `PushState` where it was dealt with in part.

        A piece of what was here is answered as that was.
        """
        if identity is None:
            return None
        whole = identity.whole
        variants = self._lives.get(whole.origin, {}).get(whole.epoch, {}).get(whole.seq)
        if variants is None:
            return None
        parent, place = identity.place
        known = variants.get((parent.origin, place))
        return _of_piece(batch, variants, parent.origin, place) if known is None and place is not None else known

    def rename(self, old: str, new: str) -> None:
        """Let what was dealt with in part for one outlet be so for another one."""
        for lives in self._lives.values():
            for answers in lives.values():
                for known in [known for variants in answers.values() for known in variants.values()]:
                    if isinstance(known, PushState) and old in known.taken:
                        known.taken[new] = known.taken.pop(old)

    def put(self, identity: Identity | None, answer: Known) -> None:
        """Remember an answer; the latest lives of an origin end the memory of those before."""
        if identity is None:
            return
        whole, (parent, place) = identity.whole, identity.place
        lives = self._lives.setdefault(whole.origin, {})
        answers = lives[whole.epoch] = lives.pop(whole.epoch, {})  # the life that was heard last stands last
        answers.setdefault(whole.seq, {})[parent.origin, place] = answer
        while len(answers) > self._KEPT and all(map(_is_final, answers[next(iter(answers))].values())):
            del answers[next(iter(answers))]
        while len(lives) > LIVES:
            del lives[next(iter(lives))]


def _of_piece(batch: Batch, variants: _Variants, parent: str, place: range) -> Known | None:
    """Return the answer for a piece of something that has one: the smallest, since it was answered last."""
    larger = [
        (piece, known)
        for (origin, piece), known in variants.items()
        if origin == parent and (piece is None or (piece.start <= place.start and place.stop <= piece.stop))
    ]
    piece, known = min(larger, key=lambda found: _MANY if found[0] is None else len(found[0]), default=(None, None))
    start = place.start - (0 if piece is None else piece.start)
    if isinstance(known, asyncio.Future):
        return asyncio.ensure_future(_narrow_later(known, batch, start))
    return _narrow(known, batch, start) if isinstance(known, Receipt) else None


def _narrow(receipt: Receipt, batch: Batch, start: int) -> Receipt:
    """Return the answer for a piece of the batch that was given it, which has its events from `start` on.

    Where it is not known which event is refused (older journals do not say), its id has to tell.
    """
    piece = receipt.piece(start, len(batch))
    unplaced = [refusal for refusal in receipt.refused if refusal.position < 0]
    if not unplaced:
        return piece
    ids = set(batch.ids)
    named = [refusal for refusal in unplaced if refusal.event_id in ids]
    return piece._replace(refused=located((*piece.refused, *named), batch))


async def _narrow_later(answer: asyncio.Future[Receipt], batch: Batch, start: int) -> Receipt:
    return _narrow(await asyncio.shield(answer), batch, start)


def _is_final(answer: Known) -> bool:
    return answer.done() if isinstance(answer, asyncio.Future) else True
