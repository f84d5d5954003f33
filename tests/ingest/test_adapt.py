import inspect
from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest

from polku.clock import Clock
from polku.contracts import IngestContext
from polku.errors import PlanError, RecordError
from polku.event.v1.event_pb2 import Event
from polku.ingest import JsonIngestor, PassthroughIngestor
from polku.ingest.adapt import as_ingestor, check_ingestor
from polku.middleware import RateLimiter
from tests.support.clock import FakeClock

CONTEXT = IngestContext("mine", "prod", "csv")


async def ingest(component: object, data: bytes = b"x") -> list[Any]:
    check_ingestor(component)
    result = as_ingestor(component, FakeClock()).ingest(data, CONTEXT)
    return list(await result if inspect.isawaitable(result) else result)


async def test_functions_of_data_or_of_data_and_context_are_ingestors() -> None:
    def short(data: bytes) -> list[Event]:
        return [Event(payload=data)]

    def long(data: bytes, context: IngestContext) -> Iterator[Event]:
        yield Event(payload=data, source=context.source)

    async def later(data: bytes, context: IngestContext) -> list[Event | RecordError]:
        return [Event(source=context.cluster), RecordError("bad")]

    async def stream(data: bytes) -> AsyncIterator[Event]:
        yield Event(payload=data)

    assert await ingest(short) == [Event(payload=b"x")]
    assert await ingest(long) == [Event(payload=b"x", source="mine")]
    assert (await ingest(later))[0] == Event(source="prod")
    assert await ingest(stream) == [Event(payload=b"x")]


async def test_a_single_event_may_stand_alone() -> None:
    assert await ingest(Event.FromString, Event(id="a").SerializeToString()) == [Event(id="a")]


@pytest.mark.parametrize("wrong", [None, 5, "text", b"bytes"])
async def test_what_is_no_records_is_named(wrong: object) -> None:
    def parse(data: bytes) -> Any:
        return wrong

    with pytest.raises(TypeError, match=f"parse returned {type(wrong).__name__}, expected an iterable of Events"):
        await ingest(parse)


async def test_objects_are_taken_as_they_are_and_configurations_are_built() -> None:
    class Config:
        def build(self, clock: Clock) -> JsonIngestor:
            return JsonIngestor()

    assert as_ingestor(ingestor := PassthroughIngestor(), FakeClock()) is ingestor
    assert await ingest(Config(), b'{"id": "a"}') == [Event(id="a")]


def test_hooks_of_a_callable_object_are_kept() -> None:
    class Parser:
        started = False

        def start(self) -> None:
            self.started = True

        def __call__(self, data: bytes) -> list[Event]:
            return []

    parser = Parser()
    ingestor: Any = as_ingestor(parser, FakeClock())
    ingestor.start()
    assert parser.started


class WrongMethod:
    def ingest(self, data: bytes) -> list[Event]:
        return []


class Both:
    def build(self, clock: FakeClock) -> object:
        return self

    def ingest(self, data: bytes, context: object) -> list[Event]:
        return []

    process = run = ingest


@pytest.mark.parametrize(
    ("component", "message"),
    [
        (JsonIngestor, "JsonIngestor is a class; pass an object of it: .ingestor(JsonIngestor(...))"),
        (5, "5 is no ingestor; pass an object with ingest(data, context)"),
        (lambda: None, "must take data, or data and context"),
        (Both(), "has both build and ingest: leave one of them out"),
        (WrongMethod(), "ingest must take (data, context)"),
        (RateLimiter(5), "RateLimiter is no ingestor; add it with .middleware(RateLimiter(...))"),
    ],
)
def test_what_is_no_ingestor_is_refused_by_name(component: object, message: str) -> None:
    with pytest.raises(PlanError) as caught:
        check_ingestor(component)
    assert message in str(caught.value)
