"""Check events, and drop, mark or bury those that do not pass."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

from polku import checks
from polku.batch.receipt import Refusal
from polku.clock import Clock
from polku.codes import Code
from polku.contracts import DeadEvent, Outcome, Step
from polku.event.v1.event_pb2 import Event
from polku.middleware.configuration import Configuration
from polku.middleware.per_event import Each, Failed, separate, wrong_result
from polku.text import line

TAG = "polku.invalid"
"""The metadata key under which `on_invalid="tag"` writes the reason."""


class OnInvalid(StrEnum):
    """Say what happens to an event that does not pass."""

    DROP = "drop"
    """It is dropped and counts as filtered."""
    TAG = "tag"
    """It goes on with the reason in metadata `polku.invalid`."""
    DEAD_LETTER = "dead_letter"
    """It becomes a dead letter, and its sender is told."""


@dataclass(frozen=True, slots=True, repr=False)
class Validator(Configuration):
    """Call `check(event)`, sync or async: True or None lets the event pass; False or a string, the reason, does not.

    An empty string is no reason, so the event passes. What does not pass is dropped (and counts as filtered), tagged
    in its metadata `polku.invalid`, or becomes a dead letter. Any other return value, an exception, or, of an async
    check, more than `timeout` seconds make a dead letter in any case. A check only looks: what it changes in an event
    may or may not go on. Ready-made checks are `json_payload`, `non_empty`, `max_size(bytes)` and `has_data(kind)`.
    """

    check: Callable[[Event], Any]
    on_invalid: OnInvalid | str = field(default=OnInvalid.DROP, kw_only=True)
    timeout: float = field(default=5.0, kw_only=True)
    concurrency: int = field(default=64, kw_only=True)

    def __post_init__(self) -> None:
        checks.function("Validator", "check", self.check)
        checks.no_generator("Validator", "check", self.check)
        checks.positive("Validator", "timeout", self.timeout)
        checks.whole("Validator", "concurrency", self.concurrency)
        rule = checks.choice("Validator", "on_invalid", self.on_invalid, OnInvalid)
        object.__setattr__(self, "on_invalid", rule)

    def build(self, clock: Clock) -> Step:
        """Make the running validator."""
        rule = OnInvalid(self.on_invalid)
        return Each(
            f"Validator({checks.label(self.check)})",
            self.check,
            _Judge(rule),
            timeout=self.timeout,
            concurrency=self.concurrency,
            reads_only=rule is not OnInvalid.TAG,
        )


class _Judge:
    """Act on what the check returned."""

    def __init__(self, rule: OnInvalid) -> None:
        self._rule = rule

    def __call__(self, name: str, events: list[Event], results: list[Any], failed: bool) -> Outcome:
        if results.count(None) == len(results) or all(result is True or result is None for result in results):
            return Outcome(events)
        outcome = separate(self._judged(name, events, results))
        return Outcome(events) if len(outcome.events) == len(events) else outcome

    def _judged(self, name: str, events: list[Event], results: list[Any]) -> Iterator[Event | DeadEvent | None]:
        for event, result in zip(events, results, strict=True):
            if isinstance(result, Failed):
                yield result.dead
            elif result is None or result is True or (isinstance(result, str) and not result):
                yield event
            elif result is False or isinstance(result, str):
                yield self._act(event, f"{name}: {line(result or 'did not pass')}")
            else:
                yield wrong_result(name, event, result, "True or None (passes), False or a reason (does not)")

    def _act(self, event: Event, reason: str) -> Event | DeadEvent | None:
        if self._rule is OnInvalid.DROP:
            return None
        if self._rule is OnInvalid.TAG:
            event.metadata[TAG] = reason
            return event
        return DeadEvent(event, Refusal(event.id, Code.INVALID_EVENT, reason))
