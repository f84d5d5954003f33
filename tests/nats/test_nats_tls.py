"""NATS over TLS: who is trusted, who may come, and certificates that change."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from polku import NatsEmitter, NatsSource, PlanError
from tests.nats.server import Server, needs_nats
from tests.support.authority import Authority
from tests.support.encrypted import goes_there_and_back, reads_certificates_again

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
    goes_there_and_back(
        lambda tls: NatsSource("orders", "polku", servers=server.url, **tls._asdict()),
        lambda tls: NatsEmitter("orders.new", servers=server.url, **tls._asdict()),
        authority,
        tmp_path,
    )


def test_certificates_that_are_replaced_are_read_again(server: Server, authority: Authority, tmp_path: Path) -> None:
    reads_certificates_again(
        lambda tls: NatsEmitter("orders.new", servers=server.url, timeout=2.0, **tls._asdict()),
        lambda: server.do(lambda streams: streams.stream_info("orders")).state.messages,
        authority,
        tmp_path,
    )


def test_roots_and_certificates_are_checked_when_they_are_named() -> None:
    with pytest.raises(PlanError, match="root_certificates must be the path of a PEM file, or its bytes"):
        NatsEmitter("a", root_certificates=3)  # type: ignore[arg-type]
    with pytest.raises(PlanError, match=r"certificate must be a polku.Certificate\(chain, key\)"):
        NatsSource("a", "b", certificate="a.pem")  # type: ignore[arg-type]
