"""Run the checks: each a test of its own, or all of them for a table."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import NamedTuple

from polku.aio import loop_thread
from polku.testing.conformance.driven import examine, table
from polku.testing.conformance.findings import Finding, Grade
from polku.testing.emitters import checks
from polku.testing.emitters.destination import Ability, Destination

_PATIENCE = 30.0


class EmitterCheck(NamedTuple):
    """One check: `needs` is what the destination must be able to do; `str` gives its name."""

    name: str
    needs: Ability
    function: Callable[[Destination], Awaitable[str]]

    async def run(self, destination: Destination, *, patience: float = _PATIENCE) -> str:
        """Start the destination, check, and stop it; return what was seen, or raise `AssertionError`."""
        finding = await self.examine(destination, patience)
        if finding.grade is Grade.FAILS:
            raise AssertionError(f"{finding.check}: {finding.seen}; fix: {finding.fix}")
        return finding.seen

    def __call__(self, destination: Destination, *, patience: float = _PATIENCE) -> str:
        """Do the same from a test that is not async."""
        return loop_thread.submit(self.run(destination, patience=patience)).result()

    async def examine(self, destination: Destination, patience: float) -> Finding:
        """Return how the check ended."""
        late = "see what emit waits for, or tries again although it can never succeed"
        raised = "start and close must not raise"
        return await examine(self.name, self.function, destination, patience, late=late, raised=raised)

    def __str__(self) -> str:
        return self.name


class Conformance(NamedTuple):
    """What all checks found about one emitter; those left out need what its destination cannot do."""

    emitter: str
    findings: tuple[Finding, ...]
    left_out: tuple[EmitterCheck, ...]

    @property
    def ok(self) -> bool:
        """Whether nothing fails."""
        return not any(finding.grade is Grade.FAILS for finding in self.findings)

    def __str__(self) -> str:
        left_out = [(check.name, check.needs.name) for check in self.left_out]
        return table(f"emitter of {self.emitter}", self.findings, left_out)


def emitter_checks(abilities: Ability | None = None) -> tuple[EmitterCheck, ...]:
    """Return all checks, or those that a destination of these abilities can be put through."""
    return tuple(check for check in _CHECKS if abilities is None or check.needs in abilities)


async def check_emitter(make: Callable[[], Destination], *, patience: float = _PATIENCE) -> Conformance:
    """Put an emitter through all checks, each with a new destination; a check may take `patience` seconds."""
    abilities = make().abilities
    chosen = emitter_checks(abilities)
    findings = [await check.examine(make(), patience) for check in chosen]
    name = getattr(make, "__name__", str(make))
    return Conformance(name, tuple(findings), tuple(check for check in _CHECKS if check not in chosen))


def assert_emitter(make: Callable[[], Destination], *, patience: float = _PATIENCE) -> None:
    """Raise `AssertionError` with the whole table unless the emitter keeps the contract; blocks for some seconds."""
    report = loop_thread.submit(check_emitter(make, patience=patience)).result()
    if not report.ok:
        raise AssertionError(str(report))


_CHECKS = tuple(
    EmitterCheck(function.__name__.replace("_", " "), needs, function)
    for needs, function in (
        (Ability.NONE, checks.keeps_order_and_repeats_nothing),
        (Ability.REFUSE, checks.names_what_was_refused),
        (Ability.BUSY, checks.tries_only_again_what_failed),
        (Ability.NONE, checks.lets_an_event_that_cannot_be_written_cost_only_itself),
        (Ability.HANG, checks.waits_for_the_confirmation),
        (Ability.KILL, checks.finds_it_again),
        (Ability.KILL, checks.starts_without_it),
        (Ability.KILL | Ability.HANG, checks.loses_nothing_when_it_dies_unconfirmed),
        (Ability.HANG, checks.loses_nothing_when_the_emitter_dies),
        (Ability.NONE, checks.keeps_its_word_when_it_is_closed),
        (Ability.NONE, checks.closes_twice),
    )
)
