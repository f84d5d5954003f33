"""How rows get into a table: each by an INSERT of its own, or together by COPY where that is faster.

With a key, COPY fills a temporary table, from which an INSERT takes the rows that are not there yet. Measured on a
PostgreSQL 15 of the same machine, against INSERTs in one transaction: with a key 0.6 of their rate at 10 rows, 0.9 at
100 and 2.4 at 1,000; without a key 1.3, 1.8 and 4.1.
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Sequence
from typing import Any

from polku.log import RepeatedLog

_COPIED_ROWS = 200  # from which on COPY takes the rows, by way of a temporary table
_COPIED_ALONE = 10  # where they go into the table itself
# Not with row-level security; no right to make a temporary table; not into a view (appendix A of PostgreSQL's manual).
_NOT_COPIED = frozenset({"0A000", "42501", "42809"})
_REPEATED = RepeatedLog(logging.getLogger(__name__))


class Inserts:
    """Insert rows of these columns into a table; one that a `key` of columns finds there already stays as it is."""

    def __init__(self, table: str, columns: Sequence[str], key: Sequence[str]) -> None:
        from psycopg import sql

        self._table = table
        self._has_key = bool(key)
        self._may_copy = True
        into = sql.Identifier(*table.split("."))
        names = sql.SQL(", ").join(map(sql.Identifier, columns))
        values = sql.SQL(", ").join(sql.Placeholder() for _ in columns)
        keys = sql.SQL(", ").join(map(sql.Identifier, key))
        conflict = sql.SQL(" ON CONFLICT ({}) DO NOTHING").format(keys) if key else sql.SQL("")
        # Behind a pooler a session may be shared with others: its tables have names for what is in them.
        digest = hashlib.blake2b(repr((table, *columns)).encode(), digest_size=8).hexdigest()
        rows = sql.Identifier("pg_temp", f"polku_{digest}") if key else into
        temporary = sql.Identifier(f"polku_{digest}")
        self._one = sql.SQL("INSERT INTO {} ({}) VALUES ({}){}").format(into, names, values, conflict)
        self._make = sql.SQL(
            "CREATE TEMPORARY TABLE IF NOT EXISTS {} ON COMMIT DELETE ROWS AS SELECT {} FROM {} WITH NO DATA"
        ).format(temporary, names, into)
        self._copy = sql.SQL("COPY {} ({}) FROM STDIN").format(rows, names)
        self._move = sql.SQL("INSERT INTO {} ({}) SELECT {} FROM {}{}").format(into, names, names, rows, conflict)

    async def insert(self, connection: Any, rows: Sequence[Sequence[Any]]) -> None:
        """Insert rows in one transaction, in their order; raises what the client does."""
        import psycopg

        if self._may_copy and len(rows) >= (_COPIED_ROWS if self._has_key else _COPIED_ALONE):
            try:
                await self._copy_in(connection, rows)
                return
            except psycopg.Error as error:
                if error.sqlstate not in _NOT_COPIED:
                    raise
                self._may_copy = False
                _REPEATED.info(self._table, "rows of table %s are inserted one by one: COPY: %s", self._table, error)
        async with connection.transaction(), connection.cursor() as cursor:
            await cursor.executemany(self._one, rows)

    async def _copy_in(self, connection: Any, rows: Sequence[Sequence[Any]]) -> None:
        async with connection.transaction(), connection.cursor() as cursor:
            if self._has_key:
                await cursor.execute(self._make)
            async with cursor.copy(self._copy) as copy:
                for row in rows:
                    await copy.write_row(row)
            if self._has_key:
                await cursor.execute(self._move)
