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
    from polku.gateway.ingestors import Ingestors
    from polku.ingest.json_plain import Plain
    from polku.security.account import Account

ReadPlain = Callable[[bytes], "Plain | None"]
"""Read plain records, and fill in what they lack; None where any is not."""

MakePlain = Callable[[IngestContext, Limits], ReadPlain]
"""Return what reads the plain records of a source."""


def read_distinct(data: bytes, read: ReadPlain, limits: Limits) -> Plain | None:
    """Read plain records that may go on whole: as many as are allowed, with different ids; None for others."""
    plain = read(data)
    if plain is None:
        return None
    count = len(plain.ids)
    is_one = count == 1
    return plain if is_one or (0 < count <= limits.batch_events and len(set(plain.ids)) == count) else None


def admission_of(plain: Plain, size: int, account: Account | None) -> Admission:
    """Return what is admitted of plain records that came in `size` bytes."""
    batch = Batch(payload=plain.payload, count=len(plain.ids))
    admission = Admission(batch, plain.ids, [], max(0, len(plain.payload) - size))
    return admission if account is None else authorized(admission, account, plain.payload)


def admit_plain(
    data: bytes, context: IngestContext, ingestors: Ingestors, reader: str, limits: Limits, account: Account | None
) -> Admission | None:
    """Admit plain records; None for others; raises `InputError` where the texts of the message are too long."""
    read = ingestors.plain_reader(reader, context, limits)
    if read is None:
        return None
    check_envelope(limits, context.source, context.cluster, context.format)
    plain = read_distinct(data, read, limits)
    return None if plain is None else admission_of(plain, len(data), account)
