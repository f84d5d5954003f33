"""The extension points: one method each. A class that has the method is a component; nothing needs to be inherited.

Everything beside that method is optional. A component may have

* `build(clock)`: the object is an immutable configuration and this makes the object that runs, inside its actor;
* `start()`: open files, sockets and clients (sync or async); called before the first batch. Raising ends the start of a
  pipeline; an emitter in an actor that was restarted is started again until it works. An async one may take 300 s;
* `close()`: release them (sync or async); called after the last batch, also when draining timed out. What it raises
  is logged and keeps no other part from being closed; an async one may take 10 s;
* `name`: what it is called in plans, statistics and messages.

Sync methods run on the pipeline's event loop and hold it up while they run; async ones do not. Any of them may raise
anything: `CancelledError`, `SystemExit` and panics of extensions count as any other exception does.
"""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol, TypeAlias, runtime_checkable

from polku.batch.batch import Batch
from polku.batch.receipt import Refusal
from polku.errors import RecordError
from polku.event.v1.event_pb2 import Event
from polku.histogram import Distribution
from polku.lazy import pattern

Records: TypeAlias = Iterable["Event | RecordError"]


class IngestContext(NamedTuple):
    """Say where raw bytes come from: the client's `source` and `cluster`, and its `format` hint (may be empty).

    Of an HTTP request also its `headers` (names in lower case; of several alike the first), `path`, and `query` as it
    was sent.
    """

    source: str
    cluster: str = ""
    format: str = ""
    headers: Mapping[str, str] = {}
    path: str = ""
    query: str = ""


_MEDIA_TYPE = pattern(r"[\w.+-]+/[\w.+-]+(; *[\w.-]+=[\w.-]+)*", re.ASCII)


@dataclass(frozen=True, slots=True)
class Reply:
    """The events of a request, and what its sender is to read once all of them are accepted, instead of an Ack.

    Returned by an ingestor where a sender asks for an answer of its own, as webhooks do that have their address
    confirmed: `return Reply(challenge)`. It is the body of an answer 200 over HTTP; other ways in leave it out.
    Raises `ValueError` for a `media_type` that is none.
    """

    body: str | bytes
    media_type: str = "text/plain; charset=utf-8"
    events: Iterable[Event | RecordError] = ()

    def __post_init__(self) -> None:
        if not isinstance(self.body, (str, bytes)):
            raise ValueError(f"Reply: body={self.body!r}: must be text or bytes")
        if not _MEDIA_TYPE.fullmatch(self.media_type):
            raise ValueError(f"Reply: media_type={self.media_type!r}: write one such as application/json")

    def __iter__(self) -> Iterator[Event | RecordError]:
        return iter(self.events)


@runtime_checkable
class Ingestor(Protocol):
    """Turn raw bytes of one source into events."""

    def ingest(self, data: bytes, context: IngestContext) -> Records | Awaitable[Records]:
        """Return the events in `data`, with a `RecordError` in place of each record that cannot be read.

        Missing ids, times and sources are filled in afterwards. A `Reply` answers the sender itself. Raising refuses
        the whole of `data`, with the exception's text as the reason.
        """
        ...


@runtime_checkable
class Middleware(Protocol):
    """Turn events into events."""

    def process(self, events: list[Event]) -> Iterable[Event] | Awaitable[Iterable[Event]]:
        """Return the events that go on, in order: changed in place, replaced, fewer or more.

        Events that do not come back count as filtered. Raising makes the stage call again with smaller parts, until
        the events that raise are known; they become dead letters with the traceback.
        """
        ...


class Failure(NamedTuple):
    """Name one event that a destination did not take; `retryable` says whether trying again can help.

    `attempts` is how often it was tried. `position` is its index in the batch, for an emitter that knows it; -1: every
    event of that id counts as failed. `detail` is for the dead letter: more lines than the reason, such as a traceback.
    """

    event_id: str
    reason: str
    retryable: bool = True
    attempts: int = 1
    position: int = -1
    detail: str = ""


@runtime_checkable
class Emitter(Protocol):
    """Hand batches to a destination."""

    def emit(self, batch: Batch) -> Iterable[Failure] | Awaitable[Iterable[Failure] | None] | None:
        """Return when the destination has confirmed the batch; name the events that it did not take.

        Raise `RetryableError`, `RejectedError` or `MisconfiguredError` where the whole batch was not taken; any
        other exception counts as retryable. One emitter gets one call at a time unless it has a `concurrency`. The
        batch is its own: what it changes in it, or in its events, no other call, emitter or dead letter has.
        """
        ...


class Collecting(NamedTuple):
    """Say how much a destination wants in one call, and how much may be held for it meanwhile.

    A group is complete with `max_events` events or `max_bytes` bytes of them (serialised, one event at least), or
    `max_age` seconds after its first event; the oldest group is completed early where there would be more than
    `max_groups`, or more than `max_held_bytes` of events without a confirmation.
    """

    max_events: int
    max_bytes: int
    max_age: float
    max_groups: int
    max_held_bytes: int


@runtime_checkable
class Collector(Emitter, Protocol):
    """An emitter whose calls are filled from many batches: each `emit` gets a complete group, and confirms all of it.

    Events are held for it outside of the windows of links (see `polku.emit.collect`), so that a small window or buffer
    makes small groups, and never a stop.
    """

    @property
    def collecting(self) -> Collecting:
        """How much it wants."""
        ...

    def group(self, event: Event) -> str:
        """Return the group that an event belongs to. Raising makes a dead letter with the exception's text."""


class Pulled(NamedTuple):
    """One record that a source pulled: an event, bytes for an ingestor, or why it cannot be read.

    `place` says for people where it stood. Events without an id get `id` (and a number behind it, where there are
    several), so that the same record read twice gives the same ids; events without a time get `time_ns`, Unix
    nanoseconds, if that is not 0. `metadata` goes to what lacks it.
    """

    content: Event | bytes | RecordError
    place: str
    id: str
    time_ns: int = 0
    metadata: Mapping[str, str] = {}


class PulledStream(Protocol):
    """The way in for one ordered stream of records."""

    async def push(self, records: Sequence[Pulled]) -> Awaitable[None]:
        """Hand records in; the returned awaitable is done when each of them is in, or is a dead letter.

        Waits while the pipeline takes nothing. What it does not take now is tried again for as long as it takes.
        Both raise `DrainingError` at the end of the pipeline: nothing is known about the records then.
        """
        ...


class SourceState(NamedTuple):
    """Say how a source is: `text` in a sentence, `alarm` why it gets nothing (else empty), and counts of records.

    `lag` is how many records wait to be pulled, as far as known. `ended` where nothing more can come, everything is in,
    and the pipeline may end.
    """

    text: str
    alarm: str = ""
    records: int = 0
    commits: int = 0
    lag: int = 0
    in_flight: int = 0
    ended: bool = False


@runtime_checkable
class Source(Protocol):
    """Pull records from an outside system, and tell it which of them the pipeline has accepted.

    The configuration of one may have `readers`, the sources that must have an ingestor; `one_lane = True` where each
    of several lanes would pull the same, so that only the first of a disk may have it; `one_process = True` where it
    cannot be in an actor; and `beside(journal, name)`, which returns the configuration with a place for what it keeps,
    next to the file of a durable buffer.
    """

    async def run(self, open_stream: Callable[..., PulledStream]) -> None:
        """Pull until `drain` or `close`. What is out of reach is no error: it shows in `state` and is tried again.

        `open_stream(source=…, cluster=…, format=…, reader=…)` gives a way in: events without a source get `source`,
        bytes go to the ingestor that serves `reader` (if not given: `source`).
        """
        ...

    def stop(self) -> None:
        """Pull nothing more."""
        ...

    async def drain(self) -> None:
        """Return when what was handed in is answered, and confirmed to where it came from."""
        ...

    async def close(self) -> None:
        """Release clients; may be called twice."""
        ...

    def state(self) -> SourceState:
        """Return a snapshot; from any thread."""
        ...


class DeadEvent(NamedTuple):
    """An event that cannot go on, why (for its sender), and the details (for the pipeline's owner).

    Of a step's, `refusal.position` is the event's index in the list that the step was given.
    """

    event: Event
    refusal: Refusal
    detail: str = ""


class Follows(NamedTuple):
    """An event whose answer is that of an event of an earlier batch: positions in what the step was given."""

    position: int
    batch: int
    first: int


class Outcome(NamedTuple):
    """Say what a step did with a batch: the events that go on, and those that are refused.

    `follows` names events whose answer is that of an event of an earlier batch (a Deduplicator's). `origins` has for
    each event that goes on the positions of the given events that it was made of, so that those are refused with it;
    None where each is one of the given objects, or where that is not known (see `polku.batch.lineage`). `kept` has a
    byte for each given event, 1 where one event was made of it alone, in their order, and 0 where none was; a step that
    knows this saves the stage from having to look for it.
    """

    events: list[Event]
    refused: Sequence[DeadEvent] = ()
    follows: Sequence[Follows] = ()
    origins: Sequence[tuple[int, ...]] | None = None
    kept: bytes | None = None


class Step(Protocol):
    """A running middleware, as a stage drives it: built-in middleware builds to it, users' is adapted to it.

    `drop_reason` is the counter of `Counts` that events which do not come back are added to. `batch` numbers the
    batch (rising within one stage); `settled` is called once for each number, when the batch's outcome is known, with
    the positions of the given events that were refused, here or further down. A step that drops events but changes
    none may have `reads_only = True`: the stage then passes on the bytes that came, instead of encoding the events
    again.
    """

    name: str
    drop_reason: str

    def process(self, events: list[Event], batch: int) -> Outcome | Awaitable[Outcome]:
        """Return what goes on."""
        ...

    def settled(self, batch: int, refused: frozenset[int]) -> None:
        """Learn the outcome of a batch."""
        ...


class Part(NamedTuple):
    """One input of a held event: the number of its batch and its position in what the holder was given of it."""

    batch: int
    position: int


class Flush(NamedTuple):
    """Events that a holder lets go, and the inputs that they were made of."""

    events: list[Event]
    parts: Sequence[Part]


class Holder(Protocol):
    """A running middleware that keeps events back (an Aggregator): its inputs are answered when their output is."""

    name: str
    drop_reason: str

    def hold(self, events: list[Event], batch: int) -> Sequence[Flush]:
        """Take events in and return what became complete."""
        ...

    def due(self) -> float | None:
        """Return the clock's monotonic time at which `flush` must be called, or None while nothing is held."""
        ...

    def flush(self, *, everything: bool = False) -> Sequence[Flush]:
        """Return what is due, or all that is held."""
        ...

    @property
    def held(self) -> tuple[int, int]:
        """The number of held events and their size in bytes."""
        ...

    @property
    def limit(self) -> tuple[int, int]:
        """The numbers of events and bytes over which the stage must wait before it hands in more."""
        ...


class CallShape(NamedTuple):
    """What the calls were like that a step fills from many batches.

    `sizes` counts the events of each call, `seconds` how long each took. `full` calls left complete, `aged` ones when
    their first event had waited long enough; `retries` are calls that were made again. Now, `waiting` events are in no
    call yet, and `in_flight` calls have not returned, the oldest of them `since` a monotonic time in seconds.
    """

    max_events: int
    full: int = 0
    aged: int = 0
    retries: int = 0
    waiting: int = 0
    in_flight: int = 0
    since: float = 0.0
    sizes: Distribution = Distribution({}, 0.0, 1.0)
    seconds: Distribution = Distribution()


class Overlapping(Step, Protocol):
    """A step that works on several batches at once, as a model does that is called with events of many of them.

    A stage of it alone hands batches on in the order in which they came, and takes in as many as `limit` allows.
    """

    def submit(self, events: list[Event]) -> Awaitable[Outcome]:
        """Take the events of a batch, and return what is awaited for their outcome."""
        ...

    def flush(self) -> None:
        """Wait for no more events: what has come is worked on as it is."""
        ...

    @property
    def limit(self) -> tuple[int, int]:
        """The numbers of events and bytes without an outcome over which the stage must wait before it hands in more."""
        ...

    def shape(self) -> CallShape:
        """Return a snapshot; from any thread."""
        ...
