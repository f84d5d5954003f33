"""Sets of a link's numbers, kept so that one push costs the same however many numbers there were.

A sender keeps the numbers that are open: `OpenNumbers`. A receiver keeps those that are closed, of which there are
ever more, as ranges: `Ranges` holds about as many as there are open numbers between them.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right


class OpenNumbers:
    """The numbers without a final answer, in rising order; each method takes constant time.

    A list linked in both directions; 0 stands before the first and behind the last.
    """

    def __init__(self) -> None:
        self._above: dict[int, int] = {0: 0}
        self._below: dict[int, int] = {0: 0}
        self._place = 0  # where `next_gap` is

    def add(self, number: int) -> None:
        """Add a number that is higher than all before it."""
        last = self._below[0]
        self._above[last] = self._below[0] = number
        self._below[number], self._above[number] = last, 0

    def remove(self, number: int) -> None:
        """Take out a number that has its final answer."""
        below, above = self._below.pop(number), self._above.pop(number)
        self._above[below], self._below[above] = above, below
        if self._place == number:
            self._place = above

    def clear(self) -> None:
        """Take out all of them."""
        self._above, self._below, self._place = {0: 0}, {0: 0}, 0

    @property
    def lowest(self) -> int:
        """The lowest number; 0 where there is none."""
        return self._above[0]

    def below(self, number: int) -> int:
        """Return the next lower number; 0 where there is none."""
        return self._below[number]

    def next_gap(self) -> tuple[int, int]:
        """Return two neighbours, other ones at each call until all were returned; (0, 0) where only one is open.

        From the highest down: numbers that are added meanwhile do not keep it from coming to the lowest.
        """
        high = self._place or self._below[0]
        low = self._below[high]
        if low == 0:
            high = self._below[0]
            low = self._below[high]
        self._place = low
        return (low, high) if low else (0, 0)


class Ranges:
    """A set of whole numbers as ranges that do not touch."""

    def __init__(self) -> None:
        self._firsts: list[int] = []
        self._lasts: list[int] = []

    def add(self, first: int, last: int) -> None:
        """Add all numbers from `first` to `last`."""
        start = bisect_left(self._lasts, first - 1)
        end = bisect_right(self._firsts, last + 1)
        if start < end:
            first, last = min(first, self._firsts[start]), max(last, self._lasts[end - 1])
        self._firsts[start:end] = [first]
        self._lasts[start:end] = [last]

    def covers(self, first: int, last: int) -> bool:
        """Return whether all numbers from `first` to `last` are in."""
        place = bisect_right(self._firsts, first) - 1
        return place >= 0 and last <= self._lasts[place]

    def highest_missing(self, upto: int) -> int:
        """Return the highest number up to this one that is not in."""
        place = bisect_right(self._firsts, upto) - 1
        return self._firsts[place] - 1 if place >= 0 and upto <= self._lasts[place] else upto

    def __contains__(self, number: int) -> bool:
        return self.covers(number, number)

    def __len__(self) -> int:
        """Return the number of ranges."""
        return len(self._firsts)
