"""SQLite's own VFS with another disk under it: what it writes, syncs, cuts off and deletes is told to a `Volume`.

The library that Python's `sqlite3` is linked to is reached with `ctypes`. Files are opened by SQLite's own VFS, and
then get a copy of their table of methods in which those that change the disk are ours: reads, locks and shared memory
cost nothing more.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import sqlite3
from collections.abc import Iterator
from typing import Any, Protocol

OK, CANTOPEN = 0, 14
CREATE = 0x4
LOGS = 0x800 | 0x4000 | 0x80000
"""The kinds of files whose first sync brings the names in their folder to the disk too: journals and logs."""

_INT, _POINTER = ctypes.c_int, ctypes.c_void_p
_OPEN = ctypes.CFUNCTYPE(_INT, _POINTER, _POINTER, _POINTER, _INT, _POINTER)
_DELETE = ctypes.CFUNCTYPE(_INT, _POINTER, _POINTER, _INT)
_SLEEP = ctypes.CFUNCTYPE(_INT, _POINTER, _INT)
_CLOSE = ctypes.CFUNCTYPE(_INT, _POINTER)
_WRITE = ctypes.CFUNCTYPE(_INT, _POINTER, _POINTER, _INT, ctypes.c_int64)
_TRUNCATE = ctypes.CFUNCTYPE(_INT, _POINTER, ctypes.c_int64)
_SYNC = ctypes.CFUNCTYPE(_INT, _POINTER, _INT)


class _Methods(ctypes.Structure):
    _fields_ = [("version", _INT)] + [
        (name, _POINTER)
        for name in (
            "close", "read", "write", "truncate", "sync", "size", "lock", "unlock", "reserved", "control", "sector",
            "characteristics", "shm_map", "shm_lock", "shm_barrier", "shm_unmap", "fetch", "unfetch",
        )
    ]  # fmt: skip


class _File(ctypes.Structure):
    _fields_ = [("methods", ctypes.POINTER(_Methods))]


class _Vfs(ctypes.Structure):
    _fields_ = [
        ("version", _INT), ("file_size", _INT), ("path_size", _INT), ("next", _POINTER), ("name", ctypes.c_char_p),
        ("data", _POINTER),
        *((name, _POINTER) for name in (
            "open", "delete", "access", "full_path", "dl_open", "dl_error", "dl_sym", "dl_close", "randomness", "sleep",
            "time", "last_error", "time_64", "set_call", "get_call", "next_call",
        )),
    ]  # fmt: skip


class Handle(Protocol):
    """An open file; each method returns a code of SQLite, and what is not `OK` is not done."""

    def write(self, offset: int, content: bytes) -> int: ...

    def truncate(self, size: int) -> int: ...

    def sync(self) -> int: ...


class Volume(Protocol):
    """A disk."""

    def open(self, path: str, flags: int) -> Handle | int | None:
        """Return what is to be told of an open file, a code that it cannot be opened with, or None: not this disk's."""
        ...

    def delete(self, path: str, *, syncs: bool) -> int: ...

    def sleep(self, seconds: float) -> None: ...


class Layer:
    """Our VFS; there is one in a process, made at the first use, and it works on `volume`."""

    def __init__(self, library: ctypes.CDLL) -> None:
        self.volume: Volume | None = None
        self._register = library.sqlite3_vfs_register
        find = library.sqlite3_vfs_find
        find.restype = ctypes.POINTER(_Vfs)
        self._base: Any = find(None)
        base = self._base.contents
        self._base_open, self._base_delete = _OPEN(base.open), _DELETE(base.delete)
        self._vfs = _Vfs.from_buffer_copy(base)
        self._callbacks = [_OPEN(self._open), _DELETE(self._delete), _SLEEP(self._sleep)]
        self._vfs.name = b"polku-simulated"
        for name, callback in zip(("open", "delete", "sleep"), self._callbacks, strict=True):
            setattr(self._vfs, name, ctypes.cast(callback, _POINTER))
        self._handles: dict[int, Handle] = {}
        self._tables: dict[int, Any] = {}
        self._register(ctypes.byref(self._vfs), 0)

    def mount(self, volume: Volume) -> None:
        """Have files opened from now on be on a disk, as far as it has them."""
        self.volume = volume
        self._register(ctypes.byref(self._vfs), 1)

    def unmount(self) -> None:
        """Have files opened from now on be where they always are."""
        self.volume = None
        self._register(self._base, 1)

    def _open(self, vfs: int, name: int, file: int, flags: int, out: int) -> int:
        handle: Handle | None = None
        if self.volume is not None and name:
            found = self.volume.open(os.fsdecode(ctypes.string_at(name)), flags)
            if isinstance(found, int):
                _File.from_address(file).methods = None
                return found
            handle = found
        code: int = self._base_open(ctypes.addressof(self._base.contents), name, file, flags, out)
        if code == OK and handle is not None:
            self._handles[file] = handle
            opened = _File.from_address(file)
            opened.methods = ctypes.pointer(self._table(opened.methods.contents))
        return code

    def _table(self, methods: Any) -> Any:
        """Return a table of methods with ours in it: one for each kind of files that SQLite has."""
        address = ctypes.addressof(methods)
        if address in self._tables:
            return self._tables[address][0]
        table = _Methods.from_buffer_copy(methods)
        handles = self._handles
        close, write = _CLOSE(methods.close), _WRITE(methods.write)
        truncate, sync = _TRUNCATE(methods.truncate), _SYNC(methods.sync)

        def close_it(file: int) -> int:
            handles.pop(file, None)
            code: int = close(file)
            return code

        def write_it(file: int, content: int, size: int, offset: int) -> int:
            return handles[file].write(offset, ctypes.string_at(content, size)) or write(file, content, size, offset)

        def truncate_it(file: int, size: int) -> int:
            return handles[file].truncate(size) or truncate(file, size)

        def sync_it(file: int, flags: int) -> int:
            return handles[file].sync() or sync(file, flags)

        callbacks = {"close": _CLOSE(close_it), "write": _WRITE(write_it), "truncate": _TRUNCATE(truncate_it),
                     "sync": _SYNC(sync_it)}  # fmt: skip
        for name, callback in callbacks.items():
            setattr(table, name, ctypes.cast(callback, _POINTER))
        self._tables[address] = table, callbacks
        return table

    def _delete(self, vfs: int, name: int, syncs: int) -> int:
        if self.volume is not None:
            code = self.volume.delete(os.fsdecode(ctypes.string_at(name)), syncs=bool(syncs))
            if code:
                return code
        deleted: int = self._base_delete(ctypes.addressof(self._base.contents), name, syncs)
        return deleted

    def _sleep(self, vfs: int, microseconds: int) -> int:
        if self.volume is not None:
            self.volume.sleep(microseconds / 1e6)
        return microseconds


_layer: Layer | None = None


def layer() -> Layer | None:
    """Return the layer; None where the library that `sqlite3` uses cannot be reached."""
    global _layer
    if _layer is None:
        with contextlib.suppress(ImportError, OSError, AttributeError, ValueError):
            import _sqlite3

            library = ctypes.CDLL(_sqlite3.__file__)
            library.sqlite3_libversion.restype = ctypes.c_char_p
            if library.sqlite3_libversion().decode() == sqlite3.sqlite_version:
                _layer = Layer(library)
    return _layer


@contextlib.contextmanager
def mounted(volume: Volume) -> Iterator[None]:
    """Have SQLite's files be on a disk; raises `RuntimeError` where that cannot be."""
    found = layer()
    if found is None:
        raise RuntimeError("the SQLite library of this Python cannot be reached")
    found.mount(volume)
    try:
        yield
    finally:
        found.unmount()
