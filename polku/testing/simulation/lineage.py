"""Tokens that inputs carry in their metadata, so that whatever becomes of them can be told from where it arrives.

The token of an input is `client.number`. Code that cuts an event into parts gives part `i` of `n` the token
`TOKEN/i:n`; what was merged carries the tokens of all its parts, separated by spaces.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterable

from polku.event.v1.event_pb2 import Event

LINEAGE = "lineage"
CHECKSUM = "crc"


def tokens_of(event: Event) -> tuple[str, ...]:
    """Return the tokens that an event carries."""
    return tuple(event.metadata[LINEAGE].split()) if LINEAGE in event.metadata else ()


def mark(event: Event, tokens: Iterable[str]) -> Event:
    """Give an event tokens, and a checksum of its payload; return it."""
    event.metadata[LINEAGE] = " ".join(tokens)
    event.metadata[CHECKSUM] = f"{zlib.crc32(event.payload):x}"
    return event


def is_intact(event: Event) -> bool:
    """Return whether the payload is the one that the checksum was made of."""
    return event.metadata[CHECKSUM] == f"{zlib.crc32(event.payload):x}"


def part_of(token: str, number: int, count: int) -> str:
    """Return the token of one of the parts that an event is cut into."""
    return f"{token}/{number}:{count}"


def root_of(token: str) -> str:
    """Return the token of the input."""
    return token.partition("/")[0]


def client_of(token: str) -> str:
    """Return the client that sent it."""
    return token.partition(".")[0]


def number_of(token: str) -> int:
    """Return the number of the input among those of its client."""
    return int(root_of(token).rpartition(".")[2])


def lineage_of(token: str) -> list[str]:
    """Return a token, what it was cut from, and so on up to the input."""
    parts = token.split("/")
    return ["/".join(parts[:count]) for count in range(len(parts), 0, -1)]
