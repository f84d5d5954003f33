"""A destination with a real port, for tests of pipelines whose parts run in other processes."""

from __future__ import annotations

import threading
import time
from types import TracebackType
from typing import TYPE_CHECKING, Self

from polku.batch.batch import Batch
from polku.event.v1.event_pb2 import Event
from polku.v1.gateway_pb2 import EventPayload

if TYPE_CHECKING:
    from polku.emit.grpc.emitter import GrpcEmitter
    from polku.pipeline import Pipeline


class Sink:
    """Take events on a free port of this machine, as a gateway does, and keep them; a context manager.

    An emitter that a pipeline on Ray calls runs in another process, so it cannot append to a list of the test: give the
    pipeline `sink.emitter()`.
    """

    def __init__(self) -> None:
        self._events: list[Event] = []
        self._news = threading.Condition()
        self._pipeline: Pipeline | None = None

    @property
    def address(self) -> str:
        """Where it listens, as `host:port`; raises `RuntimeError` before `start`."""
        if self._pipeline is None or self._pipeline.address is None:
            raise RuntimeError("the sink was not started; write `with Sink() as sink:`")
        return self._pipeline.address

    @property
    def events(self) -> list[Event]:
        """What has come so far, in order."""
        with self._news:
            return list(self._events)

    @property
    def ids(self) -> list[str]:
        """The ids of what has come so far, in order."""
        return [event.id for event in self.events]

    def emitter(self) -> GrpcEmitter:
        """Return an emitter that sends to it; it can be pickled into any process of this machine."""
        from polku.emit.grpc.emitter import GrpcEmitter

        return GrpcEmitter(self.address)

    def wait_for(self, count: int, timeout: float = 10.0) -> list[Event]:
        """Return the events once there are that many; raises `AssertionError` after `timeout` seconds."""
        end = time.monotonic() + timeout
        with self._news:
            while len(self._events) < count:
                if not self._news.wait(end - time.monotonic()):
                    raise AssertionError(f"{len(self._events)} of {count} events came within {timeout:g} s")
            return list(self._events)

    def start(self) -> Self:
        """Open the port."""
        from polku.hub import Hub

        self._pipeline = (
            Hub(name="sink", runtime="inline").emitter(self._take, name="sink").start(grpc_addr="127.0.0.1:0")
        )
        return self

    def stop(self) -> None:
        """Close the port; what has come stays."""
        if self._pipeline is not None:
            self._pipeline.stop(5)

    def _take(self, batch: Batch) -> None:
        events = EventPayload.FromString(batch.payload).events
        with self._news:
            self._events += events
            self._news.notify_all()

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.stop()
