"""What was made is there after a loss of power: every folder that got a new name was synced after it got it."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from polku import BufferStrategy
from polku.buffer.buffer import Buffer
from polku.buffer.journal import Journal
from polku.buffer.repair import salvage
from polku.buffer.reserve import Reserve
from polku.dead_letters import DeadLetters
from polku.dead_letters.store import DeadLetterStore
from polku.disk import make_folder, sync_file, sync_folders
from polku.emit.s3.objects import Objects


class Disk:
    """Watch what is synced; each folder is kept with the names that it had then."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.names: dict[Path, set[str]] = {}
        self.files: set[Path] = set()
        self._fsync = os.fsync

    def fsync(self, descriptor: int) -> None:
        path = Path(os.readlink(f"/proc/self/fd/{descriptor}"))
        if path.is_dir():
            self.names[path] = set(os.listdir(path))
        else:
            self.files.add(path)
        self._fsync(descriptor)

    def lost(self) -> set[str]:
        """Return what a loss of power now could take the name of."""
        found = [self.root, *self.root.rglob("*")]
        return {str(p) for p in found if p.name not in self.names.get(p.parent, set()) and not _passes(p)}


def _passes(path: Path) -> bool:
    """Return whether a file is made again by whoever needs it."""
    return path.name.endswith(("-shm", "-wal"))


@pytest.fixture
def disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Disk:
    disk = Disk(tmp_path / "new")
    monkeypatch.setattr(os, "fsync", disk.fsync)
    return disk


def test_a_folder_that_was_there_but_not_yet_on_disk_is_brought_there(disk: Disk) -> None:
    folder = disk.root / "a" / "b"
    folder.mkdir(parents=True)  # by a process that was killed then
    assert disk.lost()
    make_folder(folder)
    assert not disk.lost()


def test_only_what_may_be_new_is_synced(disk: Disk) -> None:
    make_folder(disk.root / "a" / "b")
    disk.names.clear()
    (disk.root / "a" / "b" / "file").touch()
    sync_file(disk.root / "a" / "b" / "file", upto=disk.root)
    assert disk.names.keys() == {disk.root / "a" / "b", disk.root / "a", disk.root}
    assert disk.files == {disk.root / "a" / "b" / "file"}


def test_a_folder_that_is_a_link_is_followed(disk: Disk, tmp_path: Path) -> None:
    make_folder(disk.root / "a")
    (tmp_path / "link").symlink_to(disk.root / "a")
    disk.names.clear()
    sync_folders(tmp_path / "link")
    assert disk.root / "a" in disk.names


async def test_a_journal_in_new_folders_is_there(disk: Disk) -> None:
    path = disk.root / "deep" / "er" / "journal.db"
    buffer = Buffer(BufferStrategy.durable(path), {}, DeadLetters())
    await buffer.open()
    assert path.exists()
    assert not disk.lost()
    await buffer.close()


def test_a_journal_that_a_tool_made_is_there(disk: Disk) -> None:
    Journal(disk.root / "deep" / "journal.db").close()
    assert not disk.lost()


def test_a_repaired_journal_is_there_before_the_old_one_goes(disk: Disk, monkeypatch: pytest.MonkeyPatch) -> None:
    path = disk.root / "journal.db"
    Journal(path).close()
    rename = Path.rename

    def watched(self: Path, target: str | Path) -> Path:
        if ".damaged-" in str(target):
            assert f"{path.name}.repaired" in disk.names[disk.root]
        return rename(self, target)

    monkeypatch.setattr(Path, "rename", watched)
    salvage(path)
    assert not disk.lost()


def test_the_reserve_is_there(disk: Disk) -> None:
    make_folder(disk.root)
    Reserve(disk.root / "journal.db").take()
    assert not disk.lost()


def test_dead_letters_in_new_folders_are_there(disk: Disk) -> None:
    store = DeadLetterStore(disk.root / "deep" / "journal.db.dead")
    assert not disk.lost()
    store.close()


async def test_an_object_in_new_folders_is_there(disk: Disk) -> None:
    objects = Objects((disk.root / "archive").as_uri(), {}, timeout=5.0, part_bytes=1024 * 1024)
    for key in ("shop/2026/01.json", "shop/2026/02.json", "shop/2027/01.json", "other/x.json"):
        await objects.put(key, b"{}", "application/json")
        assert not disk.lost(), key
        assert disk.root / "archive" / key in disk.files
