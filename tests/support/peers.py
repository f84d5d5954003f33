"""What peers of links in tests have in common."""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from typing import Any

from polku.batch.receipt import Accepted, Answer, Deferred, Receipt, Turn
from polku.link.protocols import Push


def asked_for(answer: Answer | Turn, ask: Callable[[Push], Coroutine[Any, Any, Receipt]], push: Push) -> Answer | Turn:
    """Return an answer as one from another process: the outcome of an accepted batch has to be asked for."""
    return Accepted(Deferred(ask, push)) if isinstance(answer, Accepted) else answer
