"""What an emitter does to its batch, or to the events in it, is its own: no call, answer or dead letter has it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from polku import Batch, Failure, RejectedError, RetryableError
from polku.plugin.service import EmitterService
from polku.v1.plugin_pb2 import PluginInfo
from tests.emit.resilience import batch, resilient
from tests.support.virtual_time import in_virtual_time


def take_out(batch: Batch) -> None:
    while batch.events:
        batch.events.pop(0)


def change(batch: Batch) -> None:
    for event in batch:
        event.id = f"new-{event.id}"


def sort(batch: Batch) -> None:
    batch.events.sort(key=lambda event: event.id, reverse=True)


CHANGES = pytest.mark.parametrize("do", [take_out, change, sort])


class Changing:
    """Change the batch, then answer with the next of a script."""

    def __init__(self, do: Callable[[Batch], None], *script: Any) -> None:
        self.do = do
        self.script = list(script)
        self.calls: list[list[str]] = []

    def emit(self, batch: Batch) -> Any:
        self.calls.append(batch.ids)
        self.do(batch)
        answer = self.script.pop(0) if self.script else None
        if isinstance(answer, Exception):
            raise answer
        return answer


@CHANGES
@in_virtual_time
async def test_what_is_tried_again_is_what_came(do: Callable[[Batch], None]) -> None:
    inner = Changing(do, RetryableError("down"), [Failure("b", "later")])
    running, _, _ = resilient(inner)
    assert await running.emit(batch("a", "b", "c")) == []
    assert inner.calls == [["a", "b", "c"], ["a", "b", "c"], ["b"]]


@CHANGES
@in_virtual_time
async def test_a_refusal_is_about_what_came(do: Callable[[Batch], None]) -> None:
    came = batch("a", "b", "c")
    running, _, _ = resilient(Changing(do, [Failure("c", "bad", retryable=False)], RejectedError("all")))
    (failure,) = await running.emit(came)
    assert (failure.event_id, failure.position) == ("c", 2)
    assert [failure.event_id for failure in await running.emit(came)] == ["a", "b", "c"]
    assert came.ids == ["a", "b", "c"]


@in_virtual_time
async def test_an_event_may_be_named_by_the_id_that_the_emitter_gave_it() -> None:
    inner = Changing(change, [Failure("new-b", "bad", retryable=False), Failure("new-c", "bad", False, 1, 2)])
    running, _, _ = resilient(inner)
    failures = await running.emit(batch("a", "b", "c"))
    assert [(failure.event_id, failure.position) for failure in failures] == [("b", 1), ("c", 2)]
    assert len(inner.calls) == 1


@CHANGES
async def test_a_plugin_answers_for_what_came(do: Callable[[Batch], None]) -> None:
    def emit(batch: Batch) -> list[Failure]:
        do(batch)
        return [Failure("b", "bad", retryable=False)]

    service = EmitterService(emit, PluginInfo(name="changing", version="1"))
    answer = await service._emit(batch("a", "b", "c").payload, None)
    assert (answer.success_count, list(answer.failed_event_ids)) == (2, ["b"])
