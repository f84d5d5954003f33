"""Large records are read like small ones, with turns for others."""

from __future__ import annotations

import base64
import json
import random
from typing import Any

import pytest

from polku.contracts import IngestContext
from polku.errors import RecordError
from polku.event.v1.event_pb2 import Event
from polku.ingest import CloudEventsIngestor, JsonIngestor

OCTETS = random.Random(1).randbytes(900_001)
TEXT = base64.b64encode(OCTETS).decode()
JSON = JsonIngestor()
CLOUD = {"specversion": "1.0", "id": "1", "source": "s", "type": "t"}


def read(data: bytes, ingestor: Any = JSON) -> Event | RecordError:
    found = list(ingestor.ingest_in_slices(data, IngestContext("json")))
    assert None in found
    (result,) = [one for one in found if one is not None]
    assert [str(one) for one in ingestor.ingest(data, IngestContext("json"))] == [str(result)]
    return result  # type: ignore[no-any-return]


@pytest.mark.parametrize(
    "text", [TEXT, TEXT.rstrip("="), TEXT.replace("+", "-").replace("/", "_")], ids=["whole", "unpadded", "URL-safe"]
)
def test_large_payloads_are_base64_of_either_alphabet(text: str) -> None:
    event = read(json.dumps({"id": "a", "payload": text}).encode())
    assert isinstance(event, Event)
    assert (event.id, event.payload) == ("a", OCTETS)


@pytest.mark.parametrize("slash", ["\\/", "\\u002f"])
def test_escapes_in_base64_are_read(slash: str) -> None:
    event = read(f'[{{"id": "a", "payload": "{TEXT.replace("/", slash)}"}}]'.encode())
    assert isinstance(event, Event)
    assert event.payload == OCTETS


@pytest.mark.parametrize("text", [TEXT[:-5] + "!!!!", TEXT[:600_000] + "====" + TEXT[600_000:], TEXT[:-3] + "é"])
def test_what_is_no_base64_is_an_error_of_its_record(text: str) -> None:
    error = read(json.dumps({"id": "a", "payload": text}).encode())
    assert isinstance(error, RecordError)
    assert error.event_id == "a"
    assert "is not base64" in str(error)


@pytest.mark.parametrize("form", ["%s", "[%s]", "[%s, 1]"])
def test_large_data_of_a_cloudevent_is_kept_byte_for_byte(form: str) -> None:
    data = json.dumps(["},{", "é", 1.0] * 60_000, separators=(", ", " : "))
    body = form % (json.dumps(CLOUD)[:-1] + f', "data": {data}}}')
    found = [one for one in CloudEventsIngestor().ingest(body.encode(), IngestContext("s")) if isinstance(one, Event)]
    assert [event.payload.decode() for event in found] == [data]
    assert "datacontenttype" not in found[0].metadata


def test_large_texts_and_octets_of_cloudevents_are_their_payload() -> None:
    text = "line\n" * 60_000
    event = read(json.dumps({**CLOUD, "datacontenttype": "text/plain", "data": text}).encode(), CloudEventsIngestor())
    assert isinstance(event, Event)
    assert event.payload.decode() == text
    event = read(json.dumps({**CLOUD, "data_base64": TEXT}).encode(), CloudEventsIngestor())
    assert isinstance(event, Event)
    assert event.payload == OCTETS
    error = read(json.dumps({**CLOUD, "data_base64": TEXT.rstrip("=") + "-"}).encode(), CloudEventsIngestor())
    assert isinstance(error, RecordError)
    assert "data_base64=" in str(error)


@pytest.mark.parametrize(
    ("record", "name"),
    [
        ('{"id":"a","event_type":"%s","id":"b"}', "id='b': stands 2 times"),
        ('{"event_type":"%s","metadata":{"k":":","k":"w"}}', "k='w': stands 2 times"),
    ],
)
def test_a_name_that_stands_twice_in_a_large_record_is_an_error(record: str, name: str) -> None:
    error = read((record % (":" * 100_000)).encode())
    assert isinstance(error, RecordError)
    assert name in str(error)


def test_colons_in_a_large_text_are_no_names() -> None:
    event = read(json.dumps({"id": "a", "metadata": {"k": ':"\\' * 50_000}}).encode())
    assert isinstance(event, Event)
    assert event.metadata["k"] == ':"\\' * 50_000
