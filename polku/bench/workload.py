"""What is sent: messages whose ids count the events, made without building an event.

Ids are `RUN.INDEX.NUMBER`: the event's index in its batch and the batch's number, in fixed widths; behind the id comes
the time of sending, in `timestamp_unix_ns`. So all that differs between two batches is one run of 20 bytes in each
event, and a batch of a thousand events is one `bytes.join` (15 ns an event, where building it takes 5 µs).
"""

from __future__ import annotations

from dataclasses import dataclass

from polku.errors import SettingError
from polku.event.v1.event_pb2 import SEVERITY_INFO, Event
from polku.v1.gateway_pb2 import EventPayload, IngestBatch, IngestEvent

RUN = "bench"
ID_BYTES = 22
HEAD_BYTES = ID_BYTES + 2  # with the tag and the length of field 1, the id, of an Event as of an Ack
PREFIX = b"\x0a\x16" + RUN.encode() + b"."
MAX_BATCH = 100_000
_NUMBER = "@@@@@@@@@@"
_TIME = 1 << 60  # as every time from 1972 on, nine bytes as a varint
MAX_METADATA = 100


@dataclass(frozen=True, slots=True)
class Workload:
    """Describe the messages: `batch` events of `size` bytes each, as `StreamEvents` or, with `unary`, `SendEvent` take.

    `metadata` is the number of entries of each event, `cluster` that of the message. Raises `SettingError` for a size
    that is too small for the ids and names.
    """

    batch: int = 1_000
    size: int = 130
    unary: bool = False
    source: str = "bench"
    event_type: str = "user.login"
    cluster: str = ""
    metadata: int = 1

    def __post_init__(self) -> None:
        least = _event(self, 0, b"").ByteSize()
        if self.size < least:
            raise SettingError("--size", self.size, f"an event takes at least {least} bytes, without any payload")

    @property
    def payload(self) -> bytes:
        """What every event carries, so that it is `size` bytes long (a byte more where lengths take another one)."""
        least = _event(self, 0, b"").ByteSize()
        padding = self.size - least - 2
        while padding > 0 and _event(self, 0, b"x" * padding).ByteSize() > self.size:
            padding -= 1
        return b"x" * max(padding, 0)

    def template(self) -> Template:
        """Make what messages are made of."""
        payload = self.payload
        events = [_event(self, index, payload) for index in range(self.batch)]
        message: IngestBatch | IngestEvent
        if not self.unary:
            message = IngestBatch(source=self.source, cluster=self.cluster, events=EventPayload(events=events))
        elif self.batch == 1:
            message = IngestEvent(source=self.source, cluster=self.cluster, event=events[0])
        else:
            message = IngestEvent(source=self.source, cluster=self.cluster, events=EventPayload(events=events))
        return Template(message.SerializeToString())


class Template:
    """Make the messages of a workload."""

    def __init__(self, message: bytes) -> None:
        self._pieces = message.split(_separator(_NUMBER.encode(), _TIME))

    def message(self, number: int, time_ns: int) -> bytes:
        """Return the message of a batch, sent at a Unix time in nanoseconds."""
        return _separator(b"%010d" % number, time_ns).join(self._pieces)


def sent_at(frame: bytes) -> int | None:
    """Return the time of sending in a serialised event of ours, in Unix nanoseconds; None where it was changed."""
    if frame[HEAD_BYTES : HEAD_BYTES + 1] != b"\x10":
        return None
    value = 0
    for place, byte in enumerate(frame[HEAD_BYTES + 1 : HEAD_BYTES + 10]):
        value |= (byte & 127) << (7 * place)
    return value


def _event(workload: Workload, index: int, payload: bytes) -> Event:
    return Event(
        id=f"{RUN}.{index:05d}.{_NUMBER}",
        timestamp_unix_ns=_TIME,
        source=f"{workload.source}-agent",
        event_type=workload.event_type,
        metadata={f"region-{number}" if number else "region": "eu" for number in range(workload.metadata)},
        payload=payload,
        severity=SEVERITY_INFO,
    )


def _separator(number: bytes, time_ns: int) -> bytes:
    varint = bytearray(b"\x10")
    while time_ns > 127:
        varint.append(time_ns & 127 | 128)
        time_ns >>= 7
    varint.append(time_ns)
    return number + bytes(varint)
