"""What an intake counts: messages, events and bytes, what is open, what was refused and why, and how long it took."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from msgspec import Struct

from polku.batch.batch import Batch
from polku.batch.receipt import Receipt, Refusal
from polku.codes import Code
from polku.errors import DrainingError
from polku.histogram import Distribution, Histogram
from polku.tap.request import What

if TYPE_CHECKING:
    from polku.contracts import SourceState
    from polku.dead_letters import DeadLetterStatistics
    from polku.external.client import PluginState
    from polku.link.link import LinkStatistics
    from polku.security.failures import Failures
    from polku.tap.point import TapPoint


class WayStatistics(Struct, frozen=True):
    """Count the messages that came in one way, and their events: those that went on, and those refused at once."""

    messages: int
    events: int
    refused: int


class SecurityFiles(Struct, frozen=True):
    """The files of the ports: the Unix time at which their certificate ends, 0 without one that tells; whether one
    of certificates, keys or tokens has changed and cannot be used, so that its last good content stays in use; and the
    time at which a principal is left without a token, 0 where none will be.
    """

    certificate_ends_at: float = 0.0
    is_stale: bool = False
    token_ends_at: float = 0.0


class IntakeStatistics(Struct, frozen=True):
    """Count messages and events; `open` messages have no answer yet, and `open_bytes` are theirs.

    `plugins` are the external ingestors by source, `sources` what is pulled from, by name. `fault` says what does not
    work in the background. `refused_by` counts events, and messages that were refused whole, by code; `bytes` came in.
    `ack_seconds` is how long events waited for their answer, `batch_events` how many events came together. `ways` are
    those in (`stream`, `call`, `http`, `otlp`, `sender`, `source`, `replay`) that were used, `connections` those that
    are open now, by protocol.
    """

    messages: int
    received: int
    accepted: int
    refused: int
    open: int
    latest: Receipt
    plugins: Mapping[str, PluginState] = {}
    sources: Mapping[str, SourceState] = {}
    fault: str = ""
    refused_by: Mapping[str, int] = {}
    bytes: int = 0
    open_bytes: int = 0
    draining: bool = False
    ack_seconds: Distribution = Distribution()
    batch_events: Distribution = Distribution(unit=1.0)
    unauthenticated: int = 0  # messages of who could not say who they are
    slowed: int = 0  # those of them whose answer had to wait, as their address had failed often
    letters: DeadLetterStatistics | None = None  # those that are kept in an actor of its own
    ways: Mapping[str, WayStatistics] = {}
    connections: Mapping[str, int] = {}
    link: LinkStatistics | None = None  # to what comes next
    security_files: SecurityFiles = SecurityFiles()


class IntakeCounters:
    """Count what comes in and what becomes of it; `latest` is the last receipt, without what it says of events.

    What is refused is shown at the `tap` too, where somebody watches.
    """

    def __init__(self) -> None:
        self.tap: TapPoint | None = None
        self.messages = self.received = self.accepted = self.refused = 0
        self.open = self.open_bytes = self.bytes = 0
        self.latest = Receipt()
        self.failures: set[Failures] = set()  # of authentication, at each port
        self._refused_by: Counter[str] = Counter()
        self._ways: dict[str, list[int]] = {}
        self._ack_seconds, self._batch_events = Histogram(), Histogram(unit=1.0)

    def count_messages(self, messages: int) -> None:
        """Count messages that came in."""
        self.messages += messages

    def refuse(self, code: Code, way: str = "", message: str = "") -> None:
        """Count a message that was refused whole, and that its sender hears of by an exception."""
        if way:
            self._count(way, 0, 1)
            if self.tap is not None:
                self.tap.tell(What.REFUSED, "", code, message)
        self._refused_by[code] += 1

    def refuse_message(self, code: Code, way: str, message: str) -> None:
        """Count a message that was refused whole, and whose Ack says so."""
        self._count(way, 0, 1)
        self.refused += 1
        self._refused_by[code] += 1
        if self.tap is not None:
            self.tap.tell(What.REFUSED, "", code, message)

    def admit(self, events: int, refused: Sequence[Refusal], way: str, messages: int = 1) -> None:
        """Count the events of messages that go on, and those that are refused at the door; `way` is how they came."""
        self._count(way, events, len(refused), messages)
        self.received += events
        if refused:
            self.refused += len(refused)
            self._refused_by.update(refusal.code for refusal in refused)
            if self.tap is not None:
                for refusal in refused:
                    self.tap.tell(What.REFUSED, refusal.event_id, refusal.code, refusal.message)

    def _count(self, way: str, events: int, refused: int, messages: int = 1) -> None:
        counts = self._ways.get(way)
        if counts is None:
            counts = self._ways[way] = [0, 0, 0]
        counts[0] += messages
        counts[1] += events
        counts[2] += refused

    def push(self, batch: Batch, size: int) -> None:
        """Count a batch of `size` bytes that is about to be pushed, and note in it when it came in."""
        self.open += 1
        self.open_bytes += size
        self.bytes += size
        self._batch_events.record(len(batch))
        batch.enqueued_ns = time.time_ns()

    def settle(self, size: int, count: int, came: int, answer: asyncio.Future[Receipt]) -> None:
        """Count what became of `count` events that came in at `came`, in Unix nanoseconds."""
        self._ack_seconds.record((time.time_ns() - came) / 1e9, count)
        self.open -= 1
        self.open_bytes -= size
        refused = count
        if not answer.cancelled() and answer.exception() is None:
            receipt = answer.result()
            refused = len(receipt.refused)
            if refused:
                self._refused_by.update(refusal.code for refusal in receipt.refused)
            self.latest = receipt.without_events()
        else:
            draining = not answer.cancelled() and isinstance(answer.exception(), DrainingError)
            self._refused_by[Code.DRAINING if draining else Code.UNAVAILABLE] += count
        self.refused += refused
        self.accepted += count - refused

    def statistics(
        self,
        plugins: Mapping[str, PluginState],
        sources: Mapping[str, SourceState],
        fault: str,
        *,
        draining: bool,
        connections: Mapping[str, int],
    ) -> IntakeStatistics:
        """Return a snapshot of the counters, with the state of what they stand beside."""
        return IntakeStatistics(
            self.messages,
            self.received,
            self.accepted,
            self.refused,
            self.open,
            self.latest,
            plugins,
            sources,
            fault,
            self._refused_by.copy(),
            self.bytes,
            self.open_bytes,
            draining,
            self._ack_seconds.distribution(),
            self._batch_events.distribution(),
            sum(failures.count for failures in self.failures),
            sum(failures.slowed for failures in self.failures),
            ways={way: WayStatistics(*counts) for way, counts in self._ways.copy().items()},
            connections=connections,
        )
