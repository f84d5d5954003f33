"""A client that streams the oracle's events, reconnects, and sends again what was not acknowledged."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Iterator, Sequence

import grpc

from polku import Event
from polku.testing import Oracle
from polku.v1 import gateway_pb2_grpc
from polku.v1.gateway_pb2 import EventPayload, IngestBatch

_LOCAL = [("grpc.use_local_subchannel_pool", 1), ("grpc.max_reconnect_backoff_ms", 500)]


class Client(threading.Thread):
    """Stream batches with so many in flight, at most `rate` events a second."""

    options: Sequence[tuple[str, int]] = ()  # of the channel

    def __init__(self, address: str, oracle: Oracle, lock: threading.Lock, source: str, rate: float) -> None:
        super().__init__(daemon=True)
        self.address, self.source = address, source
        self.batch_events = 100
        self.rest = 0.1  # seconds, before a stream that broke is opened again
        self.acknowledged = self.refused = self.breaks = self.resent = 0
        self._oracle, self._lock, self._rate = oracle, lock, rate
        self._open: deque[list[Event]] = deque()
        self._again: deque[list[Event]] = deque()
        self._ending = threading.Event()
        self._mutex = threading.Lock()

    @property
    def in_flight(self) -> int:
        return len(self._open)

    def finish(self, timeout: float) -> None:
        """Send nothing new; return when all that was sent has its answer."""
        self._ending.set()
        self.join(timeout)
        assert not self.is_alive(), f"{self.source}: {len(self._open)} batches have no answer after {timeout} s"

    def run(self) -> None:
        while not (self._ending.is_set() and not self._open and not self._again):
            try:
                self._stream()
            except grpc.RpcError as error:
                self.breaks += 1
                self.broken(error)
                time.sleep(self.rest)

    def broken(self, error: grpc.RpcError) -> None:
        """Take note of what a stream has ended with; what has no answer is sent again."""

    def heard(self, ids: Sequence[str]) -> None:
        """Take note of what was acknowledged."""
        self.acknowledged += len(ids)
        with self._lock:
            self._oracle.acknowledged(ids)

    def _stream(self) -> None:
        opened: deque[list[Event]] = deque()
        self._open = opened
        places = threading.Semaphore(16)
        ended = threading.Event()
        with grpc.insecure_channel(self.address, [*_LOCAL, *self.options]) as channel:
            try:
                for ack in gateway_pb2_grpc.GatewayStub(channel).StreamEvents(self._messages(opened, places, ended)):
                    events = opened.popleft()
                    self.heard(ack.event_ids)
                    if ack.errors:
                        self._send_again(events, set(ack.event_ids))
                    places.release()
            finally:
                with self._mutex:  # what had no answer goes first, in the old order, before what is new
                    ended.set()
                    self._again.extendleft(reversed(opened))
                    self.resent += len(opened)
                    opened.clear()
                places.release()

    def _send_again(self, events: list[Event], taken: set[str]) -> None:
        refused = [event for event in events if event.id not in taken]
        self.refused += len(refused)
        with self._lock:
            self._oracle.waive_order(event.id for event in refused)
        with self._mutex:
            self._again.append(refused)
        time.sleep(0.05)

    def _messages(
        self, opened: deque[list[Event]], places: threading.Semaphore, ended: threading.Event
    ) -> Iterator[IngestBatch]:
        while True:
            places.acquire()
            with self._mutex:  # what is taken out here is among those that `_stream` puts back
                if ended.is_set() or (self._ending.is_set() and not self._again and not opened):
                    return
                events = self._next_events()
                if events:
                    opened.append(events)
            if not events:
                places.release()
                time.sleep(0.02)
                continue
            time.sleep(self.batch_events / self._rate)
            yield IngestBatch(source=self.source, events=EventPayload(events=events))

    def _next_events(self) -> list[Event]:
        if self._again:
            return self._again.popleft()
        if self._ending.is_set():
            return []
        with self._lock:
            return self._oracle.events(self.source, self.batch_events)
