"""One case: events in, and what is expected of each that comes out; compared, and told in lines that people read."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import msgspec

from polku.emit.json_form import event_fields
from polku.event.v1.event_pb2 import Event
from polku.testing.trial.given import Given
from polku.testing.trial.outcome import Outcome

_ABSENT = object()


class Expected(NamedTuple):
    """What one delivered event should be: the emitters that get it (None: any), and fields by name."""

    to: Sequence[str] | None
    fields: Mapping[str, Any]


class Case(NamedTuple):
    """What is sent, and what should become of it.

    `out` are the events that should be delivered, in order; None where that is left open. `dropped`, `dead` and
    `refused` are each a part of what should be said about an event that is not delivered; empty where none is expected.
    """

    line: int
    name: str
    given: Sequence[Given]
    out: Sequence[Expected] | None
    dropped: str = ""
    dead: str = ""
    refused: str = ""


class Difference(NamedTuple):
    """What should be, and what is, as JSON."""

    what: str
    expected: str
    got: str


def judge(case: Case, outcome: Outcome) -> list[Difference]:
    """Return what of an outcome is otherwise than the case says: nothing, if all is well."""
    return [*_delivered(case, outcome), *_elsewhere(case, outcome)]


def _delivered(case: Case, outcome: Outcome) -> Iterator[Difference]:
    if case.out is None:
        return
    events = outcome.events
    if len(events) != len(case.out):
        ids = ", ".join(event.id for event in events)
        yield Difference("delivered events", str(len(case.out)), f"{len(events)}{f' ({ids})' if ids else ''}")
    for number, (expected, event) in enumerate(zip(case.out, events, strict=False), 1):
        where = f"event {number}: " if len(case.out) > 1 else ""
        got = outcome.to(event.id)
        if expected.to is not None and set(got) != set(expected.to):
            yield Difference(f"{where}to", _json(sorted(expected.to)), _json(sorted(got)))
        seen = shown_fields(event)
        for path, value in _flat(expected.fields):
            if (found := _at(seen, path)) != value and not (value is None and found is _ABSENT):
                yield Difference(where + ".".join(path), _json(value), _json(found))


def _elsewhere(case: Case, outcome: Outcome) -> Iterator[Difference]:
    """Compare what was not delivered; where nothing is said of it, nothing is expected."""
    kinds = {
        "dropped": (case.dropped, [f"{middleware} ({reason})" for _, middleware, reason in outcome.dropped]),
        "dead": (case.dead, [f"{one.code}: {one.reason}" for one in outcome.dead]),
        "refused": (case.refused, [f"{one.code}: {one.message}" for one in outcome.refused]),
    }
    for what, (expected, got) in kinds.items():
        is_as_expected = any(expected in text for text in got) if expected else not got
        of_the_dead = what == "refused" and not expected and bool(case.dead)  # its sender is told, too
        if not is_as_expected and not of_the_dead:
            yield Difference(what, expected or "nothing", "; ".join(got) or "nothing")


def shown_fields(event: Event) -> dict[str, Any]:
    """Return an event's fields as cases have them: with `text` and `json`, its payload read in these ways."""
    fields = event_fields(event)
    fields.setdefault("metadata", {})
    try:
        fields["text"] = event.payload.decode()
        fields["json"] = msgspec.json.decode(event.payload)
    except (UnicodeDecodeError, msgspec.DecodeError):
        pass
    return fields


def _flat(fields: Mapping[str, Any], before: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Any]]:
    """Yield what is expected with its path: of an object only the entries that are named, else all."""
    for name, value in fields.items():
        if isinstance(value, Mapping):
            yield from _flat(value, (*before, name))
        else:
            yield (*before, name), value


def _at(fields: Any, path: Sequence[str]) -> Any:
    for name in path:
        if not isinstance(fields, Mapping) or name not in fields:
            return _ABSENT
        fields = fields[name]
    return fields


def _json(value: object) -> str:
    return "nothing" if value is _ABSENT or value is None else msgspec.json.encode(value).decode()
