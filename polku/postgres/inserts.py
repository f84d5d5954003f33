"""How rows get into a table: few by one INSERT of all, many by COPY, which is faster then.

With a key, COPY fills a temporary table, from which an INSERT takes the rows that are not there yet. Measured on a
PostgreSQL 15 of the same machine, against an INSERT for each row in one transaction: one INSERT of 10 rows has 2.0
times their rate, of 50 1.4 and of 200 1.0; COPY with a key 0.7 at 10 rows, 1.1 at 50, 1.3 at 200 and 2.4 at 1,000,
without a key 1.2, 1.6, 2.7 and 4.1.
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Sequence
from typing import Any

from polku.log import RepeatedLog

_COPIED_ROWS = 150  # from which on COPY takes the rows, by way of a temporary table
_COPIED_ALONE = 50  # where they go into the table itself
_TOGETHER_ROWS = 150  # up to which one INSERT takes them
_VALUES = 65_535  # that a statement may have (PostgreSQL's protocol has two bytes for their number)
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
        self._columns = len(columns)
        self._into = sql.SQL("INSERT INTO {} ({}) VALUES ").format(into, names)
        self._row, self._conflict = sql.SQL("({})").format(values), conflict
        self._together: dict[int, Any] = {}
        self._make = sql.SQL(
            "CREATE TEMPORARY TABLE IF NOT EXISTS {} ON COMMIT DELETE ROWS AS SELECT {} FROM {} WITH NO DATA"
        ).format(temporary, names, into)
        self._copy = sql.SQL("COPY {} ({}) FROM STDIN").format(rows, names)
        self._move = sql.SQL("INSERT INTO {} ({}) SELECT {} FROM {}{}").format(into, names, names, rows, conflict)

    async def insert(self, connection: Any, rows: Sequence[Sequence[Any]]) -> None:
        """Insert rows in one transaction, in their order, on a connection that commits each statement by itself.

        Raises what the client does.
        """
        import psycopg

        if self._may_copy and len(rows) >= (_COPIED_ROWS if self._has_key else _COPIED_ALONE):
            try:
                await self._copy_in(connection, rows)
                return
            except psycopg.Error as error:
                if error.sqlstate not in _NOT_COPIED:
                    raise
                self._may_copy = False
                _REPEATED.info(self._table, "rows of table %s are inserted without COPY: %s", self._table, error)
        if len(rows) <= _TOGETHER_ROWS and len(rows) * self._columns <= _VALUES:
            values = [value for row in rows for value in row]
            await connection.execute(self._insert_of(len(rows)), values)  # by itself it is a transaction
            return
        async with connection.transaction(), connection.cursor() as cursor:
            await cursor.executemany(self._insert_of(1), rows)

    def _insert_of(self, rows: int) -> Any:
        """Return the statement that inserts a number of rows."""
        from psycopg import sql

        statement = self._together.get(rows)
        if statement is None:
            statement = self._into + sql.SQL(", ").join([self._row] * rows) + self._conflict
            self._together[rows] = statement
        return statement

    async def _copy_in(self, connection: Any, rows: Sequence[Sequence[Any]]) -> None:
        async with connection.transaction(), connection.cursor() as cursor:
            if self._has_key:
                await cursor.execute(self._make)
            async with cursor.copy(self._copy) as copy:
                for row in rows:
                    await copy.write_row(row)
            if self._has_key:
                await cursor.execute(self._move)
