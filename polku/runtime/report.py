"""What a pipeline reports when it stops: what became of each emitter's events, and whether any of them are lost."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from polku.buffer.statistics import OutletStatistics
from polku.buffer.strategy import Kind
from polku.plan import AckLevel, Plan

LOST_STATUS = 3
"""The exit status of a pipeline that has lost acknowledged events, or may have."""


class EmitterReport(NamedTuple):
    """What became of one emitter's events: counts since the start.

    At the end `left` were still held in memory, and are gone; `journaled` are on disk, and wait for the next start.
    `unreadable` were damaged on disk, `vanished` were in a buffer in memory whose process died.
    """

    delivered: int
    dead: int
    dropped: int
    left: int
    journaled: int = 0
    unreadable: int = 0
    vanished: int = 0

    def __str__(self) -> str:
        letters = "dead letter" if self.dead == 1 else "dead letters"
        text = f"{self.delivered} delivered, {self.dead} {letters}, {self.dropped} dropped, {self.left} lost"
        text += f", {self.journaled} journaled" if self.journaled else ""
        text += f", {self.unreadable} unreadable on disk" if self.unreadable else ""
        return text + (f", {self.vanished} lost with the buffer's process" if self.vanished else "")


class StopReport(NamedTuple):
    """What a drain achieved: by emitter, whether all was delivered in time, and how long it took in seconds.

    `lost` counts, by emitter, events whose senders were told that they are in, and which no emitter will get: those of
    an emitter with `required=False` are not promised to it, and at the `delivered` level nobody was told yet. `unknown`
    names the lanes that did not answer, and held events in memory. `fault` is why the drain ended early, if it did:
    events that were on their way then are in no count, and their senders have no answer.
    """

    emitters: Mapping[str, EmitterReport]
    complete: bool
    seconds: float
    lost: Mapping[str, int] = {}
    unknown: Sequence[str] = ()
    fault: str = ""

    @property
    def loss(self) -> str:
        """A sentence about what is lost, or may be; empty where nothing that was acknowledged is."""
        told = [f"acknowledged events are lost: {_counts(self.lost)}"] if self.lost else []
        told += [f"what {', '.join(self.unknown)} held in memory is not known"] if self.unknown else []
        return "; ".join(told)

    def __str__(self) -> str:
        fault = [f"the drain ended early, so what was on its way is not counted ({self.fault})"] if self.fault else []
        return "; ".join([*fault, *(f"{name}: {report}" for name, report in self.emitters.items())])


def report_outcome(plan: Plan, outlets: Mapping[str, OutletStatistics]) -> dict[str, EmitterReport]:
    """Return what became of each emitter's events: what a durable buffer still holds is journaled, not lost."""
    durable = plan.buffer.kind is Kind.DURABLE
    return {
        name: EmitterReport(
            s.confirmed, s.dead, s.dropped, 0 if durable else s.at_risk, s.lag if durable else 0, s.unreadable
        )
        for name, s in outlets.items()
    }


def add_up(reports: Sequence[EmitterReport]) -> EmitterReport:
    """Return the sums of what became of one emitter's events in several lanes."""
    return EmitterReport(*map(sum, zip(*reports, strict=True)))


def stop_report(
    plan: Plan,
    emitters: Mapping[str, EmitterReport],
    *,
    complete: bool,
    seconds: float,
    silent: Sequence[str] = (),
) -> StopReport:
    """Return the report of a stop; `silent` lanes said nothing about their events."""
    told = plan.ack is not AckLevel.DELIVERED
    optional = {outlet.name for outlet in plan.outlets if not outlet.required}
    promised = [name for name in emitters if name not in optional]  # also those that have left the plan since
    lost = {name: _lost(emitters[name], told=told) for name in promised}
    unknown = tuple(silent) if told and plan.buffer.kind is not Kind.DURABLE else ()
    return StopReport(emitters, complete, seconds, {name: count for name, count in lost.items() if count}, unknown)


def _lost(report: EmitterReport, *, told: bool) -> int:
    return report.unreadable + (report.left + report.vanished if told else 0)


def _counts(lost: Mapping[str, int]) -> str:
    return ", ".join(f"{count} of emitter {name}" for name, count in lost.items())
