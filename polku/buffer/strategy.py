"""What the buffer holds, where, how much of it, and what happens when a destination's share of it is full."""

from __future__ import annotations

import os
from dataclasses import dataclass
from enum import StrEnum

from polku.checks import absolute
from polku.errors import PlanError

DEFAULT_CAPACITY = 10_000
DEFAULT_MAX_BYTES = 64 * 1024 * 1024
DEFAULT_JOURNAL_CAPACITY = 10_000_000
MAX_DURABLE_OUTLETS = 62  # the outlets of a batch are the bits of one integer in the journal
DEFAULT_JOURNAL_BYTES = 1024 * 1024 * 1024


class Overflow(StrEnum):
    """Say what happens to an event for which an outlet's share of the buffer has no room."""

    BLOCK = "block"
    """The event waits, and so does its sender: nothing is lost."""
    DROP_OLDEST = "drop_oldest"
    """The oldest waiting events of that outlet are dropped and counted."""
    DROP_NEWEST = "drop_newest"
    """The event is dropped for that outlet, counted, and its sender is told."""


class Kind(StrEnum):
    """Say where the buffer holds events."""

    RING = "ring"
    TIERED = "tiered"
    DURABLE = "durable"


@dataclass(frozen=True, slots=True)
class BufferStrategy:
    """Choose a buffer: `ring(10_000)`, `tiered(10_000, 5_000)` or `durable("/var/lib/polku/journal.db")`.

    Each outlet (the buffer's side of one emitter) has a share: it may lag by `capacity` events and `max_bytes` bytes.
    Outlets that wait for the same events share their memory. A batch of more events than the share passes in pieces.
    """

    kind: Kind
    primary: int
    secondary: int = 0
    max_bytes: int = DEFAULT_MAX_BYTES
    overflow: Overflow = Overflow.BLOCK
    path: str = ""

    def __post_init__(self) -> None:
        _at_least("primary" if self.kind is Kind.TIERED else "capacity", self.primary, 1)
        _at_least("secondary", self.secondary, 0)
        _at_least("max_bytes", self.max_bytes, 1)
        object.__setattr__(self, "overflow", overflow_rule(self.overflow))

    @classmethod
    def ring(
        cls,
        capacity: int = DEFAULT_CAPACITY,
        *,
        max_bytes: int = DEFAULT_MAX_BYTES,
        overflow: Overflow | str = Overflow.BLOCK,
    ) -> BufferStrategy:
        """Hold up to `capacity` events in memory."""
        return cls(Kind.RING, capacity, max_bytes=max_bytes, overflow=overflow_rule(overflow))

    @classmethod
    def tiered(
        cls,
        primary: int,
        secondary: int,
        *,
        max_bytes: int = DEFAULT_MAX_BYTES,
        overflow: Overflow | str = Overflow.BLOCK,
    ) -> BufferStrategy:
        """Hold `primary` events in memory as they are and the next `secondary` ones zstd-compressed, in order."""
        return cls(Kind.TIERED, primary, secondary, max_bytes, overflow_rule(overflow))

    @classmethod
    def durable(
        cls,
        path: str | os.PathLike[str],
        *,
        max_bytes: int = DEFAULT_JOURNAL_BYTES,
        capacity: int = DEFAULT_JOURNAL_CAPACITY,
        overflow: Overflow | str = Overflow.BLOCK,
    ) -> BufferStrategy:
        """Hold up to `max_bytes` (and `capacity` events) in a journal on disk; events are there before their Ack is.

        `path` is a file that this pipeline has for itself, on a disk of its machine; its directory is made where it is
        missing. Next to `max_bytes` its write-ahead log and its reserve take some 10 MB. The start raises
        `JournalPathError` where there can be no journal: a path below a file, somebody else's file, a network disk.
        """
        text = os.fspath(path)
        if not text or text.endswith(os.sep) or os.path.isdir(text):
            raise PlanError(f"path={text!r} must name a file, such as 'journal.db'", where="BufferStrategy")
        rule = overflow_rule(overflow)
        return cls(Kind.DURABLE, capacity, max_bytes=max_bytes, overflow=rule, path=absolute(text))

    @property
    def capacity(self) -> int:
        """The number of events that one outlet may lag."""
        return self.primary + self.secondary


def overflow_rule(value: Overflow | str) -> Overflow:
    """Read an overflow rule from its name; raises `PlanError` that lists the names."""
    try:
        return Overflow(value)
    except ValueError:
        names = ", ".join(repr(str(rule)) for rule in Overflow)
        raise PlanError(f"overflow={value!r} is not a rule; choose one of {names}", where="BufferStrategy") from None


def _at_least(field: str, value: object, least: int) -> None:
    if not isinstance(value, int) or isinstance(value, bool) or value < least:
        raise PlanError(f"{field}={value!r} must be a whole number of at least {least}", where="BufferStrategy")
