"""The WebhookEmitter, against a real HTTP server."""

from __future__ import annotations

import asyncio
import base64
import json
from collections.abc import AsyncIterator
from typing import Any

import msgspec
import pytest
from aiohttp import web

from polku import (
    Batch,
    Event,
    MisconfiguredError,
    Outcome,
    PlanError,
    RejectedError,
    RetryableError,
    Severity,
    WebhookEmitter,
)
from polku.clock import SystemClock
from polku.contracts import IngestContext
from polku.emit.cloudevents import cloud_event
from polku.ingest import JsonIngestor
from tests.support.clock import FakeClock


class Endpoint:
    """Answer each POST with the next of `answers` (then 200), and keep the bodies."""

    def __init__(self) -> None:
        self.bodies: list[Any] = []
        self.types: list[str] = []
        self.answers: list[tuple[int, dict[str, str]]] = []
        self.limit: int | None = None
        self.bad: set[str] = set()
        self.asked = 0
        self.stalls = False
        self.refusal = 400
        self.url = ""

    async def handle(self, request: web.Request) -> web.Response:
        body = await request.json()
        self.asked += 1
        if self.stalls:
            await asyncio.Event().wait()
        if self.bad.intersection(event["id"] for event in body):
            return web.Response(status=self.refusal, text="no amount")
        if self.limit is not None and len(body) > self.limit:
            return web.Response(status=413)
        if self.answers:
            status, headers = self.answers.pop(0)
            return web.Response(status=status, headers=headers, text="as asked")
        self.bodies.append(body)
        self.types.append(request.headers["Content-Type"])
        return web.Response()


@pytest.fixture
async def endpoint() -> AsyncIterator[Endpoint]:
    endpoint = Endpoint()
    app = web.Application()
    app.router.add_post("/hook", endpoint.handle)
    runner = web.AppRunner(app, shutdown_timeout=0.1)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    port = runner.addresses[0][1]
    endpoint.url = f"http://127.0.0.1:{port}/hook"
    yield endpoint
    await runner.cleanup()


def batch(*ids: str) -> Batch:
    return Batch.from_events([Event(id=event_id, event_type="t", source="s") for event_id in ids])


async def emit(config: WebhookEmitter, events: Batch) -> Any:
    running = config.build(SystemClock())
    await running.start()
    try:
        return await running.emit(events)
    finally:
        await running.close()
        await running.close()


async def test_events_are_posted_as_json_that_the_json_ingestor_reads(endpoint: Endpoint) -> None:
    event = Event(id="a", event_type="t", source="s", timestamp_unix_ns=5, payload=b"\x00\xff")
    event.severity, event.outcome = Severity.SEVERITY_ERROR, Outcome.OUTCOME_SUCCESS
    event.metadata["k"] = "v"
    event.network.src_ip = "10.0.0.1"
    assert await emit(WebhookEmitter(endpoint.url), Batch.from_events([event])) == []
    text = json.dumps(endpoint.bodies[0]).encode()
    assert list(JsonIngestor().ingest(text, IngestContext("json"))) == [event]


async def test_cloudevents_are_posted_as_a_batch(endpoint: Endpoint) -> None:
    assert await emit(WebhookEmitter(endpoint.url, format="cloudevents"), batch("a", "b")) == []
    assert endpoint.types == ["application/cloudevents-batch+json; charset=UTF-8"]
    assert [event["id"] for event in endpoint.bodies[0]] == ["a", "b"]


def test_a_cloudevent_has_the_attributes_that_the_specification_requires() -> None:
    event = Event(id="1", source="my agent/ä", timestamp_unix_ns=1_700_000_000_123_456_789, payload=b'{"a": 1}')
    event.severity = Severity.SEVERITY_WARNING
    event.metadata.update({"Trace-Id": "t", "type": "hidden", "data": "d"})
    fields = json.loads(msgspec.json.encode(cloud_event(event)))
    assert fields == {
        "specversion": "1.0",
        "id": "1",
        "source": "my%20agent/%C3%A4",
        "type": "polku.event",
        "time": "2023-11-14T22:13:20.123456789Z",
        "severity": "warning",
        "traceid": "t",
        "mdtype": "hidden",
        "mddata": "d",
        "datacontenttype": "application/json",
        "data": {"a": 1},
    }
    binary = cloud_event(Event(id="2", payload=b"\xff"))
    assert (binary["data_base64"], binary["datacontenttype"]) == ("/w==", "application/octet-stream")


async def test_many_events_go_in_several_requests(endpoint: Endpoint) -> None:
    await emit(WebhookEmitter(endpoint.url, max_events=3), batch(*map(str, range(8))))
    assert [len(body) for body in endpoint.bodies] == [3, 3, 2]


@pytest.mark.parametrize("status", [408, 429, 500, 503])
async def test_some_answers_are_worth_another_try(endpoint: Endpoint, status: int) -> None:
    endpoint.answers = [(status, {"Retry-After": "7"})]
    with pytest.raises(RetryableError, match=str(status)) as caught:
        await emit(WebhookEmitter(endpoint.url), batch("a"))
    assert caught.value.retry_after == 7


@pytest.mark.parametrize("status", [301, 401, 403, 404])
async def test_some_answers_need_somebody_to_mend_the_settings(endpoint: Endpoint, status: int) -> None:
    endpoint.answers = [(status, {})]
    with pytest.raises(MisconfiguredError, match=str(status)):
        await emit(WebhookEmitter(endpoint.url), batch("a"))


async def test_other_answers_refuse_a_request_for_good(endpoint: Endpoint) -> None:
    endpoint.answers = [(422, {})]
    with pytest.raises(RejectedError, match="HTTP 422 as asked"):
        await emit(WebhookEmitter(endpoint.url), batch("a"))


@pytest.mark.parametrize("status", [400, 409, 422])
async def test_events_for_which_a_request_is_refused_are_found_by_halves(endpoint: Endpoint, status: int) -> None:
    endpoint.bad, endpoint.refusal = {"137", "700"}, status
    failures = await emit(WebhookEmitter(endpoint.url), batch(*map(str, range(1000))))
    assert [(failure.event_id, failure.position, failure.retryable) for failure in failures] == [
        ("137", 137, False),
        ("700", 700, False),
    ]
    assert f"HTTP {status} no amount" in failures[0].reason
    taken = [event["id"] for body in endpoint.bodies for event in body]
    assert taken == [str(number) for number in range(1000) if number not in (137, 700)]


async def test_a_server_that_refuses_everything_is_not_asked_about_each_event(endpoint: Endpoint) -> None:
    endpoint.bad = {str(number) for number in range(5000)}
    failures = await emit(WebhookEmitter(endpoint.url), batch(*map(str, range(5000))))
    assert sorted(failure.position for failure in failures) == list(range(5000))
    assert endpoint.asked < 100


async def test_the_search_for_a_refused_event_goes_on_after_a_pause(endpoint: Endpoint) -> None:
    endpoint.bad, endpoint.answers = {"b"}, [(200, {}), (503, {})]
    failures = await emit(WebhookEmitter(endpoint.url), batch(*"abcd"))
    assert [(failure.event_id, failure.retryable) for failure in failures] == [("b", False), ("c", True), ("d", True)]


async def test_an_event_that_is_too_large_alone_is_a_dead_letter(endpoint: Endpoint) -> None:
    endpoint.limit = 0
    failures = await emit(WebhookEmitter(endpoint.url), batch("a", "b"))
    assert [(failure.event_id, failure.retryable) for failure in failures] == [("a", False), ("b", False)]


@pytest.mark.parametrize(
    "payload", [b'{"n": 123456789012345678901234567890}', b"[1e400, 1.0000000000000000001]", b'"\\ud800"', b" 7 "]
)
def test_a_json_payload_is_passed_on_byte_for_byte(payload: bytes) -> None:
    encoded = msgspec.json.encode(cloud_event(Event(id="1", payload=payload)))
    assert b'"data":' + payload in encoded


@pytest.mark.parametrize("payload", [b"1\x00", b"\xff\xfe1\x00", b"NaN", b"{", b"[" * 100_000, b"text"])
def test_what_is_no_json_in_utf_8_is_passed_on_as_base64(payload: bytes) -> None:
    assert base64.b64decode(cloud_event(Event(id="1", payload=payload))["data_base64"]) == payload


@pytest.mark.parametrize(
    ("source", "expected"),
    [("", "polku"), ("a#b:c", "a%23b%3Ac"), ("https://host:1/x?y#z", "https://host:1/x?y#z"), ("50%", "50%25")],
)
def test_a_source_becomes_a_uri_reference(source: str, expected: str) -> None:
    assert cloud_event(Event(id="1", source=source))["source"] == expected


async def test_too_large_a_body_is_tried_in_halves(endpoint: Endpoint) -> None:
    endpoint.limit = 2
    assert await emit(WebhookEmitter(endpoint.url), batch(*map(str, range(8)))) == []
    assert [event["id"] for body in endpoint.bodies for event in body] == [str(n) for n in range(8)]


async def test_what_follows_a_failed_request_is_not_sent_before_it(endpoint: Endpoint) -> None:
    endpoint.answers = [(200, {}), (503, {})]
    failures = await emit(WebhookEmitter(endpoint.url, max_events=2), batch(*"abcdef"))
    assert [failure.event_id for failure in failures] == ["c", "d", "e", "f"]


async def test_a_time_to_come_back_may_be_a_date(endpoint: Endpoint) -> None:
    clock = FakeClock()
    running = WebhookEmitter(endpoint.url).build(clock)
    await running.start()
    for text, seconds in [("Tue, 14 Nov 2023 22:14:20 GMT", 60), ("Tue, 14 Nov 2023 22:13:00 GMT", 0), ("soon", None)]:
        endpoint.answers = [(503, {"Retry-After": text})]
        with pytest.raises(RetryableError) as caught:
            await running.emit(batch("a"))
        assert caught.value.retry_after == seconds
    assert running.statistics() == (3, 3, 0)
    await running.close()


async def test_a_server_that_does_not_answer_is_retryable(endpoint: Endpoint) -> None:
    endpoint.stalls = True
    with pytest.raises(RetryableError, match=r"no answer within 0\.1 s"):
        await emit(WebhookEmitter(endpoint.url, timeout=0.1), batch("a"))


async def test_messages_keep_the_secret_part_of_an_address_to_themselves(endpoint: Endpoint) -> None:
    config = WebhookEmitter(f"{endpoint.url}?token=secret", headers={"Authorization": "Bearer secret"})
    endpoint.answers = [(503, {})]
    with pytest.raises(RetryableError) as caught:
        await emit(config, batch("a"))
    assert "secret" not in f"{caught.value} {config!r}"


@pytest.mark.parametrize(
    ("url", "options", "message"),
    [
        ("example.com/hook", {}, "url='example.com/hook'"),
        ("http://host:port/", {}, "url='http://host:port/'"),
        (None, {}, "url=None"),
        ("http://host/", {"format": "xml"}, "format='xml'"),
        ("http://host/", {"headers": {"A B": "x"}}, "'A B' is no HTTP header's name"),
        ("http://host/", {"headers": {"A": "x\r\nB: y"}}, "the value of 'A'"),
        ("http://host/", {"headers": ["A"]}, "headers must be a mapping"),
        ("http://host/", {"max_events": 0}, "max_events=0"),
    ],
)
def test_a_wrong_setting_is_named(url: Any, options: dict[str, Any], message: str) -> None:
    with pytest.raises(PlanError, match="WebhookEmitter") as caught:
        WebhookEmitter(url, **options)
    assert message in str(caught.value)


async def test_a_server_that_is_down_is_retryable(unused_tcp_port: int) -> None:
    with pytest.raises(RetryableError) as caught:
        await emit(WebhookEmitter(f"http://127.0.0.1:{unused_tcp_port}/"), batch("a"))
    assert str(caught.value) == f"http://127.0.0.1:{unused_tcp_port}: cannot connect: Connection refused"


async def test_what_stands_in_the_way_of_a_connection_is_said_in_few_words(endpoint: Endpoint) -> None:
    with pytest.raises(RetryableError, match=r"http://nowhere\.invalid: cannot connect: \w[^\[]*$"):
        await emit(WebhookEmitter("http://nowhere.invalid/"), batch("a"))
    with pytest.raises(RetryableError) as caught:  # it speaks no TLS
        await emit(WebhookEmitter(endpoint.url.replace("http:", "https:")), batch("a"))
    assert "object at" not in str(caught.value)
