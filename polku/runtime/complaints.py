"""What the log says of how the parts are: who holds up others, who is unhealthy, and what helps; who drops."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

from polku.health import Health
from polku.runtime.back_pressure import BackPressure
from polku.runtime.dropping import Dropping
from polku.runtime.unhealthy import UnhealthyParts

if TYPE_CHECKING:
    from polku.monitoring.statistics import PlanStatistics


_SOON_SECONDS = 0.3  # while something is about to be said


class Complaints:
    """Follow the health of a pipeline, from looks about once a second."""

    def __init__(self) -> None:
        self._pressure = BackPressure()
        self._unhealthy = UnhealthyParts()
        self._dropping = Dropping()

    def until_next(self, seconds: float) -> float:
        """Return after how many seconds the next look is, of about `seconds` where nothing is about to be said."""
        is_waiting = self._pressure.is_waiting or self._unhealthy.is_waiting
        return min(seconds, _SOON_SECONDS) if is_waiting else seconds

    def note(self, health: Health, plan: Callable[[], PlanStatistics], pids: Mapping[str, int]) -> None:
        """Say what begins to be wrong, with what helps a part of the `plan`, which is made then; and what ends."""

        def remedy(name: str, complaint: str, holds_up: str) -> str:
            from polku.monitoring.remedies import Remedies

            is_slow = bool(holds_up) and health.components.get(name, (True, ""))[0]
            return Remedies(plan(), pids).say(name, complaint, holds_up, health.causes.get(name), is_slow=is_slow)

        holds = {name: health.with_next_attempt(name, why) for name, why in health.holds.items()}
        self._pressure.look(holds, remedy=remedy, is_ready=health.ready)
        self._unhealthy.look(health, remedy)

        def helps(name: str) -> str:
            from polku.monitoring.remedies import Remedies

            well, text = health.components.get(name, (True, ""))
            return Remedies(plan(), pids).say(name, text, "", health.causes.get(name), is_slow=well)

        self._dropping.look(health.drops, helps=helps)
