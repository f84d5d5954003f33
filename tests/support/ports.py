"""Ports for programs that must be told theirs before they start."""

from __future__ import annotations

import random
import socket
from pathlib import Path

_RANGE = Path("/proc/sys/net/ipv4/ip_local_port_range")
_FIRST = 10_240
_CHANCE = random.SystemRandom()  # others may choose at the same moment, from the same seed
_given: set[int] = set()


def free_port() -> int:
    """Return a port that nothing listens on, and that the system gives to nobody who asks for any; never one twice.

    One that the system has given and got back is soon given to another connection: then the program that was told it
    cannot start.
    """
    while True:
        port = _CHANCE.randrange(_FIRST, _first_ephemeral())
        if port in _given:  # its program has yet to start
            continue
        with socket.socket() as probe:
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
        _given.add(port)
        return port


def _first_ephemeral() -> int:
    first = int(_RANGE.read_text().split()[0]) if _RANGE.exists() else 32_768
    return first if first > _FIRST + 1_000 else 65_536
