"""Room is set aside on the disk, and given up."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from polku.buffer.reserve import SIZE, Reserve
from polku.errors import JournalError


@pytest.mark.parametrize("portable", [False, True])
def test_the_room_is_there_until_it_is_given_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, portable: bool
) -> None:
    if portable:
        monkeypatch.delattr(os, "posix_fallocate")
    file = tmp_path / "journal.db.reserve"
    for _ in range(2):
        reserve = Reserve(tmp_path / "journal.db")
        reserve.take()
        assert file.stat().st_size == SIZE
        assert file.stat().st_blocks * 512 >= SIZE
    reserve.give_up()
    assert not file.exists()
    reserve.take()
    assert file.exists()


def test_a_folder_that_is_not_there_is_said_so(tmp_path: Path) -> None:
    with pytest.raises(JournalError, match="No such file or directory"):
        Reserve(tmp_path / "nowhere" / "journal.db").take()
