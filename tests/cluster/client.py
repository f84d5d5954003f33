"""Clients of a gateway on several hosts: one that stays with its host, and one that turns to the next."""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Sequence

import grpc

from polku import Event
from polku.testing import Oracle
from tests.chaos.client import Client

# A connection whose other end does not answer within 2 s counts as lost; without that TCP waits for many minutes.
KEEPALIVE = (
    ("grpc.keepalive_time_ms", 3000),
    ("grpc.keepalive_timeout_ms", 2000),
    ("grpc.keepalive_permit_without_calls", 1),
    ("grpc.http2.max_pings_without_data", 0),
)


class HostClient(Client):
    """Stream to one host whatever happens; know the longest pause between two Acks, and what streams ended with."""

    options = KEEPALIVE

    def __init__(self, address: str, oracle: Oracle, lock: threading.Lock, source: str, rate: float) -> None:
        super().__init__(address, oracle, lock, source, rate)
        self.batch_events = 20
        self.errors: Counter[str] = Counter()
        self.longest = 0.0
        self.latest = time.monotonic()
        self.rests = threading.Event()

    def heard(self, ids: Sequence[str]) -> None:
        """Take note of what was acknowledged, and after which pause."""
        super().heard(ids)
        now = time.monotonic()
        self.longest, self.latest = max(self.longest, now - self.latest), now

    def broken(self, error: grpc.RpcError) -> None:
        """Count what a stream has ended with."""
        self.errors[error.code().name] += 1

    def begin(self) -> None:
        """Forget what was; send again where it rests."""
        self.errors.clear()
        self.longest, self.latest = 0.0, time.monotonic()
        self.rests.clear()

    @property
    def is_done(self) -> bool:
        """Whether everything that it has sent has its answer."""
        return not self._open and not self._again

    def _next_events(self) -> list[Event]:
        return [] if self.rests.is_set() and not self._again else super()._next_events()


class RoamingClient(HostClient):
    """Turn to the next host when a stream breaks; what is sent from then on has a source of its own.

    Order is promised within a lane: what had no answer from the one host, and goes to the next, may overtake.
    """

    def __init__(
        self, addresses: Sequence[str], oracle: Oracle, lock: threading.Lock, source: str, rate: float
    ) -> None:
        super().__init__(addresses[0], oracle, lock, source, rate)
        self._addresses, self._name, self._turns = tuple(addresses), source, 0

    def broken(self, error: grpc.RpcError) -> None:
        """Turn to the next host."""
        super().broken(error)
        self._turns += 1
        self.address = self._addresses[self._turns % len(self._addresses)]
        with self._lock, self._mutex:
            self._oracle.waive_order(event.id for events in self._again for event in events)
            self.source = f"{self._name}.{self._turns}"
