"""Admit raw bytes in one step where an ingestor of ours finds nothing but plain records in them.

What that is, the ingestor knows: records that keep all limits, and that need no look one by one. For all else, and
for all that may be wrong, there is the way of `Intake.admit_raw`, which says what is wrong.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from polku.batch.batch import Batch
from polku.contracts import IngestContext
from polku.gateway.admission import Admission
from polku.gateway.authorization import authorized
from polku.gateway.event_limits import check_envelope
from polku.limits import Limits

if TYPE_CHECKING:
    from polku.ingest.json_plain import Plain
    from polku.security.account import Account

ReadPlain = Callable[[bytes, IngestContext, Limits], "Plain | None"]
"""Read plain records, and fill in what they lack; None where any is not."""


def admit_plain(
    data: bytes, context: IngestContext, read: ReadPlain | None, limits: Limits, account: Account | None
) -> Admission | None:
    """Admit plain records; None for others; raises `InputError` where the texts of the message are too long."""
    if read is None:
        return None
    check_envelope(limits, context.source, context.cluster, context.format)
    plain = read(data, context, limits)
    if plain is None:
        return None
    ids = plain.ids
    count = len(ids)
    if not 0 < count <= limits.batch_events or len(set(ids)) != count:
        return None
    admission = Admission(Batch(payload=plain.payload, count=count), ids, [], max(0, len(plain.payload) - len(data)))
    return admission if account is None else authorized(admission, account, plain.payload)
