"""A model where it runs: made, loaded, warmed up and called, in threads of its own where it is sync."""

from __future__ import annotations

import asyncio
import inspect
import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from itertools import cycle, islice
from operator import is_
from typing import Any

from polku.aio.threads import DaemonThreads
from polku.checks import is_async
from polku.clock import Clock
from polku.contracts import DeadEvent, Outcome
from polku.errors import RetryableError
from polku.event.v1.event_pb2 import Event
from polku.middleware.batching import Batched, made_by
from polku.middleware.enricher import add_metadata
from polku.middleware.per_batch import Whole, WrongResultError, accept_events, bounded, fill_in
from polku.middleware.per_event import died, separate, wrong_result
from polku.usercode import contained_call

_PAUSE, _LONGEST_PAUSE = 0.1, 5.0  # before a call is made again, in seconds
_EXPECTED = "None, an Event, a mapping of strings to strings, or an exception"


class ModelCalls(Whole):
    """Call a model with a list of events, and read what it returns for each of them."""

    def __init__(self, config: Batched, clock: Clock) -> None:
        made = made_by(config.model)
        called = made or config.model
        predict = getattr(called, "predict", None) or (called.__call__ if made is not None else called)
        self.is_async = is_async(predict)
        limit = config.batching.timeout if self.is_async else math.inf
        super().__init__(config.name, self._predict, accept_events(clock), timeout=limit)
        self._config = config
        self._clock = clock
        self._model: Any = None
        self._threads = DaemonThreads("polku-model", config.batching.calls(is_async=self.is_async))
        self.retries = 0

    async def start(self) -> None:
        """Make the model, load it and warm it up."""
        made = made_by(self._config.model)
        self._model = self._config.model if made is None else await self._in_thread(self._config.model)
        await self._hook("start")
        await self._hook("warm_up")
        if self._config.batching.warm_up:
            await self._warm_up()

    async def close(self) -> None:
        """Close the model, and let its threads end."""
        try:
            await self._hook("close")
        finally:
            self._threads.shutdown()

    def statistics(self) -> object:
        """Return what the model says of itself."""
        own = getattr(self._model, "statistics", None)
        return own() if callable(own) else None

    async def _warm_up(self) -> None:
        """Make one call of the full size; raises what the model fails with, and where its results cannot be used."""
        batching = self._config.batching
        examples = batching.warm_up if isinstance(batching.warm_up, tuple) else ()
        given = [Event.FromString(one.SerializeToString()) for one in islice(cycle(examples), batching.max_events)]
        outcome = await self._call(given, self._timeout)
        if outcome.refused:
            raise ValueError(
                f"the model refuses what it was to be warmed up with: {outcome.refused[0].refusal.message}"
            )

    async def _hook(self, name: str) -> None:
        hook = getattr(self._model, name, None)
        if not callable(hook) or made_by(self._model) is not None:
            return
        result = hook() if is_async(hook) else await self._in_thread(hook)
        if inspect.isawaitable(result):
            await result

    async def _predict(self, events: list[Event]) -> Any:
        predict = getattr(self._model, "predict", None) or self._model
        result = predict(events) if self.is_async else await self._in_thread(predict, events)
        return await result if inspect.isawaitable(result) else result

    async def _in_thread(self, function: Callable[..., Any], *arguments: Any) -> Any:
        return await self._threads.run(contained_call, function, *arguments)

    def _is_final(self, error: BaseException) -> bool:
        return isinstance(error, RetryableError)

    async def _call(self, events: list[Event], limit: float) -> Outcome:
        """Call the model until it does not say that it would take the events later."""
        loop = asyncio.get_running_loop()
        give_up = loop.time() + self._config.batching.retry_for
        pause = _PAUSE
        while True:
            try:
                return self._read(events, await bounded(self._predict(list(events)), limit))
            except RetryableError as error:
                wait = pause if error.retry_after is None else error.retry_after
                if loop.time() + wait > give_up:
                    raise
            self.retries += 1
            await asyncio.sleep(wait)
            pause = min(2 * pause, _LONGEST_PAUSE)

    def _read(self, events: list[Event], result: Any) -> Outcome:
        if result is None:
            return Outcome(events)
        expected = f"a result for each of {len(events)} events, in a list"
        if not isinstance(result, Iterable) or isinstance(result, (str, bytes, Mapping, Event)):
            raise WrongResultError(result, expected)
        results = list(result)
        if len(results) != len(events):
            raise WrongResultError(result, f"{expected}, and not {len(results)}")
        outcome = separate(self._results(events, results))
        same = not outcome.refused and all(map(is_, outcome.events, events))
        return Outcome(events) if same else outcome

    def _results(self, events: list[Event], results: list[Any]) -> Iterator[Event | DeadEvent]:
        for event, result in zip(events, results, strict=True):
            if result is None or result is event:
                yield event
            elif isinstance(result, Event):
                fill_in([result], self._clock)
                yield result
            elif isinstance(result, BaseException):
                yield died(self.name, event, result)
            elif add_metadata(event, result):
                yield event
            else:
                yield wrong_result(self.name, event, result, _EXPECTED)
