"""Change events, or put others in their place."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Iterator
from dataclasses import dataclass, field
from operator import is_
from typing import TYPE_CHECKING, Any, Literal, TypeVar, overload

from polku import checks
from polku.clock import Clock
from polku.contracts import DeadEvent, Outcome, Step
from polku.event.v1.event_pb2 import Event
from polku.middleware.configuration import Configuration
from polku.middleware.decoding import check_decoding, decoding
from polku.middleware.per_batch import Whole, accept_events, fill_in
from polku.middleware.per_event import Each, Failed, separate, wrong_result

T = TypeVar("T")


@dataclass(frozen=True, slots=True, repr=False)
class Transform(Configuration):
    """Call `function(event)`, sync or async: it changes the event in place and returns nothing, or returns an Event.

    With `batch` the function gets the list of events and returns those that go on: changed in place, replaced, fewer
    or more; None again means that it changed its list. An event on which it raises, for which it returns something
    else, or, if it is async, takes more than `timeout` seconds, becomes a dead letter. An async function is called
    for up to `concurrency` events at a time; order is kept.

    With `decode`, a `msgspec.Struct`, a dataclass or any type that msgspec knows, it is `function(event, value)`: the
    value is the payload, read as JSON of that type. A value of the type that it returns becomes the payload. An event
    whose payload is none becomes a dead letter.
    """

    function: Callable[..., Any]
    batch: bool = field(default=False, kw_only=True)
    timeout: float = field(default=30.0, kw_only=True)
    concurrency: int = field(default=64, kw_only=True)
    decode: type | None = field(default=None, kw_only=True)

    if TYPE_CHECKING:

        @overload
        def __init__(
            self,
            function: Callable[[Event], Event | Awaitable[Event | None] | None],
            *,
            batch: Literal[False] = False,
            timeout: float = 30.0,
            concurrency: int = 64,
        ) -> None: ...
        @overload
        def __init__(
            self,
            function: Callable[[Event, T], Event | T | Awaitable[Event | T | None] | None],
            *,
            decode: type[T],
            batch: Literal[False] = False,
            timeout: float = 30.0,
            concurrency: int = 64,
        ) -> None: ...
        @overload
        def __init__(
            self,
            function: Callable[[list[Event]], Iterable[Event] | Awaitable[Iterable[Event] | None] | None],
            *,
            batch: Literal[True],
            timeout: float = 30.0,
        ) -> None: ...
        def __init__(self, function: Any, **options: Any) -> None: ...

    def __post_init__(self) -> None:
        of = "the list of events" if self.batch else "the event"
        if self.decode is None:
            checks.function("Transform", "function", self.function, of=of)
        else:
            check_decoding(self.function, self.decode, batch=self.batch)
        if not self.batch:
            checks.no_generator("Transform", "function", self.function)
        checks.positive("Transform", "timeout", self.timeout)
        checks.whole("Transform", "concurrency", self.concurrency)

    def build(self, clock: Clock) -> Step:
        """Make the running transformation."""
        name = f"Transform({checks.label(self.function)})"
        if self.batch:
            accept = accept_events(clock, none_is_in_place=True)
            return Whole(name, self.function, accept, timeout=self.timeout)
        function = self.function if self.decode is None else decoding(self.function, self.decode)
        return Each(name, function, _Replace(clock), timeout=self.timeout, concurrency=self.concurrency)


class _Replace:
    """Put the events that were returned in the place of those that were given."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock

    def __call__(self, name: str, events: list[Event], results: list[Any], failed: bool) -> Outcome:
        if results.count(None) == len(results) or all(map(is_, results, events)):
            return Outcome(events)
        outcome = separate(self._replaced(name, events, results))
        same = len(outcome.events) == len(events) and all(map(is_, outcome.events, events))
        return Outcome(events) if same else outcome

    def _replaced(self, name: str, events: list[Event], results: list[Any]) -> Iterator[Event | DeadEvent]:
        for event, result in zip(events, results, strict=True):
            if result is None or result is event:
                yield event
            elif isinstance(result, Event):
                fill_in([result], self._clock)
                yield result
            elif isinstance(result, Failed):
                yield result.dead
            else:
                yield wrong_result(name, event, result, "an Event, or None where it was changed in place")
