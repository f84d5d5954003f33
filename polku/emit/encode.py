"""Serialise the events of a batch one by one: one that cannot be written fails alone."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeVar

from msgspec import Struct

from polku.contracts import Failure
from polku.emit.progress import current
from polku.event.v1.event_pb2 import Event
from polku.text import named, trace

T = TypeVar("T")


class Written(Struct, frozen=True):
    """The events that could be written, and where they are in the batch; a failure for each other one."""

    contents: list[bytes]
    positions: Sequence[int]
    failures: list[Failure]


def write_each(events: Sequence[Event], write: Callable[[Event], bytes]) -> Written:
    """Call `write` for each event; events for which it raises are noted as refused permanently."""
    try:
        return Written([write(event) for event in events], range(len(events)), [])
    except Exception as error:
        _pass_on(error)
    contents: list[bytes] = []
    positions: list[int] = []
    failures: list[Failure] = []
    for position, event in enumerate(events):
        try:
            contents.append(write(event))
            positions.append(position)
        except Exception as error:
            failures.append(unwritable(event.id, position, error))
    note_unwritable(failures)
    return Written(contents, positions, failures)


def unwritable(event_id: str, position: int, error: Exception) -> Failure:
    """Return the failure of an event that cannot be written; raises what says nothing about the event."""
    _pass_on(error)
    reason = f"the event cannot be written: {named(error)}"
    return Failure(event_id, reason, retryable=False, position=position, detail=trace(error))


def cause_trace(error: Exception) -> str:
    """Return the traceback of what a user's function raised, where that is the cause of an error."""
    return trace(error.__cause__) if error.__cause__ is not None else ""


def note_unwritable(failures: Sequence[Failure]) -> None:
    """Note failures in the call's `Progress`: they are final, also where the rest cannot be sent now."""
    current().settle([failure.position for failure in failures], failures)


def _pass_on(error: Exception) -> None:
    if isinstance(error, MemoryError):
        raise error
