"""What reads bytes of strangers, each with the laws that must hold for whatever comes in.

A target takes bytes and returns; an exception that is not the documented one, and a broken law (an assertion), is a
finding. Targets import the readers when they are made, so that a fuzzer can instrument them.
"""

from __future__ import annotations

import asyncio
import gzip
import sqlite3
import struct
from collections.abc import Callable, Iterable
from pathlib import Path

import msgspec
from google.protobuf.message import DecodeError

from polku import Event, RecordError
from polku.batch.batch import Batch
from polku.batch.frames import has_routes, read_ack, read_envelope, split_frames
from polku.buffer.journal_file import seal
from polku.buffer.journal_rows import batch_of
from polku.contracts import IngestContext, Ingestor
from polku.emit.cloudevents import cloud_event
from polku.emit.json_form import event_fields
from polku.emit.s3.key import KeyTemplate
from polku.errors import InputError, JournalCorruptError, RejectedError
from polku.gateway.admission import Admission, admit_events, admit_payload
from polku.gateway.http.body import BodyReader
from polku.gateway.http.refusal import RequestError
from polku.ingest.cloudevents import CloudEventsIngestor
from polku.ingest.cloudevents_reading import event_from_headers
from polku.ingest.json import JsonIngestor
from polku.ingest.json_fields import FieldError
from polku.limits import Limits
from polku.v1.gateway_pb2 import EventPayload, IngestBatch, RawPayload
from tests.fuzz.http2 import talk_http2

Target = Callable[[bytes], None]

LIMITS = Limits(batch_events=200, message_bytes=64 * 1024)
_CONTEXT = IngestContext("fuzz", "cluster")
_KEYS = KeyTemplate("{source}/{date}/{metadata.tenant|none}/{type|x}-{id}/{batch}", suffix=".ndjson", max_segment=240)
_MOST_RECORDS = 300


def read_json(data: bytes) -> None:
    """Read JSON: a record is an event or an error, and what was admitted can be written in every form."""
    _read_records(JsonIngestor(), data, "json")


def read_ndjson(data: bytes) -> None:
    """Read lines of JSON."""
    _read_records(JsonIngestor(), data, "ndjson")


def read_cloudevents(data: bytes) -> None:
    """Read structured and batched CloudEvents."""
    _read_records(CloudEventsIngestor(), data, "")


def read_headers(data: bytes) -> None:
    """Read a CloudEvent in binary mode: lines of headers, an empty one, the body."""
    head, _, body = data.partition(b"\n\n")
    headers = {"ce-specversion": "1.0", "ce-id": "1", "ce-source": "s", "ce-type": "t"}
    for line in head.split(b"\n"):
        name, colon, value = line.decode("latin-1").partition(":")
        if colon and name.isidentifier():
            headers[f"ce-{name.lower()}"] = value
    try:
        event = event_from_headers(headers, body)
    except FieldError as error:
        _check_text(str(error))
    else:
        _check_forms([event])


def read_frames(data: bytes) -> None:
    """Cut a payload into events: as many as protobuf sees, with the routes that protobuf sees."""
    try:
        payload = EventPayload.FromString(data)
    except DecodeError:
        return
    assert len(split_frames(data)) == len(payload.events)
    assert has_routes(data) == any(event.route_to for event in payload.events)
    batch = Batch(payload=data)
    batch.read_routes()
    runs = batch.runs()
    assert [event.id for run in runs for event in run.events] == [event.id for event in payload.events]
    assert all(tuple(event.route_to) == run.routes for run in runs for event in run.events)


def read_envelopes(data: bytes) -> None:
    """Read a message without its events: it says what the whole message says."""
    try:
        whole = IngestBatch.FromString(data)
        envelope = read_envelope(data)
    except DecodeError:
        return
    assert (envelope.source, envelope.cluster) == (whole.source, whole.cluster)
    assert envelope.which == (whole.WhichOneof("payload") or "")
    if envelope.which == "events":
        assert EventPayload.FromString(envelope.content).events == whole.events.events
    elif envelope.which == "raw":
        assert RawPayload.FromString(envelope.content) == whole.raw


def admit(data: bytes) -> None:
    """Admit a payload: every event that goes on has an id of its own, a source and a time."""
    try:
        admission = admit_payload(data, "source", "cluster" if data[-1:] == b"c" else "", LIMITS)
    except InputError as error:
        _check_text(error.message)
    else:
        _check_admission(admission)


def read_acks(data: bytes) -> None:
    """Read a summary of an Ack, or say that it is none."""
    try:
        read_ack(data)
    except DecodeError:
        return


def decompress(data: bytes) -> None:
    """Decompress a body: what comes out keeps the limit, and what was compressed comes out as it was."""
    reader = BodyReader(LIMITS)
    for encoding in ("gzip", "zstd", "identity"):
        try:
            assert len(asyncio.run(reader.decompress(data, encoding))) <= LIMITS.message_bytes
        except RequestError as error:
            _check_text(str(error))
    if len(data) <= LIMITS.message_bytes:
        assert asyncio.run(reader.decompress(gzip.compress(data), "gzip")) == data


def name_objects(data: bytes) -> None:
    """Name an object after an event: no event chooses its folder."""
    pieces = [piece.decode("utf-8", "replace") for piece in data.split(b"\n")] + [""] * 4
    event = Event(id=pieces[0], source=pieces[1], event_type=pieces[2], metadata={"tenant": pieces[3]})
    event.timestamp_unix_ns = int.from_bytes(data[:8].ljust(8, b"\0"), "little", signed=True)
    try:
        name = _KEYS.group(event)
    except RejectedError as error:
        _check_text(str(error))
        return
    segments = name.split("/")
    assert len(segments) == 5, name
    assert not {"", ".", ".."} & set(segments), name
    assert name.isascii(), name
    assert "\\" not in name, name


def read_rows(data: bytes) -> None:
    """Read a journal's row: one that is not as it was sealed is damaged, and nothing worse."""
    numbers, payload = data[:24].ljust(24, b"\0"), data[24:]
    position, events, epoch = struct.unpack("<3q", numbers)
    head = (position, 1, events, len(payload), "origin", epoch, 1, '["a"]', 0, "", payload)
    try:
        batch_of(Path("journal"), (*head, 0))
    except JournalCorruptError as error:
        _check_text(str(error))
    else:
        assert seal(*head) == 0
    with sqlite3.connect(":memory:") as db:
        whole = db.execute(f"SELECT {','.join('?' * 12)}", (*head, seal(*head))).fetchone()
    assert batch_of(Path("journal"), whole).payload == payload


def _read_records(ingestor: Ingestor, data: bytes, form: str) -> None:
    events: list[Event] = []
    try:
        for record in _records(ingestor, data, form):
            if isinstance(record, RecordError):
                _check_text(str(record))
                _check_text(record.event_id)
            else:
                events.append(record)
            if len(events) == _MOST_RECORDS:
                break
    except InputError as error:
        _check_text(error.message)
        return
    _check_forms(events)
    try:
        _check_admission(admit_events(events, "source", "", LIMITS))
    except InputError as error:
        _check_text(error.message)


def _records(ingestor: Ingestor, data: bytes, form: str) -> Iterable[Event | RecordError]:
    records = ingestor.ingest(data, _CONTEXT._replace(format=form))
    assert isinstance(records, Iterable)
    return records


def _check_admission(admission: Admission) -> None:
    batch = admission.batch
    assert batch.ids == admission.ids
    assert len(set(admission.ids)) == len(admission.ids) == len(batch)
    assert all(event.id and event.source and event.timestamp_unix_ns for event in batch)
    for refusal in admission.refused:
        _check_text(refusal.message)
        _check_text(refusal.event_id)
    again = Batch.from_wire(batch.header, batch.payload)
    assert again.ids == admission.ids
    _check_forms(batch.events)


def _check_forms(events: Iterable[Event]) -> None:
    for event in events:
        assert Event.FromString(event.SerializeToString()) == event or event != event
        try:
            msgspec.json.encode(event_fields(event))
            msgspec.json.encode(cloud_event(event))
        except RejectedError as error:
            _check_text(str(error))


def _check_text(text: str) -> None:
    text.encode()


TARGETS: dict[str, Target] = {
    "json": read_json,
    "ndjson": read_ndjson,
    "cloudevents": read_cloudevents,
    "headers": read_headers,
    "frames": read_frames,
    "envelope": read_envelopes,
    "admit": admit,
    "ack": read_acks,
    "content": decompress,
    "key": name_objects,
    "journal": read_rows,
    "http2": talk_http2,
}
