"""Redis over TLS: who is trusted, who may come, and certificates that change."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from polku import Certificate, PlanError, RedisStreamsEmitter, RedisStreamsSource, Secret
from tests.redis.server import Server, needs_redis
from tests.support.authority import Authority
from tests.support.encrypted import goes_there_and_back, reads_certificates_again

pytestmark = needs_redis


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return Authority(tmp_path / "ca")


@pytest.fixture
def server(authority: Authority) -> Iterator[Server]:
    server = Server(authority=authority.cert, pair=authority.issue())
    yield server
    server.close()


def test_events_go_there_and_back_encrypted_and_each_shows_who_it_is(
    server: Server, authority: Authority, tmp_path: Path
) -> None:
    goes_there_and_back(
        lambda tls: RedisStreamsSource("orders", "polku", url=server.url, **tls._asdict()),
        lambda tls: RedisStreamsEmitter("orders", url=server.url, **tls._asdict()),
        authority,
        tmp_path,
    )


def test_certificates_that_are_replaced_are_read_again(server: Server, authority: Authority, tmp_path: Path) -> None:
    with server.client() as client:
        reads_certificates_again(
            lambda tls: RedisStreamsEmitter("orders", url=server.url, **tls._asdict()),
            lambda: int(client.xlen("orders")),
            authority,
            tmp_path,
        )


@pytest.mark.parametrize("kind", [RedisStreamsSource, RedisStreamsEmitter])
def test_what_is_for_tls_is_refused_without_it(kind: type, authority: Authority) -> None:
    arguments = ("orders", "polku") if kind is RedisStreamsSource else ("orders",)
    pair = authority.issue("polku")
    for options in ({"root_certificates": authority.cert}, {"certificate": Certificate(str(pair.cert), str(pair.key))}):
        kind(*arguments, url=Secret("env:REDIS_URL"), **options)
        with pytest.raises(PlanError, match="is for TLS: write rediss:// for the url"):
            kind(*arguments, url="redis://localhost", **options)
    with pytest.raises(PlanError, match=r"certificate must be a polku.Certificate\(chain, key\)"):
        kind(*arguments, url="rediss://localhost", certificate="a.pem")
