"""The Acks of an intake: what is said about the events of a message, or about all of it."""

from __future__ import annotations

from polku.batch.receipt import Counts, Receipt, Refusal
from polku.codes import Code
from polku.gateway.admission import Admission
from polku.text import line
from polku.v1.gateway_pb2 import Ack, AckError, MiddlewareStats

_MESSAGE = 1_000  # characters of what is said about a whole message


def answer_events(admission: Admission, receipt: Receipt, *, counted: bool) -> Ack:
    """Answer a client about its own events, by the ids that it knows them by, and count them if it asks for that.

    What a stream is told are the counters of the whole pipeline: its door adds them.
    """
    given = ids = admission.ids
    errors = [AckError(event_id=r.event_id, code=r.code, message=r.message) for r in admission.refused]
    if receipt.refused:
        out = {refusal.position for refusal in receipt.refused}
        ids = [event_id for position, event_id in enumerate(given) if position not in out]
        errors += [_error(given[refusal.position], refusal) for refusal in receipt.refused]
    return Ack(
        event_ids=ids,
        errors=errors,
        buffer_size=receipt.buffer_size,
        buffer_capacity=receipt.buffer_capacity,
        middleware_stats=to_stats(receipt.counts_of(len(given))) if counted else None,
    )


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


def _error(event_id: str, refusal: Refusal) -> AckError:
    message = refusal.message
    if refusal.event_id not in ("", event_id):  # middleware made another event of it
        message = f"{message} (it was event {refusal.event_id!r} by then)"
    return AckError(event_id=event_id, code=refusal.code, message=message)
