"""The ports of a pipeline's lanes when it moves to other addresses: reserved before anything is changed."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence

from polku.actors.asking import ask
from polku.actors.handles import LaneHandles
from polku.actors.nodes import LanePlace
from polku.errors import ChangeError, PlanError, PolkuError, SettingError
from polku.gateway.addresses import Doors
from polku.plan import Plan

_ABANDON_SECONDS = 5.0
_WILDCARDS = ("", "0.0.0.0", "::")


def check_wildcards(plan: Plan, doors: Doors) -> None:
    """Raise `PlanError` where lanes that are spread would have an address that only one node has."""
    for name, address in doors.addresses.items() if plan.spread else ():
        host, _, port = address.rpartition(":")
        if address.startswith("unix:") or host.strip("[]") not in _WILDCARDS:
            raise PlanError(
                f"{name}={address!r} is of one node, and lanes(spread=True) may be on any; use 0.0.0.0:{port or 50051}",
                where="lanes",
            )


def check_shared(doors: Doors, old: Plan, new: Plan) -> None:
    """Raise `ChangeError` where more lanes than before, or on other nodes, could not share what clients connect to."""
    try:
        check_wildcards(new, doors)
    except PlanError as error:
        raise ChangeError([str(error)]) from error
    paths = [address for address in doors.addresses.values() if address.startswith("unix:")]
    if paths and new.lanes > old.lanes:
        raise ChangeError([f"lanes cannot share {paths[0]}: choose a port"])


async def reserve_ports(lanes: Sequence[tuple[LaneHandles, LanePlace]], before: Doors, doors: Doors) -> Doors:
    """Have every lane open the ports that it moves to, and return the doors with them.

    Raises `ChangeError` where a lane's ports could not be opened again so.
    """
    opened: set[str] = set()
    try:
        for lane, place in lanes:
            first = place.node.address not in opened
            opened.add(place.node.address)
            doors = await ask(lane.door, lane.ingest.reserve_doors, before, doors, alone=first)
    except SettingError as error:
        raise ChangeError([str(error)]) from error
    return doors


async def abandon_ports(lanes: Sequence[tuple[LaneHandles, LanePlace]]) -> None:
    """Have lanes close the ports that were reserved."""
    for lane, _ in lanes:
        with contextlib.suppress(PolkuError):
            await ask(lane.door, lane.ingest.abandon_doors, seconds=_ABANDON_SECONDS)
