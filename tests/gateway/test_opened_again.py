"""Ports are opened again while clients send: none is refused, and each meets the new rules when it connects again."""

from __future__ import annotations

import asyncio
import http.client
import itertools
import queue
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest

from polku import ChangeError, Event, Hub, Limits, Pipeline, Tls, new_event
from polku.gateway.http import server as http_server
from polku.http2 import connection
from polku.security.token_file import file_lines
from polku.v1.gateway_pb2 import EventPayload, IngestBatch, IngestEvent
from polku.v1.gateway_pb2_grpc import GatewayStub
from tests.support.authority import Authority, Pair


class Out:
    """A destination that keeps ids."""

    content_key = "out"

    def __init__(self) -> None:
        self.ids: list[str] = []

    def emit(self, batch: Any) -> None:
        self.ids += [event.id for event in batch.events]


@pytest.fixture(autouse=True)
def _soon(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connection, "_LAST_CALLS_SECONDS", 0.2)


def hub(out: Out, limits: Limits | None = None, **security: Any) -> Hub:
    made = Hub(runtime="inline").limits(limits or Limits()).emitter(out, name="out")
    return made.security(**security) if security else made


def update(pipeline: Pipeline, new: Hub) -> str:
    return str(asyncio.run(pipeline.update(new)).difference)


class Clients:
    """Unary clients, each of which sends one event after the other until the end."""

    def __init__(self, address: str, count: int = 3) -> None:
        self.acked: list[str] = []
        self.errors: list[str] = []
        self._end = threading.Event()
        self._threads = [threading.Thread(target=self._send, args=(address, number)) for number in range(count)]
        for thread in self._threads:
            thread.start()

    def _send(self, address: str, client: int) -> None:
        with grpc.insecure_channel(address) as channel:
            stub = GatewayStub(channel)
            for number in itertools.count():
                if self._end.is_set():
                    return
                event = new_event("order", id=f"{client}-{number}", source=f"client-{client}")
                try:
                    self.acked += stub.SendEvent(IngestEvent(event=event), timeout=30).event_ids
                except grpc.RpcError as error:
                    self.errors.append(str(error))

    def more(self, count: int = 50) -> None:
        """Return when that many events more are acknowledged."""
        wanted = len(self.acked) + count
        until(lambda: len(self.acked) >= wanted or self.errors)

    def end(self) -> None:
        self._end.set()
        for thread in self._threads:
            thread.join(30)


def until(condition: Callable[[], object]) -> None:
    limit = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < limit
        time.sleep(0.005)


def test_clients_under_load_see_nothing_of_it(tmp_path: Path) -> None:
    tokens = tmp_path / "tokens.toml"
    tokens.write_text("".join(file_lines("all", "all", {}, None)))
    out = Out()
    with hub(out).start(grpc_addr="127.0.0.1:0", http_addr="127.0.0.1:0") as pipeline:
        address = str(pipeline.address)
        clients = Clients(address)
        try:
            for number, new in enumerate(
                [
                    hub(out, Limits(message_bytes=10_000)),
                    hub(out, origins=["https://app.example.org"]),
                    hub(out, Limits(connections=10), origins=["https://app.example.org"], stamp="polku.by"),
                    hub(out),
                ]
            ):
                clients.more()
                assert "ports: opened again: " in update(pipeline, new), number
            clients.more()
        finally:
            clients.end()
        assert pipeline.address == address
        assert clients.errors == []
    assert sorted(out.ids) == sorted(clients.acked)
    for client in range(3):
        own = [event_id for event_id in out.ids if event_id.startswith(f"{client}-")]
        assert own == [f"{client}-{number}" for number in range(len(own))]


def test_a_stream_ends_when_all_that_has_come_is_answered() -> None:
    out = Out()
    batches: queue.SimpleQueue[str] = queue.SimpleQueue()

    def sent() -> Iterator[IngestBatch]:
        while event_id := batches.get():
            yield IngestBatch(source="s", events=EventPayload(events=[Event(id=event_id, event_type="t")]))

    with hub(out).start(grpc_addr="127.0.0.1:0") as pipeline, grpc.insecure_channel(str(pipeline.address)) as channel:
        acks: Any = GatewayStub(channel).StreamEvents(sent())
        batches.put("a")
        assert next(acks).event_ids == ["a"]
        update(pipeline, hub(out, Limits(message_bytes=10_000)))
        with pytest.raises(grpc.RpcError) as error:
            next(acks)
        assert error.value.code() is grpc.StatusCode.UNAVAILABLE
        assert error.value.details() == "the port was opened again; open another connection"
        batches.put("")
        event = IngestEvent(event=Event(id="b", event_type="t", payload=bytes(20_000)))
        with pytest.raises(grpc.RpcError, match="10000"):
            GatewayStub(channel).SendEvent(event, timeout=30)
    assert out.ids == ["a"]


@pytest.mark.parametrize("limits", [Limits(streams=1), Limits(address_streams=1)])
def test_streams_are_limited_by_the_new_number(limits: Limits) -> None:
    out, end = Out(), threading.Event()

    def sent() -> Iterator[IngestBatch]:
        yield IngestBatch(source="s", events=EventPayload(events=[Event(id="a", event_type="t")]))
        end.wait(30)

    with hub(out).start(grpc_addr="127.0.0.1:0") as pipeline:
        update(pipeline, hub(out, limits))
        with grpc.insecure_channel(str(pipeline.address)) as channel:
            acks: Any = GatewayStub(channel).StreamEvents(sent())
            assert next(acks).event_ids == ["a"]
            with pytest.raises(grpc.RpcError, match="1 streams are open"):
                list(GatewayStub(channel).StreamEvents(iter(())))
            end.set()
            assert list(acks) == []


def test_http_clients_are_asked_to_connect_again_and_silent_ones_go(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http_server, "_LEAVE_SECONDS", 0.5)
    out = Out()
    with hub(out).start(http_addr="127.0.0.1:0") as pipeline:
        host, _, port = str(pipeline.http_address).partition(":")
        used, silent = (http.client.HTTPConnection(host, int(port), timeout=30) for _ in range(2))

        def post(client: http.client.HTTPConnection, event_id: str) -> http.client.HTTPResponse:
            body = f'{{"id": "{event_id}", "event_type": "t"}}'
            client.request("POST", "/v1/events?source=s", body, {"Content-Type": "application/json"})
            answer = client.getresponse()
            answer.read()
            return answer

        assert [post(client, "a").headers.get("Connection") for client in (used, silent)] == [None, None]
        update(pipeline, hub(out, Limits(read_seconds=5)))
        answer = post(used, "b")
        assert (answer.status, answer.headers["Connection"]) == (200, "close")
        assert post(used, "c").headers.get("Connection") is None  # it has connected again by itself
        assert silent.sock.recv(1) == b""
        used.close()
        silent.close()
    assert out.ids == ["a", "a", "b", "c"]


def test_who_connects_again_has_to_say_who_it_is_and_by_tls(tmp_path: Path, authority: Authority, server: Pair) -> None:
    tokens = tmp_path / "tokens.toml"
    tokens.write_text("".join(file_lines("all", "secret", {}, None)))
    out = Out()
    rules: dict[str, Any] = {"tokens": tokens, "tls": Tls(str(server.cert), str(server.key))}
    with hub(out).start(grpc_addr="127.0.0.1:0") as pipeline:
        update(pipeline, hub(out, **rules))
        event = IngestEvent(event=Event(id="a", event_type="t"))
        credentials = grpc.ssl_channel_credentials(authority.cert.read_bytes())
        options = [("grpc.ssl_target_name_override", "localhost")]
        with grpc.secure_channel(str(pipeline.address), credentials, options) as channel:
            stub = GatewayStub(channel)
            with pytest.raises(grpc.RpcError) as error:
                stub.SendEvent(event, timeout=30)
            assert error.value.code() is grpc.StatusCode.UNAUTHENTICATED
            token = (("authorization", "Bearer secret"),)
            assert stub.SendEvent(event, metadata=token, timeout=30).event_ids == ["a"]


def test_files_that_cannot_be_read_change_nothing(tmp_path: Path) -> None:
    out = Out()
    with hub(out).start(grpc_addr="127.0.0.1:0") as pipeline, grpc.insecure_channel(str(pipeline.address)) as channel:
        for rules in (
            {"tokens": tmp_path / "nowhere.toml"},
            {"tls": Tls(str(tmp_path / "nowhere.pem"), str(tmp_path / "nowhere.key"))},
        ):
            with pytest.raises(ChangeError, match="nowhere"):
                update(pipeline, hub(out, **rules))
        event = IngestEvent(event=Event(id="a", event_type="t"))
        assert GatewayStub(channel).SendEvent(event, timeout=30).event_ids == ["a"]


def test_a_port_of_grpcio_stays_as_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("POLKU_DOOR", "grpcio")
    out = Out()
    with (
        hub(out).start(grpc_addr="127.0.0.1:0") as pipeline,
        pytest.raises(ChangeError, match="cannot open its port again while it runs"),
    ):
        update(pipeline, hub(out, Limits(message_bytes=10_000)))


def test_a_unix_socket_is_opened_anew(tmp_path: Path) -> None:
    out = Out()
    where = f"unix:{tmp_path}/gateway"
    with hub(out).start(grpc_addr=where) as pipeline:
        for number, limits in enumerate([Limits(message_bytes=10_000), Limits()]):
            update(pipeline, hub(out, limits))
            with grpc.insecure_channel(where) as channel:
                event = IngestEvent(event=Event(id=str(number), event_type="t"))
                assert GatewayStub(channel).SendEvent(event, timeout=30).event_ids == [str(number)]
