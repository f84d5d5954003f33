"""Learn from a gRPC error how large a message the receiver takes."""

from __future__ import annotations

import re
from typing import NamedTuple

# How gRPC in C, C++, Python and Go, tonic in Rust, and POLKU say that a message is over the receiver's limit.
_LIMIT = re.compile(
    r"larger than max \((\d+) vs\. (\d+)\)"
    r"|too large: found (\d+) bytes, the limit is: (\d+)"
    r"|TOO_LARGE: message: (\d+) bytes, the limit is (\d+)"
)


class Excess(NamedTuple):
    """Say how large a message was and how large it may be, in bytes."""

    size: int
    limit: int


def read_excess(text: str) -> Excess | None:
    """Return what an error's text says about sizes, if it does."""
    found = _LIMIT.search(text)
    if found is None:
        return None
    size, limit = (int(number) for number in found.groups() if number is not None)
    return Excess(size, limit)
