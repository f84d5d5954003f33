"""What arrived, in files: one for each life of a writer, so that a kill in the middle of a write tears only its end."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from pathlib import Path

from polku import Event
from polku.v1.gateway_pb2 import EventPayload


class Writer:
    """Append payloads to a file of this life's own."""

    def __init__(self, folder: Path, name: str) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / f"{name}-{time.time_ns():020d}-{os.getpid()}.frames"
        self._file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)

    def write(self, payload: bytes) -> None:
        frame = len(payload).to_bytes(4, "little") + payload
        while frame:
            frame = frame[os.write(self._file, frame) :]


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
