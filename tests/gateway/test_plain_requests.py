"""Requests that are answered together get the answers, and bring the events, that each would alone, read carefully."""

from __future__ import annotations

import json
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from polku import Filter, Hub, Limits, Pipeline
from polku.event.v1.event_pb2 import Event
from polku.gateway.http.plain import PlainRequests
from tests.support.examples import examples

CAREFULLY = "TE: trailers\r\n"  # with this field a request is read by aiohttp
TEXTS = st.sampled_from(["", "a", "b:c", '"', "ä", "€", "drop", "cluster", "x" * 40, "\\"])
RECORD = st.fixed_dictionaries(
    {},
    optional={
        "id": st.sampled_from(["1", "2", "3", "ä", "", None, 7]),
        "timestamp_unix_ns": st.sampled_from([1, -1, 2**40, 2**63, 1.5]),
        "source": TEXTS,
        "event_type": TEXTS,
        "metadata": st.dictionaries(TEXTS, TEXTS, max_size=3),
        "payload": st.sampled_from(["aGk=", "aGk", "?"]),
        "severity": st.sampled_from(["info", "odd"]),
        "odd": st.just(1),
    },
)
GOOD = st.fixed_dictionaries({"event_type": st.sampled_from(["a", "drop"])}, optional={"id": TEXTS.filter(bool)})
BODIES = st.one_of(
    GOOD.map(json.dumps),
    st.lists(GOOD, min_size=1, max_size=2).map(json.dumps),
    RECORD.map(lambda record: json.dumps(record, ensure_ascii=False)),
    st.lists(RECORD, max_size=3).map(json.dumps),
    st.lists(RECORD, max_size=3).map(lambda records: "\n".join(map(json.dumps, records))),
    st.sampled_from(["", "{", "[]", "[1]", '{"id":"a"}{"id":"b"}', '{"id":"a","id" :"b"}', "\ufeff{}"]),
)
TYPES = st.sampled_from(
    [
        "application/json",
        "application/x-ndjson",
        "application/json; charset=utf-8",
        "application/json; charset=x",
        "a/b",
    ]
)
TARGETS = st.sampled_from(["", "?source=shop", "?source=shop&cluster=prod", "?source=" + "s" * 300, "?source=own"])
REQUESTS = st.lists(st.tuples(TARGETS, TYPES, BODIES), min_size=1, max_size=6)


def own(data: bytes) -> list[Event]:
    """Read any bytes as one event."""
    return [Event(id="own", payload=data)]


class Place:
    """A pipeline, what came out of it, and a connection to it."""

    def __init__(self, pipeline: Pipeline, taken: list[Event]) -> None:
        self.taken = taken
        host, _, port = str(pipeline.http_address).rpartition(":")
        self.sock = socket.create_connection((host, int(port)), timeout=30)
        self.file = self.sock.makefile("rb")

    def send(self, requests: list[tuple[str, str, str]], fields: str) -> None:
        self.sock.sendall(b"".join(written(*request, fields) for request in requests))

    def answer(self) -> tuple[str, list[str], Any]:
        """Read one answer: its status, its fields but for the date, and what it says."""
        status = self.file.readline().decode()
        fields = [line.decode() for line in iter(self.file.readline, b"\r\n")]
        length = next(int(field.split(":")[1]) for field in fields if field.startswith("Content-Length"))
        others = sorted(field for field in fields if not field.startswith(("Date", "Content-Length")))
        return status, others, json.loads(self.file.read(length))

    def events(self, count: int) -> list[Event]:
        """Return what has come out once that many events have."""
        deadline = time.monotonic() + 30
        while len(self.taken) < count and time.monotonic() < deadline:
            time.sleep(0.001)
        found = self.taken[:]
        self.taken.clear()
        return found


def written(target: str, media_type: str, body: str, fields: str) -> bytes:
    content = body.encode()
    head = f"POST /v1/events{target} HTTP/1.1\r\nHost: here\r\n{fields}Content-Type: {media_type}\r\n"
    return f"{head}Content-Length: {len(content)}\r\n\r\n".encode() + content


@contextmanager
def running(limits: Limits) -> Iterator[Place]:
    taken: list[Event] = []

    def keep(batch: list[Event]) -> None:
        taken.extend(batch)

    hub = Hub(runtime="inline").limits(limits).ingestor(own, source="own")
    hub = hub.middleware(Filter(lambda event: event.event_type != "drop")).emitter(keep)
    with hub.start(grpc_addr="127.0.0.1:0", http_addr="127.0.0.1:0", admin_addr="off") as pipeline:
        place = Place(pipeline, taken)
        try:
            yield place
        finally:
            place.file.close()
            place.sock.close()


def plain(found: tuple[str, list[str], Any]) -> tuple[str, list[str], Any]:
    """Return an answer without what no two have in common: ids that were made, and how full the buffer is."""
    status, fields, ack = found
    ids = [one if len(one) != 26 else "made" for one in ack["event_ids"]]
    return status, fields, {**ack, "event_ids": ids, "buffer_size": 0}


def alike(events: list[Event]) -> list[Event]:
    for event in events:
        event.id = "made" if len(event.id) == 26 else event.id
        event.timestamp_unix_ns = min(event.timestamp_unix_ns, 2**50)
    return events


def test_answers_and_events_are_those_of_the_careful_way(monkeypatch: pytest.MonkeyPatch) -> None:
    taken = []
    take = PlainRequests.take

    def counting(self: PlainRequests, *arguments: Any) -> bool:
        taken.append(take(self, *arguments))
        return taken[-1]

    monkeypatch.setattr(PlainRequests, "take", counting)
    limits = Limits(metadata_entries=2, event_type_bytes=8, batch_events=2)
    with running(limits) as one, running(limits) as other:

        @examples(150)
        @given(REQUESTS)
        def check(requests: list[tuple[str, str, str]]) -> None:
            one.send(requests, "")
            other.send(requests, CAREFULLY)
            answers = [(one.answer(), other.answer()) for _ in requests]
            for first, second in answers:
                assert plain(first) == plain(second)
            count = sum(answer[2]["middleware_stats"]["total_forwarded"] for _, answer in answers)
            assert alike(one.events(count)) == alike(other.events(count))

        check()
    assert taken.count(True) > 5
    assert taken.count(False) > 5
