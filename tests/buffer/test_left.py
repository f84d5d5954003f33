"""Events in the journal of a lane that is no more are not forgotten silently."""

from __future__ import annotations

from pathlib import Path

import pytest

from polku.buffer.left import check_left
from polku.buffer.lock import FileLock
from polku.errors import JournalError
from tests.buffer.durable import batch_of, durable
from tests.buffer.parts import Destination


async def test_a_journal_that_nobody_opens_any_more_is_named_unless_somebody_has_it_open(tmp_path: Path) -> None:
    path, left = tmp_path / "journal.db", tmp_path / "journal.db.lane-2"
    async with durable(left, {"a": Destination(is_open=False)}) as bench:
        await bench.push(batch_of("1"))
        check_left(str(path), 1)
    check_left(str(path), 2)
    for _ in range(2):
        with pytest.raises(JournalError, match=r"holds 1 events of lane 2, .*run with lanes\(2\)"):
            check_left(str(path), 1)
    FileLock(left).release()  # the look has not kept it
