"""A program that sends many events of a thousand names through a pipeline to a folder, and prints what it took.

    python -m tests.emit.s3_memory FOLDER JOURNAL MEGABYTES

Prints the private memory before the first event and at most, in megabytes, and the most that was held in bytes.
"""

from __future__ import annotations

import sys
from pathlib import Path

from polku import BufferStrategy, Hub, S3Emitter, new_event

NAMES = 1_000
LIMIT = 8 * 1024 * 1024


def private() -> int:
    status = Path("/proc/self/status").read_text()
    return int(status.partition("RssAnon:")[2].split()[0]) // 1024


def main() -> None:
    folder, journal, megabytes = Path(sys.argv[1]), sys.argv[2], int(sys.argv[3])
    config = S3Emitter(
        folder.as_uri(),
        key="{source}/{batch}",
        max_age=3600,
        max_held_bytes=LIMIT,
        max_open=2 * NAMES,
        compression="zstd",
    )
    strategy = BufferStrategy.durable(journal, max_bytes=32 * 1024 * 1024)
    most = held = groups = 0
    with Hub(runtime="inline").buffer_strategy(strategy).emitter(config).start() as pipeline:
        sender = pipeline.sender()
        assert sender.send(new_event("t", source="first")).ok
        before = private()
        for _ in range(megabytes):
            events = [new_event("t", source=f"s{n:04d}", payload=b"." * 1_000) for n in range(NAMES)]
            assert sender.send(events).ok
            del events
            most = max(most, private())
            collection = pipeline._runtime._lane.statistics().emitters["s3"].collection  # type: ignore[attr-defined]
            held, groups = max(held, collection.bytes), max(groups, collection.groups)
    print(before, most, held, groups)


if __name__ == "__main__":
    main()
