"""What peers of links in tests have in common."""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from typing import Any

from polku.batch.receipt import Accepted, Answer, Deferred, Receipt, Turn
from polku.link.protocols import Push


class HoldsNothing:
    """The part of a peer whose receiver answers all that it takes, so that it has nothing to release."""

    async def flush(self, everything: bool) -> None:
        return


def asked_for(answer: Answer | Turn, ask: Callable[[Push], Coroutine[Any, Any, Receipt]], push: Push) -> Answer | Turn:
    """Return an answer as one from another process: the outcome of an accepted batch has to be asked for."""
    return Accepted(Deferred(ask, push)) if isinstance(answer, Accepted) else answer
