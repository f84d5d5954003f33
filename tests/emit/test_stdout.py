"""What the StdoutEmitter prints."""

from __future__ import annotations

import json

import pytest

from polku import Batch, Event, Severity, StdoutEmitter
from polku.clock import SystemClock
from polku.contracts import IngestContext
from polku.ingest import JsonIngestor


def event() -> Event:
    event = Event(id="a", event_type="user.login", source="s", timestamp_unix_ns=1_700_000_000_000_000_000)
    event.severity = Severity.SEVERITY_WARNING
    event.metadata["k"] = "two\nlines"
    event.k8s.resource_name = "web-0"
    event.payload = b"\x00\x01"
    return event


async def printed(emitter: StdoutEmitter, capfdbinary: pytest.CaptureFixture[bytes]) -> bytes:
    await emitter.build(SystemClock()).emit(Batch.from_events([event(), event()]))
    return capfdbinary.readouterr().out


async def test_json_is_a_line_an_event_that_can_be_read_back(capfdbinary: pytest.CaptureFixture[bytes]) -> None:
    out = await printed(StdoutEmitter(), capfdbinary)
    assert out.count(b"\n") == 2
    assert list(JsonIngestor().ingest(out, IngestContext("ndjson"))) == [event(), event()]


async def test_pretty_is_indented_json(capfdbinary: pytest.CaptureFixture[bytes]) -> None:
    first, _, _ = (await printed(StdoutEmitter("pretty"), capfdbinary)).partition(b"\n}\n")
    assert json.loads(first + b"}")["k8s"] == {"resource_name": "web-0"}


async def test_compact_is_one_line_whatever_is_in_the_event(capfdbinary: pytest.CaptureFixture[bytes]) -> None:
    line, _, _ = (await printed(StdoutEmitter("compact"), capfdbinary)).partition(b"\n")
    assert line == rb"2023-11-14T22:13:20.000Z warning  s user.login a 2B k=two\x0alines"
