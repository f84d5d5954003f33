"""Which file is which while names change, files are truncated, and copies come and go; time is a number here."""

from __future__ import annotations

import os
import shutil
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from polku.files.folder import IDLE_SECONDS, Folder
from polku.files.followed import Flight, FollowedFile
from polku.files.lines import Grouper, LineSplitter
from polku.files.offsets import Entry

STREAM: Any = None  # what is read here is handed to nobody
LONG = "a beginning that is longer than what a file is known by " * 30


class Reader:
    """Follow a folder, as a source does: `read` looks once, and returns what is new."""

    def __init__(
        self, folder: Path, pattern: str = "app.log", *, entries: Sequence[Entry] = (), **options: Any
    ) -> None:
        def make(entry: Entry) -> FollowedFile:
            return FollowedFile(entry, partial(LineSplitter, 10_000), Grouper(None, 10_000), STREAM)

        options = {"from_end": False, "rotate_seconds": 10.0, **options}
        self.folder = Folder([str(folder / pattern)], ["*.gz"], make, **options)
        self.folder.begin(entries)
        self.now = 0.0
        self.ids: list[str] = []

    def read(self, after: float = 1.0) -> list[str]:
        self.now += after
        self.folder.scan(self.now)
        return self.read_on()

    def read_on(self) -> list[str]:
        """Read without a look at names."""
        lines: list[str] = []
        while news := self.folder.news(self.now, 1.0):
            for file in news:
                chunk = self.folder.read(file, self.now)
                lines += [record.content.decode() for record in chunk.records]
                self.ids += [f"{file.id}-{record.start}-{record.end}" for record in chunk.records]
                flight = Flight(chunk.reached)
                file.handed_in(chunk.reached, flight)
                file.settle(flight)
            self.folder.forget_done()
        return lines

    def entries(self) -> list[Entry]:
        return [file.entry() for file in self.folder.files]


@pytest.fixture
def log(tmp_path: Path) -> Path:
    return tmp_path / "app.log"


def append(path: Path, *lines: str) -> None:
    with path.open("a") as file:
        file.writelines(f"{line}\n" for line in lines)


def copy_and_truncate(path: Path, copy: Path) -> None:
    shutil.copyfile(path, copy)
    os.truncate(path, 0)


def test_lines_come_once_and_a_line_comes_whole(log: Path) -> None:
    reader = Reader(log.parent)
    assert reader.read() == []
    append(log, "one", "two")
    assert reader.read() == ["one", "two"]
    with log.open("a") as file:
        file.write("thr")
        file.flush()
        assert reader.read() == []
        file.write("ee\n")
    assert reader.read() == ["three"]
    assert reader.read() == []
    assert len(set(reader.ids)) == 3


def test_a_file_that_is_renamed_is_read_to_its_end_before_the_one_in_its_place(log: Path) -> None:
    reader = Reader(log.parent)
    append(log, "one")
    assert reader.read() == ["one"]
    append(log, "two")
    with log.open("a") as writer:
        log.rename(log.parent / "app.log.1")
        append(log, "four")
        assert reader.read() == ["two", "four"]
        writer.write("three, by a program that still has the old file\n")
        writer.flush()
        assert reader.read() == ["three, by a program that still has the old file"]
    with (log.parent / "app.log.1").open("a") as writer:
        writer.write("no line break at the end")
    assert reader.read() == []
    assert reader.read(11.0) == ["no line break at the end"]
    assert len(reader.folder.files) == 1


def test_a_file_that_is_deleted_is_read_to_its_end(log: Path) -> None:
    reader = Reader(log.parent)
    append(log, "one")
    reader.read()
    append(log, "two")
    log.unlink()
    assert reader.read() == ["two"]
    assert reader.read(11.0) == []
    assert reader.folder.files == []


@pytest.mark.parametrize("pattern", ["app.log", "app.log*"])
def test_what_was_written_before_a_rotation_while_nobody_looked_is_read(log: Path, pattern: str) -> None:
    before = Reader(log.parent, pattern)
    append(log, "one")
    assert before.read() == ["one"]
    append(log, "two")
    log.rename(log.parent / "app.log.1")
    append(log, "three")
    after = Reader(log.parent, pattern, entries=before.entries())
    assert sorted(after.read()) == ["three", "two"]
    assert after.read() == []


@pytest.mark.parametrize("pattern", ["app.log", "app.log*"])
@pytest.mark.parametrize("beginning", ["", LONG])
@pytest.mark.parametrize("restart", [False, True])
def test_what_was_not_read_before_a_truncation_is_read_from_the_copy(
    log: Path, pattern: str, beginning: str, restart: bool
) -> None:
    reader = Reader(log.parent, pattern)
    append(log, f"{beginning}one", "two")
    assert reader.read() == [f"{beginning}one", "two"]
    append(log, "three")
    copy_and_truncate(log, log.parent / "app.log.1")
    append(log, f"{beginning}four")
    if restart:
        reader = Reader(log.parent, pattern, entries=reader.entries())
    got = reader.read() + reader.read()
    assert sorted(got) == sorted(["three", f"{beginning}four"])
    assert reader.read(20.0) == []
    assert reader.folder.counts.truncated == 1
    assert reader.folder.counts.lost_bytes == 0


def test_a_file_that_grew_beyond_the_old_end_after_a_truncation_is_seen_to_be_new(log: Path) -> None:
    reader = Reader(log.parent)
    append(log, "one")
    assert reader.read() == ["one"]
    os.truncate(log, 0)
    append(log, "a longer line", "and others")
    assert reader.read() == ["a longer line", "and others"]


def test_a_copy_in_the_pattern_is_not_read_again_while_it_is_made(log: Path) -> None:
    reader = Reader(log.parent, "app.log*")
    append(log, *(f"line {number}" for number in range(500)))
    assert len(reader.read()) == 500
    content = log.read_bytes()
    copy = log.parent / "app.log.1"
    for part in (b"", content[:100], content[:2_000], content):
        copy.write_bytes(part)
        assert reader.read() == []
    os.truncate(log, 0)
    append(log, "after")
    assert reader.read() == ["after"]
    assert [reader.read(20.0) for _ in range(3)] == [[], [], []]


def test_a_copy_of_an_idle_file_is_not_read_again(log: Path) -> None:
    reader = Reader(log.parent, "app.log*")
    append(log, "one")
    assert reader.read() == ["one"]
    assert reader.read(IDLE_SECONDS + 1) == []
    assert not reader.folder.files[0].is_open
    shutil.copyfile(log, log.parent / "app.log.1")
    assert reader.read() == []
    os.truncate(log, 0)
    assert [reader.read(20.0) for _ in range(3)] == [[], [], []]


def test_a_file_that_only_looks_like_a_copy_is_read_in_the_end(log: Path) -> None:
    reader = Reader(log.parent, "app.log*")
    append(log, "the same")
    assert reader.read() == ["the same"]
    append(log.parent / "app.log.other", "the same")
    assert reader.read() == []
    assert reader.read(11.0) == ["the same"]
    append(log.parent / "app.log.third", "the same", "and more")
    append(log, "something else")
    assert reader.read() == ["something else"]
    assert reader.read() == ["the same", "and more"], "what it is a copy of has gone on otherwise"


def test_another_file_that_got_the_inode_is_read_from_its_beginning(log: Path) -> None:
    append(log, "one", "two", "three")
    before = Reader(log.parent)
    assert len(before.read()) == 3
    (entry,) = before.entries()
    log.unlink()
    append(log, "new one", "new two", "new three", "new four")
    status = log.stat()
    reused = entry._replace(device=status.st_dev, inode=status.st_ino)
    after = Reader(log.parent, entries=[reused])
    assert after.read() == ["new one", "new two", "new three", "new four"]
    assert after.folder.files[-1].id != entry.id


def test_an_inode_that_some_file_got_that_no_pattern_leads_to_is_not_read(log: Path) -> None:
    append(log, "one", "two")
    before = Reader(log.parent)
    before.read()
    (entry,) = before.entries()
    log.unlink()
    other = log.parent / "private.txt"
    append(other, "nobody asked for this")
    status = other.stat()
    after = Reader(log.parent, entries=[entry._replace(device=status.st_dev, inode=status.st_ino, size=100)])
    assert after.read() == []
    assert after.read(11.0) == []
    assert after.folder.files == []
    assert after.folder.counts.lost_bytes == 92, "what is known to be gone is counted"


def test_a_device_may_have_another_number_after_a_start_of_the_machine(log: Path) -> None:
    append(log, "one")
    before = Reader(log.parent)
    before.read()
    append(log, "two")
    after = Reader(log.parent, entries=[entry._replace(device=entry.device + 1) for entry in before.entries()])
    assert after.read() == ["two"]


def test_what_is_there_at_the_first_look_can_be_left_out(log: Path) -> None:
    append(log, "old")
    reader = Reader(log.parent, "*.log", from_end=True)
    assert reader.read() == []
    append(log, "new")
    append(log.parent / "other.log", "all of it")
    assert sorted(reader.read()) == ["all of it", "new"]


def test_files_of_other_kinds_and_those_that_are_excluded_are_left_out(log: Path) -> None:
    os.mkfifo(log.parent / "pipe.log")
    (log.parent / "folder.log").mkdir()
    append(log.parent / "old.log.gz", "compressed")
    append(log, "one")
    (log.parent / "link.log").symlink_to(log)
    assert Reader(log.parent, "*.log*").read() == ["one"]


def test_a_file_that_cannot_be_read_is_named_and_others_go_on(log: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    append(log, "one")
    append(log.parent / "zzz.log", "two")
    original = os.open

    def refusing(path: Any, *arguments: Any) -> int:
        if str(path) == str(log):
            raise PermissionError(13, "Permission denied")
        return original(path, *arguments)

    monkeypatch.setattr(os, "open", refusing)
    reader = Reader(log.parent, "*.log")
    assert reader.read() == ["two"]
    assert reader.folder.faults == {str(log): f"{log}: Permission denied"}
    monkeypatch.setattr(os, "open", original)
    assert reader.read() == ["one"]
    assert reader.folder.faults == {}
