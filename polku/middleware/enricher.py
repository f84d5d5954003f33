"""Add metadata to events, from a table or a look-up."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from itertools import chain
from typing import Any

from polku import checks
from polku.clock import Clock
from polku.contracts import DeadEvent, Outcome, Step
from polku.event.v1.event_pb2 import Event
from polku.middleware.configuration import Configuration
from polku.middleware.per_event import Each, Failed, separate, wrong_result


@dataclass(frozen=True, slots=True, repr=False)
class Enricher(Configuration):
    """Add metadata: a mapping's entries where an event does not have them, or what `look_up(event)` returns.

    A function, sync or async, returns a mapping of strings to merge over the event's metadata, or None. An event on
    which it raises, for which it returns something else, or, if it is async, takes more than `timeout` seconds,
    becomes a dead letter. An async function is called for up to `concurrency` events at a time; order is kept.
    """

    look_up: Mapping[str, str] | Callable[[Event], Any]
    timeout: float = field(default=5.0, kw_only=True)
    concurrency: int = field(default=64, kw_only=True)

    def __post_init__(self) -> None:
        checks.positive("Enricher", "timeout", self.timeout)
        checks.whole("Enricher", "concurrency", self.concurrency)
        if isinstance(self.look_up, Mapping):
            if not add_metadata(Event(), self.look_up):
                raise checks.fault("Enricher", "look_up", self.look_up, "must map strings to strings")
            object.__setattr__(self, "look_up", dict(self.look_up))
        else:
            checks.function("Enricher", "look_up", self.look_up)
            checks.no_generator("Enricher", "look_up", self.look_up)

    def build(self, clock: Clock) -> Step:
        """Make the running enricher."""
        if isinstance(self.look_up, Mapping):
            return Each("Enricher", _Defaults(self.look_up), _merge)
        name = f"Enricher({checks.label(self.look_up)})"
        return Each(name, self.look_up, _merge, timeout=self.timeout, concurrency=self.concurrency)


class _Defaults:
    """Set metadata that an event does not have yet."""

    def __init__(self, entries: Mapping[str, str]) -> None:
        self._entries = tuple(entries.items())

    def __call__(self, event: Event) -> None:
        metadata = event.metadata
        for key, value in self._entries:
            if key not in metadata:
                metadata[key] = value


def _merge(name: str, events: list[Event], results: list[Any], failed: bool) -> Outcome:
    if results.count(None) == len(results):
        return Outcome(events)
    outcome = separate(_merged(name, events, results))
    return outcome if outcome.refused else Outcome(events)


def _merged(name: str, events: list[Event], results: list[Any]) -> Iterator[Event | DeadEvent]:
    for event, result in zip(events, results, strict=True):
        if isinstance(result, Failed):
            yield result.dead
        elif result is None or add_metadata(event, result):
            yield event
        else:
            yield wrong_result(name, event, result, "a mapping of strings to strings, or None")


def add_metadata(event: Event, entries: Any) -> bool:
    """Merge entries into an event's metadata; return whether they are strings that a message can hold."""
    if not isinstance(entries, Mapping) or not all(map(_is_string, chain(*entries.items()))):
        return False
    metadata = event.metadata
    try:
        for key, value in entries.items():
            metadata[key] = value
    except UnicodeEncodeError:  # half of a surrogate pair
        return False
    return True


def _is_string(value: object) -> bool:
    return isinstance(value, str)
