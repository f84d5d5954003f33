"""Judge from the statistics of every part whether a pipeline is well, and say it in sentences."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping
from typing import TYPE_CHECKING

from msgspec import Struct

from polku.buffer.statistics import BufferStatistics, OutletStatistics
from polku.buffer.strategy import Overflow
from polku.dead_letters import DeadLetterStatistics
from polku.dead_letters.kinds import Kind, describe
from polku.emit.delivery import CollectionStatistics, DeliveryStatistics
from polku.gateway.intake_statistics import IntakeStatistics
from polku.health import DRAINING, Cause, Health
from polku.stage.statistics import StageStatistics
from polku.text import counted, line, span

if TYPE_CHECKING:
    from polku.runtime.lane import LaneStatistics

PATIENCE = 30.0  # seconds that a middleware may work on one batch before it counts as hanging
_TEXT = 2_000
_BUSY_SECONDS = 5.0  # that a middleware may work on one batch before it counts as holding up others
_FULL_SECONDS = 1.0  # without progress until an outlet without room takes nothing
_DROPS_SECONDS = 5.0  # since the latest event that a rule dropped, while that counts as going on


class _Seen(Struct, frozen=True):
    backlog: int
    done: int
    since: float


class Progress:
    """Remember since when each part has had a backlog and has moved nothing of it."""

    def __init__(self) -> None:
        self._seen: dict[str, _Seen] = {}
        self._unhealthy: dict[str, float] = {}
        self._dropped: dict[str, tuple[int, float]] = {}

    def unhealthy(self, parts: Mapping[str, bool], now: float) -> dict[str, float]:
        """Return for how many seconds each part has been unhealthy, by name, of those that are (True)."""
        for name, unhealthy in parts.items():
            if unhealthy:
                self._unhealthy.setdefault(name, now)
            else:
                self._unhealthy.pop(name, None)
        return {name: now - self._unhealthy.get(name, now) for name, unhealthy in parts.items() if unhealthy}

    def stalled(self, name: str, backlog: int, done: int, now: float) -> float:
        """Return for how many seconds nothing was done although there was a backlog; `done` is a running total."""
        seen = self._seen.get(name)
        since = now if seen is None or not seen.backlog or not backlog or seen.done != done else seen.since
        self._seen[name] = _Seen(backlog, done, since)
        return now - since

    def is_dropping(self, name: str, dropped: int, now: float) -> bool:
        """Return whether a part has dropped events of late; `dropped` is a running total."""
        total, at = self._dropped.get(name, (0, -math.inf))
        at = now if dropped > total else at
        self._dropped[name] = dropped, at
        return now - at < _DROPS_SECONDS


class Watch:
    """Collect the state of each part; `progress` is what was seen of them before.

    Of several lanes each part's name begins with its lane's: set `lane` before it is added.
    """

    def __init__(self, progress: Progress | None = None) -> None:
        self.lane = ""
        self.holds: dict[str, str] = {}  # parts that hold up what comes in, and why
        self._causes: dict[str, Cause] = {}
        self._drops: dict[str, tuple[str, int]] = {}
        self._warnings: dict[str, str] = {}  # of parts that lose events by their rule
        self._next_attempts: dict[str, float] = {}
        self._progress = progress or Progress()
        self._now = time.monotonic()
        self._why: dict[str, str] = {}
        self._faults: dict[str, str] = {}  # of pushes to emitters
        self._idle: dict[str, float] = {}
        self._components: dict[str, tuple[bool, str]] = {}
        self._refuses: list[str] = []  # why no events are taken now

    def add(self, name: str, complaint: str, well: str = "ok") -> None:
        """Add a part that is well unless there is a complaint."""
        self._components[line(f"{self.lane}{name}")] = (not complaint, line(complaint or well, _TEXT))

    def add_absent(self, name: str, complaint: str, *, ended: bool = False) -> None:
        """Add a part that does not answer, or has `ended`: without it no events are taken, unless it is an emitter."""
        self.add(name, complaint)
        if ended:
            self._causes[line(f"{self.lane}{name}")] = Cause.ENDED
        self._explain(name, complaint)
        if not name.startswith("emitter:"):
            self._refuse(f"{name} {complaint}")

    def add_lane(self, lane: LaneStatistics) -> None:
        """Add every part of a lane that runs in one event loop."""
        self.add_ingest(lane.intake)
        for name, stage in lane.stages.items():
            self.add_stage(name, stage)
        self.add_buffer(lane.buffer)
        for name, delivery in lane.emitters.items():
            self.add_delivery(name, delivery)

    def add_stage(self, name: str, stage: StageStatistics) -> None:
        """Add a stage: it is unhealthy while one middleware is busy for too long, or something behind it fails."""
        busy = time.monotonic() - stage.since if stage.step else 0.0
        works = f"{stage.step} has been busy with one batch for {span(busy)}"
        if busy > _BUSY_SECONDS:
            self._hold(name, works)
        self.add(name, works if busy > PATIENCE else stage.fault)

    def add_ingest(self, intake: IntakeStatistics) -> None:
        """Add the ingest: it is unhealthy while messages wait for their answers and none comes; so are its plugins
        and what it pulls from.
        """
        idle = self._progress.stalled(f"{self.lane}ingest", intake.open, intake.accepted + intake.refused, self._now)
        complaint = DRAINING if intake.draining else intake.fault
        if not complaint and idle > PATIENCE:
            complaint = (
                f"no answer for {span(idle)} to {counted(intake.open, 'message')}: what comes after it takes nothing"
            )
            self._idle[f"{self.lane}ingest"] = idle
        if intake.draining:
            self._refuse("it is draining")
        self.add("ingest", complaint)
        for source, plugin in intake.plugins.items():
            self.add(f"ingestor:{source}", plugin.alarm, plugin.text)
        for name, state in intake.sources.items():
            self.add(f"source:{name}", state.alarm, state.text)

    def add_buffer(self, buffer: BufferStatistics) -> None:
        """Add the buffer and say how full it is; being full is its rule's business, a disk that fails an illness."""
        if buffer.fault:
            self.add("buffer", buffer.fault)
            self._refuse(f"nothing can be written to disk: {buffer.fault}")
            return
        for name in buffer.refuses:
            if buffer.outlets[name].overflow is not Overflow.BLOCK:
                continue  # its rule drops what has no room: the others get it
            waiting = counted(buffer.outlets[name].lag, "event", "waits", "wait")
            self._hold(f"emitter:{name}", f"its share of the buffer is full ({waiting})")
            if (idle := buffer.outlets[name].idle) > _FULL_SECONDS:
                self._refuse(f"the share of emitter {name!r} is full, and nothing has moved for {span(idle)}")
        self.add_dead_letters(buffer.dead_letters)
        for name, outlet in buffer.outlets.items():
            if outlet.overflow is not Overflow.BLOCK:
                self._note_drops(line(f"{self.lane}emitter:{name}"), outlet)
            if outlet.fault:
                self._faults[self.lane + name] = (
                    f"{counted(outlet.lag, 'event', 'is', 'are')} held, pushing them fails: {outlet.fault}"
                )
            done = outlet.confirmed + outlet.dead + outlet.dropped
            idle = self._progress.stalled(f"{self.lane}outlet {name}", outlet.lag, done, self._now)
            if idle > PATIENCE:
                self._why[self.lane + name] = (
                    f"no progress for {span(idle)} with {counted(outlet.lag, 'event')} waiting"
                )
                self._idle[f"{self.lane}outlet {name}"] = idle
        for name, complaint in buffer.orphans.items():
            self.add(f"emitter:{name}", complaint)
        fullest = max((outlet.lag for outlet in buffer.outlets.values()), default=0)
        self.add("buffer", "", f"{fullest} of {buffer.capacity} events")

    def _note_drops(self, part: str, outlet: OutletStatistics) -> None:
        self._drops[part] = str(outlet.overflow), outlet.dropped
        if self._progress.is_dropping(part, outlet.dropped, self._now):
            which = "oldest" if outlet.overflow is Overflow.DROP_OLDEST else "new"
            self._warnings[part] = (
                f"its share of the buffer is full: {which} events are dropped by its rule {outlet.overflow}, "
                f"{outlet.dropped:,} since the start"
            )

    def add_dead_letters(self, letters: DeadLetterStatistics | None) -> None:
        """Add the dead letters: it is an illness when they cannot be stored, or push out others for want of room."""
        if letters is None or not (letters.total or letters.fault or letters.waiting):
            return
        text = f"{letters.total} since the start"
        for name, count in letters.waiting.items():
            text += f"; {count} are to be replayed to emitter {name!r}, which is not in the pipeline"
        kinds = describe({Kind(*kind): count for kind, count in letters.forgotten_by.items()})
        forgotten = f"{text}, {letters.forgotten} older ones were forgotten: there is no room for more ({kinds})"
        complaint = letters.fault or (forgotten if letters.forgotten else "")
        self.add("dead_letters", complaint, text)

    def add_delivery(self, name: str, delivery: DeliveryStatistics) -> None:
        """Add an emitter: it is unhealthy while its destination does not take anything."""
        own = getattr(delivery.emitter, "emitter", None)  # what Resilience is wrapped around
        alarm = trouble(delivery) or self._faults.get(self.lane + name, "")
        stall = self._why.get(self.lane + name, "")
        if delivery.collection is not None:
            stall = stall if self._is_late(f"outlet {name}", delivery.collection) else ""
            waits = f"{self.lane}ingest" in self._idle  # and its clients may wait for the delivery
            if waits and not self._is_late("ingest", delivery.collection):
                self.add("ingest", "")
        if stall and not alarm:
            alarm = f"{delivery.in_flight} calls to it are open" if delivery.in_flight else "no call to it is open"
        complaint = f"{stall}: {alarm}" if stall else alarm
        self._explain(f"emitter:{name}", complaint)
        if complaint and (cause := getattr(delivery.emitter, "cause", Cause.UNKNOWN)):
            self._causes[line(f"{self.lane}emitter:{name}")] = cause
        if complaint and (seconds := getattr(delivery.emitter, "next_attempt", 0.0)) > 0:
            self._next_attempts[line(f"{self.lane}emitter:{name}")] = seconds
        warning = self._warnings.get(line(f"{self.lane}emitter:{name}"), "")
        complaint = f"{complaint}; {warning}" if complaint and warning else complaint
        self.add(f"emitter:{name}", complaint, warning or getattr(own, "text", "ok"))

    def _is_late(self, part: str, collection: CollectionStatistics) -> bool:
        """Return whether a part has waited for longer than events may be collected."""
        return self._idle.get(self.lane + part, 0.0) > PATIENCE + collection.max_age

    def health(self, processed: int) -> Health:
        """Return the judgement: well if every part is, ready if events are taken."""
        healthy = all(healthy for healthy, _ in self._components.values())
        wrong = self.holds.keys() | self._warnings.keys()
        unhealthy = {name: not well or name in wrong for name, (well, _) in self._components.items()}
        seconds = self._progress.unhealthy(unhealthy, self._now)
        not_ready = "; ".join(self._refuses)
        is_ready = not self._refuses
        health = Health(healthy, self._components, processed, is_ready, not_ready, self.holds, seconds)
        health = health._replace(causes=self._causes, drops=self._drops, warnings=self._warnings)
        return health._replace(next_attempts=self._next_attempts)

    def _hold(self, name: str, why: str) -> None:
        self.holds[line(f"{self.lane}{name}")] = line(why, _TEXT)

    def _explain(self, name: str, complaint: str) -> None:
        """Say of a part that holds up others what is wrong with it, too."""
        if complaint and (why := self.holds.get(line(f"{self.lane}{name}"))):
            self._hold(name, f"{why}: {complaint}")

    def _refuse(self, why: str) -> None:
        self._refuses.append(line(f"{self.lane}{why}" if self.lane else why, _TEXT))


def trouble(delivery: DeliveryStatistics) -> str:
    """Return why an emitter's destination takes nothing now; empty where it does."""
    own = getattr(delivery.emitter, "emitter", None)  # what Resilience is wrapped around
    return delivery.fault or str(getattr(delivery.emitter, "alarm", "") or getattr(own, "alarm", ""))
