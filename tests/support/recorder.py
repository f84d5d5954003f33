"""An emitter for tests that writes what it gets to a file, so that it can be read from any process."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path

from polku import Batch, Event
from polku.v1.gateway_pb2 import EventPayload


@dataclass
class Recorder:
    """Append every batch to a file; while the file `<path>.hold` exists, take nothing."""

    path: Path
    name: str = "recorder"

    async def emit(self, batch: Batch) -> None:
        """Write the batch, once it may."""
        import asyncio

        while self.gate.exists():  # noqa: ASYNC110 - a file is what another process can hold it up with
            await asyncio.sleep(0.01)
        payload = batch.payload
        with self.path.open("ab") as file:
            file.write(len(payload).to_bytes(4, "little") + payload)

    @property
    def gate(self) -> Path:
        """The file that holds deliveries up while it exists."""
        return self.path.with_suffix(".hold")

    def hold(self) -> None:
        """Take nothing from now on."""
        self.gate.touch()

    def release(self) -> None:
        """Take everything again."""
        self.gate.unlink(missing_ok=True)

    def batches(self) -> list[list[Event]]:
        """Return what was written so far."""
        data = self.path.read_bytes() if self.path.exists() else b""
        batches, position = [], 0
        while position + 4 <= len(data):
            size = int.from_bytes(data[position : position + 4], "little")
            frame = data[position + 4 : position + 4 + size]
            if len(frame) < size:
                break
            batches.append(list(EventPayload.FromString(frame).events))
            position += 4 + size
        return batches

    def events(self) -> list[Event]:
        """Return the events that were written so far."""
        return [event for batch in self.batches() for event in batch]

    def wait_for(self, count: int, timeout: float = 60.0) -> list[Event]:
        """Return the events once there are `count` of them."""
        deadline = time.monotonic() + timeout
        while len(events := self.events()) < count:
            if time.monotonic() > deadline:
                raise AssertionError(f"{len(events)} of {count} events came within {timeout} s")
            time.sleep(0.01)
        return events
