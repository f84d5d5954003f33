"""Send events to some of the emitters."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from polku import checks
from polku.clock import Clock
from polku.contracts import Outcome, Step
from polku.event.v1.event_pb2 import Event
from polku.middleware.per_event import Each, Failed, separate

Targets = tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Router:
    """Set `route_to` by the first rule that matches: `Router().type_prefix("audit.", to="archive").default("stdout")`.

    Rules are tried in the order in which they were added. An event that no rule matches goes to the default; without
    one its `route_to` stays as it is (empty: all emitters). Each method returns a new Router. The emitters that it
    names must be in the plan. An event on which a predicate raises becomes a dead letter.
    """

    rules: tuple[Rule, ...] = ()
    otherwise: Targets = ()

    def when(self, predicate: Callable[[Event], Any], *, to: str | Sequence[str]) -> Router:
        """Send events for which `predicate(event)` is true to these emitters."""
        checks.function("Router.when", "predicate", predicate, sync=True)
        checks.no_generator("Router.when", "predicate", predicate)
        return self._with(_When(predicate), to)

    def type_prefix(self, prefix: str, *, to: str | Sequence[str]) -> Router:
        """Send events whose type begins with `prefix` to these emitters."""
        _check_text("Router.type_prefix", "prefix", prefix)
        return self._with(_TypePrefix(prefix), to)

    def source(self, source: str, *, to: str | Sequence[str]) -> Router:
        """Send events of one source to these emitters."""
        _check_text("Router.source", "source", source)
        return self._with(_Source(source), to)

    def default(self, to: str | Sequence[str]) -> Router:
        """Send events that no rule matches to these emitters."""
        return replace(self, otherwise=_targets(to))

    @property
    def targets(self) -> Targets:
        """The emitters that are named, each once."""
        return tuple(dict.fromkeys([*(name for rule in self.rules for name in rule.to), *self.otherwise]))

    def build(self, clock: Clock) -> Step:
        """Make the running router."""
        return Each("Router", _route(self), _unchanged)

    def __repr__(self) -> str:
        rules = "".join(f".{rule.test}, to={_show(rule.to)})" for rule in self.rules)
        return f"Router(){rules}" + (f".default({_show(self.otherwise)})" if self.otherwise else "")

    def _with(self, test: _When | _TypePrefix | _Source, to: str | Sequence[str]) -> Router:
        return replace(self, rules=(*self.rules, Rule(test, _targets(to))))


@dataclass(frozen=True, slots=True)
class _When:
    predicate: Callable[[Event], Any]

    def __call__(self, event: Event) -> Any:
        return self.predicate(event)

    def __str__(self) -> str:
        return f"when({checks.label(self.predicate)}"


@dataclass(frozen=True, slots=True)
class _TypePrefix:
    prefix: str

    def __call__(self, event: Event) -> bool:
        return event.event_type.startswith(self.prefix)

    def __str__(self) -> str:
        return f"type_prefix({self.prefix!r}"


@dataclass(frozen=True, slots=True)
class _Source:
    source: str

    def __call__(self, event: Event) -> bool:
        return event.source == self.source

    def __str__(self) -> str:
        return f"source({self.source!r}"


@dataclass(frozen=True, slots=True)
class Rule:
    """Say which events go where."""

    test: _When | _TypePrefix | _Source
    to: Targets


def _route(router: Router) -> Callable[[Event], None]:
    """Return what sets one event's `route_to`, by merging a message in: 200 ns less than assigning to the list."""
    rules = [(_function(rule.test), Event(route_to=rule.to)) for rule in router.rules]
    otherwise = Event(route_to=router.otherwise) if router.otherwise else None

    def route(event: Event) -> None:
        chosen = otherwise
        for test, to in rules:
            if test(event):
                chosen = to
                break
        if chosen is not None:
            event.ClearField("route_to")
            event.MergeFrom(chosen)

    return route


def _function(test: _When | _TypePrefix | _Source) -> Callable[[Event], Any]:
    """Return what a call of the test comes to; calling a method is faster than calling an object."""
    return test.predicate if isinstance(test, _When) else test.__call__


def _unchanged(name: str, events: list[Event], results: list[Any], failed: bool) -> Outcome:
    if not failed:
        return Outcome(events)
    pairs = zip(events, results, strict=True)
    return separate(result.dead if isinstance(result, Failed) else event for event, result in pairs)


def _targets(to: str | Sequence[str]) -> Targets:
    names = (to,) if isinstance(to, str) else tuple(to) if isinstance(to, Sequence) else ()
    if not names or not all(isinstance(name, str) and name for name in names):
        raise checks.fault("Router", "to", to, "must be the name of an emitter, or a list of names")
    return tuple(dict.fromkeys(names))


def _check_text(where: str, field: str, value: object) -> None:
    if not isinstance(value, str) or not value:
        raise checks.fault(where, field, value, "must be a string that is not empty")


def _show(targets: Targets) -> str:
    return repr(targets[0]) if len(targets) == 1 else repr(list(targets))
