"""Learn from a gRPC error how large a message the receiver takes."""

from __future__ import annotations

import re
from typing import NamedTuple

# How gRPC in C, C++, Python and Go, and tonic in Rust, say that a message is over the receiver's limit.
_LIMIT = re.compile(r"larger than max \((\d+) vs\. (\d+)\)|too large: found (\d+) bytes, the limit is: (\d+)")


class Excess(NamedTuple):
    """Say how large a message was and how large it may be, in bytes."""

    size: int
    limit: int


def read_excess(text: str) -> Excess | None:
    """Return what an error's text says about sizes, if it does."""
    found = _LIMIT.search(text)
    return Excess(int(found[1] or found[3]), int(found[2] or found[4])) if found else None
