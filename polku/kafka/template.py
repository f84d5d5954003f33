"""Text that is made of an event's fields: `events.{source}`, `{metadata[tenant]}`, or by a function of the event."""

from __future__ import annotations

import re
from collections.abc import Callable
from operator import attrgetter
from string import Formatter
from typing import Any, TypeAlias

from polku import checks
from polku.event.v1.event_pb2 import Event
from polku.events import outcome_name, severity_name

Maker: TypeAlias = Callable[[Event], Any]

_METADATA = re.compile(r"metadata\[([^\[\]]+)\]")
_FIELDS: dict[str, Maker] = {
    "id": attrgetter("id"),
    "source": attrgetter("source"),
    "event_type": attrgetter("event_type"),
    "severity": severity_name,
    "outcome": outcome_name,
}
ALLOWED = f"use {{{'}, {'.join(_FIELDS)}}} or {{metadata[name]}}, and {{{{ }}}} for braces"


class AbsentError(ValueError):
    """Say which field of a template an event does not have."""


def compile_template(where: str, field: str, template: str) -> Maker:
    """Return the function that fills a template in; it raises `AbsentError` where the event lacks a field.

    Raises `PlanError` for a template that names what no event has.
    """
    try:
        parts = [(text, name, spec, how) for text, name, spec, how in Formatter().parse(template)]
    except ValueError as error:
        raise checks.fault(where, field, template, f"is no template ({error}); {ALLOWED}") from None
    pieces: list[str | tuple[str, Maker]] = []
    for text, name, spec, how in parts:
        pieces.append(text)
        if name is not None:
            maker = _maker(name)
            if maker is None or spec or how:
                raise checks.fault(where, field, template, f"{{{name}}} is no field of an event; {ALLOWED}")
            pieces.append((name, maker))
    return _filler(field, [piece for piece in pieces if piece])


def is_constant(template: object) -> bool:
    """Return whether a checked template or function gives the same text for every event."""
    return isinstance(template, str) and all(name is None for _, name, _, _ in Formatter().parse(template))


def _filler(field: str, pieces: list[str | tuple[str, Maker]]) -> Maker:
    if all(isinstance(piece, str) for piece in pieces):
        constant = "".join(str(piece) for piece in pieces)
        return lambda event: constant

    if len(pieces) == 1 and isinstance(pieces[0], tuple):
        return _alone(field, *pieces[0])

    def fill(event: Event) -> str:
        texts = []
        for piece in pieces:
            if isinstance(piece, str):
                texts.append(piece)
                continue
            name, maker = piece
            text = maker(event)
            if not text:
                raise _absent(field, name)
            texts.append(text)
        return "".join(texts)

    return fill


def _alone(field: str, name: str, maker: Maker) -> Maker:
    """Fill in a template that has nothing but one field."""

    def fill(event: Event) -> str:
        text: str = maker(event)
        if not text:
            raise _absent(field, name)
        return text

    return fill


def _absent(field: str, name: str) -> AbsentError:
    return AbsentError(f"{field}: the event has no {name}, which the template needs")


def _maker(name: str) -> Maker | None:
    found = _METADATA.fullmatch(name)
    if found is None:
        return _FIELDS.get(name)
    key = found[1]
    return lambda event: event.metadata.get(key, "")
