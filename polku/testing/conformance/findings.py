"""What a check of a plugin found."""

from __future__ import annotations

from enum import StrEnum
from typing import NamedTuple


class Grade(StrEnum):
    """Say how a check ended."""

    HOLDS = "holds"
    NOTE = "note"
    """It works; somebody may be surprised some day."""
    FAILS = "fails"


class Finding(NamedTuple):
    """One row of the table: the check, how it ended, what was seen, and what to do about it (empty where it holds)."""

    check: str
    grade: Grade
    seen: str
    fix: str = ""


class Report(NamedTuple):
    """All findings about one plugin; it is `ok` unless one of them fails."""

    address: str
    findings: tuple[Finding, ...]

    @property
    def ok(self) -> bool:
        """Whether nothing fails; notes are allowed."""
        return not any(finding.grade is Grade.FAILS for finding in self.findings)

    def __str__(self) -> str:
        lines = [f"plugin at {self.address}"]
        for check, grade, seen, fix in self.findings:
            lines.append(f"  {grade:5}  {check}: {seen}" + (f"; fix: {fix}" if fix else ""))
        return "\n".join(lines)


def holds(check: str, seen: str) -> Finding:
    """Say that a check holds."""
    return Finding(check, Grade.HOLDS, seen)


def note(check: str, seen: str, fix: str) -> Finding:
    """Say that a check holds, with something to think about."""
    return Finding(check, Grade.NOTE, seen, fix)


def fails(check: str, seen: str, fix: str) -> Finding:
    """Say that a check fails."""
    return Finding(check, Grade.FAILS, seen, fix)
