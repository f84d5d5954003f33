"""What arrived, in files: one for each life of a writer, so that a kill in the middle of a write tears only its end."""

from __future__ import annotations

import os
import struct
import time
from collections.abc import Iterator
from pathlib import Path

from polku import Event
from polku.v1.gateway_pb2 import EventPayload

TIMED = "CHAOS_TIMED"
"""The variable that has writers note when they wrote each frame, by the clock that all processes of a machine share."""

_TIME = "<d"  # no `struct.Struct`: this module is sent to actors, and such an object cannot be


class Writer:
    """Append payloads to a file of this life's own."""

    def __init__(self, folder: Path, name: str) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / f"{name}-{time.time_ns():020d}-{os.getpid()}.frames"
        self._file = _appended(path)
        self._times = _appended(path.with_suffix(".times")) if TIMED in os.environ else None

    def write(self, payload: bytes) -> None:
        if self._times is not None:
            os.write(self._times, struct.pack(_TIME, time.monotonic()))
        frame = len(payload).to_bytes(4, "little") + payload
        while frame:
            frame = frame[os.write(self._file, frame) :]


def times(folder: Path, name: str) -> list[float]:
    """Return when frames were written by all lives of a writer."""
    noted = b"".join(path.read_bytes() for path in folder.glob(f"{name}-*.times"))
    return sorted(when for (when,) in struct.iter_unpack(_TIME, noted))


def _appended(path: Path) -> int:
    return os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)


class Reader:
    """Read what was appended since the last look, in the order of the writers' lives."""

    def __init__(self, folder: Path, name: str) -> None:
        self._folder, self._name = folder, name
        self._positions: dict[Path, int] = {}

    def read(self) -> Iterator[list[Event]]:
        for path in sorted(self._folder.glob(f"{self._name}-*.frames")):
            with path.open("rb") as file:
                file.seek(self._positions.get(path, 0))
                data = file.read()
            position = 0
            while len(data) - position >= 4:
                end = position + 4 + int.from_bytes(data[position : position + 4], "little")
                if end > len(data):
                    break
                yield list(EventPayload.FromString(data[position + 4 : end]).events)
                position = end
            self._positions[path] = self._positions.get(path, 0) + position
