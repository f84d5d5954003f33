"""The gateway's ports with TLS: both servers, gRPC and HTTP, certificates of clients, and files that change."""

from __future__ import annotations

import asyncio
import concurrent.futures
import os
import shutil
import socket
import ssl
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest
import uvloop

from polku import Hub, Pipeline, SettingError, Tls, new_event
from polku.gateway import listen as listening
from polku.gateway.addresses import Doors
from polku.gateway.certificates import Certificates
from polku.gateway.grpc_server import choose
from polku.http2 import frames as f
from polku.v1.gateway_pb2 import Ack, HealthRequest, HealthResponse, IngestEvent
from tests.support.authority import Authority, Pair, put, replace

_SEND = "/polku.v1.Gateway/SendEvent"
_HEALTH = "/polku.v1.Gateway/Health"


@pytest.fixture(scope="module")
def client(authority: Authority) -> Pair:
    return authority.issue("client")


@pytest.fixture(params=["native", "grpcio"])
def door(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setenv("POLKU_DOOR", request.param)
    return str(request.param)


def start(tls: Tls) -> Pipeline:
    """Start a gateway on free ports of the loopback interface."""
    hub = Hub(runtime="inline").emitter(lambda batch: None, name="nothing").security(tls=tls)
    return hub.start(grpc_addr="127.0.0.1:0", http_addr="127.0.0.1:0")


def grpc_health(address: str | None, authority: Authority, own: Pair | None = None) -> HealthResponse:
    """Ask a gateway over gRPC, on a new connection."""
    root = authority.cert.read_bytes()
    key, chain = (own.key.read_bytes(), own.cert.read_bytes()) if own else (None, None)
    credentials = grpc.ssl_channel_credentials(root, key, chain)
    with grpc.secure_channel(str(address), credentials) as channel:
        ask: Any = channel.unary_unary(_HEALTH, HealthRequest.SerializeToString, HealthResponse.FromString)
        answer: HealthResponse = ask(HealthRequest(), timeout=30)
        return answer


def trusting(authority: Authority, own: Pair | None = None, *, protocol: str = "") -> ssl.SSLContext:
    """Return the context of a client."""
    context = ssl.create_default_context(cafile=str(authority.cert))
    if own is not None:
        context.load_cert_chain(own.cert, own.key)
    if protocol:
        context.set_alpn_protocols([protocol])
    return context


def connect(address: str | None, context: ssl.SSLContext) -> ssl.SSLSocket:
    """Shake hands."""
    host, _, port = str(address).rpartition(":")
    return context.wrap_socket(socket.create_connection((host, int(port)), timeout=30), server_hostname=host)


def http_health(address: str | None, context: ssl.SSLContext) -> int:
    """Ask a gateway over HTTP."""
    with urllib.request.urlopen(f"https://{address}/health", context=context, timeout=30) as answer:
        return int(answer.status)


def serial(address: str | None, authority: Authority, protocol: str, own: Pair | None = None) -> object:
    """Return the number of the certificate that a new connection is shown."""
    with connect(address, trusting(authority, own, protocol=protocol)) as sock:
        certificate = sock.getpeercert()
        assert certificate is not None
        return certificate["serialNumber"]


def wait_for(condition: Callable[[], bool]) -> None:
    """Return once a condition holds."""
    deadline = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < deadline, "it did not come true"
        time.sleep(0.05)


def test_both_ports_speak_tls_and_nothing_else(door: str, server: Pair, authority: Authority) -> None:
    with start(Tls(server.cert, server.key)) as pipeline:
        assert grpc_health(pipeline.address, authority).healthy
        assert http_health(pipeline.http_address, trusting(authority)) == 200

        with grpc.insecure_channel(str(pipeline.address)) as channel:
            send: Any = channel.unary_unary(_SEND, IngestEvent.SerializeToString, Ack.FromString)
            with pytest.raises(grpc.RpcError):
                send(IngestEvent(), timeout=3)
        with pytest.raises(OSError, match=r".+"):
            urllib.request.urlopen(f"http://{pipeline.http_address}/health", timeout=30)


def test_a_client_chooses_the_protocol_by_alpn(server: Pair, authority: Authority) -> None:
    with start(Tls(server.cert, server.key)) as pipeline:
        with connect(pipeline.address, trusting(authority, protocol="h2")) as sock:
            assert sock.selected_alpn_protocol() == "h2"
        with connect(pipeline.http_address, trusting(authority, protocol="http/1.1")) as sock:
            assert sock.selected_alpn_protocol() == "http/1.1"


def test_http_2_without_alpn_is_told_what_it_needs(
    server: Pair, authority: Authority, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("POLKU_DOOR", "native")
    with start(Tls(server.cert, server.key)) as pipeline, connect(pipeline.address, trusting(authority)) as sock:
        sock.sendall(f.PREFACE + f.settings({}))
        assert b"needs ALPN with h2" in _read_all(sock)


def test_http_1_on_the_grpc_port_is_told_what_it_is(
    server: Pair, authority: Authority, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("POLKU_DOOR", "native")
    context = trusting(authority, protocol="http/1.1")
    with start(Tls(server.cert, server.key)) as pipeline, connect(pipeline.address, context) as sock:
        sock.sendall(b"GET / HTTP/1.1\r\nhost: here\r\n\r\n")
        assert b"this port speaks gRPC over HTTP/2" in _read_all(sock)


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1, ssl.TLSVersion.TLSv1_1])
@pytest.mark.filterwarnings("ignore:ssl.TLSVersion")
def test_versions_before_1_2_are_refused(version: ssl.TLSVersion, server: Pair) -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    context.set_ciphers("ALL:@SECLEVEL=0")
    context.minimum_version = context.maximum_version = version
    with start(Tls(server.cert, server.key)) as pipeline:
        for address in (pipeline.address, pipeline.http_address):
            with pytest.raises(ssl.SSLError, match=r"(?i)version|protocol"):
                connect(address, context)


def test_version_1_2_is_taken(server: Pair, authority: Authority) -> None:
    context = trusting(authority, protocol="h2")
    context.maximum_version = ssl.TLSVersion.TLSv1_2
    with start(Tls(server.cert, server.key)) as pipeline, connect(pipeline.address, context) as sock:
        assert sock.version() == "TLSv1.2"


def test_clients_must_show_a_certificate_of_the_ca(
    door: str, server: Pair, client: Pair, stranger: Pair, authority: Authority
) -> None:
    with start(Tls(server.cert, server.key, client_ca=authority.cert)) as pipeline:
        assert grpc_health(pipeline.address, authority, client).healthy
        assert http_health(pipeline.http_address, trusting(authority, client)) == 200
        for own in (None, stranger):
            with pytest.raises(grpc.RpcError) as refused:
                grpc_health(pipeline.address, authority, own)
            assert refused.value.code() is grpc.StatusCode.UNAVAILABLE
            with pytest.raises(OSError, match=r".+"):
                http_health(pipeline.http_address, trusting(authority, own))


def test_clients_may_show_a_certificate(
    server: Pair, client: Pair, stranger: Pair, authority: Authority, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("POLKU_DOOR", "native")
    tls = Tls(server.cert, server.key, client_ca=authority.cert, client_auth="optional")
    with start(tls) as pipeline:
        for own in (None, client):
            assert grpc_health(pipeline.address, authority, own).healthy
            assert http_health(pipeline.http_address, trusting(authority, own)) == 200
        with pytest.raises(grpc.RpcError):
            grpc_health(pipeline.address, authority, stranger)


def test_changed_files_are_shown_to_new_connections_and_cost_no_open_one(
    door: str, tmp_path: Path, server: Pair, authority: Authority
) -> None:
    used = put(server, tmp_path)
    with start(Tls(used.cert, used.key)) as pipeline:
        before = serial(pipeline.address, authority, "h2")
        with grpc.secure_channel(
            str(pipeline.address), grpc.ssl_channel_credentials(authority.cert.read_bytes())
        ) as channel:
            send: Any = channel.unary_unary(_SEND, IngestEvent.SerializeToString, Ack.FromString)
            send(IngestEvent(event=new_event("test")), timeout=30)
            replace(authority.issue("next"), used)
            wait_for(lambda: serial(pipeline.address, authority, "h2") != before)
            wait_for(lambda: serial(pipeline.http_address, authority, "http/1.1") != before)
            send(IngestEvent(event=new_event("test")), timeout=30)  # on the connection that was open before
        assert grpc_health(pipeline.address, authority).healthy


def test_a_client_ca_that_is_replaced_lets_its_clients_in_no_more(
    door: str, tmp_path: Path, server: Pair, client: Pair, authority: Authority, folder: Path
) -> None:
    used = shutil.copy(authority.cert, tmp_path / "clients.pem")
    with start(Tls(server.cert, server.key, client_ca=used)) as pipeline:
        assert grpc_health(pipeline.address, authority, client).healthy
        other = Authority(folder, "newer")
        new_client = other.issue("client")
        os.replace(shutil.copy(other.cert, tmp_path / "new.pem"), used)

        def is_in(own: Pair) -> bool:
            try:
                return grpc_health(pipeline.address, authority, own).healthy
            except grpc.RpcError:
                return False

        wait_for(lambda: is_in(new_client))
        assert not is_in(client)


def test_a_gateway_does_not_start_with_files_that_cannot_be_used(tmp_path: Path, server: Pair) -> None:
    with pytest.raises(SettingError, match="tls_cert"):
        start(Tls(tmp_path / "none", server.key))


def test_a_server_that_cannot_do_it_is_refused() -> None:
    optional = Tls("a", "b", client_ca="c", client_auth="optional")
    with pytest.raises(SettingError, match="POLKU_DOOR='grpcio': cannot ask for a certificate"):
        choose(Doors(door="grpcio", tls=optional))


@pytest.fixture(params=[asyncio.new_event_loop, uvloop.new_event_loop], ids=["asyncio", "uvloop"])
def runner(request: pytest.FixtureRequest) -> Iterator[asyncio.Runner]:
    with asyncio.Runner(loop_factory=request.param) as runner:
        yield runner


class _Upper(asyncio.Protocol):
    def connection_made(self, transport: Any) -> None:
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        self._transport.write(data.upper())


def test_a_port_serves_on_either_loop_and_survives_bad_handshakes(
    runner: asyncio.Runner, server: Pair, authority: Authority, tmp_path: Path
) -> None:
    certificates = Certificates(Tls(server.cert, server.key))

    async def serve(address: str) -> None:
        context = listening.context_of(certificates, "h2")
        port, bound = await listening.listen(_Upper, "grpc_addr", address, shared=False, tls=context)
        assert await asyncio.to_thread(_shout, bound, authority, b"hello") == b"HELLO"
        assert await asyncio.to_thread(_plain, bound, b"GET / HTTP/1.1\r\n\r\n") != b"HELLO"
        assert await asyncio.to_thread(_shout, bound, authority, b"again") == b"AGAIN"
        port.close()
        for _ in range(3):
            await asyncio.sleep(0)
        with pytest.raises(OSError, match=r".+"):
            await asyncio.to_thread(_shout, bound, authority, b"closed")

    runner.run(serve("127.0.0.1:0"))
    runner.run(serve("localhost:0"))
    runner.run(serve(f"unix:{tmp_path}/polku.sock"))


def test_a_client_that_does_not_shake_hands_is_let_go(
    runner: asyncio.Runner, server: Pair, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(listening, "_HANDSHAKE_SECONDS", 0.3)
    certificates = Certificates(Tls(server.cert, server.key))

    async def serve() -> None:
        context = listening.context_of(certificates, "h2")
        port, bound = await listening.listen(_Upper, "grpc_addr", "127.0.0.1:0", shared=False, tls=context)
        assert await asyncio.to_thread(_plain, bound, b"") == b""
        port.close()

    runner.run(serve())


def test_a_port_that_closes_ends_handshakes_in_progress(runner: asyncio.Runner, server: Pair) -> None:
    certificates = Certificates(Tls(server.cert, server.key))

    async def serve() -> None:
        context = listening.context_of(certificates, "h2")
        port, bound = await listening.listen(_Upper, "grpc_addr", "127.0.0.1:0", shared=False, tls=context)
        reading = asyncio.create_task(asyncio.to_thread(_plain, bound, b""))
        assert isinstance(port, listening.TlsListener)
        await _until(lambda: port.handshakes == 1)
        port.close()
        assert await asyncio.wait_for(reading, 30) == b""
        assert not port.handshakes

    runner.run(serve())


def test_too_many_handshakes_from_one_address_are_closed_at_once(
    runner: asyncio.Runner, server: Pair, authority: Authority, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(listening, "_ADDRESS_HANDSHAKES", 2)
    certificates = Certificates(Tls(server.cert, server.key))

    async def serve() -> None:
        context = listening.context_of(certificates, "h2")
        port, bound = await listening.listen(_Upper, "grpc_addr", "127.0.0.1:0", shared=False, tls=context)
        assert isinstance(port, listening.TlsListener)
        with _open(bound), _open(bound):
            await _until(lambda: port.handshakes == 2)
            assert await asyncio.to_thread(_plain, bound, b"") == b""
        await _until(lambda: not port.handshakes)
        assert await asyncio.to_thread(_shout, bound, authority, b"free") == b"FREE"
        port.close()

    runner.run(serve())


def test_certificates_that_change_under_load_refuse_nobody(
    door: str, tmp_path: Path, server: Pair, authority: Authority
) -> None:
    used = put(server, tmp_path)
    pairs = [authority.issue(f"rotated-{number}") for number in range(3)]
    root = authority.cert.read_bytes()
    seen: set[object] = set()
    acked: list[str] = []
    rotated = threading.Event()

    def load(address: str) -> None:
        number = 0
        while not rotated.is_set() or number < 20:
            credentials = grpc.ssl_channel_credentials(root)
            options = [("grpc.use_local_subchannel_pool", 1)]  # each with a connection of its own
            with grpc.secure_channel(address, credentials, options) as channel:
                send: Any = channel.unary_unary(_SEND, IngestEvent.SerializeToString, Ack.FromString)
                acked.extend(send(IngestEvent(event=new_event("test", id=f"{number}")), timeout=30).event_ids)
            number += 1

    with start(Tls(used.cert, used.key)) as pipeline, concurrent.futures.ThreadPoolExecutor() as threads:
        loading = threads.submit(load, str(pipeline.address))
        for pair in pairs:
            before = serial(pipeline.address, authority, "h2")
            replace(pair, used)
            wait_for(lambda: serial(pipeline.address, authority, "h2") != before)  # noqa: B023 - within this turn
            seen.add(serial(pipeline.address, authority, "h2"))
        rotated.set()
        loading.result(30)
    assert len(seen) == 3
    assert acked == [str(number) for number in range(len(acked))]
    assert len(acked) >= 20


async def _until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < deadline
        await asyncio.sleep(0.01)


def _open(bound: str) -> socket.socket:
    if bound.startswith("unix:"):
        sock = socket.socket(socket.AF_UNIX)
        sock.settimeout(10)
        try:
            sock.connect(bound.removeprefix("unix:"))
        except BaseException:
            sock.close()
            raise
        return sock
    host, _, port = bound.rpartition(":")
    return socket.create_connection((host, int(port)), timeout=30)


def _shout(bound: str, authority: Authority, text: bytes) -> bytes:
    with trusting(authority, protocol="h2").wrap_socket(_open(bound), server_hostname="localhost") as sock:
        sock.sendall(text)
        return sock.recv(100)


def _plain(bound: str, text: bytes) -> bytes:
    with _open(bound) as sock:
        sock.sendall(text)
        try:
            return _read_all(sock)
        except ConnectionError:
            return b""


def _read_all(sock: socket.socket) -> bytes:
    found = b""
    while data := sock.recv(65_536):
        found += data
    return found
