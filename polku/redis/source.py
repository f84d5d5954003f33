"""Pull events from Redis Streams as a consumer of a group."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import TYPE_CHECKING

from polku import checks
from polku.clock import Clock
from polku.emit.fields import DATA
from polku.redis.client import check_server, load
from polku.security.client_tls import Certificate, Pem
from polku.security.secret import Secret

if TYPE_CHECKING:
    from polku.redis.puller import Puller


class Decode(StrEnum):
    """Say what an entry is."""

    INGESTOR = "ingestor"
    """One field has bytes for the ingestor of the source."""
    EVENT = "event"
    """One field has a serialised Event, as `RedisStreamsEmitter(value="protobuf")` sends them."""
    JSON = "json"
    """One field has JSON, as the JsonIngestor reads it."""
    CLOUDEVENTS = "cloudevents"
    """One field has a CloudEvent in JSON."""
    FIELDS = "fields"
    """All fields are the payload of an event, as a JSON object of texts."""


class Start(StrEnum):
    """Say where a group begins that is not there yet."""

    BEGINNING = "beginning"
    END = "end"


@dataclass(frozen=True, slots=True)
class RedisStreamsSource:
    """Pull the entries of `streams` as a consumer of `group`; what is in the pipeline is acknowledged, never more.

    "In" means what the pipeline's level says. Entries that a consumer took and did not acknowledge for `claim_seconds`
    are claimed, those of this one too after a crash; what waits in the pipeline for longer is kept from others. What
    comes again has the same ids: an entry without an id is called after its stream and its own id. An entry that
    cannot be read becomes a dead letter that says where it stood. The group is made where it is missing (`start`:
    `beginning`, `end`), the stream too. Each process and lane is a consumer of its own.

    `decode` says what an entry is: `event`, `json`, `cloudevents`, `ingestor` (bytes for the ingestor of `source`, with
    `format` as its hint), all in the field `data_field`, or `fields`: all of it as JSON, in an event of `event_type`.
    `source` is the stream's name if not given. `headers` are fields that become metadata. With `delete` entries are
    deleted when they are acknowledged. At most about `window` entries and `window_bytes` bytes are in flight, and
    `read_count` are read at once. `url` and `password` may be a `Secret`. TLS is as for
    `RedisStreamsEmitter`.
    """

    streams: str | Sequence[str]
    group: str
    url: str | Secret = field(default="redis://localhost:6379", kw_only=True, repr=False)
    decode: Decode | str = field(default=Decode.EVENT, kw_only=True)
    data_field: str = field(default=DATA, kw_only=True)
    event_type: str = field(default="redis.entry", kw_only=True)
    source: str = field(default="", kw_only=True)
    cluster: str = field(default="", kw_only=True)
    format: str = field(default="", kw_only=True)
    headers: Sequence[str] = field(default=("traceparent",), kw_only=True)
    start: Start | str = field(default=Start.BEGINNING, kw_only=True)
    delete: bool = field(default=False, kw_only=True)
    name: str = field(default="redis", kw_only=True)
    window: int = field(default=10_000, kw_only=True)
    window_bytes: int = field(default=16 * 1024 * 1024, kw_only=True)
    read_count: int = field(default=500, kw_only=True)
    claim_seconds: float = field(default=60.0, kw_only=True)
    timeout: float = field(default=10.0, kw_only=True)
    password: str | Secret | None = field(default=None, kw_only=True, repr=False)
    root_certificates: Pem | None = field(default=None, kw_only=True)
    certificate: Certificate | None = field(default=None, kw_only=True)

    def __post_init__(self) -> None:
        check_server("RedisStreamsSource", self)
        streams = (self.streams,) if isinstance(self.streams, str) else tuple(self.streams)
        if not streams or not all(isinstance(name, str) and name for name in streams):
            raise checks.fault("RedisStreamsSource", "streams", self.streams, "must be one or several names")
        object.__setattr__(self, "streams", streams)
        for option in ("group", "name", "data_field", "event_type"):
            if not isinstance(getattr(self, option), str) or not getattr(self, option):
                raise checks.fault("RedisStreamsSource", option, getattr(self, option), "must be a text, not empty")
        object.__setattr__(self, "decode", checks.choice("RedisStreamsSource", "decode", self.decode, Decode))
        object.__setattr__(self, "start", checks.choice("RedisStreamsSource", "start", self.start, Start))
        if isinstance(self.headers, str) or not all(isinstance(name, str) and name for name in self.headers):
            raise checks.fault("RedisStreamsSource", "headers", self.headers, "must be a list of names of fields")
        object.__setattr__(self, "headers", tuple(self.headers))
        for option in ("window", "window_bytes", "read_count"):
            checks.whole("RedisStreamsSource", option, getattr(self, option))
        for option in ("claim_seconds", "timeout"):
            checks.positive("RedisStreamsSource", option, getattr(self, option))

    @property
    def names(self) -> tuple[str, ...]:
        """The streams."""
        return (self.streams,) if isinstance(self.streams, str) else tuple(self.streams)

    @property
    def readers(self) -> tuple[str, ...]:
        """The sources that must have an ingestor."""
        if self.decode is not Decode.INGESTOR:
            return ()
        return (self.source,) if self.source else self.names

    def check_extras(self) -> None:
        """Raise `PlanError` where the client is not installed."""
        load("RedisStreamsSource")

    def build(self, clock: Clock) -> Puller:
        """Make the running source; raises `PlanError` where the client is not installed."""
        from polku.redis.puller import Puller

        load("RedisStreamsSource")
        return Puller(self)
