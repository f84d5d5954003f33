"""Let an outlet of a journal take another one's place: an emitter that has a new name goes on where it was."""

from __future__ import annotations

import json
import sqlite3
from typing import NamedTuple

_COLUMNS = "events, size, origin, epoch, seq, routes, enqueued_ns, trace, payload"


class OutletPlace(NamedTuple):
    """An outlet as it stands in the journal: its bit in the set of takers, and its cursor."""

    bit: int
    cursor: int


def take_place(db: sqlite3.Connection, old: str, new: str) -> None:
    """Give all that waits for the outlet `old`, which goes, to the outlet `new`; in a transaction of the caller.

    Where there is no `new` yet it has the cursor of `old`. Else it goes back to the earlier cursor of the two, and what
    it has passed beyond that goes to it no more: what waits for one of them waits for it once, in the order of the log.
    """
    old_place, new_place = _place(db, old), _place(db, new)
    if old_place is None:
        return
    if new_place is None:
        db.execute("UPDATE outlet SET name=? WHERE name=?", (new, old))
    else:
        _merge(db, old_place, new_place)
        db.execute("DELETE FROM outlet WHERE name=?", (old,))
        db.execute("UPDATE outlet SET cursor=min(cursor, ?) WHERE name=?", (old_place.cursor, new))
    _rename_in_answers(db, old, new)


def change_takers(db: sqlite3.Connection, to: str) -> None:
    """Give all batches other takers, an expression, and a new seal; those that are damaged stay so."""
    db.execute(
        f"UPDATE batch SET takers={to}, seal=seal(position, {to}, {_COLUMNS}) "
        f"WHERE takers<>{to} AND seal=seal(position, takers, {_COLUMNS})"
    )


def _place(db: sqlite3.Connection, name: str) -> OutletPlace | None:
    row = db.execute("SELECT bit, cursor FROM outlet WHERE name=?", (name,)).fetchone()
    return None if row is None else OutletPlace(*row)


def _merge(db: sqlite3.Connection, old: OutletPlace, new: OutletPlace) -> None:
    masks = [(1 << place.bit, place.cursor) for place in (old, new)]
    waits = " OR ".join(f"(takers & {mask} AND position > {cursor})" for mask, cursor in masks)
    (old_mask, _), (new_mask, _) = masks
    change_takers(db, f"((takers & {~(old_mask | new_mask)}) | CASE WHEN {waits} THEN {new_mask} ELSE 0 END)")


def _rename_in_answers(db: sqlite3.Connection, old: str, new: str) -> None:
    """Rename the outlet where an answer says how far each was with a batch that was taken in part."""
    query = "SELECT origin, epoch, seq, pieces FROM answered WHERE pieces<>''"
    for *key, text in db.execute(query).fetchall():
        pieces, taken = json.loads(text)
        if taken is None or old not in taken:
            continue
        count = taken.pop(old)
        taken[new] = min(count, taken.get(new, count))
        changed = json.dumps([pieces, taken])
        db.execute("UPDATE answered SET pieces=? WHERE origin=? AND epoch=? AND seq=?", (changed, *key))
