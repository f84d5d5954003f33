"""What a gateway, or a file's own lines, refuse: said one by one for a while, and then in numbers."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable

from polku.text import counted

SHOWN = 20
"""How many refusals have a line of their own."""


class Refusals:
    """Report the first refusals in a line each, and at the end how many others there were, by kind."""

    def __init__(self, report: Callable[[str], None]) -> None:
        self._report = report
        self._left = SHOWN
        self._others: Counter[str] = Counter()

    def add(self, kind: str, text: str) -> None:
        """Report a refusal, or count it."""
        if self._left:
            self._left -= 1
            self._report(text)
        else:
            self._others[kind] += 1

    def close(self) -> None:
        """Report how many have had no line."""
        if self._others:
            kinds = ", ".join(f"{count:,} {kind}" for kind, count in self._others.most_common())
            self._report(f"polku: {counted(self._others.total(), 'refusal', 'is', 'are')} not shown: {kinds}")
