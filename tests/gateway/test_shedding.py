"""A gateway asks some of its connections to go on elsewhere: no call fails, and nothing is sent twice or lost."""

from __future__ import annotations

import asyncio
import http.client
import queue
import socket
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import grpc
import pytest

from polku import Event, Hub, Pipeline
from polku.gateway.gateway import Gateway
from polku.gateway.shedding import shed, staying
from polku.http2 import connection
from polku.v1.gateway_pb2 import EventPayload, IngestBatch, IngestEvent
from polku.v1.gateway_pb2_grpc import GatewayStub
from tests.gateway.test_opened_again import Clients, Out, until

BODY = b'{"id": "%s", "event_type": "order"}'
JSON = {"Content-Type": "application/json"}


class Open:
    """The gateway of a pipeline, called where it lives."""

    def __init__(self, gateway: Gateway) -> None:
        self._gateway = gateway
        self._loop = asyncio.get_running_loop()

    def shed(self, **counts: int) -> None:
        self._call(lambda: self._gateway.shed(counts, 0.2))

    def staying(self) -> Mapping[str, int]:
        counts: Mapping[str, int] = self._call(self._gateway.staying)
        return counts

    def _call(self, what: Callable[[], Any]) -> Any:
        async def call() -> Any:
            return what()

        return asyncio.run_coroutine_threadsafe(call(), self._loop).result(30)


@pytest.fixture
def gateways(monkeypatch: pytest.MonkeyPatch) -> list[Open]:
    found: list[Open] = []
    opened = Gateway.open

    async def noted(self: Gateway, *arguments: Any) -> Any:
        found.append(Open(self))
        return await opened(self, *arguments)

    monkeypatch.setattr(Gateway, "open", noted)
    monkeypatch.setattr(connection, "_LAST_CALLS_SECONDS", 0.2)
    return found


@pytest.fixture
def out() -> Out:
    return Out()


@pytest.fixture
def pipeline(gateways: list[Open], out: Out) -> Iterator[Pipeline]:
    hub = Hub(runtime="inline").emitter(out, name="out")
    with hub.start(grpc_addr="127.0.0.1:0", http_addr="127.0.0.1:0") as pipeline:
        yield pipeline


class One:
    """A connection that notes when it was asked."""

    def __init__(self, *, is_leaving: bool = False) -> None:
        self.is_leaving = is_leaving
        self.why = ""
        self.asked = 0.0

    def leave(self, why: str) -> None:
        assert not self.is_leaving
        self.is_leaving, self.why, self.asked = True, why, time.monotonic()


async def test_those_that_are_asked_are_spread_over_the_time_and_none_is_asked_twice() -> None:
    gone, there = [One(is_leaving=True) for _ in range(5)], [One() for _ in range(40)]
    await shed([*gone, *there], 30, 0.5)
    asked = [each for each in there if each.is_leaving]
    assert (len(asked), staying([*gone, *there])) == (30, 10)
    assert {each.why for each in asked} == {"there are more lanes now"}
    assert len({each.asked for each in gone}) == 1
    assert max(each.asked for each in asked) - min(each.asked for each in asked) > 0.3
    await shed(there, 100, 0.0)
    assert staying(there) == 0


def test_grpc_clients_connect_again_and_no_call_fails(pipeline: Pipeline, gateways: list[Open], out: Out) -> None:
    [gateway] = gateways
    address = f"{pipeline.address}"
    clients = Clients(address, 1)
    others = [grpc.insecure_channel(address, [("grpc.use_local_subchannel_pool", 1)]) for _ in range(5)]
    sent: list[str] = []

    def send() -> bool:
        """Send an event over each channel."""
        for channel in others:
            event = Event(id=f"other-{len(sent)}", event_type="t")
            sent.extend(GatewayStub(channel).SendEvent(IngestEvent(event=event), timeout=30).event_ids)
        return True

    try:
        clients.more()
        send()
        assert gateway.staying() == {"grpc_addr": 6, "http_addr": 0}
        gateway.shed(grpc_addr=6)
        until(lambda: gateway.staying()["grpc_addr"] <= 1)  # the one that sends may be back
        until(lambda: send() and gateway.staying()["grpc_addr"] == 6)
        clients.more()
    finally:
        clients.end()
        for channel in others:
            channel.close()
    assert clients.errors == []
    until(lambda: len(out.ids) >= len(clients.acked) + len(sent))
    assert sorted(out.ids) == sorted([*clients.acked, *sent])


def test_a_stream_ends_behind_its_acks_and_says_why(pipeline: Pipeline, gateways: list[Open], out: Out) -> None:
    batches: queue.SimpleQueue[IngestBatch | None] = queue.SimpleQueue()
    with grpc.insecure_channel(str(pipeline.address)) as channel:
        acks: Any = GatewayStub(channel).StreamEvents(iter(batches.get, None))
        for number in range(20):
            batches.put(IngestBatch(events=EventPayload(events=[Event(id=f"{number}", event_type="t")])))
        assert next(acks).event_ids
        gateways[0].shed(grpc_addr=1)
        with pytest.raises(grpc.RpcError) as ended:
            list(acks)
        batches.put(None)
    assert ended.value.code() is grpc.StatusCode.UNAVAILABLE
    assert ended.value.details() == "there are more lanes now; open another connection"
    until(lambda: out.ids == [f"{number}" for number in range(20)])


@pytest.mark.parametrize("fields", [{}, {"TE": "trailers"}], ids=["plain", "carefully"])
def test_an_http_connection_ends_with_its_next_answer(
    fields: dict[str, str], pipeline: Pipeline, gateways: list[Open], out: Out
) -> None:
    [gateway] = gateways
    client = http.client.HTTPConnection(str(pipeline.http_address), timeout=30)

    def post(name: bytes) -> bool:
        """Send an event, and return whether the connection stays."""
        client.request("POST", "/v1/events", BODY % name, {**JSON, **fields})
        answer = client.getresponse()
        answer.read()
        assert answer.status == 200
        return not answer.will_close

    assert post(b"a")
    gateway.shed(http_addr=1)
    until(lambda: gateway.staying()["http_addr"] == 0)
    assert not post(b"b")
    assert post(b"c")  # over another connection
    assert gateway.staying()["http_addr"] == 1
    client.request("GET", "/nowhere")
    assert client.getresponse().read()
    gateway.shed(http_addr=1)
    until(lambda: gateway.staying()["http_addr"] == 0)
    client.request("GET", "/health/live")
    assert client.getresponse().will_close
    client.close()
    until(lambda: out.ids == ["a", "b", "c"])


def test_of_requests_in_a_row_the_last_answer_ends_the_connection(
    pipeline: Pipeline, gateways: list[Open], out: Out
) -> None:
    body = BODY % b"x"
    head = "POST /v1/events HTTP/1.1\r\nHost: h\r\nContent-Type: application/json\r\nContent-Length: "
    request = f"{head}{len(body)}\r\n\r\n".encode() + body
    host, port = str(pipeline.http_address).rsplit(":", 1)
    with socket.create_connection((host, int(port)), timeout=30) as sock:
        until(lambda: gateways[0].staying()["http_addr"] == 1)
        gateways[0].shed(http_addr=1)
        until(lambda: gateways[0].staying()["http_addr"] == 0)
        sock.sendall(request * 3)
        came = b"".join(iter(lambda: sock.recv(65_536), b""))
    answers = came.split(b"HTTP/1.1 ")[1:]
    assert [b"Connection: close" in each for each in answers] == [False, False, True]
    assert all(each.startswith(b"200") for each in answers)
    until(lambda: out.ids == ["x"] * 3)


def test_grpcios_server_cannot_ask_and_the_log_says_so(
    monkeypatch: pytest.MonkeyPatch, gateways: list[Open], caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("POLKU_DOOR", "grpcio")
    caplog.set_level("INFO", "polku")
    with Hub(runtime="inline").emitter(Out()).start(grpc_addr="127.0.0.1:0"):
        gateways[0].shed(grpc_addr=3)
        assert gateways[0].staying() == {}
    assert "clients that are connected stay with their lane" in caplog.text
