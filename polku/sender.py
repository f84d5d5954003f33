"""The handle with which a program sends events into a running pipeline and learns what became of them."""

from __future__ import annotations

from collections.abc import Awaitable, Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, NamedTuple, Protocol

from polku.batch.frames import events_field, join_frames
from polku.batch.receipt import Refusal
from polku.checks import shorten
from polku.codes import Code
from polku.event.v1.event_pb2 import Event
from polku.ids import new_id
from polku.v1.gateway_pb2 import Ack, IngestBatch, RawPayload

if TYPE_CHECKING:
    from polku.runner import Runner

_EVENTS_PER_MESSAGE = 4096
_BYTES_PER_MESSAGE = 1024 * 1024


class SendReceipt(NamedTuple):
    """Say what became of the events that were sent: ids of the accepted ones, and why the others were refused.

    A refusal with an empty `event_id` concerns the whole message. `buffer_size` and `buffer_capacity` are events.
    """

    event_ids: tuple[str, ...]
    refused: tuple[Refusal, ...]
    buffer_size: int
    buffer_capacity: int

    @property
    def ok(self) -> bool:
        """Whether everything was accepted."""
        return not self.refused


class SendChannel(Protocol):
    """A way into a pipeline: serialised `IngestBatch` in, serialised `Ack` out."""

    def submit(self, message: bytes, timeout: float | None) -> bytes:
        """Block until the answer is there; raises `UnavailableError` and `TimeoutError`."""
        ...

    def submit_async(self, message: bytes) -> Awaitable[bytes]:
        """Return the awaitable of the answer; raises `UnavailableError`."""
        ...


class Sender:
    """Send events or raw bytes into a pipeline; pickle it to send from other tasks and actors.

    `send` and `send_raw` block; `send_async` and `send_raw_async` are for event loops. Lists of any length are sent
    as messages of bounded size. Events without an id get one before they are sent; the events themselves are not
    changed.
    """

    def __init__(self, door: SendChannel) -> None:
        self._door = door

    def send(
        self, events: Event | Iterable[Event], *, source: str = "", cluster: str = "", timeout: float | None = None
    ) -> SendReceipt:
        """Send events and return their receipt; `timeout` is in seconds for each message.

        `source` and `cluster` are for events that have none. Raises `TypeError` for what is no event: it, and
        what is in the same message, is not sent. Raises `UnavailableError` where the pipeline is gone and
        `TimeoutError` where it does not answer in time: the events may have been accepted, send them again.
        """
        answers = [self._door.submit(message, timeout) for message in _messages(events, source, cluster)]
        return _receipt(answers)

    async def send_async(self, events: Event | Iterable[Event], *, source: str = "", cluster: str = "") -> SendReceipt:
        """Send events and return their receipt, without blocking the event loop."""
        return _receipt([await self._door.submit_async(message) for message in _messages(events, source, cluster)])

    def send_raw(
        self, data: bytes, *, source: str, cluster: str = "", format: str = "", timeout: float | None = None
    ) -> SendReceipt:
        """Send raw bytes for the ingestor of `source` to parse, and return the receipt of their events."""
        return _receipt([self._door.submit(_raw_message(data, source, cluster, format), timeout)])

    async def send_raw_async(self, data: bytes, *, source: str, cluster: str = "", format: str = "") -> SendReceipt:
        """Send raw bytes without blocking the event loop."""
        return _receipt([await self._door.submit_async(_raw_message(data, source, cluster, format))])


class RawSender:
    """Send raw bytes into the pipeline of a runner, for its ingestors to parse; usable once the runner runs."""

    def __init__(self, runner: Runner) -> None:
        self._runner = runner

    def send(
        self, data: bytes, *, source: str, cluster: str = "", format: str = "", timeout: float | None = None
    ) -> SendReceipt:
        """Send, block, and return the receipt; raises `NotRunningError` before the runner runs."""
        sender = self._runner.pipeline.sender()
        return sender.send_raw(data, source=source, cluster=cluster, format=format, timeout=timeout)

    async def send_async(self, data: bytes, *, source: str, cluster: str = "", format: str = "") -> SendReceipt:
        """Send without blocking the event loop, and return the receipt."""
        sender = self._runner.pipeline.sender()
        return await sender.send_raw_async(data, source=source, cluster=cluster, format=format)


class EventSender:
    """Send events into the pipeline of a runner; usable once the runner runs."""

    def __init__(self, runner: Runner) -> None:
        self._runner = runner

    def send(
        self, events: Event | Iterable[Event], *, source: str = "", cluster: str = "", timeout: float | None = None
    ) -> SendReceipt:
        """Send, block, and return the receipt; raises `NotRunningError` before the runner runs."""
        return self._runner.pipeline.sender().send(events, source=source, cluster=cluster, timeout=timeout)

    async def send_async(self, events: Event | Iterable[Event], *, source: str = "", cluster: str = "") -> SendReceipt:
        """Send without blocking the event loop, and return the receipt."""
        return await self._runner.pipeline.sender().send_async(events, source=source, cluster=cluster)


def _messages(events: Event | Iterable[Event], source: str, cluster: str) -> Iterator[bytes]:
    prefix = IngestBatch(source=source, cluster=cluster).SerializeToString()
    for payload in _payloads([events] if isinstance(events, Event) else events):
        yield prefix + events_field(payload) + payload


def _payloads(events: Iterable[Event]) -> Iterator[bytes]:
    frames: list[bytes] = []
    size = 0
    for event in events:
        try:
            frame = event.SerializeToString()
        except AttributeError:
            raise TypeError(f"send takes an Event, or Events in an iterable, and {shorten(event)} is none") from None
        if not event.id:
            frame += b"\x0a\x1a" + new_id().encode()  # field 1, `id`, 26 characters: the last value of a field counts
        if frames and (len(frames) == _EVENTS_PER_MESSAGE or size + len(frame) > _BYTES_PER_MESSAGE):
            yield join_frames(frames)
            frames, size = [], 0
        frames.append(frame)
        size += len(frame) + 4
    if frames:
        yield join_frames(frames)


def _raw_message(data: bytes, source: str, cluster: str, format: str) -> bytes:
    return IngestBatch(source=source, cluster=cluster, raw=RawPayload(data=data, format=format)).SerializeToString()


def _receipt(answers: Sequence[bytes]) -> SendReceipt:
    acks = [Ack.FromString(answer) for answer in answers]
    ids = tuple(event_id for ack in acks for event_id in ack.event_ids)
    refused = tuple(Refusal(e.event_id, Code(e.code), e.message) for ack in acks for e in ack.errors)
    last = acks[-1] if acks else Ack()
    return SendReceipt(ids, refused, last.buffer_size, last.buffer_capacity)
