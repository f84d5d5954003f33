"""The PostgresEmitter, against a real server."""

from __future__ import annotations

import asyncio
import itertools
import re
from collections.abc import Collection, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from polku import Event, Hub, MisconfiguredError, PlanError, PostgresEmitter, RetryableError, Secret
from polku.clock import SystemClock
from polku.testing import Ability, Destination, EmitterCheck, emitter_checks
from tests.postgres.server import Server, needs_postgres
from tests.support.emitting import emit

pytestmark = needs_postgres
NUMBERS = itertools.count()


class Postgres(Destination):
    """A table that somebody locks, or that has a rule."""

    abilities = Ability.ORDER | Ability.KILL | Ability.HANG | Ability.REFUSE | Ability.UNIQUE

    def __init__(self) -> None:
        self._server: Server | None = None
        self._lock: Any = None

    async def start(self) -> None:
        if self._server is None:
            self._server = await asyncio.to_thread(Server)
        else:
            await asyncio.to_thread(self._server.start)

    async def stop(self) -> None:
        await self.resume()
        await asyncio.to_thread(self.server.close)

    def emitter(self) -> PostgresEmitter:
        return PostgresEmitter("events", url=self.server.url, timeout=60.0)

    @property
    def server(self) -> Server:
        assert self._server is not None
        return self._server

    async def held(self) -> list[str]:
        rows = await asyncio.to_thread(self.server.query, "SELECT id FROM events ORDER BY at")
        return [event_id for (event_id,) in rows]

    async def kill(self) -> None:
        await asyncio.to_thread(self.server.kill)

    async def hang(self) -> None:
        """Hold a lock that lets others read, and insert nothing."""
        import psycopg

        self._lock = await psycopg.AsyncConnection.connect(self.server.url)
        await self._lock.execute("LOCK TABLE events IN EXCLUSIVE MODE")

    async def resume(self) -> None:
        lock, self._lock = self._lock, None
        if lock is not None:
            await lock.close()

    async def is_waited_for(self) -> bool:
        rows = await asyncio.to_thread(self.server.query, "SELECT 1 FROM pg_locks WHERE NOT granted")
        return bool(rows)

    async def refuse(self, ids: Collection[str]) -> None:
        listed = ", ".join(f"'{event_id}'" for event_id in ids)
        rule = f"ALTER TABLE events ADD CHECK (id NOT IN ({listed}))"
        await asyncio.to_thread(self.server.query, rule)


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    server = Server()
    yield server
    server.close()


@pytest.fixture
def table(server: Server) -> str:
    name = f"t{next(NUMBERS)}"
    server.query(f"CREATE TABLE {name} (LIKE events INCLUDING ALL)")
    return name


@pytest.mark.parametrize("check", emitter_checks(Postgres.abilities), ids=str)
async def test_the_emitter_keeps_the_contract(check: EmitterCheck) -> None:
    await check.run(Postgres())


def test_an_event_becomes_a_row(server: Server, table: str) -> None:
    event = Event(id="a", event_type="t", source="ä", timestamp_unix_ns=1_700_000_000_000_001_999, payload=b"\x00\xff")
    event.metadata["tenant"] = "x"
    with Hub(runtime="inline").emitter(PostgresEmitter(table, url=server.url)).start() as pipeline:
        pipeline.sender().send(event)
    (row,) = server.query(f"SELECT id, time, type, source, severity, metadata, payload FROM {table}")
    time = datetime(2023, 11, 14, 22, 13, 20, 1, tzinfo=UTC)
    assert row[:4] == ("a", time, "t", "ä")
    assert row[5:] == ({"tenant": "x"}, b"\x00\xff")


def test_columns_are_templates_and_functions(server: Server) -> None:
    server.query("CREATE SCHEMA IF NOT EXISTS own")
    server.query('CREATE TABLE own."odd name" (tenant text, n int, "key" text UNIQUE, doc jsonb, whole jsonb)')
    columns: dict[str, Any] = {
        "tenant": "{metadata[tenant]}",
        "n": lambda event: len(event.payload),
        "key": "{source}/{id}",
        "doc": lambda event: {"type": event.event_type},
        "whole": "{event}",
    }
    emitter = PostgresEmitter("own.odd name", url=server.url, columns=columns, key="key")
    assert emit(emitter.build(SystemClock()), Event(id="a", source="s", event_type="t", payload=b"123")) == []
    ((tenant, n, key, doc, whole),) = server.query('SELECT * FROM own."odd name"')
    assert (tenant, n, key, doc) == (None, 3, "s/a", {"type": "t"})
    assert whole["id"] == "a"


def test_what_is_sent_again_is_there_once_and_stays_as_it_was(server: Server, table: str) -> None:
    emitter = PostgresEmitter(table, url=server.url, max_rows=10)
    for kind in ("first", "second"):
        events = [Event(id=f"{number}", event_type=kind, source="s") for number in range(55)]
        assert emit(emitter.build(SystemClock()), *events) == []
    assert server.query(f"SELECT DISTINCT type, count(*) FROM {table} GROUP BY type") == [("first", 55)]


def test_a_row_that_the_table_refuses_fails_alone(server: Server, table: str) -> None:
    server.query(f"ALTER TABLE {table} ADD CHECK (source <> 'bad')")
    events = [Event(id=f"{number}", source="bad" if number in (3, 17) else "s") for number in range(20)]
    events.append(Event(id="nul", source="a\x00b"))
    failures = emit(PostgresEmitter(table, url=server.url).build(SystemClock()), *events)
    assert {failure.event_id: failure.retryable for failure in failures} == {"3": False, "17": False, "nul": False}
    assert "violates check constraint" in failures[0].reason
    assert server.query(f"SELECT count(*) FROM {table}") == [(18,)]


HOSTILE = ["", "\\N", "\\.", "a\tb\nc\r\\", "ä\u2028\U0001f600", "'; DROP TABLE events; --", '"x",{}', "%s"]


def statements(server: Server, table: str) -> list[str]:
    """Return which statements the server has had that put rows into a table, all as they begin."""
    log = (server.folder / "log").read_text(errors="replace")
    return re.findall(rf'(INSERT INTO|COPY) "(?:{table}"|pg_temp")', log)


@pytest.mark.parametrize("key", ["id", None])
@pytest.mark.parametrize(("count", "how"), [(1, "INSERT INTO"), (9, "INSERT INTO"), (49, "INSERT INTO"), (300, "COPY")])
def test_rows_are_the_same_however_many_go_together(
    server: Server, table: str, key: str | None, count: int, how: str
) -> None:
    server.query("ALTER SYSTEM SET log_statement = 'all'")
    server.query("SELECT pg_reload_conf()")
    before = len(statements(server, table))
    events = [
        Event(
            id=f"{number}",
            event_type=HOSTILE[number % len(HOSTILE)],
            source=HOSTILE[-1 - number % len(HOSTILE)],
            timestamp_unix_ns=1_700_000_000_000_000_000 + number * 1_000,
            metadata={"text": HOSTILE[number % len(HOSTILE)]},
            payload=bytes([number % 256, 0, 92, 10]),
        )
        for number in range(count)
    ]
    if key is not None:
        events.append(events[0])  # twice in a batch
    assert emit(PostgresEmitter(table, url=server.url, key=key).build(SystemClock()), *events) == []
    rows = server.query(f"SELECT id, time, type, source, metadata, payload FROM {table} ORDER BY at")
    moved = ["INSERT INTO"] if key is not None and how == "COPY" else []  # from the temporary table
    assert statements(server, table)[before:] == [how, *moved], "one statement for all of them"
    assert [row[0] for row in rows] == [f"{number}" for number in range(count)]
    for event, (_, time, kind, source, metadata, payload) in zip(events, rows, strict=False):
        assert time == datetime.fromtimestamp(event.timestamp_unix_ns / 1e9, UTC)
        assert (kind or "", source or "") == (event.event_type, event.source)
        assert (metadata, payload) == (dict(event.metadata), event.payload)


def test_what_is_sent_again_by_copy_is_there_once_and_a_row_that_is_refused_fails_alone(
    server: Server, table: str
) -> None:
    server.query(f"ALTER TABLE {table} ADD CHECK (source <> 'bad')")
    for kind, bad in (("first", {7, 400}), ("second", {8})):
        events = [Event(id=f"{n}", event_type=kind, source="bad" if n in bad else "s") for n in range(500)]
        events.append(Event(id="nul", source="a\x00b"))
        failures = emit(PostgresEmitter(table, url=server.url).build(SystemClock()), *events)
        refused = {*map(str, bad), "nul"}
        assert {failure.event_id: failure.retryable for failure in failures} == dict.fromkeys(refused, False)
    counts = dict(server.query(f"SELECT type, count(*) FROM {table} GROUP BY type"))
    assert counts == {"first": 498, "second": 2}


@pytest.mark.parametrize("how", ["policy", "no right", "view"])
def test_rows_that_cannot_be_copied_are_inserted(server: Server, table: str, how: str) -> None:
    role = f"role_{table}"
    server.query(f"CREATE ROLE {role} LOGIN")
    server.query("REVOKE TEMPORARY ON DATABASE postgres FROM PUBLIC")
    server.query(f"GRANT SELECT, INSERT ON {table} TO {role}")
    key: str | None = "id"
    if how == "policy":
        key = None
        server.query(f"ALTER TABLE {table} ENABLE ROW LEVEL SECURITY")
        server.query(f"CREATE POLICY everybody ON {table} USING (true)")
    elif how == "view":
        key = None
        server.query(f"CREATE VIEW v{table} AS SELECT id, time, type, source, severity, metadata, payload FROM {table}")
        server.query(f"GRANT SELECT, INSERT ON v{table} TO {role}")
    name = f"v{table}" if how == "view" else table
    emitter = PostgresEmitter(name, url=server.url.replace("postgres@", f"{role}@"), key=key)
    events = [Event(id=f"{number}", source="s") for number in range(300)]
    assert emit(emitter.build(SystemClock()), *events) == []
    assert server.query(f"SELECT count(*) FROM {table}") == [(300,)]


def test_a_function_that_raises_costs_only_its_event(server: Server, table: str) -> None:
    columns: dict[str, Any] = {"id": "{id}", "source": lambda event: event.source or 1 / 0}
    emitter = PostgresEmitter(table, url=server.url, columns=columns)
    (failure,) = emit(emitter.build(SystemClock()), Event(id="a", source="s"), Event(id="b"))
    assert (failure.event_id, failure.retryable) == ("b", False)
    assert "ZeroDivisionError" in failure.reason
    assert "1 / 0" in failure.detail


@pytest.mark.parametrize("value", [object(), "half a pair: \ud800"])
def test_a_function_that_returns_what_is_no_value_costs_only_its_event(
    server: Server, table: str, value: object
) -> None:
    columns: dict[str, Any] = {"id": "{id}", "source": lambda event: event.source or value}
    emitter = PostgresEmitter(table, url=server.url, columns=columns)
    events = [Event(id="a", source="s"), Event(id="b"), Event(id="c", source="s")]
    (failure,) = emit(emitter.build(SystemClock()), *events)
    assert (failure.event_id, failure.retryable) == ("b", False)
    assert server.query(f"SELECT id FROM {table} ORDER BY id") == [("a",), ("c",)]


def test_what_somebody_has_to_fix_is_named(server: Server, table: str, tmp_path: Path) -> None:
    with pytest.raises(MisconfiguredError, match=r'relation "missing" does not exist.*42P01'):
        emit(PostgresEmitter("missing", url=server.url).build(SystemClock()), Event(id="a"))
    with pytest.raises(MisconfiguredError, match="no unique or exclusion constraint"):
        emit(PostgresEmitter(table, url=server.url, key="source").build(SystemClock()), Event(id="a"))
    with pytest.raises(MisconfiguredError, match='database "missing" does not exist'):
        emit(PostgresEmitter(table, url=f"{server.url[:-8]}missing").build(SystemClock()), Event(id="a"))
    secret = Secret(f"file:{tmp_path / 'nothing'}")
    with pytest.raises(MisconfiguredError, match="cannot be read"):
        emit(PostgresEmitter(table, url=server.url, password=secret).build(SystemClock()), Event(id="a"))
    with pytest.raises(RetryableError):
        emit(PostgresEmitter(table, url="postgresql://127.0.0.1:1/x").build(SystemClock()), Event(id="a"))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"table": "a.b.c"}, "must be the name of a table, or schema.table"),
        ({"table": ""}, "must be the name of a table"),
        ({"url": ""}, "url must be an address"),
        ({"columns": {}}, "must map columns"),
        ({"columns": {"id": "{nothing}"}}, "is no field of an event"),
        ({"columns": {"id": print, "": "x"}}, "must be the name of a column"),
        ({"key": "other"}, "must be among the columns"),
        ({"max_rows": 0}, "must be a whole number of at least 1"),
    ],
)
def test_a_wrong_argument_is_named(options: dict[str, Any], message: str) -> None:
    with pytest.raises(PlanError, match=message):
        PostgresEmitter(**{"table": "t", **options})


def test_it_hides_its_secrets() -> None:
    assert "hidden" not in repr(PostgresEmitter("t", url="postgresql://me:hidden@host/x", password="hidden"))
