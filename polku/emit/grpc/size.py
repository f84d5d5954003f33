"""Learn from a gRPC error how large a message the receiver takes."""

from __future__ import annotations

import re
from typing import NamedTuple

# How gRPC in C, C++, Python, Go and Node, tonic in Rust, and POLKU say that a message is over the receiver's limit.
_LIMIT = re.compile(
    r"larger than max \((\d+) vs\.? (\d+)\)"
    r"|too large: found (\d+) bytes, the limit is: (\d+)"
    r"|TOO_LARGE: message: (\d+) bytes, the limit is (\d+)"
)
_LIMIT_FIRST = re.compile(r"message exceeds maximum size (\d+): (\d+)")  # gRPC in Java
_NO_LIMIT = re.compile(r"message exceeds the maximum configured message size|message (is )?too large", re.IGNORECASE)


class Excess(NamedTuple):
    """Say how large a message was and how large it may be, in bytes."""

    size: int
    limit: int


def read_excess(text: str) -> Excess | None:
    """Return what an error's text says about sizes, if it does."""
    if found := _LIMIT.search(text):
        size, limit = (int(number) for number in found.groups() if number is not None)
        return Excess(size, limit)
    if found := _LIMIT_FIRST.search(text):
        return Excess(int(found[2]), int(found[1]))
    return None


def is_excess_of_unknown_size(text: str) -> bool:
    """Return whether an error's text says that a message is too large, and not by how much (gRPC in .NET)."""
    return read_excess(text) is None and _NO_LIMIT.search(text) is not None
