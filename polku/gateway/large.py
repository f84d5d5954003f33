"""Large messages, admitted in pieces: other clients of the event loop have their turn after each.

One message may have 10,000 events, or 4 MiB: 30 ms of work at the door, and as much behind it. A piece takes a few ms.
What is no larger than most clients send goes on whole, by the shortest way.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Sequence

from polku.batch.batch import Batch
from polku.batch.frames import join_frames
from polku.gateway.admission import Admission, Before, admit_payload, check_count
from polku.gateway.authorization import authorized
from polku.gateway.event_limits import check_envelope
from polku.limits import Limits
from polku.security.account import Account

PIECE_EVENTS = 500
_PIECE_BYTES = 128 * 1024
LARGE_EVENTS = 1_500
_LARGE_BYTES = 1_500_000


def is_large(events: int, size: int) -> bool:
    """Return whether this many events, of so many bytes together, are taken in pieces."""
    return (events > LARGE_EVENTS or size > _LARGE_BYTES) and events > 1


def piece_events(events: int, size: int) -> int:
    """Return how many of a message's events make a piece."""
    return max(1, min(PIECE_EVENTS, events * _PIECE_BYTES // max(size, 1)))


async def admit_frames(
    frames: Sequence[bytes], source: str, cluster: str, limits: Limits, account: Account | None
) -> Admission:
    """Admit serialised events, and of those only what the account's principal may send; raises `InputError`."""
    check_envelope(limits, source, cluster)
    check_count(len(frames), limits)
    pieces: list[Admission] = []
    known: set[str] = set()
    count = 0
    for piece in _cut(frames):
        await asyncio.sleep(0)  # before the first one, too: to find the events has taken a few milliseconds
        content = join_frames(piece)
        admission = admit_payload(content, source, cluster, limits, piece, before=Before(count, known))
        known.update(admission.ids, [refusal.event_id for refusal in admission.refused if refusal.event_id])
        pieces.append(admission if account is None else authorized(admission, account, content))
        count += len(piece)
    return _joined(pieces)


def _cut(frames: Sequence[bytes]) -> Iterator[list[bytes]]:
    piece: list[bytes] = []
    size = 0
    for frame in frames:
        if piece and (len(piece) == PIECE_EVENTS or size + len(frame) > _PIECE_BYTES):
            yield piece
            piece, size = [], 0
        piece.append(frame)
        size += len(frame)
    yield piece


def _joined(pieces: list[Admission]) -> Admission:
    batches = [piece.batch for piece in pieces if piece.ids]
    return Admission(
        Batch.from_events([event for batch in batches for event in batch.events]),
        [event_id for piece in pieces for event_id in piece.ids],
        [refusal for piece in pieces for refusal in piece.refused],
        sum(piece.filled_bytes for piece in pieces),
        pieces=batches,
    )
