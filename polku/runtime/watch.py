"""Judge from the statistics of every part whether a pipeline is well, and say it in sentences."""

from __future__ import annotations

import time

from polku.buffer.buffer import BufferStatistics
from polku.delivery import DeliveryStatistics
from polku.gateway.health import Health
from polku.gateway.intake import IntakeStatistics
from polku.stage import StageStatistics

PATIENCE = 30.0  # seconds that a middleware may work on one batch before it counts as hanging


class Watch:
    """Collect the state of each part."""

    def __init__(self) -> None:
        self._components: dict[str, tuple[bool, str]] = {}

    def add(self, name: str, complaint: str) -> None:
        """Add a part that is well unless there is a complaint."""
        self._components[name] = (not complaint, complaint or "ok")

    def add_stage(self, name: str, stage: StageStatistics) -> None:
        """Add a stage: it is unwell while one middleware has been busy for too long."""
        busy = time.monotonic() - stage.since if stage.step else 0.0
        self.add(name, f"{stage.step} has been busy with one batch for {busy:.0f} s" if busy > PATIENCE else "")

    def add_buffer(self, buffer: BufferStatistics) -> None:
        """Add the buffer and say how full it is; being full is its rule's business, a disk that fails an illness."""
        if buffer.fault:
            self.add("buffer", buffer.fault)
            return
        fullest = max((outlet.lag for outlet in buffer.outlets.values()), default=0)
        self._components["buffer"] = (True, f"{fullest} of {buffer.capacity} events")

    def add_delivery(self, name: str, delivery: DeliveryStatistics) -> None:
        """Add an emitter: it is unwell while its destination does not take anything."""
        own = getattr(delivery.emitter, "emitter", None)  # what Resilience is wrapped around
        alarm = getattr(delivery.emitter, "alarm", "") or getattr(own, "alarm", "")
        self._components[f"emitter:{name}"] = (not alarm, str(alarm) or getattr(own, "text", "ok"))

    def add_ingestors(self, intake: IntakeStatistics) -> None:
        """Add the ingestors that are plugins: each is unwell while it does not answer, or says so."""
        for source, plugin in intake.plugins.items():
            self._components[f"ingestor:{source}"] = (not plugin.alarm, plugin.text)

    def health(self, processed: int) -> Health:
        """Return the judgement: well if every part is."""
        return Health(all(healthy for healthy, _ in self._components.values()), self._components, processed)
