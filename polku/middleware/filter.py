"""Keep the events for which a predicate is true."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Iterator
from dataclasses import dataclass, field
from itertools import compress
from typing import TYPE_CHECKING, Any, Literal, overload

from polku import checks
from polku.clock import Clock
from polku.contracts import DeadEvent, Outcome, Step
from polku.event.v1.event_pb2 import Event
from polku.middleware.configuration import Configuration
from polku.middleware.per_batch import Going, Whole, WrongResultError
from polku.middleware.per_event import Each, Failed, chosen, separate, wrong_result


@dataclass(frozen=True, slots=True, repr=False)
class Filter(Configuration):
    """Keep the events for which `predicate(event)`, sync or async, is true; the others count as filtered.

    With `batch` the predicate gets the list of events and returns as many truth values (a list, a NumPy array). A
    predicate only looks: what it changes in an event may or may not go on. An event on which it raises, or, if it is
    async, takes more than `timeout` seconds, becomes a dead letter. An async predicate is called for up to
    `concurrency` events at a time; order is kept.
    """

    predicate: Callable[..., Any]
    batch: bool = field(default=False, kw_only=True)
    timeout: float = field(default=30.0, kw_only=True)
    concurrency: int = field(default=64, kw_only=True)

    if TYPE_CHECKING:

        @overload
        def __init__(
            self,
            predicate: Callable[[Event], object],
            *,
            batch: Literal[False] = False,
            timeout: float = 30.0,
            concurrency: int = 64,
        ) -> None: ...
        @overload
        def __init__(
            self,
            predicate: Callable[[list[Event]], Iterable[object] | Awaitable[Iterable[object]]],
            *,
            batch: Literal[True],
            timeout: float = 30.0,
        ) -> None: ...
        def __init__(self, predicate: Any, **options: Any) -> None: ...

    def __post_init__(self) -> None:
        of = "the list of events" if self.batch else "the event"
        checks.function("Filter", "predicate", self.predicate, of=of)
        checks.no_generator("Filter", "predicate", self.predicate)
        checks.positive("Filter", "timeout", self.timeout)
        checks.whole("Filter", "concurrency", self.concurrency)

    def build(self, clock: Clock) -> Step:
        """Make the running filter."""
        name = f"Filter({checks.label(self.predicate)})"
        if self.batch:
            return Whole(name, self.predicate, _accept_truths, timeout=self.timeout, reads_only=True)
        return Each(name, self.predicate, keep, timeout=self.timeout, concurrency=self.concurrency, reads_only=True)


def keep(name: str, events: list[Event], results: list[Any], failed: bool) -> Outcome:
    """Keep the events whose results are true."""
    try:
        if not failed:
            return Outcome(events) if all(results) else chosen(events, bytes(map(bool, results)))
    except BaseException:  # results without a truth value, such as arrays; found one by one below
        pass
    return separate(_kept(name, events, results))


def _kept(name: str, events: list[Event], results: list[Any]) -> Iterator[Event | DeadEvent | None]:
    for event, result in zip(events, results, strict=True):
        if isinstance(result, Failed):
            yield result.dead
            continue
        try:
            yield event if result else None
        except BaseException:
            yield wrong_result(name, event, result, "true or false")


def _accept_truths(events: list[Event], result: Any) -> Going:
    expected = f"{len(events)} truth values, one for each event"
    if not isinstance(result, Iterable) or isinstance(result, (str, bytes, dict)):
        raise WrongResultError(result, expected)
    truths = list(result)
    if any(isinstance(truth, Event) for truth in truths):
        raise WrongResultError(truths[0], f"{expected} (Transform(..., batch=True) takes the events that go on)")
    if len(truths) != len(events):
        raise WrongResultError(truths, expected)
    return Going(list(compress(events, truths)))
