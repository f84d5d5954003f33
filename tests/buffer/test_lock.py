"""One process at a time writes a journal, by whatever name it opens it, and on whichever host it is."""

from __future__ import annotations

import contextlib
import os
import sqlite3
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from polku.buffer.journal import Journal
from polku.buffer.journal_reader import JournalReader
from polku.buffer.journal_rows import Transaction
from polku.buffer.lock import FileLock, holder, was_journal
from polku.buffer.owner import current, new_owner, take
from polku.buffer.repair import mend, salvage
from polku.codes import Code
from polku.errors import JournalLockedError
from tests.buffer.durable import batch_of, durable, soon
from tests.buffer.journals import opened, row
from tests.buffer.parts import Destination


def symbolic(path: Path, name: Path) -> None:
    name.symlink_to(path)


def hard(path: Path, name: Path) -> None:
    name.hardlink_to(path)


LINKS = pytest.mark.parametrize("link", [symbolic, hard])
Link = Callable[[Path, Path], None]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "journal.db"


@pytest.fixture
def name(tmp_path: Path) -> Path:
    (tmp_path / "elsewhere").mkdir()
    return tmp_path / "elsewhere" / "alias.db"


def open_elsewhere(path: Path) -> str:
    """Try to open a journal in a process of its own; return what it is told."""
    code = (
        "import sys\nfrom polku.buffer.journal import Journal\nfrom polku.errors import JournalError\n"
        "try:\n    Journal(sys.argv[1]).close()\n    print('opened')\nexcept JournalError as error:\n    print(error)"
    )
    return subprocess.run([sys.executable, "-c", code, str(path)], capture_output=True, text=True, check=True).stdout


def locks_of_sqlite(path: Path) -> list[str]:
    inode = f":{path.stat().st_ino} "
    lines = [line.partition(": ")[2] for line in Path("/proc/locks").read_text().splitlines()]  # numbers move
    return sorted(line for line in lines if line.startswith("POSIX") and inode in line)


def opened_in(folder: Path) -> list[str]:
    """Return the files of a folder that this process has open, one for each descriptor."""
    found = []
    for number in os.listdir("/proc/self/fd"):
        with contextlib.suppress(FileNotFoundError):  # that of the listing itself, or one of another thread
            found.append(os.readlink(f"/proc/self/fd/{number}"))
    return sorted(file for file in found if file.startswith(f"{folder}/"))


@LINKS
def test_another_name_of_an_open_journal_is_refused_and_both_names_are_told(path: Path, name: Path, link: Link) -> None:
    with opened(path, "a"):
        link(path, name)
        with pytest.raises(JournalLockedError, match="which is the same file") as caught:
            Journal(name)
        assert (caught.value.path, caught.value.other, caught.value.pid) == (str(name), str(path), str(os.getpid()))
        told = open_elsewhere(name)
        assert f"journal {name}: process {os.getpid()} has it open as {path}, which is the same file" in told
        for tool in (salvage, mend):
            with pytest.raises(JournalLockedError):
                tool(name)
    assert open_elsewhere(name) == "opened\n"


@LINKS
async def test_a_journal_that_a_buffer_opened_by_a_link_is_refused_under_its_own_name(
    path: Path, name: Path, link: Link
) -> None:
    Journal(path).close()
    link(path, name)
    a = Destination()
    async with durable(name, {"a": a}) as bench:
        assert f"has it open as {name}" in open_elsewhere(path)
        await bench.push(batch_of("1"))
        await bench.buffer.drain()
    assert a.ids == ["1"]
    async with durable(path, {"a": a}):
        pass


def test_the_files_of_a_journal_that_is_a_link_stand_beside_the_file_that_it_leads_to(path: Path, name: Path) -> None:
    symbolic(path, name)  # which leads nowhere yet
    with opened(name, "a") as journal:
        journal.write(Transaction([row(1, "a")]))
        assert holder(name) == holder(path) == str(os.getpid())
        assert journal.statistics().file_bytes > 0
    old = Path(salvage(name).old)
    assert old.parent == path.parent
    assert name.is_symlink()
    assert [file.name for file in name.parent.iterdir()] == [name.name]


@LINKS
def test_who_is_refused_takes_no_lock_of_sqlite_from_those_who_are_not(path: Path, name: Path, link: Link) -> None:
    """Any descriptor of the file that is closed would: then another process could delete the log that is in use."""
    with opened(path, "a") as journal:
        link(path, name)
        before = locks_of_sqlite(path)
        assert before
        with pytest.raises(JournalLockedError):
            Journal(name)
        reader = JournalReader(path)
        reader.close()
        holder(name)
        assert locks_of_sqlite(path) == before
        journal.write(Transaction([row(1, "a")]))
        outside = f"import sqlite3; sqlite3.connect({str(path)!r}).execute('SELECT count(*) FROM batch').fetchall()"
        subprocess.run([sys.executable, "-c", outside], check=True)
        assert Path(f"{path}-wal").stat().st_size > 0
    descriptors = opened_in(path.parent)
    with opened(path, "a"), pytest.raises(JournalLockedError):
        Journal(name)
    assert opened_in(path.parent) == descriptors, "what was kept open meanwhile is closed"


def test_a_reader_of_this_process_keeps_its_locks_when_a_writer_goes(path: Path) -> None:
    with opened(path, "a"):
        reader = JournalReader(path)
        reader.statistics()
    assert locks_of_sqlite(path)
    reader.close()
    assert not locks_of_sqlite(path)
    assert open_elsewhere(path) == "opened\n"


def test_a_file_that_takes_the_place_of_another_is_locked_too(path: Path, name: Path) -> None:
    path.write_bytes(b"")
    lock = FileLock(path)
    name.write_bytes(b"")
    name.rename(path)
    hard(path, name)
    lock.hold_file()
    with pytest.raises(JournalLockedError, match="which is the same file"):
        FileLock(name)
    lock.release()
    FileLock(name).release()


def test_it_is_remembered_that_there_was_a_journal(path: Path) -> None:
    lock = FileLock(path)
    lock.release()
    assert not was_journal(path)
    Journal(path).close()
    assert was_journal(path)
    FileLock(path).release()
    assert was_journal(path)
    assert not was_journal(path.parent / "another")


def take_over(path: Path, host: str = "host-b") -> None:
    """Take a journal over as a process on another host does, whose locks nobody sees here."""
    with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as db:
        take(db, new_owner(path)._replace(host=host, pid=4711))


def test_a_writer_whose_journal_was_taken_over_writes_nothing_more(path: Path) -> None:
    with opened(path, "a") as journal:
        journal.write(Transaction([row(1, "a")]))
        take_over(path)
        for work in (
            lambda: journal.write(Transaction([row(2, "a")])),
            lambda: journal.write(Transaction((), (), {"a": 1})),
            lambda: journal.write(Transaction([row(position, "a") for position in range(2, 500)])),
            lambda: journal.register(["b"]),
            lambda: journal.forget("a"),
            journal.probe,
        ):
            with pytest.raises(JournalLockedError, match="process 4711 on host-b has taken it over"):
                work()
        assert [slot.position for slot in journal.slots("a", 0, 900, 900)] == [1]
        assert journal.cursors() == [("a", 0, 0)]
    with contextlib.closing(sqlite3.connect(path)) as db:
        owner = current(db)
        assert owner is not None
        assert owner.host == "host-b", "who was shut out does not take the other one out"


def test_who_closes_a_journal_leaves_no_owner_and_who_is_killed_is_told_of(
    path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with opened(path, "a") as journal:
        owner = journal.owner()
        assert owner is not None
        assert (owner.pid, owner.path) == (os.getpid(), str(path))
    with opened(path, "a"):
        assert not caplog.records
    take_over(path)
    with opened(path, "a"):
        assert "is taken over from process 4711 on host-b" in caplog.text


async def test_a_buffer_whose_journal_was_taken_over_acknowledges_nothing_more(path: Path) -> None:
    a = Destination()
    async with durable(path, {"a": a}) as bench:
        assert (await bench.push(batch_of("1"))).refused == ()
        take_over(path)
        for event_id in ("2", "3"):
            (refusal,) = (await bench.push(batch_of(event_id))).refused
            assert refusal.code == Code.BUFFER_FULL
            assert "process 4711 on host-b has taken it over" in refusal.message
        assert "host-b" in bench.buffer.statistics().fault
        with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as db:
            db.execute("DELETE FROM owner")  # the other one ends: what it did is not known here
        assert len((await bench.push(batch_of("4"))).refused) == 1
        assert bench.buffer.statistics().outlets["a"].lag == 0
    assert a.ids == ["1"]


async def test_a_takeover_is_noticed_without_anybody_sending(path: Path) -> None:
    a = Destination(is_open=False)
    async with durable(path, {"a": a}) as bench:
        await bench.push(batch_of("1"))
        take_over(path)
        a.gate.set()  # its cursor is to be written
        await soon(lambda: "host-b" in bench.buffer.statistics().fault)
