"""An object store over TLS: who is trusted, who may come, and certificates that change."""

from __future__ import annotations

import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.error import HTTPError

import pytest

from polku import Batch, Certificate, ClaimCheck, Hub, PlanError, Redeem, RetryableError, S3Emitter, new_event
from polku.clock import SystemClock
from polku.emit.s3.objects import Objects
from polku.emit.s3.tls_forwarder import TlsForwarder
from polku.security.client_tls import ClientTls
from tests.emit.s3_server import S3Server
from tests.support.authority import Authority
from tests.support.encrypted import Tls, by_path, reads_certificates_again
from tests.support.recorder import Recorder
from tests.support.tls_front import TlsFront

MEGABYTE = 1024 * 1024


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return Authority(tmp_path / "ca")


@pytest.fixture(scope="module")
def module_server() -> Iterator[S3Server]:
    server = S3Server()
    yield server
    server.kill()


@pytest.fixture
def server(module_server: S3Server) -> S3Server:
    module_server.post("/moto-api/reset")
    module_server.client().create_bucket(Bucket="events")
    return module_server


@pytest.fixture
def front(server: S3Server, authority: Authority) -> Iterator[TlsFront]:
    front = TlsFront(server.port, authority, authority.issue())
    yield front
    front.close()


def options(server: S3Server, front: TlsFront) -> dict[str, str]:
    return {**server.options, "endpoint": f"https://localhost:{front.port}"}


async def emit(config: S3Emitter, *events: Any) -> None:
    running = config.build(SystemClock())
    running.start()
    try:
        assert await running.emit(Batch.from_events(events)) == []
    finally:
        await running.close()


@pytest.mark.parametrize("as_bytes", [False, True])
async def test_objects_large_and_small_are_put_by_who_shows_a_certificate(
    server: S3Server, front: TlsFront, authority: Authority, as_bytes: bool
) -> None:
    pair = authority.issue("polku")
    roots, chain, key = ((one.read_bytes() if as_bytes else str(one)) for one in (authority.cert, *pair))
    tls: dict[str, Any] = {"root_certificates": roots, "certificate": Certificate(chain, key)}
    config = S3Emitter("s3://events/in", options=options(server, front), format="protobuf", **tls)
    await emit(config, new_event("t", source="small"))
    large = [new_event("t", source="large", payload=bytes([n]) * MEGABYTE) for n in range(20)]
    await emit(config, *large)
    objects = server.objects()
    assert [key.split("/")[1] for key in objects] == ["large", "small"]
    assert all(event.payload in next(iter(objects.values())) for event in large)
    assert set(front.shown) == {"polku"}


async def test_a_stranger_is_not_trusted_and_said_so(
    server: S3Server, front: TlsFront, authority: Authority, tmp_path: Path
) -> None:
    stranger = Authority(tmp_path / "stranger", "stranger")
    config = S3Emitter("s3://events", options=options(server, front), root_certificates=stranger.cert, timeout=5.0)
    with pytest.raises(RetryableError, match="certificate verify failed"):
        await emit(config, new_event("t", source="s", payload=bytes(6 * MEGABYTE)))


def test_certificates_that_are_replaced_are_read_again(
    server: S3Server, front: TlsFront, authority: Authority, tmp_path: Path
) -> None:
    def make(tls: Tls) -> S3Emitter:
        return S3Emitter("s3://events", options=options(server, front), max_age=0.1, timeout=5.0, **tls._asdict())

    reads_certificates_again(make, lambda: len(server.objects()), authority, tmp_path)


def test_payloads_are_put_and_fetched_by_who_shows_a_certificate(
    server: S3Server, front: TlsFront, authority: Authority, tmp_path: Path
) -> None:
    given: dict[str, Any] = {
        "options": options(server, front),
        **by_path(authority.cert, authority.issue("polku"))._asdict(),
    }
    out = Recorder(tmp_path / "out")
    hub = Hub(runtime="inline").middleware(ClaimCheck("s3://events", over=1_000, **given))
    with hub.middleware(Redeem("s3://events", **given)).emitter(out).start() as pipeline:
        events = [new_event("t", source="s", payload=bytes([n]) * 5_000) for n in range(8)]
        assert pipeline.sender().send(events).ok
        assert [event.payload for event in out.wait_for(8)] == [event.payload for event in events]
    assert len(server.objects()) == 8
    assert set(front.shown) == {"polku"}


def test_nobody_else_gets_through(server: S3Server, front: TlsFront, authority: Authority) -> None:
    tls = ClientTls(str(authority.cert), Certificate(*map(str, authority.issue("polku"))))
    forwarder = TlsForwarder(f"https://localhost:{front.port}", tls)
    try:
        assert ask(forwarder.url, f"http://localhost:{front.port}/events") == 200
        credentials, _, address = forwarder.url.removeprefix("http://").partition("@")
        assert ask(f"http://{credentials}0@{address}", f"http://localhost:{front.port}/events") == 403
        assert ask(f"http://{address}", f"http://localhost:{front.port}/events") == 403
        assert ask(forwarder.url, f"http://localhost:{server.port}/events") == 403
        assert ask(forwarder.url, f"http://localhost:{front.port}0/events") == 403
        assert len(front.shown) == 1
    finally:
        forwarder.close()


def ask(proxy: str, url: str) -> int:
    """Return the status of an answer through a proxy."""
    handler = urllib.request.ProxyHandler({"http": proxy})
    request = urllib.request.Request(url)
    try:
        with urllib.request.build_opener(handler).open(request, timeout=30) as answer:
            return int(answer.status)
    except HTTPError as error:
        return error.code


def test_what_does_not_fit_is_refused(authority: Authority) -> None:
    roots = str(authority.cert)
    for url, given in (("s3://events", {}), ("s3://events", {"endpoint": "http://host"}), ("file:///tmp/x", {})):
        for make in (S3Emitter, ClaimCheck, Redeem):
            with pytest.raises(PlanError, match=r"need the address of the store: options={'endpoint': 'https://"):
                make(url, options=given, root_certificates=roots)
    with pytest.raises(PlanError, match=r"certificate must be a polku.Certificate\(chain, key\)"):
        S3Emitter("s3://events", certificate="a.pem")  # type: ignore[arg-type]


def test_the_port_is_there_only_while_it_is_used(authority: Authority) -> None:
    tls = ClientTls(str(authority.cert))
    objects = Objects("s3://a", {"endpoint": "https://localhost:1", "region": "x"}, timeout=1, part_bytes=1, tls=tls)
    objects.check()
    assert objects._forwarder is not None
    forwarder = objects._forwarder
    objects.release()
    assert not forwarder._thread.is_alive()
