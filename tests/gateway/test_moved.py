"""A pipeline moves to other addresses while clients send: the new port is open before the old one is closed."""

from __future__ import annotations

import asyncio
import http.client
import socket
import ssl
from pathlib import Path
from typing import Any

import grpc
import pytest

from polku import ChangeError, Event, Hub, PlanError, Tls
from polku.gateway.certificates import Certificates
from polku.gateway.listen import context_of, listen
from polku.http2 import connection
from polku.monitoring.run_files import running
from polku.v1.gateway_pb2 import IngestEvent
from polku.v1.gateway_pb2_grpc import GatewayStub
from tests.gateway.test_opened_again import Clients, Out, hub, until, update
from tests.support.authority import Authority, Pair


@pytest.fixture(autouse=True)
def _soon(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connection, "_LAST_CALLS_SECONDS", 0.2)


def free_address() -> str:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        return f"127.0.0.1:{probe.getsockname()[1]}"


def is_open(address: str | None) -> bool:
    host, _, port = str(address).partition(":")
    try:
        socket.create_connection((host, int(port)), timeout=30).close()
    except ConnectionError:
        return False
    return True


def send(address: str | None, event_id: str) -> list[str]:
    with grpc.insecure_channel(str(address)) as channel:
        answer = GatewayStub(channel).SendEvent(IngestEvent(event=Event(id=event_id, event_type="t")), timeout=30)
    return list(answer.event_ids)


def test_clients_that_know_both_addresses_see_nothing_of_a_move() -> None:
    out = Out()
    first, second = free_address(), free_address()
    with hub(out).listen(grpc_addr=first).start() as pipeline:
        clients = Clients(f"ipv4:{first},{second}")
        try:
            for address in (second, first, second):
                clients.more()
                assert f"address grpc: {address} (was" in update(pipeline, hub(out).listen(grpc_addr=address))
                assert pipeline.address == address
                gone = first if address == second else second
                until(lambda gone=gone: not is_open(gone))  # type: ignore[misc]
            clients.more()
        finally:
            clients.end()
        assert clients.errors == []
        assert [each.grpc for each in running() if each.grpc in (first, second)] == [second]
    assert sorted(out.ids) == sorted(clients.acked)
    for client in range(3):
        own = [event_id for event_id in out.ids if event_id.startswith(f"{client}-")]
        assert own == [f"{client}-{number}" for number in range(len(own))]


def test_an_address_that_cannot_be_had_changes_nothing() -> None:
    out, other = Out(), Out()
    other.content_key = "other"
    with hub(out).start(grpc_addr="127.0.0.1:0") as pipeline, socket.create_server(("127.0.0.1", 0)) as taken:
        address = pipeline.address
        wanted = f"127.0.0.1:{taken.getsockname()[1]}"
        with pytest.raises(ChangeError, match=rf"grpc_addr='{wanted}'.* cannot be opened .*in use") as error:
            update(pipeline, hub(other).listen(grpc_addr=wanted))
        assert "emitter out: another emitter" in error.value.difference
        assert pipeline.address == address
        assert send(address, "a") == ["a"]
    assert (out.ids, other.ids) == (["a"], [])


class Failing:
    """A destination that cannot be had."""

    def start(self) -> None:
        raise OSError("its address is wrong")

    def emit(self, batch: Any) -> None: ...


def test_a_port_of_a_change_that_fails_is_closed_again() -> None:
    out, wanted = Out(), free_address()
    with hub(out).start(grpc_addr="127.0.0.1:0") as pipeline:
        with pytest.raises(ChangeError, match="its address is wrong"):
            update(pipeline, hub(out).listen(grpc_addr=wanted).emitter(Failing(), name="failing"))
        assert not is_open(wanted)
        assert send(pipeline.address, "a") == ["a"]


def test_a_port_comes_and_goes_and_the_others_stay() -> None:
    out = Out()
    with hub(out).start(grpc_addr="127.0.0.1:0") as pipeline:
        address = pipeline.address
        assert "new       address http: 127.0.0.1:0" in update(pipeline, hub(out).listen(http_addr="127.0.0.1:0"))
        opened = str(pipeline.http_address)
        host, _, port = opened.partition(":")
        client = http.client.HTTPConnection(host, int(port), timeout=30)
        client.request("POST", "/v1/events?source=s", '{"id": "a"}', {"Content-Type": "application/json"})
        assert client.getresponse().status == 200
        client.close()
        assert "gone      address http: 127.0.0.1:0" in update(pipeline, hub(out))
        assert (pipeline.address, pipeline.http_address) == (address, None)
        until(lambda: not is_open(opened))
        assert send(address, "b") == ["b"]
    assert out.ids == ["a", "b"]


def test_a_move_between_a_port_and_a_unix_socket(tmp_path: Path) -> None:
    out, path = Out(), f"unix:{tmp_path}/gateway"
    with hub(out).listen(grpc_addr=path).start() as pipeline:
        assert send(path, "a") == ["a"]
        update(pipeline, hub(out).listen(grpc_addr="127.0.0.1:0"))
        assert send(pipeline.address, "b") == ["b"]
        update(pipeline, hub(out).listen(grpc_addr=path))
        assert send(path, "c") == ["c"]


class Greeter(asyncio.Protocol):
    """Greet who connects, and leave."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        transport.write(b"hello")
        transport.close()


@pytest.mark.parametrize("encrypted", [False, True])
async def test_who_waits_at_a_port_that_closes_is_taken_first(
    encrypted: bool, authority: Authority, server: Pair
) -> None:
    certificates = Certificates(Tls(str(server.cert), str(server.key))) if encrypted else None
    tls = context_of(certificates, "http/1.1")
    listener, address = await listen(Greeter, "grpc_addr", "127.0.0.1:0", shared=False, tls=tls)
    host, _, port = address.partition(":")
    with socket.create_connection((host, int(port))) as waiting:  # the event loop has not seen it yet
        listener.leave(queued=True)
        waiting.setblocking(False)
        context = ssl.create_default_context(cafile=authority.cert) if encrypted else None
        name = "localhost" if encrypted else None
        reader, writer = await asyncio.wait_for(
            asyncio.open_connection(sock=waiting, ssl=context, server_hostname=name), 30
        )
        assert await asyncio.wait_for(reader.read(5), 30) == b"hello"
        writer.close()
    until_closed = asyncio.get_running_loop().time() + 30
    while is_open(address):
        assert asyncio.get_running_loop().time() < until_closed
        await asyncio.sleep(0.01)


def test_addresses_that_can_never_work_are_refused_at_once() -> None:
    with pytest.raises(PlanError, match="HOST:PORT"):
        Hub().listen(http_addr="8080")
