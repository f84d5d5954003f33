"""What somebody wants to see of a pipeline's events, and what is seen."""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum
from fnmatch import fnmatchcase
from functools import lru_cache
from typing import NamedTuple

LIMIT = 100
MAX_LIMIT = 1_000
LEASE_SECONDS = 10.0
"""How long a tap stays although nobody reads it."""


class What(StrEnum):
    """Say what happened to an event at a part."""

    IN = "in"
    """The part was given it."""
    OUT = "out"
    """The part handed it on; an emitter: its destination confirmed it."""
    DROPPED = "dropped"
    """The part dropped it: by a choice of middleware, or by the rule of a full buffer."""
    REFUSED = "refused"
    """The client was told that it was not taken."""
    DEAD = "dead"
    """It became a dead letter."""


class TapRequest(NamedTuple):
    """Ask for a sample of events: `wants` has globs over names of parts for each thing that may happen to an event.

    `session` names who asks: asked again, it gets what has passed since. At most `limit` events come for each part and
    each thing that happens to them. With an `event_id` only that event counts, and all of it.
    """

    session: str
    wants: Mapping[What, tuple[str, ...]]
    limit: int = LIMIT
    event_id: str = ""


class Sighting(NamedTuple):
    """What happened to one event at one part, at a Unix time in nanoseconds.

    `event` is the serialised event, empty where only its id is known; `left_out` bytes of its payload are not in it.
    """

    time_ns: int
    part: str
    what: What
    event_id: str
    event: bytes = b""
    left_out: int = 0
    code: str = ""
    reason: str = ""


class TapReply(NamedTuple):
    """What has passed since the session asked before: the names of all parts, events that passed, a sample."""

    parts: tuple[str, ...] = ()
    passed: int = 0
    sightings: tuple[Sighting, ...] = ()


@lru_cache(maxsize=10_000)
def matches(pattern: str, part: str) -> bool:
    """Return whether a glob stands for a part, or for a piece of its name: of `lane-1/stage-1/Filter` each, or two.

    Of `emitter:NAME` the name alone is enough.
    """
    words = part.split("/")
    for start in range(len(words)):
        for end in range(start + 1, len(words) + 1):
            piece = "/".join(words[start:end])
            if fnmatchcase(piece, pattern) or fnmatchcase(piece.removeprefix("emitter:"), pattern):
                return True
    return False
