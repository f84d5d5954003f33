"""What a buffer and its outlets count of their work."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from msgspec import Struct

from polku.buffer.strategy import Overflow
from polku.dead_letters import DeadLetterStatistics
from polku.histogram import Distribution


class OutletStatistics(Struct, frozen=True):
    """Count what an outlet has done with events; `lag` and `lag_bytes` wait or are in flight now.

    `dropped` fell to the overflow rule, `dead` became dead letters, `unreadable` were damaged on disk. `fault` is why
    the latest push to the emitter ended without an answer, until one is answered.

    `bytes` is the size of the events that have left. `oldest_age` is for how long the first event that waits has been
    in the pipeline, `idle` for how long nothing has moved although something waits, both in seconds; `is_full` where
    there is no room for what comes and the rule, `overflow`, makes none. `ages` are those of events that have their
    answer, from the gateway on, `waits` is how long events waited here until they were handed to the emitter.
    `replayed` of `lag` are dead letters that lie in their file too, as the buffer is memory.
    """

    confirmed: int
    dead: int
    dropped: int
    lag: int
    lag_bytes: int
    in_flight: int
    unreadable: int = 0
    fault: str = ""
    bytes: int = 0
    oldest_age: float = 0.0
    idle: float = 0.0
    is_full: bool = False
    ages: Distribution = Distribution()
    waits: Distribution = Distribution()
    overflow: Overflow = Overflow.BLOCK
    replayed: int = 0

    @property
    def at_risk(self) -> int:
        """How many of `lag` are lost if the buffer's memory is lost."""
        return max(self.lag - self.replayed, 0)


class OutletCounts(Struct):
    """The events that an outlet has passed, by what became of them."""

    confirmed: int = 0
    dead: int = 0
    dropped: int = 0
    unreadable: int = 0


class BufferCounts(Struct):
    """The events that a buffer has taken in, and their bytes; `duplicates` are batches that came again."""

    received: int = 0
    bytes_received: int = 0
    duplicates: int = 0
    overflowed: int = 0
    unroutable: int = 0


class BufferStatistics(Struct, frozen=True):
    """Show what the buffer holds and has done; `events` and `bytes` are held now, each once.

    `fault` says why nothing can be written to disk now; `orphans` what waits in the journal for names that no emitter
    has, and what to do about it. `refuses` names the outlets that have no room, and hold up or refuse what comes.
    `bytes_received` have come in, `commits` are the journal's transactions.
    """

    events: int
    bytes: int
    capacity: int
    received: int
    duplicates: int
    overflowed: int
    unroutable: int
    outlets: Mapping[str, OutletStatistics]
    fault: str = ""
    dead_letters: DeadLetterStatistics | None = None
    orphans: Mapping[str, str] = {}
    refuses: Sequence[str] = ()
    bytes_received: int = 0
    commits: int = 0
