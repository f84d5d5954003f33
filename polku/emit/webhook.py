"""POST events to an HTTP endpoint."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from email.utils import parsedate_to_datetime
from enum import StrEnum
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from polku import arguments
from polku.batch import Batch
from polku.clock import Clock
from polku.contracts import Failure
from polku.emit.cloudevents import cloud_event
from polku.emit.json_form import event_fields
from polku.errors import MisconfiguredError, PlanError, RetryableError
from polku.event.v1.event_pb2 import Event

if TYPE_CHECKING:
    import aiohttp


class Body(StrEnum):
    """Say what is posted."""

    JSON = "json"
    """A JSON array of events, as the JsonIngestor reads it."""
    CLOUDEVENTS = "cloudevents"
    """A CloudEvents batch (CNCF CloudEvents 1.0, JSON batch format); the mapping is in `polku.emit.cloudevents`."""


_CONTENT_TYPE = {
    Body.JSON: "application/json",
    Body.CLOUDEVENTS: "application/cloudevents-batch+json; charset=UTF-8",
}


@dataclass(frozen=True, slots=True)
class WebhookEmitter:
    """POST batches of up to `max_events` events and `max_body_bytes` bytes; a 2xx answer confirms them.

    408, 425, 429, 5xx and broken connections are tried again, after `Retry-After` where the server names a time; 401,
    403, 404, 405, 410 and redirects hold everything until somebody mends the address or the credentials; 413 is tried
    in halves; any other 4xx makes dead letters. One request may take `timeout` seconds.
    """

    url: str
    format: Body | str = field(default=Body.JSON, kw_only=True)
    name: str = field(default="webhook", kw_only=True)
    headers: Mapping[str, str] = field(default_factory=dict, kw_only=True, repr=False)
    timeout: float = field(default=10.0, kw_only=True)
    max_events: int = field(default=1_000, kw_only=True)
    max_body_bytes: int = field(default=1024 * 1024, kw_only=True)

    is_remote = True

    def __post_init__(self) -> None:
        parts = urlsplit(self.url) if isinstance(self.url, str) else None
        if parts is None or parts.scheme not in ("http", "https") or not parts.hostname:
            raise PlanError(f"url={self.url!r}: write http://host/path or https://host/path", where="WebhookEmitter")
        try:
            object.__setattr__(self, "format", Body(self.format))
        except ValueError:
            names = ", ".join(repr(str(known)) for known in Body)
            raise PlanError(f"format={self.format!r} is not known; choose {names}", where="WebhookEmitter") from None
        arguments.positive("WebhookEmitter", "timeout", self.timeout)
        arguments.whole("WebhookEmitter", "max_events", self.max_events)
        arguments.whole("WebhookEmitter", "max_body_bytes", self.max_body_bytes)

    def build(self, clock: Clock) -> _Poster:
        """Make the running emitter."""
        return _Poster(self, clock)


class _Poster:
    def __init__(self, config: WebhookEmitter, clock: Clock) -> None:
        self._config = config
        self._clock = clock
        self._form = cloud_event if config.format is Body.CLOUDEVENTS else event_fields
        self._session: aiohttp.ClientSession | None = None

    async def start(self) -> None:
        import aiohttp

        headers = {"Content-Type": _CONTENT_TYPE[Body(self._config.format)], **self._config.headers}
        timeout = aiohttp.ClientTimeout(total=self._config.timeout)
        self._session = aiohttp.ClientSession(headers=headers, timeout=timeout)

    async def close(self) -> None:
        if self._session is not None:
            await self._session.close()
            self._session = None

    async def emit(self, batch: Batch) -> list[Failure]:
        """Post the batch in as many requests as it needs; stop at the first that fails, so that order is kept."""
        import msgspec

        failures: list[Failure] = []
        bodies = [(event, msgspec.json.encode(self._form(event))) for event in batch]
        requests = self._requests(bodies)
        for number, request in enumerate(requests):
            try:
                failures += await self._post(request)
            except (RetryableError, MisconfiguredError) as error:
                if number == 0 and not failures:
                    raise
                rest = [event for later in requests[number:] for event, _ in later]
                return failures + [Failure(event.id, str(error)) for event in rest]
        return failures

    def _requests(self, bodies: list[tuple[Event, bytes]]) -> list[list[tuple[Event, bytes]]]:
        requests: list[list[tuple[Event, bytes]]] = [[]]
        size = 0
        for event, body in bodies:
            size += len(body) + 1
            full = len(requests[-1]) == self._config.max_events or size > self._config.max_body_bytes
            if full and requests[-1]:
                requests.append([])
                size = len(body) + 1
            requests[-1].append((event, body))
        return requests

    async def _post(self, request: list[tuple[Event, bytes]]) -> list[Failure]:
        import aiohttp

        if self._session is None:
            await self.start()
        assert self._session is not None
        data = b"[" + b",".join(body for _, body in request) + b"]"
        try:
            async with self._session.post(self._config.url, data=data, allow_redirects=False) as response:
                status, text = response.status, (await response.text(errors="replace"))[:200]
                retry_after = self._seconds(response.headers.get("Retry-After"))
        except (aiohttp.ClientError, OSError) as error:
            raise RetryableError(f"{self._config.url}: {type(error).__name__}: {error}") from None
        except TimeoutError:
            raise RetryableError(f"{self._config.url}: no answer within {self._config.timeout:g} s") from None
        if 200 <= status < 300:
            return []
        return await self._judge(request, status, f"{self._config.url}: HTTP {status} {text}".strip(), retry_after)

    async def _judge(
        self, request: list[tuple[Event, bytes]], status: int, reason: str, retry_after: float | None
    ) -> list[Failure]:
        if status in (408, 425, 429) or status >= 500:
            raise RetryableError(reason, retry_after=retry_after)
        if status < 400 or status in (401, 403, 404, 405, 407, 410):
            raise MisconfiguredError(reason)
        if status == 413 and len(request) > 1:
            middle = len(request) // 2
            return await self._post(request[:middle]) + await self._post(request[middle:])
        return [Failure(event.id, reason, retryable=False) for event, _ in request]

    def _seconds(self, retry_after: str | None) -> float | None:
        """Read a Retry-After header: seconds or an HTTP date (RFC 9110, 10.2.3)."""
        if not retry_after:
            return None
        if retry_after.strip().isdigit():
            return float(retry_after)
        try:
            when = parsedate_to_datetime(retry_after)
        except ValueError:
            return None
        return max(0.0, when.timestamp() - self._clock.time_ns() / 1e9)
