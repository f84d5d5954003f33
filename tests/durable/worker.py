"""A process that holds a durable buffer: it takes batches, says which it has answered, and is killed by the test.

Every line on standard output is written after the fact that it states: `ready PID`, `sent ID`, `ack ID`, `refused ID
CODE MESSAGE`, `fault TEXT`, `well`.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import resource
import signal
import sys
from pathlib import Path

from polku import Batch, BufferStrategy, Event
from polku.batch.batch import Identity
from polku.batch.receipt import Receipt, outcome_of
from polku.buffer.buffer import Buffer
from polku.dead_letters import DeadLetters
from polku.link.link import Link, LocalPeer


class File:
    """A destination that appends ids to a file; it takes nothing while `FILE.hold` exists."""

    def __init__(self, path: Path) -> None:
        self.path = path

    async def push(self, batch: Batch) -> Receipt:
        while Path(f"{self.path}.hold").exists():  # noqa: ASYNC110, ASYNC240 - the test holds it up
            await asyncio.sleep(0.01)
        with self.path.open("a") as file:
            file.write("".join(f"{event_id}\n" for event_id in batch.ids))
        await asyncio.sleep(0)
        return Receipt()


def say(text: str) -> None:
    os.write(1, f"{text}\n".encode())


async def send(buffer: Buffer, source: int, start: int, end: int, size: int, at_once: int) -> None:
    """Send numbered events of one source, so many at a time."""
    places = asyncio.Semaphore(at_once)

    async def one(number: int) -> None:
        event_id = f"{source}-{number:06d}"
        batch = Batch.from_events([Event(id=event_id, payload=os.urandom(size))], routes=())
        batch.identity = Identity(f"source-{source}", 1, number + 1)
        say(f"sent {event_id}")
        answer = await buffer.push(batch)
        receipt = await outcome_of(answer)
        say(
            f"refused {event_id} {receipt.refused[0].code} {receipt.refused[0].message}"
            if receipt.refused
            else f"ack {event_id}"
        )
        places.release()

    for number in range(start, end):
        await places.acquire()
        task = asyncio.ensure_future(one(number))
        _TASKS.add(task)
        task.add_done_callback(_TASKS.discard)
    while _TASKS:  # noqa: ASYNC110
        await asyncio.sleep(0.001)


_TASKS: set[asyncio.Task[None]] = set()


async def run(options: argparse.Namespace) -> None:
    folder = Path(options.folder)
    links = {name: Link(name, LocalPeer(File(folder / name))) for name in ("one", "two")}
    buffer = Buffer(BufferStrategy.durable(options.journal), links, DeadLetters())
    await buffer.open()
    buffer.start()
    say(f"ready {os.getpid()}")
    await asyncio.gather(
        *(
            send(buffer, source, options.start, options.end, options.size, options.at_once)
            for source in range(options.sources)
        )
    )
    say(f"fault {fault}" if (fault := buffer.statistics().fault) else "well")
    if options.watch:
        loop = asyncio.get_running_loop()
        while await loop.run_in_executor(None, sys.stdin.readline):
            say(f"fault {fault}" if (fault := buffer.statistics().fault) else "well")
            await send(buffer, 9, options.end, options.end + 1, options.size, 1)
            options.end += 1
    await buffer.drain()
    await asyncio.sleep(0.3)
    await buffer.close()
    say("closed")


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("journal")
    parser.add_argument("folder")
    for name, default in (("start", 0), ("end", 0), ("size", 200), ("sources", 1), ("at_once", 8), ("limit", 0)):
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--watch", action="store_true")
    chosen = parser.parse_args()
    if chosen.limit:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (chosen.limit, resource.RLIM_INFINITY))
    asyncio.run(run(chosen))
