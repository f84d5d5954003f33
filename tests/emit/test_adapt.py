"""What is taken as an emitter, what it is called, and what it costs to import."""

from __future__ import annotations

import functools
import pickle
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest

from polku import (
    ActorEmitter,
    Batch,
    Event,
    Failure,
    Filter,
    GrpcEmitter,
    JsonIngestor,
    PlanError,
    Resilience,
    StdoutEmitter,
    WebhookEmitter,
)
from polku.clock import Clock, SystemClock
from polku.emit.adapt import as_emitter, built, check_emitter, emitter_name


def take(batch: Batch) -> None:
    """Take all."""


async def take_async(batch: Batch) -> list[Failure]:
    return [Failure(event.id, "bad", retryable=False) for event in batch if event.id == "bad"]


def refuse(batch: Batch) -> Iterator[Failure]:
    for event in batch:
        yield Failure(event.id, "no", retryable=False)


async def yield_async(batch: Batch) -> AsyncIterator[Failure]:
    yield Failure("a", "no")


class FileEmitter:
    def emit(self, batch: Batch) -> list[Failure]:
        return [Failure(event.id, "full disk", retryable=False) for event in batch]


class S3Store:
    name = "store"
    concurrency = 3

    async def emit(self, batch: Batch) -> None:
        pass


class Busy:
    concurrency = 0

    def emit(self, batch: Batch) -> None:
        pass


class TwoArguments:
    def emit(self, batch: Batch, more: int) -> None:
        pass


class Config:
    def build(self, clock: Clock) -> object:
        return 7


class Both(FileEmitter):
    def build(self, clock: Clock) -> FileEmitter:
        return FileEmitter()


def batch(*ids: str) -> Batch:
    return Batch.from_events([Event(id=event_id) for event_id in ids])


@pytest.mark.parametrize(
    ("component", "failed"),
    [
        (take, []),
        (take_async, ["bad"]),
        (refuse, ["a", "bad"]),
        (functools.partial(take), []),
        (lambda batch: None, []),
        (FileEmitter(), ["a", "bad"]),
        (S3Store(), []),
    ],
)
async def test_functions_and_objects_are_called_with_the_batch(component: Any, failed: list[str]) -> None:
    check_emitter(component)
    running = as_emitter(component, SystemClock())
    result: Any = running.emit(batch("a", "bad"))
    assert [failure.event_id for failure in await result] == failed


@pytest.mark.parametrize(
    ("component", "message"),
    [
        (FileEmitter, "FileEmitter is a class; pass an object of it: .emitter(FileEmitter(...))"),
        ("stdout", "'stdout' is no emitter; pass a function of a batch"),
        (JsonIngestor(), "is no emitter"),
        (lambda: None, "must take one argument, the batch"),
        (TwoArguments(), "must take one argument, the batch"),
        (yield_async, "must return its failures, not yield them"),
        (Busy(), "concurrency=0"),
        (Both(), "has both build and emit: leave one of them out"),
    ],
)
def test_anything_else_is_refused_with_a_remedy(component: object, message: str) -> None:
    with pytest.raises(PlanError, match="emitter") as caught:
        check_emitter(component)
    assert message in str(caught.value)


@pytest.mark.parametrize("component", [Config(), Filter(lambda event: True)])
def test_a_configuration_that_builds_no_emitter_is_named(component: object) -> None:
    with pytest.raises(PlanError, match="no emitter"):
        built(component, SystemClock())


@pytest.mark.parametrize(
    ("component", "name"),
    [
        (StdoutEmitter(), "stdout"),
        (GrpcEmitter("host:1"), "grpc"),
        (WebhookEmitter("http://host/"), "webhook"),
        (WebhookEmitter("http://host/", name="pager"), "pager"),
        (Resilience(WebhookEmitter("http://host/", name="pager")), "pager"),
        (Resilience(FileEmitter()), "file"),
        (FileEmitter(), "file"),
        (S3Store(), "store"),
        (take, "take"),
        (functools.partial(take), "take"),
        (lambda batch: None, "function"),
    ],
)
def test_the_name_is_the_component_s_own_or_made_of_its_type(component: object, name: str) -> None:
    assert emitter_name(component) == name


def test_what_may_recover_is_tried_for_ever_and_a_function_is_not() -> None:
    for component, attempts in [(StdoutEmitter(), None), (take, 5)]:
        running: Any = as_emitter(component, SystemClock())
        assert running._config.retry.attempts == attempts


@pytest.mark.parametrize(
    "config",
    [
        StdoutEmitter("compact"),
        GrpcEmitter(["host:1", "https://other"], token="t", window=2),
        WebhookEmitter("http://host/", headers={"A": "b"}, format="cloudevents"),
        Resilience(StdoutEmitter()),
    ],
)
def test_configurations_survive_pickling(config: object) -> None:
    assert pickle.loads(pickle.dumps(config)) == config


def test_an_actor_emitter_needs_a_method_of_an_actor() -> None:
    with pytest.raises(PlanError, match="method='take' is no method of the actor"):
        ActorEmitter(object(), "take")


def test_importing_and_configuring_loads_neither_grpc_nor_aiohttp_nor_ray() -> None:
    program = (
        "import sys, polku.emit as e;"
        "e.Resilience(e.GrpcEmitter('host:1')); e.WebhookEmitter('http://host/'); e.StdoutEmitter();"
        "print(sorted({'grpc', 'aiohttp', 'ray'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=240)
    assert done.stdout == "[]\n", done.stderr
