"""The gateway's ports with TLS: both servers, gRPC and HTTP, certificates of clients, and files that change."""

from __future__ import annotations

import asyncio
import logging
import os
import pickle
import shutil
import socket
import ssl
import subprocess
import time
import urllib.request
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import grpc
import pytest
import uvloop
from hypothesis import given
from hypothesis import strategies as st

from polku import Hub, Pipeline, PlanError, SettingError, Tls, new_event
from polku.gateway import listen as listening
from polku.gateway.addresses import Doors
from polku.gateway.certificates import Certificates
from polku.gateway.expiry import valid_until
from polku.gateway.grpc_server import choose
from polku.gateway.tls import tls_from
from polku.http2 import frames as f
from polku.v1.gateway_pb2 import Ack, HealthRequest, HealthResponse, IngestEvent
from tests.support.authority import Authority, Pair

_SEND = "/polku.v1.Gateway/SendEvent"
_HEALTH = "/polku.v1.Gateway/Health"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("certificates")


@pytest.fixture(scope="module")
def authority(folder: Path) -> Authority:
    return Authority(folder)


@pytest.fixture(scope="module")
def server(authority: Authority) -> Pair:
    return authority.issue("server")


@pytest.fixture(scope="module")
def client(authority: Authority) -> Pair:
    return authority.issue("client")


@pytest.fixture(scope="module")
def stranger(folder: Path) -> Pair:
    return Authority(folder, "other").issue("client")


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
        answer: HealthResponse = ask(HealthRequest(), timeout=10)
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
    return context.wrap_socket(socket.create_connection((host, int(port)), timeout=10), server_hostname=host)


def http_health(address: str | None, context: ssl.SSLContext) -> int:
    """Ask a gateway over HTTP."""
    with urllib.request.urlopen(f"https://{address}/health", context=context, timeout=10) as answer:
        return int(answer.status)


def serial(address: str | None, authority: Authority, protocol: str, own: Pair | None = None) -> object:
    """Return the number of the certificate that a new connection is shown."""
    with connect(address, trusting(authority, own, protocol=protocol)) as sock:
        certificate = sock.getpeercert()
        assert certificate is not None
        return certificate["serialNumber"]


def wait_for(condition: Callable[[], bool]) -> None:
    """Return once a condition holds."""
    deadline = time.monotonic() + 20
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
            urllib.request.urlopen(f"http://{pipeline.http_address}/health", timeout=10)


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
    used = _copy(server, tmp_path)
    with start(Tls(used.cert, used.key)) as pipeline:
        before = serial(pipeline.address, authority, "h2")
        with grpc.secure_channel(
            str(pipeline.address), grpc.ssl_channel_credentials(authority.cert.read_bytes())
        ) as channel:
            send: Any = channel.unary_unary(_SEND, IngestEvent.SerializeToString, Ack.FromString)
            send(IngestEvent(event=new_event("test")), timeout=10)
            _replace(authority.issue("next"), used)
            wait_for(lambda: serial(pipeline.address, authority, "h2") != before)
            wait_for(lambda: serial(pipeline.http_address, authority, "http/1.1") != before)
            send(IngestEvent(event=new_event("test")), timeout=10)  # on the connection that was open before
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


def test_a_new_file_that_is_bad_keeps_the_old_one_and_is_named(
    tmp_path: Path, server: Pair, authority: Authority, caplog: pytest.LogCaptureFixture
) -> None:
    used = _copy(server, tmp_path)
    certificates = Certificates(Tls(used.cert, used.key))
    context = certificates.context("h2")

    _replace(Pair(authority.issue("next").cert, server.key), used)
    for _ in range(5):
        certificates.look()
    assert certificates.context("h2") is context
    lines = [record.getMessage() for record in caplog.records if record.levelno == logging.ERROR]
    assert len(lines) == 1
    assert str(used.key) in lines[0]
    assert "name the key that it was made with" in lines[0]
    assert certificates.fault

    _replace(server, used)
    certificates.look()
    assert certificates.context("h2") is not context
    assert not certificates.fault


def test_files_that_are_replaced_one_after_the_other_are_no_fault(
    tmp_path: Path, server: Pair, authority: Authority, caplog: pytest.LogCaptureFixture
) -> None:
    used = _copy(server, tmp_path)
    certificates = Certificates(Tls(used.cert, used.key))
    new = authority.issue("next")
    _replace(Pair(new.cert, server.key), used)
    certificates.look()
    _replace(new, used)
    certificates.look()
    assert certificates.pems.chain == new.cert.read_bytes()
    assert not [record for record in caplog.records if record.levelno == logging.ERROR]


def test_a_link_that_points_elsewhere_is_a_change(tmp_path: Path, server: Pair, authority: Authority) -> None:
    """Kubernetes swaps the link to the folder of a mounted secret."""
    new = authority.issue("next")
    for name, pair in (("one", server), ("two", new)):
        (tmp_path / name).mkdir()
        _copy(pair, tmp_path / name)
    (tmp_path / "data").symlink_to("one")
    certificates = Certificates(Tls(tmp_path / "data" / "tls.crt", tmp_path / "data" / "tls.key"))
    (tmp_path / "next").symlink_to("two")
    os.replace(tmp_path / "next", tmp_path / "data")
    certificates.look()
    assert certificates.pems.chain == new.cert.read_bytes()


def test_files_that_cannot_be_used_are_refused_by_name(
    tmp_path: Path, server: Pair, stranger: Pair, authority: Authority
) -> None:
    def refuse(tls: Tls, message: str) -> None:
        with pytest.raises(SettingError, match=message):
            Certificates(tls)

    refuse(Tls(tmp_path / "none", server.key), r"tls_cert='.*none': cannot be read \(No such file.*\); name a PEM file")
    refuse(Tls(server.cert, tmp_path), r"tls_key='.*': cannot be read \(Is a directory\)")
    refuse(Tls(server.cert, stranger.key), r"tls_key='.*': is not the key of .*; name the key that it was made with")
    refuse(Tls(server.cert, server.cert), r"tls_key='.*': has no PEM block `BEGIN PRIVATE KEY`")
    refuse(Tls(server.cert, server.key, client_ca=server.key), r"tls_client_ca='.*': has no PEM block")
    broken = tmp_path / "broken.pem"
    broken.write_text("-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n")
    refuse(Tls(broken, server.key), r"tls_cert='.*broken.pem': cannot be used with .*; write both as PEM")
    refuse(Tls(server.cert, server.key, client_ca=broken), r"tls_client_ca='.*broken.pem': cannot be used")
    locked = tmp_path / "locked.key"
    command = ["openssl", "pkey", "-in", str(server.key), "-aes256", "-passout", "pass:x", "-out", str(locked)]
    subprocess.run(command, check=True, capture_output=True)
    refuse(Tls(server.cert, locked), r"tls_key='.*locked.key': is protected by a passphrase; write it without one")


def test_a_gateway_does_not_start_with_files_that_cannot_be_used(tmp_path: Path, server: Pair) -> None:
    with pytest.raises(SettingError, match="tls_cert"):
        start(Tls(tmp_path / "none", server.key))


@pytest.mark.parametrize(("days", "said"), [(36_500, ""), (30, ""), (10, "expires on"), (-1, "expired on")])
def test_the_end_of_a_certificate_is_told_in_time(
    days: int, said: str, authority: Authority, caplog: pytest.LogCaptureFixture
) -> None:
    pair = authority.issue("ending", days=days)
    certificates = Certificates(Tls(pair.cert, pair.key))
    now = datetime.now(UTC)
    assert certificates.expires is not None
    assert abs(certificates.expires - now - timedelta(days=days)) < timedelta(minutes=5)
    assert said in certificates.expiry(now)
    assert bool(said) == bool(certificates.expiry(now))
    for hours in (0, 1, 25):
        certificates._warn(now + timedelta(hours=hours))
    assert caplog.text.count("renew it") == (2 if said else 0)


@given(st.binary(max_size=200))
def test_bytes_that_are_no_certificate_are_an_error_of_value(content: bytes) -> None:
    try:
        valid_until(ssl.DER_cert_to_PEM_cert(b"\x30" + content))
    except ValueError:
        return


def test_values_that_can_never_work_are_refused_by_the_plan() -> None:
    nothing: Any = ""
    with pytest.raises(PlanError, match="Tls: key='' must be the path of a PEM file"):
        Tls("cert.pem", nothing)
    wrong: Any = "perhaps"
    with pytest.raises(PlanError, match="client_auth='perhaps' is not known"):
        Tls("cert.pem", "key.pem", client_auth=wrong)
    with pytest.raises(PlanError, match="needs a client_ca"):
        Tls("cert.pem", "key.pem", client_auth="optional")
    with pytest.raises(PlanError, match=r"security: tls='cert.pem'"):
        Hub().security(tls="cert.pem")  # type: ignore[arg-type]


def test_paths_mean_the_same_in_every_process(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    tls = Tls("cert.pem", "key.pem")
    assert tls.cert == str(tmp_path / "cert.pem")
    assert pickle.loads(pickle.dumps(tls)) == tls


def test_settings_that_lack_another_one_name_it() -> None:
    assert tls_from(cert=None, key=None, client_ca=None) is None
    with pytest.raises(SettingError, match="POLKU_TLS_KEY='': is missing"):
        tls_from(cert="a", key=None, client_ca=None)
    with pytest.raises(SettingError, match="POLKU_TLS_CERT='': is missing"):
        tls_from(cert=None, key="a", client_ca=None)
    with pytest.raises(SettingError, match="POLKU_TLS_CLIENT_AUTH='optional': needs POLKU_TLS_CLIENT_CA"):
        tls_from(cert="a", key="b", client_ca=None, client_auth="optional")
    with pytest.raises(SettingError, match="POLKU_TLS_CLIENT_AUTH='maybe': choose one of required, optional"):
        tls_from(cert="a", key="b", client_ca="c", client_auth="maybe")


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
    return socket.create_connection((host, int(port)), timeout=10)


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


def _copy(pair: Pair, folder: Path) -> Pair:
    used = Pair(folder / "tls.crt", folder / "tls.key")
    _replace(pair, used)
    return used


def _replace(pair: Pair, used: Pair) -> None:
    for new, path in zip(pair, used, strict=True):
        aside = path.with_suffix(".new")
        shutil.copy(new, aside)
        os.replace(aside, path)
