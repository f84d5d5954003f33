"""Admit a block of a source as one batch, if all of its events are good."""

from __future__ import annotations

from google.protobuf.message import DecodeError

from polku.batch.batch import Batch
from polku.gateway.admission import Admission, are_good
from polku.gateway.event_limits import HEAVY_BYTES, check_envelope
from polku.limits import Limits
from polku.pull.block import Extent, PulledBlock
from polku.v1.gateway_pb2 import EventPayload


def admit_block(block: PulledBlock, source: str, cluster: str, limits: Limits) -> Admission | None:
    """Admit the events of a block as they are; None where that has to be found out one by one.

    Those that the source has made itself are not decoded. Others are good where they lack nothing, keep their limits
    and have ids that differ. Raises `InputError` as `admit_events` does.
    """
    payload, count = block.payload, len(block.sizes)
    if not count or count > limits.batch_events or len(payload) > limits.message_bytes:
        return None
    check_envelope(limits, source, cluster)
    if block.ids is not None and block.extent is not None:
        is_within = _is_within(block.extent, limits)
        return Admission(Batch(payload=payload, count=count, routes=()), block.ids, []) if is_within else None
    if max(block.sizes) > HEAVY_BYTES:
        return None
    try:
        message = EventPayload.FromString(payload)
    except DecodeError:
        return None
    events = list(message.events)
    ids = [event_id for event in events if (event_id := event.id) and event.timestamp_unix_ns and event.source]
    if len(set(ids)) != count or not are_good(events, block.sizes, payload, limits):
        return None
    return Admission(Batch.from_parsed(message, events, payload), ids, [])


def _is_within(extent: Extent, limits: Limits) -> bool:
    bounds = (limits.id_bytes, limits.event_type_bytes, limits.metadata_entries)
    return all(map(int.__le__, extent, (*bounds, limits.metadata_key_bytes, limits.metadata_value_bytes)))
