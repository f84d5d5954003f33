"""Large payloads into a store and references in their place; and back."""

from __future__ import annotations

import asyncio
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from polku import checks
from polku.claims.store import CLAIM, CLAIM_BYTES, Store, check_store, read_claim
from polku.clock import Clock
from polku.contracts import Overlapping
from polku.emit.s3.objects import check_tls, load, tls_of
from polku.errors import EmitError, RejectedError
from polku.event.v1.event_pb2 import Event
from polku.middleware.batching import Batched, Batching
from polku.middleware.configuration import Configuration
from polku.middleware.micro_batches import MicroBatches
from polku.middleware.model import ModelCalls
from polku.security.client_tls import Certificate, Pem


class ClaimStatistics(NamedTuple):
    """Count payloads that went to the store or came from it, their bytes, and calls of the store that were repeated."""

    payloads: int
    bytes: int
    retries: int


@dataclass(frozen=True, slots=True, repr=False)
class ClaimCheck(Configuration):
    """Put payloads of more than `over` bytes into an object store, and let a reference travel in their place.

    `url` is a folder of a store, as an `S3Emitter` has it: `s3://bucket/prefix`, `gs://…`, `az://…`,
    `file:///folder`, with the store's `options`, `root_certificates` and `certificate`. An object is named by the
    SHA-256 of what it has: the same payload is there once, whoever sends it, and however often. The event continues
    once the store has the payload, without it and with `claim` (`sha256:…`) and `claim_bytes` in its metadata;
    events keep their order, and up to `max_in_flight` payloads are on their way at once. A store that does not
    answer is asked again for `retry_for` seconds; then the event becomes a dead letter, payload and all. Objects
    are never deleted: the bucket's lifecycle rules should do that, later than the last reader needs them.

    Needs `pip install 'polku[s3]'`.
    """

    url: str
    over: int = field(default=256 * 1024, kw_only=True)
    timeout: float = field(default=30.0, kw_only=True)
    retry_for: float = field(default=60.0, kw_only=True)
    max_in_flight: int = field(default=8, kw_only=True)
    options: Mapping[str, str] = field(default_factory=dict, kw_only=True)
    root_certificates: Pem | None = field(default=None, kw_only=True)
    certificate: Certificate | None = field(default=None, kw_only=True)

    holds = True
    overlaps = True

    def __post_init__(self) -> None:
        object.__setattr__(self, "options", check_store("ClaimCheck", self.url, self.options))
        check_tls("ClaimCheck", self)
        _check_times("ClaimCheck", self.timeout, self.retry_for)
        checks.whole("ClaimCheck", "over", self.over)
        checks.whole("ClaimCheck", "max_in_flight", self.max_in_flight)

    def check_extras(self) -> None:
        """Raise `PlanError` where the package of object stores is not installed."""
        load(f"ClaimCheck({self.url!r})")

    def build(self, clock: Clock) -> Overlapping:
        """Make what runs."""
        store = _store(self)
        return _step("ClaimCheck", _Checking(store, self.over), clock, in_flight=2, max_events=64)


@dataclass(frozen=True, slots=True, repr=False)
class Redeem(Configuration):
    """Put the payloads that a `ClaimCheck` took out back into their events, from the same store.

    Events without a `claim` pass. A payload that is gone, is not what its claim says, or has more than `max_bytes`
    makes a dead letter of its event, which keeps the claim, so that it can be replayed. So does a store that does not
    answer for `retry_for` seconds. Up to `max_in_flight` payloads are fetched at once, and events keep their order.

    Claims name objects of this store alone: an event cannot have another address asked. But whoever knows the SHA-256
    of a payload there gets it by a claim of their own; where clients must not, refuse `claim` in what they send.
    """

    url: str
    max_bytes: int = field(default=64 * 1024 * 1024, kw_only=True)
    timeout: float = field(default=30.0, kw_only=True)
    retry_for: float = field(default=60.0, kw_only=True)
    max_in_flight: int = field(default=4, kw_only=True)
    options: Mapping[str, str] = field(default_factory=dict, kw_only=True)
    root_certificates: Pem | None = field(default=None, kw_only=True)
    certificate: Certificate | None = field(default=None, kw_only=True)

    holds = True
    overlaps = True

    def __post_init__(self) -> None:
        object.__setattr__(self, "options", check_store("Redeem", self.url, self.options))
        check_tls("Redeem", self)
        _check_times("Redeem", self.timeout, self.retry_for)
        checks.whole("Redeem", "max_bytes", self.max_bytes)
        checks.whole("Redeem", "max_in_flight", self.max_in_flight)

    def check_extras(self) -> None:
        """Raise `PlanError` where the package of object stores is not installed."""
        load(f"Redeem({self.url!r})")

    def build(self, clock: Clock) -> Overlapping:
        """Make what runs."""
        store = _store(self)
        # One event a call: what waits for its place in the order has its payload already.
        return _step("Redeem", _Redeeming(store, self.max_bytes), clock, in_flight=self.max_in_flight, max_events=1)


class _Handling(ABC):
    """What both have in common: a store, and events that are handled side by side, as a model's are."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._payloads = self._bytes = 0

    def start(self) -> None:
        self._store.start()

    def close(self) -> None:
        self._store.close()

    def statistics(self) -> ClaimStatistics:
        return ClaimStatistics(self._payloads, self._bytes, self._store.retries)

    async def predict(self, events: list[Event]) -> list[EmitError | None]:
        """Handle events in place; return what went wrong with each."""
        return await asyncio.gather(*(self._handled(event) for event in events))

    async def _handled(self, event: Event) -> EmitError | None:
        try:
            await self._handle(event)
        except EmitError as error:
            return error
        return None

    @abstractmethod
    async def _handle(self, event: Event) -> None:
        """Handle one event in place; raises `EmitError`."""

    def _count(self, size: int) -> None:
        self._payloads += 1
        self._bytes += size


class _Checking(_Handling):
    def __init__(self, store: Store, over: int) -> None:
        super().__init__(store)
        self._over = over

    async def _handle(self, event: Event) -> None:
        if len(event.payload) <= self._over:
            return
        claim = await self._store.put(event.payload)
        event.payload = b""
        event.metadata[CLAIM], event.metadata[CLAIM_BYTES] = f"sha256:{claim.digest}", str(claim.size)
        self._count(claim.size)


class _Redeeming(_Handling):
    def __init__(self, store: Store, max_bytes: int) -> None:
        super().__init__(store)
        self._max_bytes = max_bytes

    async def _handle(self, event: Event) -> None:
        claim = read_claim(event)
        if claim is None:
            return
        if claim.size > self._max_bytes:
            raise RejectedError(f"the payload has {claim.size} bytes, and max_bytes is {self._max_bytes}")
        event.payload = await self._store.get(claim)
        del event.metadata[CLAIM], event.metadata[CLAIM_BYTES]
        self._count(claim.size)


def _store(config: ClaimCheck | Redeem) -> Store:
    at_once, retry_for = config.max_in_flight, config.retry_for
    options: dict[str, Any] = {"timeout": config.timeout, "retry_for": retry_for, "at_once": at_once}
    return Store(config.url, config.options, tls=tls_of(config), **options)


def _step(name: str, handling: _Handling, clock: Clock, *, in_flight: int, max_events: int) -> Overlapping:
    # The store's requests have time limits of their own.
    batching = Batching(max_events=max_events, max_wait=0.0, in_flight=in_flight, timeout=86_400.0, retry_for=0)
    calls = ModelCalls(Batched(handling, batching), clock)
    calls.name = name
    return MicroBatches(name, calls, batching, clock)


def _check_times(where: str, timeout: float, retry_for: float) -> None:
    checks.positive(where, "timeout", timeout)
    if retry_for != 0:
        checks.positive(where, "retry_for", retry_for)
