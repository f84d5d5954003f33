"""Pull events from NATS JetStream as a durable consumer."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import TYPE_CHECKING

from polku import checks
from polku.clock import Clock
from polku.nats.client import check_server, load
from polku.security.client_tls import Certificate, Pem
from polku.security.secret import Secret

if TYPE_CHECKING:
    from polku.nats.puller import Puller


class Decode(StrEnum):
    """Say what a message is."""

    INGESTOR = "ingestor"
    """Bytes for the ingestor of the source."""
    EVENT = "event"
    """A serialised Event, as `NatsEmitter(value="protobuf")` sends them."""
    JSON = "json"
    """JSON, as the JsonIngestor reads it."""
    CLOUDEVENTS = "cloudevents"
    """A CloudEvent in JSON."""


class Start(StrEnum):
    """Say where a consumer begins that is not there yet."""

    BEGINNING = "beginning"
    END = "end"


@dataclass(frozen=True, slots=True)
class NatsSource:
    """Pull the messages of a stream as the durable consumer `durable`; what is in the pipeline is acknowledged.

    "In" means what the pipeline's level says. A message without an acknowledgement for `ack_seconds` is delivered
    again, to whoever pulls for the consumer; for what waits in the pipeline longer the server is asked to wait on.
    What comes again has the same ids: a message without an id is called after its `Nats-Msg-Id`, or else its stream
    and sequence. A message that cannot be read becomes a dead letter that says where it stood. The consumer is made
    where it is missing, of all messages or those of a `subject` (`start`: `beginning`, `end`); the stream is not.

    `decode` says what messages are: `event`, `json`, `cloudevents`, or `ingestor` (bytes for the ingestor of `source`,
    with `format` as its hint). `source` is the stream's name if not given. `headers` become metadata. At most about
    `window` messages and `window_bytes` bytes are in flight; `read_count` are pulled at once. The other options are
    those of `NatsEmitter`.
    """

    stream: str
    durable: str
    subject: str = field(default="", kw_only=True)
    servers: str | Secret | Sequence[str | Secret] = field(default="nats://localhost:4222", kw_only=True, repr=False)
    decode: Decode | str = field(default=Decode.EVENT, kw_only=True)
    source: str = field(default="", kw_only=True)
    cluster: str = field(default="", kw_only=True)
    format: str = field(default="", kw_only=True)
    headers: Sequence[str] = field(default=("traceparent",), kw_only=True)
    start: Start | str = field(default=Start.BEGINNING, kw_only=True)
    name: str = field(default="nats", kw_only=True)
    window: int = field(default=10_000, kw_only=True)
    window_bytes: int = field(default=16 * 1024 * 1024, kw_only=True)
    read_count: int = field(default=500, kw_only=True)
    ack_seconds: float = field(default=30.0, kw_only=True)
    timeout: float = field(default=10.0, kw_only=True)
    user: str | Secret | None = field(default=None, kw_only=True, repr=False)
    password: str | Secret | None = field(default=None, kw_only=True, repr=False)
    token: str | Secret | None = field(default=None, kw_only=True, repr=False)
    credentials: str | os.PathLike[str] | None = field(default=None, kw_only=True)
    root_certificates: Pem | None = field(default=None, kw_only=True)
    certificate: Certificate | None = field(default=None, kw_only=True)

    def __post_init__(self) -> None:
        check_server("NatsSource", self)
        for option in ("stream", "durable"):
            value = getattr(self, option)
            if not isinstance(value, str) or not value or any(c in ".*>/\\" or not c.isprintable() for c in value):
                raise checks.fault("NatsSource", option, value, "must be a name without dots, wildcards and slashes")
        for option in ("subject", "source", "cluster", "format"):
            if not isinstance(getattr(self, option), str):
                raise checks.fault("NatsSource", option, getattr(self, option), "must be a text")
        if not isinstance(self.name, str) or not self.name:
            raise checks.fault("NatsSource", "name", self.name, "must be a text, not empty")
        object.__setattr__(self, "decode", checks.choice("NatsSource", "decode", self.decode, Decode))
        object.__setattr__(self, "start", checks.choice("NatsSource", "start", self.start, Start))
        if isinstance(self.headers, str) or not all(isinstance(name, str) and name for name in self.headers):
            raise checks.fault("NatsSource", "headers", self.headers, "must be a list of names of headers")
        object.__setattr__(self, "headers", tuple(self.headers))
        for option in ("window", "window_bytes", "read_count"):
            checks.whole("NatsSource", option, getattr(self, option))
        for option in ("ack_seconds", "timeout"):
            checks.positive("NatsSource", option, getattr(self, option))

    @property
    def readers(self) -> tuple[str, ...]:
        """The sources that must have an ingestor."""
        return (self.source or self.stream,) if self.decode is Decode.INGESTOR else ()

    def check_extras(self) -> None:
        """Raise `PlanError` where the client is not installed."""
        load("NatsSource")

    def build(self, clock: Clock) -> Puller:
        """Make the running source; raises `PlanError` where the client is not installed."""
        from polku.nats.puller import Puller

        load("NatsSource")
        return Puller(self)
