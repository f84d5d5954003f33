"""Judge from the statistics of every part whether a pipeline is well, and say it in sentences."""

from __future__ import annotations

import time
from typing import NamedTuple

from polku.buffer.buffer import BufferStatistics
from polku.dead_letters import DeadLetterStatistics
from polku.delivery import DeliveryStatistics
from polku.gateway.health import Health
from polku.gateway.intake import IntakeStatistics
from polku.stage import StageStatistics

PATIENCE = 30.0  # seconds that a middleware may work on one batch before it counts as hanging


class _Seen(NamedTuple):
    backlog: int
    done: int
    since: float


class Progress:
    """Remember since when each part has had a backlog and has moved nothing of it."""

    def __init__(self) -> None:
        self._seen: dict[str, _Seen] = {}

    def stalled(self, name: str, backlog: int, done: int, now: float) -> float:
        """Return for how many seconds nothing was done although there was a backlog; `done` is a running total."""
        seen = self._seen.get(name)
        since = now if seen is None or not seen.backlog or not backlog or seen.done != done else seen.since
        self._seen[name] = _Seen(backlog, done, since)
        return now - since


class Watch:
    """Collect the state of each part; `progress` is what was seen of them before."""

    def __init__(self, progress: Progress | None = None) -> None:
        self._progress = progress or Progress()
        self._now = time.monotonic()
        self._why: dict[str, str] = {}
        self._components: dict[str, tuple[bool, str]] = {}

    def add(self, name: str, complaint: str) -> None:
        """Add a part that is well unless there is a complaint."""
        self._components[name] = (not complaint, complaint or "ok")

    def add_stage(self, name: str, stage: StageStatistics) -> None:
        """Add a stage: it is unwell while one middleware has been busy for too long."""
        busy = time.monotonic() - stage.since if stage.step else 0.0
        self.add(name, f"{stage.step} has been busy with one batch for {busy:.0f} s" if busy > PATIENCE else "")

    def add_ingest(self, intake: IntakeStatistics, complaint: str = "") -> None:
        """Add the ingest: it is unwell while messages wait for their answers and none comes."""
        idle = self._progress.stalled("ingest", intake.open, intake.accepted + intake.refused, self._now)
        if not complaint and idle > PATIENCE:
            complaint = f"no answer for {idle:.0f} s to {intake.open} messages: what comes after it takes nothing"
        self.add("ingest", complaint)

    def add_buffer(self, buffer: BufferStatistics) -> None:
        """Add the buffer and say how full it is; being full is its rule's business, a disk that fails an illness."""
        if buffer.fault:
            self.add("buffer", buffer.fault)
            return
        self.add_dead_letters(buffer.dead_letters)
        for name, outlet in buffer.outlets.items():
            done = outlet.confirmed + outlet.dead + outlet.dropped
            idle = self._progress.stalled(f"outlet {name}", outlet.lag, done, self._now)
            if idle > PATIENCE:
                self._why[name] = f"no progress for {idle:.0f} s with {outlet.lag} events waiting"
        fullest = max((outlet.lag for outlet in buffer.outlets.values()), default=0)
        self._components["buffer"] = (True, f"{fullest} of {buffer.capacity} events")

    def add_dead_letters(self, letters: DeadLetterStatistics | None) -> None:
        """Add the dead letters: it is an illness when they cannot be stored, or push out others for want of room."""
        if letters is None or not (letters.total or letters.fault):
            return
        kept = f"{letters.total} since the start"
        forgotten = f"{kept}, {letters.forgotten} older ones were forgotten: there is no room for more"
        complaint = letters.fault or (forgotten if letters.forgotten else "")
        self._components["dead_letters"] = (not complaint, complaint or kept)

    def add_delivery(self, name: str, delivery: DeliveryStatistics) -> None:
        """Add an emitter: it is unwell while its destination does not take anything."""
        own = getattr(delivery.emitter, "emitter", None)  # what Resilience is wrapped around
        alarm = str(getattr(delivery.emitter, "alarm", "") or getattr(own, "alarm", ""))
        stall = self._why.get(name, "")
        if stall and not alarm:
            alarm = f"{delivery.in_flight} calls to it are open" if delivery.in_flight else "no call to it is open"
        complaint = f"{stall}: {alarm}" if stall else alarm
        self._components[f"emitter:{name}"] = (not complaint, complaint or getattr(own, "text", "ok"))

    def add_ingestors(self, intake: IntakeStatistics) -> None:
        """Add the ingestors that are plugins, and the sources: each is unwell while it does not answer, or says so."""
        for source, plugin in intake.plugins.items():
            self._components[f"ingestor:{source}"] = (not plugin.alarm, plugin.text)
        for name, state in intake.sources.items():
            self._components[f"source:{name}"] = (not state.alarm, state.alarm or state.text)

    def health(self, processed: int) -> Health:
        """Return the judgement: well if every part is."""
        return Health(all(healthy for healthy, _ in self._components.values()), self._components, processed)
