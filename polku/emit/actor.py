"""Deliver batches to an actor of the application."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from polku import arguments
from polku.batch import Batch
from polku.clock import Clock
from polku.contracts import Failure
from polku.errors import MisconfiguredError, PlanError, RejectedError, RetryableError


@dataclass(frozen=True, slots=True)
class ActorEmitter:
    """Call `method` of a Ray actor with each `Batch`; its return is the confirmation.

    The method iterates over the batch's events and returns None, or the `Failure`s (or just the ids) of the events
    that it did not take. An exception fails the whole batch, which is tried again. A call may take `timeout` seconds.
    """

    handle: Any
    method: str
    name: str = field(default="actor", kw_only=True)
    timeout: float = field(default=30.0, kw_only=True)

    def __post_init__(self) -> None:
        arguments.positive("ActorEmitter", "timeout", self.timeout)
        if not hasattr(self.handle, self.method):
            raise PlanError(f"method={self.method!r} is no method of {self.handle!r}", where="ActorEmitter")

    def build(self, clock: Clock) -> _Caller:
        """Make the running emitter."""
        return _Caller(self)


class _Caller:
    def __init__(self, config: ActorEmitter) -> None:
        self._config = config

    async def emit(self, batch: Batch) -> list[Failure] | None:
        import asyncio

        import ray.exceptions

        try:
            async with asyncio.timeout(self._config.timeout):
                result = await getattr(self._config.handle, self._config.method).remote(batch)
        except ray.exceptions.ActorDiedError as error:
            raise MisconfiguredError(f"the actor is dead: {error}") from None
        except ray.exceptions.RayActorError as error:
            raise RetryableError(f"the actor does not answer: {error}") from None
        except ray.exceptions.RayTaskError as error:
            cause = getattr(error, "cause", error)
            raise RetryableError(f"{self._config.method} raised {type(cause).__name__}: {cause}") from None
        except TimeoutError:
            raise RetryableError(f"{self._config.method} did not return within {self._config.timeout:g} s") from None
        return None if result is None else _failures(result)


def _failures(result: object) -> list[Failure]:
    if not isinstance(result, Iterable) or isinstance(result, (str, bytes)):
        raise RejectedError(f"the method returned {result!r}; return None, or the failures or their ids")
    return [f if isinstance(f, Failure) else Failure(str(f), "the actor did not take it") for f in result]
