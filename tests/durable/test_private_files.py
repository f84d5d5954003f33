"""Files that hold events can be read by their user alone."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from polku import BufferStrategy, Hub, RejectedError, new_event
from polku.buffer.journal import Journal
from polku.dead_letters.store import DeadLetterStore
from polku.errors import JournalError


@pytest.fixture(autouse=True)
def open_umask() -> Iterator[None]:
    before = os.umask(0o000)
    yield
    os.umask(before)


def modes(folder: Path) -> dict[str, str]:
    return {path.name: f"{path.stat().st_mode & 0o777:o}" for path in sorted(folder.iterdir()) if path.is_file()}


def test_a_journal_its_lock_and_its_dead_letters(tmp_path: Path) -> None:
    def refuse(batch: object) -> None:
        raise RejectedError("never")

    hub = (
        Hub(runtime="inline").buffer_strategy(BufferStrategy.durable(tmp_path / "events.db")).emitter(refuse, name="no")
    )
    with hub.start(admin_addr="off") as pipeline:
        assert pipeline.sender().send(new_event("x", source="s")).ok
        found = modes(tmp_path)
    found |= modes(tmp_path)
    assert {"events.db", "events.db-wal", "events.db.lock", "events.db.dead"} <= set(found)
    assert {name: mode for name, mode in found.items() if mode != "600"} == {}


def test_what_is_there_keeps_its_permissions(tmp_path: Path) -> None:
    path = tmp_path / "events.db"
    Journal(path).close()
    path.chmod(0o640)
    Journal(path).close()
    DeadLetterStore(tmp_path / "dead.db").close()
    assert modes(tmp_path) == {"dead.db": "600", "events.db": "640", "events.db.lock": "600"}


def test_a_lock_that_is_a_link_of_somebody_else_is_not_followed(tmp_path: Path) -> None:
    target = tmp_path / "other"
    (tmp_path / "events.db.lock").symlink_to(target)
    with pytest.raises(JournalError, match="symbolic links"):
        Journal(tmp_path / "events.db")
    assert not target.exists()
