"""What a pipeline's ports are opened with, of one plan after another."""

from __future__ import annotations

from dataclasses import replace

from polku.change.difference import PORT_LIMITS
from polku.gateway.addresses import Addresses, Doors
from polku.plan import Plan


def renewed(doors: Doors, old: Plan, new: Plan) -> Doors:
    """Return how ports are opened again for a plan that takes another one's place: the same where they can stay.

    What neither plan says of them stays: it came from the environment, or from who started the pipeline.
    """
    said = zip(doors.all, old.listen, new.listen, strict=True)
    changed = replace(
        doors.at(Addresses(*(now if before == after else after for now, before, after in said))),
        tls=doors.tls if old.tls == new.tls else new.tls,
        tokens=doors.tokens if old.tokens == new.tokens else new.tokens,
        stamp=new.stamp,
        origins=new.origins,
        require=new.require_security,
    )
    limits = any(getattr(old.limits, name) != getattr(new.limits, name) for name in PORT_LIMITS)
    return replace(changed, version=doors.version + 1) if limits or changed != doors else doors
