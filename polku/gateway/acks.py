"""The Acks of an intake: what is said about the events of a message, or about all of it."""

from __future__ import annotations

from collections.abc import Generator, Sequence

from polku.aio.slices import at_once
from polku.batch.receipt import Counts, Receipt, Refusal
from polku.codes import Code
from polku.gateway.ack_size import PIECE
from polku.gateway.admission import Admission
from polku.text import line
from polku.v1.gateway_pb2 import Ack, AckError, MiddlewareStats

_MESSAGE = 1_000  # characters of what is said about a whole message


def answer_events(admission: Admission, receipt: Receipt, *, with_stats: bool) -> Ack:
    """Answer a client about its own events, by the ids that it knows them by, and count them if it asks for that.

    What a stream is told are the counters of the whole pipeline: its door adds them.
    """
    return at_once(answering(admission, receipt, with_stats=with_stats))


def answering(admission: Admission, receipt: Receipt, *, with_stats: bool) -> Generator[None, None, Ack]:
    """Do what `answer_events` does, in slices."""
    given = ids = admission.ids
    if receipt.refused:
        out = {refusal.position for refusal in receipt.refused}
        ids = [event_id for position, event_id in enumerate(given) if position not in out]
    ack = Ack(
        event_ids=ids,
        buffer_size=receipt.buffer_size,
        buffer_capacity=receipt.buffer_capacity,
        middleware_stats=to_stats(receipt.counts_of(len(given))) if with_stats else None,
    )
    for start in range(0, len(admission.refused), PIECE):
        if start:
            yield
        piece = admission.refused[start : start + PIECE]
        ack.errors.extend([AckError(event_id=r.event_id, code=r.code, message=r.message) for r in piece])
    for start in range(0, len(receipt.refused), PIECE):
        if start:
            yield
        later = receipt.refused[start : start + PIECE]
        ack.errors.extend([_error(given[refusal.position], refusal) for refusal in later])
    return ack


def answer_together(admissions: Sequence[Admission], receipt: Receipt) -> list[Ack]:
    """Answer the clients of several requests whose events went on as one batch, each about its own events.

    Acks of as many events in which nothing is wrong differ in their ids alone: they are made from the bytes of one.
    """
    alike: dict[int, bytes] = {}
    acks = []
    start = 0
    for admission in admissions:
        count = len(admission.ids)
        piece = receipt.piece(start, count)
        is_plain = not (piece.refused or piece.fates or admission.refused)
        if is_plain and count in alike:
            ack = Ack.FromString(alike[count])
            ack.event_ids.extend(admission.ids)
        else:
            ack = answer_events(admission, piece, with_stats=True)
            if is_plain and len(admissions) > 1:
                alike[count] = _without_ids(ack)
        acks.append(ack)
        start += count
    return acks


def answer_message(code: Code, message: str, latest: Receipt) -> Ack:
    """Answer a message of which nothing is taken: one error, about all of it."""
    return Ack(
        errors=[AckError(code=code, message=line(message, _MESSAGE))],
        buffer_size=latest.buffer_size,
        buffer_capacity=latest.buffer_capacity,
    )


def to_stats(counts: Counts) -> MiddlewareStats:
    """Return counts as they stand in an Ack."""
    return MiddlewareStats(
        rate_limited_count=counts.rate_limited,
        sampled_out_count=counts.sampled_out,
        dedup_count=counts.deduplicated,
        filtered_count=counts.filtered,
        buffer_overflow_count=counts.overflowed,
        total_received=counts.received,
        total_forwarded=counts.forwarded,
    )


def _without_ids(ack: Ack) -> bytes:
    blank = Ack()
    blank.CopyFrom(ack)
    del blank.event_ids[:]
    return blank.SerializeToString()


def _error(event_id: str, refusal: Refusal) -> AckError:
    message = refusal.message
    if refusal.event_id not in ("", event_id):  # middleware made another event of it
        message = f"{message} (it was event {refusal.event_id!r} by then)"
    return AckError(event_id=event_id, code=refusal.code, message=message)
