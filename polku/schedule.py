"""Events at fixed times: a source that pulls from the clock, or calls a function then."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Awaitable, Callable, Iterable, Mapping
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any, ClassVar, NamedTuple, TypeAlias

from polku import checks
from polku.clock import Clock
from polku.contracts import Pulled, PulledStream, SourceState
from polku.errors import DrainingError, PlanError, RecordError
from polku.event.v1.event_pb2 import Event
from polku.text import named
from polku.usercode import contained, is_ours

_SHORTEST, _LONGEST = 0.001, 100 * 365 * 86_400.0  # seconds
_LONGEST_SLEEP = 1.0  # the clock of the machine may be set meanwhile


class Tick(NamedTuple):
    """One time of a schedule: its number since 1970, and the time in Unix nanoseconds."""

    number: int
    time_ns: int


Made: TypeAlias = "Event | Iterable[Event] | None"


@dataclass(frozen=True, slots=True)
class ScheduleSource:
    """Make an event each `every` seconds: at the multiples of it since 1970 (UTC), and `offset` seconds later.

    The event has the type `event_type`, the `payload` and the `metadata`; or it is what `make` returns, a function of
    the `Tick`, sync or async: an event, several, or None. A `make` that raises, or takes longer than `timeout`
    seconds, makes a dead letter. Events without an id get the source's name and the tick's time, so that the same tick
    has the same id in whatever process.

    A tick is skipped, and counted, when the one before is not in the pipeline yet, or when the process did not run. Of
    several lanes the first of a disk has the source.
    """

    every: float | timedelta
    make: Callable[[Tick], Made | Awaitable[Made]] | None = None
    offset: float = field(default=0.0, kw_only=True)
    event_type: str = field(default="schedule.tick", kw_only=True)
    source: str = field(default="schedule", kw_only=True)
    payload: bytes = field(default=b"", kw_only=True)
    metadata: Mapping[str, str] = field(default_factory=dict, kw_only=True)
    timeout: float = field(default=60.0, kw_only=True)
    name: str = field(default="schedule", kw_only=True)

    one_lane: ClassVar[bool] = True

    def __post_init__(self) -> None:
        seconds = self.every.total_seconds() if isinstance(self.every, timedelta) else self.every
        checks.positive("ScheduleSource", "every", seconds)
        if not _SHORTEST <= seconds <= _LONGEST:
            fix = f"must be a number of seconds from {_SHORTEST:g} to {_LONGEST:g}"
            raise checks.fault("ScheduleSource", "every", self.every, fix)
        object.__setattr__(self, "every", float(seconds))
        if self.make is not None:
            checks.function("ScheduleSource", "make", self.make, of="the tick")
            checks.no_generator("ScheduleSource", "make", self.make)
        offset = self.offset
        if not isinstance(offset, (int, float)) or isinstance(offset, bool) or not 0 <= offset < seconds:
            raise checks.fault("ScheduleSource", "offset", offset, "must be a number of seconds, less than every")
        for option in ("event_type", "source", "name"):
            if not isinstance(getattr(self, option), str) or not getattr(self, option):
                raise checks.fault("ScheduleSource", option, getattr(self, option), "must be a text, not empty")
        if not isinstance(self.payload, bytes):
            raise checks.fault("ScheduleSource", "payload", self.payload, "must be bytes")
        checks.positive("ScheduleSource", "timeout", self.timeout)
        try:
            Event(metadata=self.metadata)
        except (TypeError, ValueError, AttributeError) as error:
            raise PlanError(f"metadata: {error}; must be texts by name", where="ScheduleSource") from None
        object.__setattr__(self, "metadata", dict(self.metadata))

    def build(self, clock: Clock) -> _Scheduler:
        """Make the running source."""
        return _Scheduler(self, clock)


class _Scheduler:
    def __init__(self, config: ScheduleSource, clock: Clock) -> None:
        self._config = config
        self._clock = clock
        self._every = round(_seconds(config.every) * 1e9)
        self._offset = round(config.offset * 1e9)
        self._stopped = asyncio.Event()
        self._working = asyncio.Lock()
        self._ticks = self._skipped = self._records = self._in_flight = 0
        self._fault = ""

    async def run(self, open_stream: Callable[..., PulledStream]) -> None:
        """Make events until `stop`."""
        stream = open_stream(self._config.source)
        number = self._now()
        while (due := await self._next(number)) is not None:
            self._skipped += max(0, due - number - 1)  # where the clock was set back it is an earlier one
            number = due
            async with self._working:
                try:
                    await self._tick(stream, Tick(number, number * self._every + self._offset))
                except DrainingError:
                    return

    def stop(self) -> None:
        """Make nothing more."""
        self._stopped.set()

    async def drain(self) -> None:
        """Wait until the latest tick's events are in."""
        self.stop()
        async with self._working:
            pass

    async def close(self) -> None:
        """Make nothing more."""
        self.stop()

    def state(self) -> SourceState:
        """Return a snapshot."""
        text = f"{self._ticks} ticks, {self._skipped} skipped, {self._records} records"
        return SourceState(text, self._fault, self._records, 0, 0, self._in_flight)

    def _now(self) -> int:
        """Return the number of the tick that was last."""
        return (self._clock.time_ns() - self._offset) // self._every

    async def _next(self, number: int) -> int | None:
        """Wait for a tick after `number`, or after now where the clock was set back; None: `stop` came first."""
        while not self._stopped.is_set():
            now = self._now()
            if now > number:
                return now
            number = now if now < number - 1 else number
            left = ((number + 1) * self._every + self._offset - self._clock.time_ns()) / 1e9
            try:
                async with asyncio.timeout(min(max(left, 0.0), _LONGEST_SLEEP)):
                    await self._stopped.wait()
            except TimeoutError:
                pass
        return None

    async def _tick(self, stream: PulledStream, tick: Tick) -> None:
        records = [self._pulled(made, tick, at) for at, made in enumerate(await self._make(tick))]
        self._ticks += 1
        self._in_flight = len(records)
        try:
            if records:
                await (await stream.push(records))
        finally:
            self._in_flight = 0
        self._records += len(records)

    async def _make(self, tick: Tick) -> list[Event | RecordError]:
        config = self._config
        if config.make is None:
            return [Event(event_type=config.event_type, payload=config.payload, metadata=config.metadata)]
        try:
            async with asyncio.timeout(config.timeout):
                made: Any = await contained(_called(config.make, tick))
            self._fault = ""
            if made is None or isinstance(made, Event):
                return [] if made is None else [made]
            events = list(made)
            if all(isinstance(event, Event) for event in events):
                return events
            raise TypeError("it must return an event, events, or None")
        except BaseException as error:
            if is_ours(error):
                raise
            late = f"it took more than {config.timeout:g} s"
            self._fault = f"make: {late if isinstance(error, TimeoutError) else named(error)}"
            return [RecordError(self._fault)]

    def _pulled(self, made: Event | RecordError, tick: Tick, at: int) -> Pulled:
        name = self._config.name
        record_id = f"{name}-{tick.time_ns // 1_000_000}" + (f"-{at}" if at else "")
        return Pulled(made, f"{name}, tick {tick.number}", record_id, tick.time_ns)


async def _called(make: Callable[[Tick], Any], tick: Tick) -> Any:
    made = make(tick)
    return await made if isinstance(made, Awaitable) else made


def _seconds(every: float | timedelta) -> float:
    return every.total_seconds() if isinstance(every, timedelta) else math.fabs(every)
