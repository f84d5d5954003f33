"""Where clients come in."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import NamedTuple


@dataclass(frozen=True, slots=True)
class Doors:
    """Say which doors to open: addresses (`host:port`, port 0 for any free one), None for a door that stays shut.

    Where there is an `http_token`, HTTP clients must send it (`Authorization: Bearer …`).
    """

    grpc_addr: str | None = None
    http_addr: str | None = None
    http_token: str | None = field(default=None, repr=False)


class Addresses(NamedTuple):
    """The addresses that are open, with their real ports."""

    grpc: str | None = None
    http: str | None = None
