"""A disk that loses what was not synced: the files under it are what the kernel has, the images here what the disk has.

`Volume.cut` is the loss of power: of what was written since a file's latest sync any sectors may be on the disk, and of
the changes of names since the folder's latest sync the first ones. `arm` lets a process die, or the power go, at an
operation that is to come. A sync that fails may have lost what it was to bring to the disk (as Linux does: the next one
says nothing of it). Not modelled: damage of what was synced, errors of reads, sectors that a torn write takes along.
"""

from __future__ import annotations

import contextlib
import errno
import os
import stat
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from random import Random

from polku.testing.simulation.loop import Process, current_process
from tests.simulation.vfs import CREATE, LOGS, OK

SECTOR = 512
_unlink = os.unlink  # the file system's, whatever stands in its place while a case runs
_FULL, _IOERR = 13, 10
_WRITE, _SYNC, _TRUNCATE, _DELETE, _OPEN = (_IOERR | number << 8 for number in (3, 4, 6, 10, 0))


@dataclass(slots=True)
class Change:
    """What was done to a file since its latest sync: bytes at an offset, or (None) what follows it was cut off."""

    offset: int
    content: bytes | None


@dataclass(slots=True)
class Image:
    """A file: what is on the disk for certain, and what was changed since."""

    content: bytearray = field(default_factory=bytearray)
    changes: list[Change] = field(default_factory=list)
    size: int = 0

    def sync(self) -> None:
        """Bring all changes to the disk."""
        for change in self.changes:
            _apply(self.content, change)
        self.changes.clear()

    def after_cut(self, random: Random) -> bytes:
        """Return what is found after a loss of power."""
        found = bytearray(self.content)
        sectors = [part for change in self.changes for part in _sectors(change)]
        match random.choice(("none", "all", "first", "any", "torn")):
            case "none":
                sectors = []
            case "first":
                sectors = sectors[: random.randrange(len(sectors) + 1)]
            case "any":
                sectors = [sector for sector in sectors if random.random() < 0.5]
            case "torn":
                sectors = sectors[:-1]
        for sector in sectors:
            _apply(found, sector)
        return bytes(found)


class File:
    """An open file of a volume."""

    def __init__(self, volume: Volume, image: Image, path: str, process: Process | None, *, syncs_names: bool) -> None:
        self._volume, self._image, self._path = volume, image, path
        self._process = process
        self._syncs_names = syncs_names

    def write(self, offset: int, content: bytes) -> int:
        """Write to the kernel's cache."""
        end = offset + len(content)
        if self._volume.fails(self._path, self._process):
            self._write_some(offset, content)
            return _WRITE
        if not self._volume.takes_room(max(0, end - self._image.size), self._process):
            return _FULL
        self._keep(offset, content)
        return OK

    def _keep(self, offset: int, content: bytes) -> None:
        self._image.size = max(self._image.size, offset + len(content))
        self._image.changes.append(Change(offset, content))

    def _write_some(self, offset: int, content: bytes) -> None:
        """Write what a process that dies in the middle of it has written."""
        if count := self._volume.written_at_death(len(content)):
            self._keep(offset, content[:count])
            with open(self._path, "r+b") as file:
                file.seek(offset)
                file.write(content[:count])

    def truncate(self, size: int) -> int:
        """Cut off what follows."""
        if self._volume.fails(self._path, self._process):
            return _TRUNCATE
        self._volume.give_room(max(0, self._image.size - size))
        self._image.size = size
        self._image.changes.append(Change(size, None))
        return OK

    def sync(self) -> int:
        """Bring it to the disk."""
        if self._volume.fails(self._path, self._process):
            if self._volume.loses_at_failed_sync():
                self._image.changes.clear()
            return _SYNC
        self._image.sync()
        if self._syncs_names:
            self._syncs_names = False
            self._volume.sync_names()
        return OK


class Volume:
    """The files in one folder; those that are not SQLite's, locks and such, are left to the file system below."""

    def __init__(self, folder: str, random: Random, *, mode: Callable[[], str], is_part: Callable[[Process], bool],
                 on_trip: Callable[[Process], None], sleep: Callable[[float], None]) -> None:  # fmt: skip
        self.folder = folder
        self.sleep = sleep
        self.off = False
        self.dying: set[Process] = set()
        self.operations = 0
        self.room: int | None = None  # bytes, on a full disk
        self._random = random
        self._mode = mode
        self._is_part = is_part
        self._on_trip = on_trip
        self._names: dict[str, Image] = {}
        self._kept: dict[str, Image] = {}
        self._moves: list[tuple[str, str | None, Image | None]] = []
        self._fuse = 0
        self._kind = ""
        self._died = False
        self._counts: Callable[[str], bool] = lambda path: True

    def adopt(self, path: str) -> None:
        """Have a file that is there on the disk too."""
        content = Path(path).read_bytes()
        self._names[path] = self._kept[path] = Image(bytearray(content), [], len(content))

    # What SQLite does

    def open(self, path: str, flags: int) -> File | int | None:
        """Open a file, making it where it is missing."""
        if not self.has(path):
            return None
        process = current_process()
        if path not in self._names:
            if not flags & CREATE:
                return None
            if self.fails(path, process):
                return _OPEN
            self._move("link", path, Image())
        elif self._is_dead(process):
            return _OPEN
        return File(self, self._names[path], path, process, syncs_names=bool(flags & CREATE and flags & LOGS))

    def delete(self, path: str, *, syncs: bool) -> int:
        """Delete a file."""
        if self.has(path) and path in self._names:
            if self.fails(path, current_process()):
                return _DELETE
            self._move("unlink", path, None)
            if syncs:
                self.sync_names()
        return OK

    # What Python does

    def rename(self, old: str, new: str) -> None:
        """Give a file another name."""
        if old in self._names:
            self._raise_if_failing(old)
            image = self._names[old]
            self._move("unlink", old, None)
            self._moves[-1] = ("rename", old, None)
            self._move("link", new, image)

    def unlink(self, path: str) -> None:
        """Take a file's name away."""
        if path in self._names:
            self._raise_if_failing(path)
            self._move("unlink", path, None)

    def sync_folder(self, descriptor: int) -> None:
        """Bring the names to the disk, where this is the folder."""
        status = os.fstat(descriptor)
        if stat.S_ISDIR(status.st_mode) and os.path.samestat(status, os.stat(self.folder)):
            self._raise_if_failing(self.folder)
            self.sync_names()

    # How it behaves

    def has(self, path: str) -> bool:
        """Return whether a file is on this disk."""
        return path.startswith(f"{self.folder}/")

    def sync_names(self) -> None:
        """Have all changes of names on the disk."""
        self._kept = dict(self._names)
        self._moves.clear()

    def fails(self, path: str, process: Process | None) -> bool:
        """Return whether an operation fails: its process is dead, the power is gone, or the disk is broken."""
        if process is None or not self._is_part(process):
            return False
        if self._is_dead(process):
            return True
        self.operations += 1
        if self._fuse and self._counts(path):
            self._fuse -= 1
            if not self._fuse:
                self._trip(process)
                return True
        return self._mode() == "broken"

    def takes_room(self, size: int, process: Process | None) -> bool:
        """Take that many bytes; return whether they are there."""
        if self._mode() != "full":
            self.room = None
        elif self.room is None:
            self.room = 0
        if self.room is None or process is None or not self._is_part(process):
            return True
        if size > self.room:
            return False
        self.room -= size
        return True

    def give_room(self, size: int) -> None:
        """Give bytes back."""
        if self.room is not None:
            self.room += size

    def loses_at_failed_sync(self) -> bool:
        """Return whether a sync that fails now loses what it was to bring to the disk."""
        return self._mode() == "broken" and not self.off and self._random.random() < 0.5

    def written_at_death(self, size: int) -> int:
        """Return how many of the bytes of a write were written, where its process has died in it just now."""
        died, self._died = self._died, False
        return self._random.randrange(size + 1) if died and self._random.random() < 0.5 else 0

    # How it ends

    def arm(self, kind: str, operations: int, counts: Callable[[str], bool]) -> None:
        """Have a `crash` of the process, or a `cut` of the power, at an operation to come on a file that counts."""
        self._kind, self._fuse, self._counts = kind, operations, counts

    def disarm(self) -> bool:
        """Call that off; return whether it had not come yet."""
        armed, self._fuse = self._fuse > 0, 0
        return armed

    def cut(self, covers: Callable[[str], bool]) -> None:
        """Leave in the files what is on the disk after a loss of power; all who have them open are dead."""
        names = dict(self._kept)
        for kind, path, image in self._first_moves():
            if path is None or not covers(path):
                continue
            if kind == "link" and image is not None:
                names[path] = image
            else:
                names.pop(path, None)
        for path in filter(covers, {**self._names, **names}):
            for file in (path, f"{path}-shm"):
                with contextlib.suppress(FileNotFoundError):
                    _unlink(file)
        found = {path: image for path, image in self._names.items() if not covers(path)}
        for path, image in names.items():
            if covers(path):
                content = image.after_cut(self._random)
                Path(path).write_bytes(content)
                found[path] = Image(bytearray(content), [], len(content))
        self._names, self._kept = found, dict(found)
        self._moves.clear()
        self.off = False

    def _first_moves(self) -> list[tuple[str, str | None, Image | None]]:
        count = self._random.choice((0, len(self._moves), self._random.randrange(len(self._moves) + 1)))
        if 0 < count < len(self._moves) and self._moves[count - 1][0] == "rename":
            count -= 1  # a name goes and another one comes in one step
        return self._moves[:count]

    def _trip(self, process: Process) -> None:
        self.dying.add(process)
        self.off = self._kind == "cut"
        self._died = not self.off
        self._on_trip(process)
        process.fuse = 1

    def _is_dead(self, process: Process | None) -> bool:
        if process is None or not self._is_part(process):
            return False
        return process.dead or process in self.dying or self.off

    def _raise_if_failing(self, path: str) -> None:
        if self.fails(path, current_process()):
            raise OSError(errno.EIO, os.strerror(errno.EIO), path)

    def _move(self, kind: str, path: str, image: Image | None) -> None:
        self._moves.append((kind, path, image))
        if image is None:
            gone = self._names.pop(path)
            self.give_room(gone.size)
        else:
            self._names[path] = image


def _apply(content: bytearray, change: Change) -> None:
    if change.content is None:
        del content[change.offset :]
        content.extend(bytes(max(0, change.offset - len(content))))
        return
    end = change.offset + len(change.content)
    content.extend(bytes(max(0, change.offset - len(content))))
    content[change.offset : end] = change.content


def _sectors(change: Change) -> list[Change]:
    if change.content is None:
        return [change]
    parts, start, end = [], change.offset, change.offset + len(change.content)
    while start < end:
        stop = min(end, (start // SECTOR + 1) * SECTOR)
        parts.append(Change(start, change.content[start - change.offset : stop - change.offset]))
        start = stop
    return parts
