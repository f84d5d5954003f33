"""Ingestors, sources and limits that are exchanged while the intake runs: what is new is started first."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from functools import partial

from msgspec import Struct, field

from polku.aio.tasks import TaskSet
from polku.change.difference import Difference, PartVerdict
from polku.clock import Clock
from polku.contracts import Ingestor, Source
from polku.dead_letters import DeadLetters
from polku.errors import ChangeError
from polku.gateway.intake import Intake
from polku.hooks import CLOSE_SECONDS, call_hook, close_each, start_hook
from polku.plan import Plan
from polku.text import named

Close = tuple[str, Callable[[], Awaitable[None]]]


class Opened(Struct):
    """Parts that were started next to those that run, and how to close them again."""

    closing: list[Close] = field(default_factory=list)

    async def open(self, name: str, part: object) -> None:
        """Start a part; raises `ChangeError` where it does not start."""
        self.closing.append((name, partial(call_hook, part, "close", seconds=CLOSE_SECONDS)))
        try:
            await start_hook(name, part)
        except Exception as error:
            raise ChangeError([f"{name} does not start: {named(error)}"]) from error

    async def close(self) -> None:
        """Close what was started, the latest first."""
        await close_each(reversed(self.closing))


class FreshIntake(Struct):
    """Ingestors and sources that were started next to those that run."""

    ingestors: dict[str, Ingestor] = field(default_factory=dict)
    default: Ingestor | None = None
    sources: dict[str, Source] = field(default_factory=dict)


async def start_intake(plan: Plan, found: Difference, intake: Intake, opened: Opened, clock: Clock) -> FreshIntake:
    """Start the ingestors and sources of a plan that are new, or take another's place; raises `ChangeError`."""
    try:
        return await _start_intake(plan, found, intake, opened, clock)
    except ChangeError:
        raise
    except Exception as error:
        raise ChangeError([f"a part could not be built: {named(error)}"]) from error


async def _start_intake(plan: Plan, found: Difference, intake: Intake, opened: Opened, clock: Clock) -> FreshIntake:
    from polku.ingest.adapt import as_ingestor

    fresh = FreshIntake()
    wanted = found.named("ingestor", PartVerdict.NEW, PartVerdict.CHANGED)
    configs: dict[int, Ingestor] = {}
    for source, config in plan.ingestors:
        if source in wanted:
            if id(config) not in configs:
                configs[id(config)] = as_ingestor(config, clock)
                await opened.open(f"ingestor {source!r}", configs[id(config)])
            fresh.ingestors[source] = configs[id(config)]
    if plan.default_ingestor is not None:
        fresh.default = intake.ingestors.default
        if found.named("default ingestor", PartVerdict.NEW, PartVerdict.CHANGED):
            fresh.default = as_ingestor(plan.default_ingestor, clock)
            await opened.open("default ingestor", fresh.default)
    for running in plan.sources:
        if running.name in found.named("source", PartVerdict.NEW, PartVerdict.CHANGED):
            from polku.gateway.pulling import as_source

            source_of_now = fresh.sources[running.name] = as_source(running.source, clock)
            await opened.open(f"source {running.name!r}", source_of_now)
    return fresh


async def exchange_intake(
    intake: Intake, plan: Plan, found: Difference, fresh: FreshIntake, dead_letters: DeadLetters, background: TaskSet
) -> None:
    """Have what was started take messages in from now on, within the plan's limits."""
    ended = intake.ingestors.exchange(fresh.ingestors, fresh.default, found.named("ingestor", PartVerdict.GONE))
    background.start("ingestors", intake.ingestors.end(ended))
    intake.bound(plan.limits)
    gone = found.named("source", PartVerdict.GONE)
    if not fresh.sources and not gone:
        return
    if intake.sources is None:
        from polku.gateway.pulling import Sources

        intake.pull(Sources({}, intake, dead_letters.bury_events))
    assert intake.sources is not None
    await intake.sources.exchange(fresh.sources, gone)
