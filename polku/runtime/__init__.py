"""What runs a plan: the contract of a runtime, and the one that needs nothing but this process."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from polku.buffer.copies import Found
    from polku.dead_letters import DeadLetter, LetterVerb
    from polku.dead_letters.store import Selection
    from polku.gateway.addresses import Addresses
    from polku.health import Health
    from polku.monitoring.statistics import PipelineStatistics
    from polku.plan import Plan
    from polku.runtime.changing import Changed
    from polku.runtime.reloads import Reloads
    from polku.runtime.report import StopReport
    from polku.sender import SendChannel
    from polku.tap.request import TapReply, TapRequest

STOPPED = "the pipeline has stopped; start another one, as with hub.start()"
"""What who uses a pipeline after its end is told."""

UNCOPIED = (
    "a pipeline belongs to the process that started it; give tasks and actors pipeline.sender(), of the ray runtime, "
    "or the address of its gateway"
)
"""What who pickles or copies a pipeline is told."""


class Runtime(Protocol):
    """Run one plan from `start` to `stop`; all coroutines are awaited on POLKU's own event loop."""

    @property
    def addresses(self) -> Addresses:
        """Where the gateway is open, if it is."""
        ...

    @property
    def notice(self) -> str:
        """What the pipeline runs on, in a sentence; empty where that is this process."""
        ...

    @property
    def lost(self) -> str:
        """Why the pipeline is gone, without a stop; empty while it is there."""
        ...

    @property
    def leaves_within(self) -> float | None:
        """How many seconds there are for a drain, as the node of this program is about to go; None while it stays."""
        ...

    async def start(self) -> None:
        """Return when the pipeline is ready for events."""
        ...

    async def stop(self, timeout: float) -> StopReport:
        """Drain in order within `timeout` seconds, then release everything."""
        ...

    async def report(self) -> StopReport:
        """Return what would be reported if the pipeline ended now; raises `NotRunningError` where it has."""
        ...

    def report_nowait(self) -> StopReport | None:
        """Return it without waiting for any part, where the caller's process can tell."""
        ...

    async def update(self, plan: Plan, *, seconds: float) -> Changed:
        """Run another plan from now on, without a stop; raises `ChangeError`, and then nothing was changed."""
        ...

    async def scale(self, lanes: int, *, seconds: float) -> Changed:
        """Run that many lanes from now on; raises `ChangeError`, and then nothing was changed."""
        ...

    def note_reloads(self, reloads: Reloads) -> None:
        """Have statistics and health say what became of the changes until now."""
        ...

    async def health(self) -> Health:
        """Ask every part how it is."""
        ...

    def health_nowait(self) -> Health | None:
        """Return how the parts are without waiting for any of them, where the caller's process can tell."""
        ...

    async def statistics(self) -> PipelineStatistics:
        """Return what every part has counted; on Ray as it was seen within the last second or so."""
        ...

    def statistics_nowait(self) -> PipelineStatistics | None:
        """Return it without waiting for any part, where the caller's process can tell."""
        ...

    async def dead_letters(self, selection: Selection | None = None) -> list[DeadLetter]:
        """Return the latest events that could not be delivered, all or those that are chosen, oldest first."""
        ...

    async def change_dead_letters(self, verb: LetterVerb, selection: Selection) -> int:
        """Replay or drop dead letters, and return how many; raises `UnavailableError` where they are in memory."""
        ...

    async def tap(self, request: TapRequest) -> list[TapReply]:
        """Return what each process has kept for who asks; raises `UnavailableError` where too many look."""
        ...

    async def find(self, event_id: str) -> Found:
        """Return where the copies of an event are in the buffers, and what became of the latest ones."""
        ...

    def door(self) -> SendChannel:
        """The way in for senders."""
        ...
