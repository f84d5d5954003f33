"""Paths and disks that can never have a journal are refused at the start, and whatever is there stays as it is."""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Callable
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest

from polku import BufferStrategy, Hub
from polku.buffer import place
from polku.buffer.journal import Journal
from polku.buffer.place import check_place
from polku.buffer.repair import mend, salvage
from polku.dead_letters.store import DeadLetterStore
from polku.disk import mount_of
from polku.errors import JournalError, JournalPathError
from polku.runtime.assembly import build_dead_letters
from tests.buffer.durable import durable
from tests.buffer.journals import write_sample
from tests.buffer.parts import Destination


def text(path: Path) -> None:
    path.write_text("notes that matter to somebody\n" * 1_000)


def short_text(path: Path) -> None:
    path.write_text("x")


def database(path: Path) -> None:
    with closing(sqlite3.connect(path)) as db:
        db.executescript("CREATE TABLE users(name); INSERT INTO users VALUES('somebody'); PRAGMA user_version=1;")


def damaged_database(path: Path) -> None:
    database(path)
    with path.open("r+b") as file:
        file.seek(100)
        file.write(os.urandom(400))


def database_of_a_program(path: Path) -> None:
    with closing(sqlite3.connect(path)) as db:
        db.executescript("CREATE TABLE users(name); PRAGMA application_id=77;")


def dead_letters(path: Path) -> None:
    DeadLetterStore(path).close()


FILES = [text, short_text, database, damaged_database, database_of_a_program, dead_letters]


@pytest.mark.parametrize("make", FILES)
async def test_a_file_of_somebody_else_stops_the_start_and_is_left_alone(
    make: Callable[[Path], None], tmp_path: Path
) -> None:
    path = tmp_path / "journal.db"
    make(path)
    before, names = path.read_bytes(), set(os.listdir(tmp_path))
    for _ in range(2):  # the first one leaves nothing that the second one could be misled by
        with pytest.raises(JournalPathError, match="not a journal"):
            async with durable(path, {"a": Destination()}):
                pass
        for call in (Journal, salvage, mend):
            with pytest.raises(JournalError):
                call(path)
        assert path.read_bytes() == before
    assert set(os.listdir(tmp_path)) == names


@pytest.mark.parametrize(
    ("path", "reason"),
    [
        ("/dev/null/x", "/dev/null is no folder; choose another path"),
        ("/dev/null/deep/er/journal.db", "/dev/null is no folder; choose another path"),
        ("/dev/null", "is no ordinary file; choose another path"),
        ("/", "is a folder; choose another path"),
        (f"/tmp/{'x' * 300}", "File name too long; choose another path"),
    ],
)
async def test_a_path_that_can_never_be_a_journal_stops_the_start(path: str, reason: str) -> None:
    with pytest.raises(JournalPathError) as caught:
        async with durable(Path("x"), {"a": Destination()}, strategy=_strategy(path)):
            pass
    assert str(caught.value) == f"journal {path}: {reason}"


@pytest.mark.parametrize("make", [text, short_text, database_of_a_program, write_sample])
def test_dead_letters_are_not_put_into_a_file_of_somebody_else(make: object, tmp_path: Path) -> None:
    path = tmp_path / "letters.db"
    make(path)  # type: ignore[operator]
    before = path.read_bytes()
    with pytest.raises(JournalPathError, match="is not a file of dead letters, and was left as it is"):
        build_dead_letters(Hub().emitter(print).dead_letters(path).plan("inline"))
    with pytest.raises(JournalPathError, match="/dev/null is no folder"):
        build_dead_letters(Hub().emitter(print).dead_letters("/dev/null/x").plan("inline"))
    assert path.read_bytes() == before


async def test_dead_letters_go_on_in_their_own_file(tmp_path: Path) -> None:
    dead_letters(tmp_path / "letters.db")
    for name in ("letters.db", "new.db"):
        letters = build_dead_letters(Hub().emitter(print).dead_letters(tmp_path / name).plan("inline"))
        assert await letters.stored() == []
        await letters.close()


def _strategy(path: str) -> BufferStrategy:
    return replace(BufferStrategy.durable("/tmp/journal.db"), path=path)


def test_a_link_that_leads_to_itself_can_never_be_a_journal(tmp_path: Path) -> None:
    (tmp_path / "journal.db").symlink_to(tmp_path / "journal.db")
    with pytest.raises(JournalPathError, match="symbolic links"):
        check_place(tmp_path / "journal.db")


def test_what_may_pass_is_no_reason(tmp_path: Path) -> None:
    check_place(tmp_path / "not" / "yet" / "there" / "journal.db")
    (tmp_path / "empty.db").touch()
    check_place(tmp_path / "empty.db")


@pytest.mark.parametrize("evidence", [".lock", ".reserve"])
def test_a_journal_whose_first_page_is_gone_is_known_by_what_stands_beside_it(tmp_path: Path, evidence: str) -> None:
    path = tmp_path / "journal.db"
    write_sample(path, rows=50)
    path.write_bytes(os.urandom(100_000))
    if evidence != ".lock":
        Path(f"{path}.lock").unlink()
        with pytest.raises(JournalPathError):
            check_place(path)
        Path(f"{path}{evidence}").touch()
    check_place(path)
    assert Path(salvage(path).old).stat().st_size == 100_000


MOUNTS = r"""22 28 0:21 / /proc rw - proc proc rw
28 1 254:0 / / rw,relatime shared:1 - ext4 /dev/vda rw
30 28 0:40 / /srv/data rw - nfs4 server:/data rw
31 28 0:41 / /srv/data\040two rw - cifs //server/two rw
32 30 0:42 / /srv/data/local rw shared:2 master:3 - xfs /dev/vdb rw
33 28 254:0 /x/j.db /app/j.db rw - ext4 /dev/vda rw
34 28 0:43 / /run rw - tmpfs tmpfs rw
35 28 0:44 / /host rw - fuse.sshfs me@host:/ rw
36 28 0:45 / /shared rw - virtiofs shared rw
"""


@pytest.mark.parametrize(
    ("path", "mount", "kind"),
    [
        ("/srv/data/journal.db", "/srv/data", "nfs4"),
        ("/srv/data two/x/journal.db", "/srv/data two", "cifs"),
        ("/srv/database/journal.db", "/", "ext4"),
        ("/srv/data/local/journal.db", "/srv/data/local", "xfs"),
        ("/app/j.db", "/app/j.db", "ext4"),
    ],
)
def test_the_mount_that_a_path_lies_on_is_found(path: str, mount: str, kind: str, tmp_path: Path) -> None:
    table = tmp_path / "mountinfo"
    table.write_text(MOUNTS)
    assert mount_of(Path(path), table) == (Path(mount), kind)
    assert mount_of(Path(path), tmp_path / "missing") == (Path("/"), "")


@pytest.fixture
def mounted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    table = tmp_path / "mountinfo"
    table.write_text(MOUNTS)
    monkeypatch.setattr(place, "mount_of", lambda path: mount_of(path, table))


@pytest.mark.parametrize("path", ["/srv/data/journal.db", "/srv/data two/journal.db", "/host/journal.db"])
def test_disks_over_the_network_are_refused(path: str, mounted: None) -> None:
    with pytest.raises(JournalPathError, match=r"over the network, .* use a disk of this machine"):
        check_place(Path(path))


def test_a_file_that_is_mounted_alone_is_refused(mounted: None) -> None:
    with pytest.raises(JournalPathError, match="mount its folder"):
        check_place(Path("/app/j.db"))


@pytest.mark.parametrize(
    ("kind", "warning"),
    [("tmpfs", "in memory"), ("virtiofs", "hosts may share"), ("fuse.x", "hosts may share"), ("xfs", "")],
)
async def test_disks_that_protect_from_less_are_named_at_the_start(
    kind: str, warning: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(place, "mount_of", lambda path: (Path("/"), kind))
    async with durable(tmp_path / "journal.db", {"a": Destination()}):
        assert warning in caplog.text
        assert bool(caplog.records) == bool(warning)


async def test_a_journal_with_several_names_is_named_at_the_start(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    Journal(tmp_path / "journal.db").close()
    (tmp_path / "alias.db").hardlink_to(tmp_path / "journal.db")
    async with durable(tmp_path / "journal.db", {"a": Destination()}):
        assert "has 2 names (hard links)" in caplog.text
