"""The trail of a batch through a stage: the steps that it has passed, what is left of it, and what it was made of."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from itertools import compress

from msgspec import Struct

from polku.batch.batch import Batch
from polku.batch.fates import Attribution, owners_through
from polku.batch.lineage import order_digest, origins, through
from polku.batch.receipt import Output, Refusal
from polku.contracts import Follows, Outcome, Step
from polku.event.v1.event_pb2 import Event
from polku.tap.point import Note, TapPoint
from polku.tap.request import What

Refused = dict[int, Refusal]  # by position


class Passed(Struct, frozen=True):
    """A step that a batch has passed: what it was given, what it made of it, and whose answers some events share.

    `number` is the step's, and that of what takes its place; `attribution` is what each event counts as, where the
    batch wants to know.
    """

    number: int
    step: Step
    given: list[Event]
    outcome: Outcome
    follows: Sequence[tuple[Follows, asyncio.Future[Refused] | None]]
    attribution: Attribution | None


def traced(made: Output, trail: Sequence[Passed]) -> Output:
    """Return what a replica made of a batch, with what each event was made of."""
    origins = through([(passed.given, passed.outcome) for passed in trail], len(made.batch))
    accounts = [passed.attribution for passed in trail if passed.attribution is not None]
    return made._replace(origins=origins, owners=owners_through(accounts, len(made.batch)))


def outgoing(batch: Batch, events: list[Event], trail: Sequence[Passed], *, changed: bool) -> Batch:
    """Return what goes on: the batch as it came where nothing was changed, cut or built again where it was.

    It is named so that answers about it are not taken for those of what is made of the same batch another time: when a
    process has died and the batch comes again, a memory may be gone, and chance decides again.
    """
    if changed:
        out = batch.replace(events)
        out.routes = None
    elif len(events) == len(batch) or not events:
        return batch
    else:
        out = batch.select(_positions(batch, events, trail))
    if out.identity is not None and (digest := order_digest([(passed.given, passed.outcome) for passed in trail])):
        out.identity = out.identity.made(digest)
    return out


def _positions(batch: Batch, events: Sequence[Event], trail: Sequence[Passed]) -> Sequence[int]:
    """Return the positions of events that are left of a batch."""
    positions: Sequence[int] = range(len(batch))
    for passed in trail:
        if passed.outcome.events is not passed.given:
            if passed.outcome.kept is None:
                left = set(map(id, events))
                return [position for position, event in enumerate(batch.events) if id(event) in left]
            positions = list(compress(positions, passed.outcome.kept))
    return positions


def show(tap: TapPoint, step: str, given: list[Event], outcome: Outcome, drop_reason: str) -> None:
    """Show what a step made of what it was given."""
    tap.show(What.OUT, outcome.events, step=step)
    dead = [Note(one.refusal.position, one.refusal.code, one.refusal.message) for one in outcome.refused]
    if dead:
        tap.show(What.DEAD, given, notes=dead, step=step)
    if outcome.events is not given and tap.wants(What.DROPPED, step):
        died = {note.position for note in dead}
        gone = [Note(position, "", drop_reason) for position in _left_out(given, outcome) if position not in died]
        if gone:
            tap.show(What.DROPPED, given, notes=gone, step=step)


def _left_out(given: Sequence[Event], outcome: Outcome) -> Sequence[int]:
    """Return the positions of the events of which nothing goes on."""
    if outcome.kept is not None:
        return [position for position, kept in enumerate(outcome.kept) if not kept] if 0 in outcome.kept else ()
    sources = origins(given, outcome, range(len(outcome.events)))
    there = {position for own in sources for position in own}
    return [position for position in range(len(given)) if position not in there]
