"""What became of batches, reported back through the steps that they have passed.

A batch is open from `begin` until `settle` returns. Its steps are told last to first, each in positions of what it was
given; a duplicate is answered as the event that it repeats, which may be in another batch that is open still.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Mapping, Sequence
from typing import Any

from polku.batch.lineage import trace_back
from polku.batch.receipt import Counts, Fate, Receipt, Refusal
from polku.codes import Code
from polku.contracts import Follows, Holder, Step
from polku.stage.trail import Passed, Refused, traced

_UNKNOWN = "an earlier event with the same id has no known outcome; send this event again"
_NONE = Counts()
_Heirs = Sequence[tuple[Step | Holder, Step | Holder]]


class Settlement:
    """Number the batches of one stage, and turn the receipt of what was left of one into its own.

    `counts` are the stage's, by reason: they are added to the pipeline's in every receipt that leaves the stage; a
    partition's stand beside them.
    """

    def __init__(self, counts: Mapping[str, int], *, is_partition: bool = False) -> None:
        self._counts = counts
        self._is_partition = is_partition
        self._number = 0
        self.open: set[int] = set()  # numbers of batches without an outcome
        self._followers: dict[tuple[int, int], asyncio.Future[Refused]] = {}  # by the batch's number and the step's
        self._heirs: dict[int, tuple[Step | Holder, Step | Holder]] = {}  # by the id of the step that had its place
        self._told: list[tuple[Step | Holder, int, frozenset[int]]] | None = None  # what steps heard during a move
        self._latest = Receipt()

    def begin(self) -> int:
        """Return the number of a batch that is open from now on."""
        self._number = number = self._number + 1
        self.open.add(number)
        return number

    def follow(self, follow: Follows, number: int, step: int) -> asyncio.Future[Refused] | None:
        """Return the future of what is refused of the followed event's batch; None: its outcome is this batch's own."""
        if follow.batch == number:
            return None
        key = (follow.batch, step)
        if key not in self._followers:
            self._followers[key] = asyncio.get_running_loop().create_future()
        return self._followers[key]

    async def settle(
        self,
        number: int,
        wait: Awaitable[Receipt] | None,
        trail: Sequence[Passed],
        letters: Sequence[Awaitable[None]],
        *,
        inner: bool,
    ) -> Receipt:
        """Wait for what became of a batch and tell the steps; what failed as a whole counts as refused as a whole."""
        receipt = self._latest
        settled = len(trail)
        try:
            if wait is not None:
                receipt = await wait
                self._latest = receipt.without_events()
            fates: Sequence[Fate] = receipt.fates
            refused = {refusal.position: refusal for refusal in receipt.refused}
            while settled:
                passed = trail[settled - 1]
                refused = trace_back(passed.given, passed.outcome, refused)
                if passed.attribution is not None:
                    fates = passed.attribution.trace_back(fates)
                for follow, first in passed.follows:
                    await _add_followed(refused, follow, first)
                settled -= 1
                self._tell(number, passed, refused)
            for stored in letters:
                await stored
        finally:
            for passed in trail[:settled]:
                self._tell(number, passed, None)
            self.open.discard(number)
            if self._heirs and not self.open:
                self._heirs.clear()
        # What a holder released is answered inside this stage: only the outer answer adds the stage's own counts.
        counts, own = receipt.counts, _NONE if inner else Counts(**self._counts)
        if not self._is_partition:
            counts, own = counts if inner else counts.plus(own), _NONE
        output = tuple(traced(made, trail) for made in receipt.output)
        refusals = tuple(refused[at] for at in sorted(refused))
        told = tuple(sorted(fates)) if fates else ()
        return Receipt(refusals, counts, receipt.buffer_size, receipt.buffer_capacity, output, told, own)

    def begin_move(self) -> None:
        """Take note of what steps are told from now on, until `end_move`."""
        self._told = []

    def end_move(self) -> None:
        """Forget what steps were told during a move."""
        self._told = None

    def bequeath(self, heirs: _Heirs) -> None:
        """Have the second of each pair hear what becomes of the open batches of the first, whose place it has.

        What the first was told since `begin_move`, when its state was copied, the second is told now.
        """
        successors = {id(old): new for old, new in heirs}
        for step, *told in self._told or ():
            if id(step) in successors:
                heir: Any = successors[id(step)]
                heir.settled(*told)
        if self.open:
            self._heirs |= {id(old): (old, new) for old, new in heirs}

    def _heir(self, step: Step | Holder) -> Step | Holder:
        """Return what has a step's place and state now: often the step itself."""
        while id(step) in self._heirs:
            step = self._heirs[id(step)][1]
        return step

    def _tell(self, number: int, passed: Passed, refused: Refused | None) -> None:
        """Tell a step, and who follows, what was refused of what it was given; None: nobody knows."""
        everything = range(len(passed.given))
        step: Any = self._heir(passed.step) if self._heirs else passed.step
        told = frozenset(everything if refused is None else refused)
        step.settled(number, told)
        if self._told is not None:
            self._told.append((step, number, told))
        following = self._followers.pop((number, passed.number), None)
        if following is None or following.done():
            return
        if refused is None:
            refused = {at: Refusal(passed.given[at].id, Code.UNAVAILABLE, _UNKNOWN, position=at) for at in everything}
        following.set_result(refused)


async def _add_followed(refused: Refused, follow: Follows, first: asyncio.Future[Refused] | None) -> None:
    """Answer a duplicate when the first one is, and as it is; without a future that stands in the same batch."""
    others = refused if first is None else await asyncio.shield(first)
    if follow.first in others:
        refused[follow.position] = others[follow.first]._replace(position=follow.position, letter=False)
