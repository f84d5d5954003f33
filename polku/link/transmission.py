"""How a link sends one batch until there is a final answer, whatever becomes of its receiver meanwhile.

```text
            wait for suspects            Accepted                 outcome
 a number ─────────────────────► pushed ────────────► held ──────────────────► receipt
     ▲                             │                    │
     │   unavailable: pause        │                    │ died with it, again and again: `poison` searches
     └─────────────────────────────┴────────────────────┘
```
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from functools import partial
from itertools import count

from polku.batch.batch import Batch
from polku.batch.receipt import Receipt, numbers_of, outcome_of
from polku.errors import UnavailableError
from polku.link.numbering import Numbering
from polku.link.poison import Bury, PoisonSearch
from polku.link.protocols import Peer
from polku.link.suspects import PoisonDetector, Trial
from polku.log import RepeatedLog
from polku.usercode import as_exception, is_ours

_REPEATED = RepeatedLog(logging.getLogger(__name__))
_SEARCH = "they are tried in ever smaller pieces, and the one at fault becomes a dead letter (POISON)"


class Transmission:
    """Send the batches of a link, each under its number; `leave_window` is called when the receiver holds one.

    `on_taken` is called after that. `on_fault` hears of a push that ended with an exception, and is tried again under
    its number; None: who has pushed hears of it. `retry_delay` is in seconds, by the attempt.
    """

    def __init__(
        self,
        peer: Peer,
        numbering: Numbering,
        leave_window: Callable[[int], None],
        *,
        retry_delay: Callable[[int], float] | None,
        bury: Bury | None,
    ) -> None:
        self.peer = peer
        self.numbering = numbering
        self._name = numbering.name
        self._leave_window = leave_window
        self._retry_delay = retry_delay or _default_delay
        self._bury = bury
        self._suspects = PoisonDetector()
        self._search = PoisonSearch(self._name, self._push_piece, self._pause)
        self.on_taken: Callable[[], None] = _nothing
        self.on_fault: Callable[[Exception], None] | None = None
        self.sent = self.resent = 0
        self.is_closed = False

    def learn(self, receipt: Receipt) -> None:
        """Keep the pipeline's numbers of the latest receipt, for those that are made here."""
        self._search.numbers = numbers_of(receipt)

    def clear(self, seq: int) -> None:
        """Forget a batch that has its final answer: those behind it may be sent."""
        self._suspects.clear(seq)

    async def send(self, seq: int, batch: Batch) -> Receipt:
        """Send until there is an answer; an exception that is none ends it only where nobody watches the faults."""
        for attempt in count(1):
            try:
                return await self._send_until_answered(seq, batch)
            except BaseException as error:
                if self.on_fault is None or is_ours(error, cancelled=self.is_closed):
                    raise
                self.on_fault(as_exception(error))
            self._suspects.hold_others(seq)
            self.resent += 1
            await asyncio.sleep(self._retry_delay(attempt))
        raise AssertionError("unreachable")

    async def _send_until_answered(self, seq: int, batch: Batch) -> Receipt:
        attempt = 0
        while True:
            if not self._suspects.lets_all_pass:
                await self._suspects.wait_turn(seq)
            trial = Trial(suspect=seq in self._suspects)
            try:
                self.sent += 1
                answer = await trial.push(self.peer, partial(self.numbering.identify, seq), batch)
                if isinstance(answer, Receipt):
                    return answer
                if not trial.is_alone:
                    self._suspects.release(seq)
                self._leave_window(seq)
                self.on_taken()
                return await answer.outcome()
            except UnavailableError as error:
                if trial.is_taken:
                    self._suspects.lose(seq)
                attempt += 1
                if error.died and self._is_culprit(seq, batch, trial):
                    await self._pause(error, attempt)
                    return await self._search.run(batch, self._bury, partial(self._suspects.wait_behind, seq))
                _REPEATED.info(self._name, "%s: batch %d is sent again: %s", self._name, seq, error)
                await self._pause(error, attempt)

    def _is_culprit(self, seq: int, batch: Batch, trial: Trial) -> bool:
        """Count a death of the receiver that had a batch; return whether the event at fault is to be searched in it."""
        events = len(batch)
        found = self._suspects.record_crash(seq, alone=trial.is_alone, held=trial.is_taken, events=events)
        if found and events > 1:
            text = "%s: what worked on a batch of %d events died of it: %s"
            _REPEATED.warning((self._name, "search"), text, self._name, events, _SEARCH)
        return found

    async def _push_piece(self, trial: Trial, number: int, piece: Batch) -> Receipt:
        """Push a piece of a batch that kills its receiver once, and return its outcome."""
        self.sent += 1
        answer = await trial.push(self.peer, partial(self.numbering.identify_piece, number), piece)
        receipt = await outcome_of(answer)
        self._search.numbers = numbers_of(receipt)
        return receipt

    async def _pause(self, error: UnavailableError, attempt: int) -> None:
        """Wait before something is sent again."""
        self.numbering.outlive(error)
        self.resent += 1
        await asyncio.sleep(self._retry_delay(attempt))


def _default_delay(attempt: int) -> float:
    """Return the seconds until parts try again; calls of destinations have those of `polku.emit.retry`."""
    return float(min(0.05 * 2 ** min(attempt - 1, 5), 1.0))


def _nothing() -> None:
    """Do nothing."""
