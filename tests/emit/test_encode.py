"""An event that a destination's form has no place for fails alone, in every form that there is."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from polku import Batch, Event, Failure, Resilience, RetryableError, S3Emitter, new_event
from polku.clock import SystemClock
from polku.emit.ahti.mapping import ahti_event
from polku.emit.encode import write_each
from polku.emit.progress import Progress
from polku.emit.stdout import Format, StdoutEmitter
from polku.emit.webhook import Body, WebhookEmitter
from polku.testing import emitter_checks
from tests.emit.destinations import Webhook


def odd(event_id: str = "odd") -> Event:
    """An event with a time in the year 55,840, which protobuf's JSON form does not have."""
    event = new_event("t", id=event_id, source="s")
    event.process.pid = 1
    event.process.start_time.seconds = 1_700_000_000_000
    return event


def among_others() -> Batch:
    events = [new_event("t", id=str(n), source="s") for n in range(4)]
    return Batch.from_events([*events[:2], odd(), *events[2:]])


@pytest.mark.parametrize("format", list(Format))
async def test_stdout_prints_the_others(format: Format, capfdbinary: Any) -> None:
    failures = await Resilience(StdoutEmitter(format)).build(SystemClock()).emit(among_others())
    printed = capfdbinary.readouterr().out
    if format is Format.COMPACT:  # it shows no typed data
        assert failures == []
        return
    (failure,) = failures
    assert (failure.event_id, failure.retryable, failure.position) == ("odd", False, 2)
    assert failure.reason.startswith("the event cannot be written: ")
    assert printed.count(b'"id"') == 4


class CloudEventsWebhook(Webhook):
    def emitter(self) -> object:
        return WebhookEmitter(f"http://127.0.0.1:{self.port}/", format=Body.CLOUDEVENTS)


(CHECK,) = (check for check in emitter_checks() if "cannot be written" in check.name)


@pytest.mark.parametrize("kind", [Webhook, CloudEventsWebhook])
async def test_a_webhook_gets_the_others(kind: type[Webhook]) -> None:
    assert await CHECK.run(kind()) == "it failed alone"


async def test_the_event_is_final_also_while_the_destination_is_away() -> None:
    class Away(Webhook):
        async def emit(self, batch: Batch) -> list[Failure]:
            assert write_each(batch.events, _json).failures
            raise RetryableError("away")

    running = Resilience(Away()).build(SystemClock())
    answer = await running._call(among_others(), Progress())
    assert [failure.retryable for failure in answer.failures.values()] == [False, True, True, True, True]
    assert answer.failures[2].event_id == "odd"


@pytest.mark.parametrize("format", ["ndjson", "parquet", "protobuf"])
async def test_an_object_has_the_others(format: str, tmp_path: Path) -> None:
    running = S3Emitter(tmp_path.as_uri(), format=format).build(SystemClock())
    failures = await running.emit(among_others())
    written = running.statistics().events
    if format == "protobuf":
        assert (failures, written) == ([], 5)
        return
    (failure,) = failures
    assert (failure.event_id, failure.retryable, failure.position, written) == ("odd", False, 2, 4)


async def test_a_row_that_a_table_cannot_hold_is_found_by_halving(tmp_path: Path) -> None:

    from polku.emit.s3.format import Compression, ObjectFormat, make_encoder

    class Picky:
        """A table that finds out at its end that a row does not fit."""

        def __init__(self) -> None:
            self.inner = make_encoder(ObjectFormat.NDJSON, Compression.NONE)
            self.ids: list[str] = []

        def add(self, event: Event, frame: bytes) -> None:
            self.inner.add(event, frame)
            self.ids.append(event.id)

        def finish(self) -> bytes:
            if "3" in self.ids:
                raise OverflowError("row 3 does not fit")
            return self.inner.finish()

    running = S3Emitter(tmp_path.as_uri()).build(SystemClock())
    running._make_encoder = Picky  # type: ignore[method-assign]
    events = [new_event("t", id=str(n), source="s") for n in range(8)]
    (failure,) = await running.emit(Batch.from_events(events))
    assert (failure.event_id, failure.position, failure.retryable) == ("3", 3, False)
    lines = b"".join(path.read_bytes() for path in tmp_path.rglob("*.ndjson")).splitlines()  # noqa: ASYNC240
    assert sorted(json.loads(line)["id"] for line in lines) == ["0", "1", "2", "4", "5", "6", "7"]


def test_ahti_has_a_place_for_it() -> None:
    assert ahti_event(odd()).process.start_time.seconds == 1_700_000_000_000


def test_want_of_memory_says_nothing_about_an_event() -> None:
    def write(event: Event) -> bytes:
        raise MemoryError

    with pytest.raises(MemoryError):
        write_each([Event(id="a")], write)


def _json(event: Event) -> bytes:
    from polku.emit.json_form import event_fields

    return json.dumps(event_fields(event)).encode()
