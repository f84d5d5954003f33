"""Insert events into a table of PostgreSQL."""

from __future__ import annotations

import asyncio
import contextlib
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from polku import checks
from polku.batch.batch import Batch
from polku.clock import Clock
from polku.contracts import Failure
from polku.emit.encode import note_unwritable, unwritable
from polku.emit.parts import LateError, TooLargeError, send_parts
from polku.errors import MisconfiguredError, PlanError, RetryableError
from polku.event.v1.event_pb2 import Event
from polku.postgres.client import Kind, explain, kind_of, load
from polku.postgres.inserts import Inserts
from polku.postgres.row import COLUMNS, Column, row_writer
from polku.security.client_tls import Certificate, ClientTls, Pem, check_client_tls
from polku.security.pem_files import PemFiles
from polku.security.secret import Secret, reveal

_NAME = re.compile(r"[^\x00.\"]{1,63}")
_OWN_TLS = re.compile(r"(?:^|[\s?&])(sslmode|sslrootcert|sslcert|sslkey)\s*=")


@dataclass(frozen=True, slots=True)
class PostgresEmitter:
    """Insert each event as a row of `table`; the commit of its transaction confirms it.

    `columns` says what each column gets: a template, a function of the event, or one of the whole values in the table
    of `polku.postgres.row`. `key` are the columns that tell rows apart, with a unique index over them: a row that is
    there already is left as it is, so that what is sent again is there once. Without a key (None) it is there twice.
    `table` may have a schema before it (`"events.log"`).

    At most `max_rows` rows are inserted in one transaction, in the order of the events; many by COPY, but for a table
    with row-level security, a view, or a role that may make no temporary table. A row that breaks a rule of the
    table, or has a value that its column cannot hold, is a dead letter, and the others are inserted. A server that is
    away, or only reads, is tried again; refused credentials, and a table or column that is not there, hold everything,
    with an alarm, until that is fixed. `url` is what libpq takes (`postgresql://user@host/database?sslmode=verify-full`)
    and may be a `Secret`, as may the `password`, which are read at each connection. With `root_certificates` or a
    `certificate` connections are encrypted and the server's name is checked (`sslmode=verify-full`), against the
    system's authorities or the given ones; files are read again for each connection.
    """

    table: str
    url: str | Secret = field(default="postgresql://localhost/postgres", kw_only=True, repr=False)
    columns: Mapping[str, Column] = field(default_factory=lambda: COLUMNS, kw_only=True)
    key: str | Sequence[str] | None = field(default="id", kw_only=True)
    name: str = field(default="postgres", kw_only=True)
    timeout: float = field(default=30.0, kw_only=True)
    max_rows: int = field(default=1_000, kw_only=True)
    password: str | Secret | None = field(default=None, kw_only=True, repr=False)
    root_certificates: Pem | None = field(default=None, kw_only=True)
    certificate: Certificate | None = field(default=None, kw_only=True)

    may_recover = True

    def __post_init__(self) -> None:
        names = self.table.split(".") if isinstance(self.table, str) else [""]
        if len(names) > 2 or not all(map(_NAME.fullmatch, names)):
            raise checks.fault("PostgresEmitter", "table", self.table, "must be the name of a table, or schema.table")
        if not isinstance(self.url, Secret) and (not isinstance(self.url, str) or not self.url.strip()):
            raise PlanError("url must be an address such as postgresql://host/database", where="PostgresEmitter")
        if self.password is not None and not isinstance(self.password, (str, Secret)):
            raise PlanError("password must be a text or a polku.Secret", where="PostgresEmitter")
        roots = check_client_tls("PostgresEmitter", self.root_certificates, self.certificate)
        object.__setattr__(self, "root_certificates", roots)
        if self.is_encrypted and isinstance(self.url, str) and (own := _OWN_TLS.search(self.url)):
            fix = "leave it out, or give libpq's options alone"
            raise PlanError(
                f"url: {own[1]} is said by root_certificates and certificate; {fix}", where="PostgresEmitter"
            )
        if not isinstance(self.columns, Mapping) or not self.columns:
            raise checks.fault("PostgresEmitter", "columns", self.columns, "must map columns to templates or functions")
        for name in self.columns:
            if not isinstance(name, str) or not _NAME.fullmatch(name):
                raise checks.fault("PostgresEmitter", "columns", name, "must be the name of a column")
        object.__setattr__(self, "columns", dict(self.columns))
        for name in self.keys:
            if name not in self.columns:
                raise checks.fault("PostgresEmitter", "key", name, "must be among the columns")
        checks.positive("PostgresEmitter", "timeout", self.timeout)
        checks.whole("PostgresEmitter", "max_rows", self.max_rows)
        row_writer(self.columns)

    @property
    def is_encrypted(self) -> bool:
        """Whether connections must be encrypted, besides what the `url` says."""
        return self.root_certificates is not None or self.certificate is not None

    @property
    def keys(self) -> tuple[str, ...]:
        """The columns that tell rows apart."""
        if self.key is None:
            return ()
        return (self.key,) if isinstance(self.key, str) else tuple(self.key)

    def check_extras(self) -> None:
        """Raise `PlanError` where the client is not installed."""
        load("PostgresEmitter")

    def build(self, clock: Clock) -> _Inserter:
        """Make the running emitter; raises `PlanError` where the client is not installed."""
        load("PostgresEmitter")
        return _Inserter(self)


class _Part(NamedTuple):
    """Rows of one transaction."""

    rows: list[tuple[int, str, tuple[Any, ...]]]

    @property
    def ids(self) -> list[str]:
        return [event_id for _, event_id, _ in self.rows]

    @property
    def positions(self) -> list[int]:
        return [position for position, _, _ in self.rows]

    def halves(self) -> list[_Part]:
        middle = len(self.rows) // 2
        return [_Part(self.rows[:middle]), _Part(self.rows[middle:])]


class _Inserter:
    def __init__(self, config: PostgresEmitter) -> None:
        self._config = config
        self._write = row_writer(config.columns)
        self._inserts = Inserts(config.table, list(config.columns), config.keys)
        self._tls = ClientTls(config.root_certificates, config.certificate) if config.is_encrypted else None
        self._pem_files: PemFiles | None = None
        self._connection: Any = None

    async def close(self) -> None:
        connection, self._connection = self._connection, None
        files, self._pem_files = self._pem_files, None
        if connection is not None:
            with contextlib.suppress(Exception):
                await connection.close()
        if files is not None:
            files.close()

    async def emit(self, batch: Batch) -> list[Failure]:
        """Insert the batch, in as many transactions as it needs."""
        rows, failures = self._rows(batch.events)
        most = self._config.max_rows
        parts = [_Part(rows[start : start + most]) for start in range(0, len(rows), most)]
        return failures + await send_parts(parts, self._insert)

    def _rows(self, events: Sequence[Event]) -> tuple[list[tuple[int, str, tuple[Any, ...]]], list[Failure]]:
        rows: list[tuple[int, str, tuple[Any, ...]]] = []
        failures: list[Failure] = []
        for position, event in enumerate(events):
            try:
                rows.append((position, event.id, self._write(event)))
            except MemoryError:
                raise
            except Exception as error:  # a user's function may raise anything
                failures.append(unwritable(event.id, position, error))
        note_unwritable(failures)
        return rows, failures

    async def _insert(self, part: _Part) -> list[Failure]:
        import psycopg

        try:
            async with asyncio.timeout(self._config.timeout):
                connection = await self._connected()
                await self._inserts.insert(connection, [row for _, _, row in part.rows])
        except (psycopg.Error, OSError, UnicodeEncodeError) as error:  # a TimeoutError is an OSError
            raise await self._error(error) from None
        except BaseException:  # nothing is known about what is in flight
            await self.close()
            raise
        return []

    async def _connected(self) -> Any:
        import psycopg

        if self._connection is None or self._connection.closed:
            await self.close()
            config = self._config
            options: dict[str, Any] = {"application_name": "polku", "connect_timeout": max(2, int(config.timeout))}
            if config.password is not None:
                options["password"] = reveal(config.password)
            options |= self._tls_options()
            self._connection = await psycopg.AsyncConnection.connect(reveal(config.url), autocommit=True, **options)
        return self._connection

    def _tls_options(self) -> dict[str, str]:
        """Return what libpq is to know, which reads files alone: also when it cancels, so they stay for that long."""
        if self._tls is None:
            return {}
        pems = self._tls.pems()._asdict()
        self._pem_files = PemFiles({name: content for name, content in pems.items() if content is not None})
        paths = self._pem_files.paths
        options = {"sslmode": "verify-full", "sslrootcert": paths.get("roots", "system")}
        return options | ({"sslcert": paths["chain"], "sslkey": paths["key"]} if "key" in paths else {})

    async def _error(self, error: BaseException) -> Exception:
        kind = kind_of(error)
        if kind is Kind.RECORD:
            return TooLargeError(explain(error))  # it is looked for among the halves
        await self.close()
        if isinstance(error, TimeoutError):
            return LateError(f"no answer within {self._config.timeout:g} s")
        return MisconfiguredError(explain(error)) if kind is Kind.ACCESS else RetryableError(explain(error))
