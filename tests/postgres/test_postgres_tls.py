"""PostgreSQL over TLS, as libpq's own options say."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from polku import Hub, PostgresEmitter, new_event
from tests.postgres.server import Server, needs_postgres
from tests.support.authority import Authority

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
    with Hub(runtime="inline").emitter(PostgresEmitter("events", url=url(server, stranger.cert))).start() as pipeline:
        assert pipeline.sender().send(new_event("order", source="shop", id="kept")).ok
        limit = time.monotonic() + 30
        while "certificate verify failed" not in str(pipeline.health().components):
            assert time.monotonic() < limit, pipeline.health().components
        pipeline.stop(timeout=0.0)
    assert server.query("SELECT count(*) FROM events") == [(0,)]
    with Hub(runtime="inline").emitter(PostgresEmitter("events", url=url(server, authority.cert))).start() as pipeline:
        assert pipeline.sender().send(new_event("order", source="shop", id="one")).ok
    assert server.query("SELECT id FROM events") == [("one",)]
