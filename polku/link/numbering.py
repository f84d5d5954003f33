"""What every push of a link is known by: the link's identity, a number, and which numbers are open."""

from __future__ import annotations

import logging

from polku.batch.batch import Identity
from polku.errors import PastLifeError, UnavailableError
from polku.link.epoch import new_epoch
from polku.link.open_numbers import OpenNumbers
from polku.link.protocols import Push
from polku.log import RepeatedLog

_REPEATED = RepeatedLog(logging.getLogger(__name__))


class Numbering:
    """Number the pushes of one life of a link, in rising order; a number is open until its final answer."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.epoch = new_epoch()
        self.open = OpenNumbers()
        self._last = 0

    def open_next(self) -> int:
        """Return the next number, which is open from now on."""
        self._last = number = self._last + 1
        self.open.add(number)
        return number

    def identity(self, number: int) -> Identity:
        """Return the identity of a batch that has none of its own."""
        return Identity(self.name, self.epoch, number)

    def identify(self, number: int, alone: bool = False) -> Push:
        """Return what a receiver has to know of the push of a number."""
        numbers = self.open
        return Push(self.name, self.epoch, number, numbers.lowest, numbers.below(number), numbers.next_gap(), alone)

    def identify_piece(self, number: int, alone: bool) -> Push:
        """Return what a receiver has to know of a piece of a batch that kills it; pieces have numbers of their own."""
        return Push(f"{self.name}/pieces", self.epoch, number, number, 0, alone=alone)

    def outlive(self, error: UnavailableError) -> None:
        """Take a higher epoch where the receiver knows another life of this link: it began when the clock was ahead.

        With an epoch that is ours by now it speaks of a batch that was pushed before that was taken.
        """
        if isinstance(error, PastLifeError) and error.epoch > self.epoch:
            _REPEATED.warning(
                ("epoch", self.name), "%s: %s; this one lives, and takes a higher epoch", self.name, error
            )
            self.epoch = new_epoch(error.epoch)
