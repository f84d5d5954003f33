"""A program that sends numbered events to a folder through a durable buffer, and reports on itself.

    python -m tests.emit.s3_worker FOLDER JOURNAL COUNT [stall]

With `stall` it hangs between the end of an upload and its confirmation, and makes the file FOLDER.uploaded.
"""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path
from typing import Any

from polku import Batch, BufferStrategy, Hub, S3Emitter, new_event
from polku.clock import Clock

NOON = 1_700_049_600_000_000_000


class Stalling:
    """Build a writer whose uploads are never confirmed."""

    name = "s3"
    may_recover = True

    def __init__(self, config: S3Emitter) -> None:
        self.config = config

    def build(self, clock: Clock) -> Any:
        running: Any = self.config.build(clock)
        emit = running.emit
        uploaded = Path(f"{self.config.url.removeprefix('file://')}.uploaded")

        async def stall(batch: Batch) -> None:
            await emit(batch)
            await asyncio.to_thread(uploaded.touch)
            await asyncio.sleep(3600)

        running.emit = stall
        return running


def main() -> None:
    folder, journal, count = Path(sys.argv[1]), sys.argv[2], int(sys.argv[3])
    config = S3Emitter(folder.as_uri(), key="{source}/{batch}", max_events=1_000, max_age=3600, concurrency=1)
    emitter: Any = Stalling(config) if "stall" in sys.argv else config
    hub = Hub(runtime="inline").buffer_strategy(BufferStrategy.durable(journal)).emitter(emitter)
    with hub.start() as pipeline:
        for start in range(0, count, 250):
            events = [
                new_event("t", source="s", id=f"{n:06d}", timestamp_unix_ns=NOON + n) for n in range(start, start + 250)
            ]
            assert pipeline.sender().send(events).ok
        print("sent", flush=True)
        if "stall" in sys.argv:
            sys.stdin.read()


if __name__ == "__main__":
    main()
