"""Addresses that a pipeline moves to: opened first, so that where one cannot be had nothing was changed."""

from __future__ import annotations

from collections.abc import Mapping

from polku.gateway.addresses import Addresses, Doors, check_free
from polku.gateway.listen import QueuedSockets, reserve


class Reservation:
    """The ports of `doors` that were not open so far: connections wait in their queues until a gateway takes them."""

    def __init__(self, doors: Doors, ports: Mapping[str, QueuedSockets]) -> None:
        self.doors = doors
        self.ports = ports

    def close(self) -> None:
        """Close what is reserved; a gateway that has opened these ports keeps them."""
        for port in self.ports.values():
            port.close()


async def reserve_doors(before: Doors, doors: Doors, *, alone: bool) -> Reservation:
    """Open the addresses that differ from those `before`; raises `SettingError`, and none is open.

    The doors of what is returned have the real ports. With `alone` nobody else may have one of them; without it other
    lanes may have opened them already.
    """
    ports: dict[str, QueuedSockets] = {}
    try:
        for name, address in moved(before, doors).items():
            if alone:
                check_free(name, address)
            ports[name] = await reserve(name, address, shared=doors.shared)
    except BaseException:
        Reservation(doors, ports).close()
        raise
    real = Addresses(**{name.removesuffix("_addr"): port.address for name, port in ports.items()})
    return Reservation(doors.at(real.over(doors.all)), ports)


def moved(before: Doors, doors: Doors) -> dict[str, str]:
    """Return the addresses that were not open so far, by the names of their settings."""
    return {name: address for name, address in doors.addresses.items() if before.addresses.get(name) != address}
