"""Run one check of a component against what its author drives, and say how it ended."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Sequence
from typing import Protocol, TypeVar

from polku.testing.conformance.findings import Finding, fails, holds
from polku.usercode import is_ours


class BrokenError(Exception):
    """Say what was seen, and what to do about it."""

    def __init__(self, seen: str, fix: str) -> None:
        super().__init__(f"{seen}; fix: {fix}")
        self.seen = seen
        self.fix = fix


class Driven(Protocol):
    """The far end of a component, which a check starts and stops."""

    async def start(self) -> None:
        """Be there."""

    async def stop(self) -> None:
        """Release everything."""


D = TypeVar("D", bound=Driven)


async def examine(
    name: str, function: Callable[[D], Awaitable[str]], far_end: D, patience: float, *, late: str, raised: str
) -> Finding:
    """Return how a check ended; `late` and `raised` are the fixes where it takes too long, or raises by itself."""
    await far_end.start()
    try:
        async with asyncio.timeout(patience):
            return holds(name, await function(far_end))
    except BrokenError as error:
        return fails(name, error.seen, error.fix)
    except TimeoutError:
        return fails(name, f"it did not come to an end within {patience:g} s", late)
    except BaseException as error:  # the component under test may raise anything
        if is_ours(error):
            raise
        return fails(name, f"{type(error).__name__}: {error}", raised)
    finally:
        await far_end.stop()


def table(title: str, findings: Sequence[Finding], left_out: Iterable[tuple[str, str | None]]) -> str:
    """Return the table of all findings, and of the checks left out with what they need."""
    lines = [title]
    for check, grade, seen, fix in findings:
        lines.append(f"  {grade:5}  {check}: {seen}" + (f"; fix: {fix}" if fix else ""))
    lines += [f"  -      {name}: left out, needs {needs}" for name, needs in left_out]
    return "\n".join(lines)
