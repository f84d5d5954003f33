"""PostgreSQL over TLS: as libpq's own options say, and with what all emitters take."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from polku import Breaker, Certificate, Hub, PlanError, PostgresEmitter, Resilience, RetryableError, Secret, new_event
from polku.clock import SystemClock
from tests.postgres.server import Server, needs_postgres
from tests.support.authority import Authority
from tests.support.emitting import emit
from tests.support.encrypted import Tls, reads_certificates_again

pytestmark = needs_postgres


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return Authority(tmp_path / "ca")


@pytest.fixture
def server(authority: Authority) -> Iterator[Server]:
    server = Server(authority.issue())
    yield server
    server.close()


def url(server: Server, roots: Path) -> str:
    return f"postgresql://postgres@localhost:{server.port}/postgres?sslmode=verify-full&sslrootcert={roots}"


def test_rows_are_inserted_only_where_the_server_is_known(server: Server, authority: Authority, tmp_path: Path) -> None:
    stranger = Authority(tmp_path / "stranger", "stranger")
    quick = Resilience(PostgresEmitter("events", url=url(server, stranger.cert)), breaker=Breaker(failures=1))
    with Hub(runtime="inline").emitter(quick).start() as pipeline:
        assert pipeline.sender().send(new_event("order", source="shop", id="kept")).ok
        limit = time.monotonic() + 30
        while "certificate verify failed" not in str(pipeline.health().components):
            assert time.monotonic() < limit, pipeline.health().components
            time.sleep(0.02)
        pipeline.stop(timeout=0.0)
    assert server.query("SELECT count(*) FROM events") == [(0,)]
    with Hub(runtime="inline").emitter(PostgresEmitter("events", url=url(server, authority.cert))).start() as pipeline:
        assert pipeline.sender().send(new_event("order", source="shop", id="one")).ok
    assert server.query("SELECT id FROM events") == [("one",)]


@pytest.fixture
def strict(authority: Authority) -> Iterator[Server]:
    """A server to which `polku` comes with a certificate in its name alone."""
    server = Server(authority.issue(), client_ca=authority.cert)
    server.query("CREATE ROLE polku LOGIN")
    server.query("GRANT INSERT, SELECT ON events TO polku")
    yield server
    server.close()


def own(server: Server) -> str:
    return f"postgresql://polku@localhost:{server.port}/postgres"


@pytest.mark.parametrize("as_bytes", [False, True])
def test_an_emitter_shows_its_certificate(strict: Server, authority: Authority, as_bytes: bool) -> None:
    pair = authority.issue("polku")
    roots, chain, key = (
        (file.read_bytes() if as_bytes else str(file)) for file in (authority.cert, pair.cert, pair.key)
    )
    emitter = PostgresEmitter(
        "events", url=own(strict), root_certificates=roots, certificate=Certificate(chain, key), timeout=20.0
    )
    with Hub(runtime="inline").emitter(emitter).start() as pipeline:
        assert pipeline.sender().send(new_event("order", source="shop", id="one")).ok
    assert strict.query("SELECT id FROM events") == [("one",)]


def test_certificates_that_are_replaced_are_read_again(strict: Server, authority: Authority, tmp_path: Path) -> None:
    def make(tls: Tls) -> PostgresEmitter:
        return PostgresEmitter("events", url=own(strict), **tls._asdict())

    def count() -> int:
        ((number,),) = strict.query("SELECT count(*) FROM events")
        return int(number)

    reads_certificates_again(make, count, authority, tmp_path)


def test_without_roots_of_its_own_it_trusts_those_of_the_system(strict: Server, authority: Authority) -> None:
    pair = authority.issue("polku")
    certificate = Certificate(str(pair.cert), str(pair.key))
    emitter = PostgresEmitter("events", url=own(strict), certificate=certificate, timeout=20.0)
    with pytest.raises(RetryableError, match="certificate verify failed"):
        emit(emitter.build(SystemClock()), new_event("order", source="shop"))


def test_what_is_said_twice_is_refused(authority: Authority) -> None:
    roots = str(authority.cert)
    PostgresEmitter("events", url=Secret("env:DATABASE_URL"), root_certificates=roots)
    for url in ("postgresql://localhost/x?sslmode=disable", "host=localhost sslrootcert=a.pem"):
        PostgresEmitter("events", url=url)
        with pytest.raises(PlanError, match="is said by root_certificates and certificate; leave it out"):
            PostgresEmitter("events", url=url, root_certificates=roots)
    with pytest.raises(PlanError, match=r"certificate must be a polku.Certificate\(chain, key\)"):
        PostgresEmitter("events", certificate="a.pem")  # type: ignore[arg-type]
