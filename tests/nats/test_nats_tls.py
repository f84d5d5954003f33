"""NATS over TLS: who is trusted, who may come, and certificates that change."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from polku import Breaker, Certificate, Hub, NatsEmitter, NatsSource, PlanError, Resilience, Retry, new_event
from tests.nats.server import Server, needs_nats
from tests.support.authority import Authority, replace
from tests.support.recorder import Recorder

QUICK = Retry(first=0.05, limit=0.2)
pytestmark = needs_nats


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return Authority(tmp_path / "ca")


@pytest.fixture
def server(authority: Authority) -> Iterator[Server]:
    server = Server(authority=authority.cert, pair=authority.issue())
    server.do(lambda streams: streams.add_stream(name="orders", subjects=["orders.>"]))
    yield server
    server.close()


def test_events_go_there_and_back_encrypted_and_each_shows_who_it_is(
    server: Server, authority: Authority, tmp_path: Path
) -> None:
    pair = authority.issue("polku")
    by_path = Certificate(str(pair.cert), str(pair.key))
    by_bytes = Certificate(pair.cert.read_bytes(), pair.key.read_bytes())
    out = Recorder(tmp_path / "out")
    source = NatsSource(
        "orders", "polku", servers=server.url, root_certificates=authority.cert.read_bytes(), certificate=by_bytes
    )
    emitter = NatsEmitter("orders.new", servers=server.url, root_certificates=authority.cert, certificate=by_path)
    with Hub(runtime="inline").source(source).emitter(out).start():
        with Hub(runtime="inline").emitter(emitter).start() as pipeline:
            assert pipeline.sender().send([new_event("order", source="shop", id=f"{n}") for n in range(10)]).ok
        assert [event.id for event in out.wait_for(10)] == [f"{n}" for n in range(10)]


def test_certificates_that_are_replaced_are_read_again(server: Server, authority: Authority, tmp_path: Path) -> None:
    stranger = Authority(tmp_path / "stranger", "stranger")
    used = stranger.issue("polku")
    good = authority.issue("polku")
    emitter = NatsEmitter(
        "orders.new",
        servers=server.url,
        root_certificates=stranger.cert,
        timeout=2.0,
        certificate=Certificate(str(used.cert), str(used.key)),
    )
    with (
        Hub(runtime="inline")
        .emitter(Resilience(emitter, retry=QUICK, breaker=Breaker(open_for=0.1)))
        .start() as pipeline
    ):
        assert pipeline.sender().send(new_event("order", source="shop", id="one")).ok
        limit = time.monotonic() + 30
        while "certificate verify failed" not in str(pipeline.health().components):
            assert time.monotonic() < limit, pipeline.health().components
        stranger.cert.write_bytes(authority.cert.read_bytes())
        replace(good, used)
        while server.do(lambda streams: streams.stream_info("orders")).state.messages != 1:
            assert time.monotonic() < limit, pipeline.health().components


def test_roots_and_certificates_are_checked_when_they_are_named() -> None:
    with pytest.raises(PlanError, match="root_certificates must be the path of a PEM file, or its bytes"):
        NatsEmitter("a", root_certificates=3)  # type: ignore[arg-type]
    with pytest.raises(PlanError, match=r"certificate must be a polku.Certificate\(chain, key\)"):
        NatsSource("a", "b", certificate="a.pem")  # type: ignore[arg-type]
