"""Add metadata to events, from a table or a look-up."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from polku.clock import Clock
from polku.contracts import DeadEvent, Outcome, Step
from polku.event.v1.event_pb2 import Event
from polku.middleware import arguments
from polku.middleware.configuration import Configuration
from polku.middleware.each import Each, Failed, separate, wrong_result


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
        arguments.positive("Enricher", "timeout", self.timeout)
        arguments.whole("Enricher", "concurrency", self.concurrency)
        if isinstance(self.look_up, Mapping):
            if not _is_metadata(self.look_up):
                raise arguments.fault("Enricher", "look_up", self.look_up, "must map strings to strings")
            object.__setattr__(self, "look_up", dict(self.look_up))
        else:
            arguments.function("Enricher", "look_up", self.look_up)
            arguments.no_generator("Enricher", "look_up", self.look_up)

    def build(self, clock: Clock) -> Step:
        """Make the running enricher."""
        if isinstance(self.look_up, Mapping):
            return Each("Enricher", _Defaults(self.look_up), _merge)
        name = f"Enricher({arguments.label(self.look_up)})"
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


def _merge(name: str, events: list[Event], results: list[Any]) -> Outcome:
    if results.count(None) == len(results):
        return Outcome(events)
    outcome = separate(_merged(name, events, results))
    return outcome if outcome.refused else Outcome(events)


def _merged(name: str, events: list[Event], results: list[Any]) -> Iterator[Event | DeadEvent]:
    for event, result in zip(events, results, strict=True):
        if isinstance(result, Failed):
            yield result.dead
        elif result is None:
            yield event
        elif isinstance(result, Mapping) and _is_metadata(result):
            event.metadata.update(result)
            yield event
        else:
            yield wrong_result(name, event, result, "a mapping of strings to strings, or None")


def _is_metadata(entries: Mapping[Any, Any]) -> bool:
    return all(_is_text(key) and _is_text(value) for key, value in entries.items())


def _is_text(value: object) -> bool:
    """Say whether a message can hold the value: a string without lone surrogates."""
    if not isinstance(value, str):
        return False
    try:
        return value.isascii() or bool(value.encode())
    except UnicodeEncodeError:
        return False
