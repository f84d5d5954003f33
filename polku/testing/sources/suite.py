"""Run the checks: each a test of its own, or all of them for a table."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import NamedTuple

from polku.aio import loop_thread
from polku.testing.conformance.driven import examine, table
from polku.testing.conformance.findings import Finding, Grade
from polku.testing.sources import checks
from polku.testing.sources.origin import Origin, OriginAbility

_PATIENCE = 60.0


class SourceCheck(NamedTuple):
    """One check: `needs` is what the origin must be able to do; `str` gives its name."""

    name: str
    needs: OriginAbility
    function: Callable[[Origin], Awaitable[str]]

    async def run(self, origin: Origin, *, patience: float = _PATIENCE) -> str:
        """Start the origin, check, and stop it; return what was seen, or raise `AssertionError`."""
        finding = await self.examine(origin, patience)
        if finding.grade is Grade.FAILS:
            raise AssertionError(f"{finding.check}: {finding.seen}; fix: {finding.fix}")
        return finding.seen

    def __call__(self, origin: Origin, *, patience: float = _PATIENCE) -> str:
        """Do the same from a test that is not async."""
        return loop_thread.submit(self.run(origin, patience=patience)).result()

    async def examine(self, origin: Origin, patience: float) -> Finding:
        """Return how the check ended."""
        late = "see what the source waits for, what it does not pull, and what state says"
        raised = "start, stop, drain and close must not raise"
        return await examine(self.name, self.function, origin, patience, late=late, raised=raised)

    def __str__(self) -> str:
        return self.name


class SourceConformance(NamedTuple):
    """What all checks found about one source; those left out need what its origin cannot do."""

    source: str
    findings: tuple[Finding, ...]
    left_out: tuple[SourceCheck, ...]

    @property
    def ok(self) -> bool:
        """Whether nothing fails."""
        return not any(finding.grade is Grade.FAILS for finding in self.findings)

    def __str__(self) -> str:
        left_out = [(check.name, check.needs.name) for check in self.left_out]
        return table(f"source of {self.source}", self.findings, left_out)


def source_checks(abilities: OriginAbility | None = None) -> tuple[SourceCheck, ...]:
    """Return all checks, or those that an origin of these abilities can be put through."""
    return tuple(check for check in _CHECKS if abilities is None or check.needs in abilities)


async def check_source(make: Callable[[], Origin], *, patience: float = _PATIENCE) -> SourceConformance:
    """Put a source through all checks, each with a new origin; a check may take `patience` seconds."""
    chosen = source_checks(make().abilities)
    findings = [await check.examine(make(), patience) for check in chosen]
    name = getattr(make, "__name__", str(make))
    return SourceConformance(name, tuple(findings), tuple(check for check in _CHECKS if check not in chosen))


def assert_source(make: Callable[[], Origin], *, patience: float = _PATIENCE) -> None:
    """Raise `AssertionError` with the whole table unless the source keeps the contract; blocks for some seconds."""
    report = loop_thread.submit(check_source(make, patience=patience)).result()
    if not report.ok:
        raise AssertionError(str(report))


_CHECKS = tuple(
    SourceCheck(function.__name__.replace("_", " "), needs, function)
    for needs, function in (
        (OriginAbility.NONE, checks.every_record_arrives_once_and_in_order),
        (OriginAbility.COMMITS, checks.commits_what_is_acknowledged_and_no_more),
        (OriginAbility.COMMITS, checks.what_was_not_acknowledged_comes_again),
        (OriginAbility.COMMITS, checks.what_was_acknowledged_does_not_come_again),
        (OriginAbility.NONE, checks.a_pipeline_that_takes_nothing_bounds_what_is_pulled),
        (OriginAbility.AWAY, checks.it_starts_without_its_origin),
        (OriginAbility.AWAY, checks.it_finds_its_origin_again),
        (OriginAbility.NONE, checks.a_record_that_is_refused_costs_only_itself),
        (OriginAbility.NONE, checks.it_stops_in_time),
    )
)
