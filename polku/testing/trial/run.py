"""Run a pipeline on some events, from the intake to the emitters' calls, and say what became of each of them.

```python
from polku.testing import run


def test_noise_is_dropped():
    outcome = run(hub, [new_event("noise", id="1"), new_event("order", id="2")])
    assert outcome.ids("audit") == ["2"]
```
"""

from __future__ import annotations

import asyncio
import contextvars
import threading
from collections.abc import Callable, Collection, Iterable, Mapping
from concurrent.futures import Future

from polku.clock import Clock
from polku.hub import Hub
from polku.plan import Plan
from polku.testing.trial.clock import VirtualClock
from polku.testing.trial.given import Given, read_given
from polku.testing.trial.loop import VirtualLoop
from polku.testing.trial.outcome import Outcome, Records
from polku.testing.trial.parts import plan_for_test
from polku.testing.trial.trial import Trial


def run(
    hub: Hub | Plan,
    events: Given | Iterable[Given],
    *,
    clock: Clock | None = None,
    replace: Mapping[str, object] | None = None,
    only: str | Collection[str] | None = None,
    source: str = "",
    timeout: float = 10.0,
    within: float = 3600.0,
    progress: Callable[[int], None] | None = None,
) -> Outcome:
    """Send events through the pipeline of a hub, drain it, and return what became of them; opens no port or file.

    The parts are those of the inline runtime: intake, stages, buffer, outlets, retries. In place of each emitter stands
    a recorder; what a durable buffer would write to disk is kept in memory; sources and plugins are left out. Time is
    virtual, so that an hour of retries takes a moment: a `VirtualClock` of your own can be read and used again; with
    any other clock it is real.

    `events` are sent in order, each in a message of its own: events, lists of events (one message), `Raw` bytes for an
    ingestor, and `Pause`s. Events without a source get `source`. `replace` puts others in the place of emitters,
    middleware or ingestors, by their names (an ingestor's is its source): `{"partner": Flaky(fail=3)}`. `only` names
    the middleware that is run; all other is left out. `progress` is called with the number of events that were sent so
    far.

    Raises what the `start` of a part raises, `PlanError` for names that no part has, and `TimeoutError` where the run
    takes more than `timeout` real seconds. What is not delivered `within` virtual seconds after the last event is in
    `held`. In a running event loop it runs in another thread, and the loop stands still: await `run_async` there.
    """
    prepared = _prepare(hub, events, clock, replace, only, source, timeout, within, progress)
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return prepared()
    return _in_thread(prepared).result()


async def run_async(
    hub: Hub | Plan,
    events: Given | Iterable[Given],
    *,
    clock: Clock | None = None,
    replace: Mapping[str, object] | None = None,
    only: str | Collection[str] | None = None,
    source: str = "",
    timeout: float = 10.0,
    within: float = 3600.0,
) -> Outcome:
    """Do the same without blocking the event loop; the pipeline runs in a loop of its own, in another thread."""
    return await asyncio.wrap_future(_in_thread(_prepare(hub, events, clock, replace, only, source, timeout, within)))


class _Prepared:
    """A run that has not begun."""

    def __init__(self, trial: Trial, clock: Clock, timeout: float) -> None:
        self._trial = trial
        self._clock = clock
        self._timeout = timeout
        self._main: asyncio.Task[Outcome] | None = None
        self._why = ""

    def __call__(self) -> Outcome:
        clock = self._clock
        if isinstance(clock, VirtualClock):
            virtual = clock
            with asyncio.Runner(loop_factory=lambda: VirtualLoop(virtual, self._timeout, self._end)) as runner:
                return runner.run(self._live())
        with asyncio.Runner() as runner:
            return runner.run(asyncio.wait_for(self._live(), self._timeout))

    async def _live(self) -> Outcome:
        self._main = asyncio.ensure_future(self._trial.live())
        try:
            return await self._main
        except asyncio.CancelledError:
            if not self._why:
                raise
            raise TimeoutError(self._why) from None

    def _end(self, why: str) -> None:
        self._why = f"{why}: {self._trial.describe()}"
        if self._main is not None:
            self._main.cancel()


def _prepare(
    hub: Hub | Plan,
    events: Given | Iterable[Given],
    clock: Clock | None,
    replace: Mapping[str, object] | None,
    only: str | Collection[str] | None,
    source: str,
    timeout: float,
    within: float,
    progress: Callable[[int], None] | None = None,
) -> _Prepared:
    clock = clock or VirtualClock()
    records = Records()
    names = [only] if isinstance(only, str) else only
    plan = hub if isinstance(hub, Plan) else hub.plan("inline")
    plan = plan_for_test(plan, replace or {}, names, records)
    trial = Trial(plan, read_given(events), clock, records, source=source, within=within, progress=progress)
    return _Prepared(trial, clock, timeout)


def _in_thread(work: _Prepared) -> Future[Outcome]:
    """Run something in a thread of its own, with the context variables of the caller."""
    done: Future[Outcome] = Future()
    context = contextvars.copy_context()

    def call() -> None:
        try:
            done.set_result(context.run(work))
        except BaseException as error:
            done.set_exception(error)

    threading.Thread(target=call, name="polku-test", daemon=True).start()
    return done
