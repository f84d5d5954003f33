"""Read AHTI's acks: whether it took a batch, and which of its events where it names them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from polku.ahti.v1.events_pb2 import AhtiAck
from polku.contracts import Failure


class AckVerdict(NamedTuple):
    """An ack: `named` is empty where it speaks of the whole batch, `fullness` something that AHTI does not tell."""

    success: bool
    error: str
    named: frozenset[str]
    fullness: float = 0.0


def read_verdict(data: bytes) -> AckVerdict:
    """Read a serialised `AhtiAck`; raises protobuf's `DecodeError`."""
    ack = AhtiAck.FromString(data)
    return AckVerdict(ack.success, ack.error or "AHTI refused it and gave no reason", frozenset(ack.event_ids))


def read_failures(ids: Sequence[str], verdict: AckVerdict) -> list[Failure]:
    """Return the events that an ack with success does not confirm: those that it does not name, if it names any."""
    if not verdict.named:
        return []
    left = [(place, event_id) for place, event_id in enumerate(ids) if event_id not in verdict.named]
    return [Failure(event_id, "the ack does not name it", position=place) for place, event_id in left]
