"""Which Python functions run for one message, from the read of the socket to the write of its Ack, and after it.

    python -m tests.bench.calls
    python -m tests.bench.calls --by function

Messages are sent one by one, each when the Ack of the one before has come; counted are calls of functions and how often
coroutines go on (`sys.setprofile`), and calls of functions in C. The counts are medians over the messages. The pipeline
is inline, with a `Filter`, a `Transform` and a function that takes batches; each message names a cluster.
"""

from __future__ import annotations

import argparse
import asyncio
import statistics
import threading
from collections import Counter, defaultdict
from collections.abc import Mapping
from pathlib import Path
from types import FrameType
from typing import Any, NamedTuple

from polku import Filter, Hub, Transform
from polku.event.v1.event_pb2 import Event
from polku.http2.endpoint import Endpoint
from polku.http2.limits import ConnectionLimits
from polku.http2.outbox import Outbox
from polku.rpc.client import GrpcClientConnection, request_head
from polku.rpc.status import Status
from polku.v1.gateway_pb2 import EventPayload, IngestBatch, IngestEvent
from tests.bench.pipelines import is_about_users, mark

_WARM, _COUNTED = 50, 101
_SETTLE_SECONDS = 0.02
_ALL = "all"
_PROJECT = Path(__file__).resolve().parents[2]
_GENERATOR = 0x20 | 0x80 | 0x200  # flags of the code of generators, coroutines and asynchronous generators
SHAPES = {"unary, one event": ("SendEvent", 1), "stream, a message of ten": ("StreamEvents", 10)}


class Part(NamedTuple):
    """A function: its file, its name, whether a coroutine or a generator, and whether before the Ack has left."""

    file: str
    name: str
    goes_on: bool
    is_before: bool

    def row(self, by: str) -> str:
        """Return what it counts for: itself, its file or its folder."""
        if by == "function":
            return f"{self.file}: {self.name}"
        if by == "file":
            return self.file
        folder = self.file.rpartition("/")[0]
        return folder if folder.startswith(("polku", "tests")) else "the standard library"


class Counts(NamedTuple):
    """What ran for one message: functions of Python by part, and how many in C before the Ack and after it."""

    functions: Mapping[Part, float]
    in_c: tuple[float, float]


class _Watch:
    """Count what the threads of the pipeline call while a message is in flight."""

    def __init__(self) -> None:
        self.is_on = self.is_before = False
        self._calls: Counter[tuple[Any, bool]] = Counter()
        self._in_c: Counter[bool] = Counter()
        self.messages: list[tuple[Counter[tuple[Any, bool]], Counter[bool]]] = []

    def __call__(self, frame: FrameType, event: str, argument: object) -> None:
        if not self.is_on:
            return
        if event == "call":
            if frame.f_code is Endpoint.data_received.__code__:
                self.is_before = True
            self._calls[frame.f_code, self.is_before] += 1
        elif event == "c_call":
            self._in_c[self.is_before] += 1
        elif event == "return" and frame.f_code is Outbox.flush.__code__ and frame.f_locals.get("frames"):
            self.is_before = False

    def next(self) -> None:
        """Keep what was counted for a message, and begin again."""
        calls, in_c = self._calls, self._in_c
        self._calls, self._in_c = Counter(), Counter()
        if self.is_on:
            self.messages.append((calls, in_c))


class _Call:
    """A call whose answers are waited for."""

    def __init__(self) -> None:
        self.answers: asyncio.Queue[bytes] = asyncio.Queue()

    def answered(self, message: bytes) -> None:
        """Keep an answer."""
        self.answers.put_nowait(message)

    def ended(self, status: Status) -> None:
        """The answer has come."""

    def leaving(self, reason: str) -> None:
        """The call comes to its end."""


def _message(method: str, count: int, number: int) -> bytes:
    events = [Event(id=f"e-{number}-{place}", event_type="user.login", payload=b"x" * 60) for place in range(count)]
    if method == "SendEvent":
        return IngestEvent(source="shop", cluster="prod", event=events[0]).SerializeToString()
    return IngestBatch(source="shop", cluster="prod", events=EventPayload(events=events)).SerializeToString()


async def _send(port: int, method: str, count: int, watch: _Watch) -> None:
    _, connection = await asyncio.get_running_loop().create_connection(
        lambda: GrpcClientConnection(ConnectionLimits()), "127.0.0.1", port
    )
    head = request_head(f"127.0.0.1:{port}", f"/polku.v1.Gateway/{method}", tls=False)
    call = _Call()
    stream = connection.begin(head, call) if method == "StreamEvents" else None
    for number in range(_WARM + _COUNTED):
        message = _message(method, count, number)
        watch.is_on = number >= _WARM
        if stream is None:
            connection.ask(head, message, call)
        else:
            connection.post(stream, (message,))
        await asyncio.wait_for(call.answers.get(), 60)
        await asyncio.sleep(_SETTLE_SECONDS)  # what comes behind the Ack counts, too
        watch.next()
    watch.is_on = False
    connection.abort()
    await connection.gone


def _forget(batch: object) -> None:
    """Take a batch."""


def count(method: str, events: int, watch: _Watch) -> Counts:
    """Send messages of a shape, and return what runs for one."""
    watch.messages.clear()
    hub = Hub(runtime="inline").middleware(Filter(is_about_users)).middleware(Transform(mark)).emitter(_forget)
    with hub.start(grpc_addr="127.0.0.1:0", admin_addr="off") as pipeline:
        asyncio.run(_send(int(str(pipeline.address).rpartition(":")[2]), method, events, watch))
    codes = {key for calls, _ in watch.messages for key in calls}
    functions = {
        Part(_file(code.co_filename), code.co_qualname, bool(code.co_flags & _GENERATOR), before): statistics.median(
            calls[code, before] for calls, _ in watch.messages
        )
        for code, before in codes
    }
    in_c = [statistics.median(counted[before] for _, counted in watch.messages) for before in (True, False)]
    return Counts({part: often for part, often in functions.items() if often}, (in_c[0], in_c[1]))


def _file(path: str) -> str:
    if path.startswith(f"{_PROJECT}/"):
        return path.removeprefix(f"{_PROJECT}/")
    return "/".join(Path(path).parts[-2:])


def table(found: Counts, by: str) -> list[str]:
    """Return the lines of a table: calls, and of them those of coroutines and generators, before the Ack and after."""
    rows: defaultdict[str, Counter[tuple[bool, bool]]] = defaultdict(Counter)
    for part, often in found.functions.items():
        for row in (part.row(by), _ALL):
            rows[row][part.is_before, False] += int(often)
            rows[row][part.is_before, True] += int(often) if part.goes_on else 0
    lines = ["| | until the Ack | of coroutines | after it | of coroutines |", "|---|---|---|---|---|"]
    for row, counts in sorted(rows.items(), key=lambda item: (item[0] == _ALL, -item[1][True, False])):
        cells = [counts[before, goes_on] for before in (True, False) for goes_on in (False, True)]
        lines.append(f"| {row} | {' | '.join(map(str, cells))} |")
    return [*lines, f"| functions in C | {found.in_c[0]:.0f} | | {found.in_c[1]:.0f} | |"]


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.bench.calls", description=__doc__)
    parser.add_argument("--by", choices=["folder", "file", "function"], default="folder")
    options = parser.parse_args()
    watch = _Watch()
    threading.setprofile(watch)  # of threads that begin from now on: the pipeline's
    for name, (method, events) in SHAPES.items():
        lines = table(count(method, events, watch), options.by)
        print(f"{name}\n\n" + "\n".join(lines) + "\n", flush=True)


if __name__ == "__main__":
    main()
