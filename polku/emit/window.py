"""Hand events to a function in windows, as tables; its return confirms them."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from polku import checks
from polku.aio.threads import DaemonThreads
from polku.batch.batch import Batch
from polku.clock import Clock
from polku.contracts import Collecting, Failure
from polku.emit.encode import note_unwritable, unwritable
from polku.emit.table import Rows
from polku.errors import PlanError
from polku.event.v1.event_pb2 import Event
from polku.usercode import contained_call
from polku.v1.gateway_pb2 import EventPayload


class WindowStatistics(NamedTuple):
    """Count windows that the function has confirmed, and their events; `failed` are calls that raised."""

    windows: int
    events: int
    failed: int


@dataclass(frozen=True, slots=True)
class WindowEmitter:
    """Call `function(table)` with many events at once: a `pyarrow.Table`, or, with `dataset`, a `ray.data.Dataset`.

    A window is complete with `max_events` events or `max_bytes` bytes of them (serialised), or `max_age` seconds after
    its first event, and at a drain. What the function returns confirms all of it: None, or a `Failure` for each event
    that it did not take. What it raises has the same meaning as in any other emitter: `RetryableError` has the same
    window come again for as long as it takes, `RejectedError` makes dead letters of it, any other exception is tried
    five times. After a crash events without a confirmation come again, perhaps in other windows.

    A sync function runs in a thread. A call that takes more than `timeout` seconds counts as failed and is made again,
    a sync one once it has returned. The columns are `id`, `timestamp`, `source`, `event_type`,
    `severity`, `outcome`, `metadata`, `payload`, `data_type` and `data`. Up to `max_held_bytes` of events are held.
    Needs pyarrow, for a dataset Ray Data: `pip install 'ray[data]'`.
    """

    function: Callable[[Any], Any]
    max_events: int = field(default=10_000, kw_only=True)
    max_age: float = field(default=60.0, kw_only=True)
    max_bytes: int = field(default=64 * 1024 * 1024, kw_only=True)
    max_held_bytes: int = field(default=128 * 1024 * 1024, kw_only=True)
    dataset: bool = field(default=False, kw_only=True)
    timeout: float = field(default=600.0, kw_only=True)
    name: str = field(default="window", kw_only=True)

    def __post_init__(self) -> None:
        checks.function("WindowEmitter", "function", self.function, of="the table")
        checks.no_generator("WindowEmitter", "function", self.function)
        for option in ("max_events", "max_bytes", "max_held_bytes"):
            checks.whole("WindowEmitter", option, getattr(self, option))
        for option in ("max_age", "timeout"):
            checks.positive("WindowEmitter", option, getattr(self, option))

    def check_extras(self) -> None:
        """Raise `PlanError` where a package is not installed that this needs."""
        package, extra = ("ray.data", "ray[data]") if self.dataset else ("pyarrow", "pyarrow")
        try:
            __import__(package)
        except ImportError as error:
            fix = f"needs {package}, which is not installed ({error}): pip install '{extra}'"
            raise PlanError(fix, where=f"WindowEmitter({checks.label(self.function)})") from None

    def build(self, clock: Clock) -> _Windows:
        """Make the running emitter."""
        return _Windows(self)


class _Windows:
    def __init__(self, config: WindowEmitter) -> None:
        self._config = config
        self.collecting = Collecting(config.max_events, config.max_bytes, config.max_age, 1, config.max_held_bytes)
        self._is_async = checks.is_async(config.function)
        self._threads: DaemonThreads | None = None
        self._windows = self._events = self._failed = 0

    def start(self) -> None:
        self._config.check_extras()
        self._threads = DaemonThreads("polku-window", 1)

    def close(self) -> None:
        if self._threads is not None:
            self._threads.shutdown()

    def group(self, event: Event) -> str:
        """Return the only group that there is."""
        return ""

    def statistics(self) -> WindowStatistics:
        return WindowStatistics(self._windows, self._events, self._failed)

    async def emit(self, batch: Batch) -> Any:
        """Call the function with the events that can be written into a table."""
        table, failures = await self._in_thread(_table, batch.payload)
        note_unwritable(failures)
        try:
            answer = await self._call(table)
        except Exception:
            self._failed += 1
            raise
        self._windows += 1
        self._events += len(batch) - len(failures)
        return failures if answer is None else [*answer, *failures] if isinstance(answer, list | tuple) else answer

    async def _call(self, table: Any) -> Any:
        given = await self._in_thread(_dataset, table) if self._config.dataset else table
        if self._is_async:
            return await self._config.function(given)
        answer = await self._in_thread(contained_call, self._config.function, given)
        return await answer if inspect.isawaitable(answer) else answer

    async def _in_thread(self, function: Callable[..., Any], *arguments: Any) -> Any:
        assert self._threads is not None
        return await self._threads.run(function, *arguments)


def _table(payload: bytes) -> tuple[Any, list[Failure]]:
    """Return the table, and the events that have no row in it, since they cannot be written."""
    rows = Rows()
    failures = []
    for position, event in enumerate(EventPayload.FromString(payload).events):
        try:
            rows.add(event)
        except Exception as error:
            failures.append(unwritable(event.id, position, error))
    return rows.table(), failures


def _dataset(table: Any) -> Any:
    import ray.data

    return ray.data.from_arrow(table)
