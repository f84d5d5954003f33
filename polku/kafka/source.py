"""Pull events from Kafka topics as a member of a consumer group."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from polku import checks
from polku.clock import Clock
from polku.kafka.client import checked_config, load
from polku.kafka.fields import Field
from polku.kafka.puller import Puller
from polku.kafka.reading import Decode
from polku.kafka.tls import check_tls
from polku.security.client_tls import Certificate, Pem

_OURS = ("group.id", "enable.auto.commit", "enable.auto.offset.store", "enable.partition.eof")
_DEFAULTS = {"client.id": "polku", "auto.offset.reset": "earliest", "queued.max.messages.kbytes": 16 * 1024}
_LEGAL = re.compile(r"[A-Za-z0-9._-]{1,249}")


@dataclass(frozen=True, slots=True)
class KafkaSource:
    """Pull the records of `topics` as a member of `group`; what is in the pipeline for good is committed, never more.

    "In" means what the pipeline's level says: the buffer has it, it is on disk, or it is delivered. After a crash or a
    rebalance the records since the last commit (each `commit_seconds`) come again, with the same ids: one without an id
    is called after its topic, partition and offset. A record that cannot be read becomes a dead letter that says where
    it stood, and the partition goes on.

    `decode` says what the values are: `ingestor` (bytes for the ingestor of `source`, with `format` as its hint),
    `event`, `json`, `cloudevents`, or `record`: payloads. `source` is the topic's name if not given. `headers` names
    headers that become metadata. `fields` of the record become metadata too, under reserved names
    (`polku.kafka.fields`): `key`, `topic`, `partition`, `offset`, `timestamp` and `headers`; by default all with
    `record`, and else the key. With `tombstones` a record without a value is an event of type `kafka.tombstone`, as it
    always is with `record`; else it is skipped and counted, or empty bytes for an ingestor.

    At most about `window` records and `window_bytes` bytes are in flight, shared by the partitions. When partitions are
    taken away, what is in flight has `revoke_seconds` to arrive. A topic may be a pattern, `"^orders-.*"`. `config` has
    librdkafka's properties: new groups begin with the oldest record unless its `auto.offset.reset` says otherwise, of
    transactions only what was committed is read (`isolation.level`), and `group.instance.id` makes a member static.
    With `root_certificates` or a `certificate` connections are encrypted; where their files change, the source joins
    its group again with them, once what is in flight has arrived.
    """

    topics: str | Sequence[str]
    group: str
    bootstrap_servers: str = field(default="", kw_only=True)
    source: str = field(default="", kw_only=True)
    cluster: str = field(default="", kw_only=True)
    decode: Decode | str = field(default=Decode.INGESTOR, kw_only=True)
    format: str = field(default="", kw_only=True)
    headers: Sequence[str] = field(default=("traceparent",), kw_only=True)
    fields: Sequence[Field | str] | None = field(default=None, kw_only=True)
    tombstones: bool = field(default=False, kw_only=True)
    name: str = field(default="kafka", kw_only=True)
    window: int = field(default=10_000, kw_only=True)
    window_bytes: int = field(default=16 * 1024 * 1024, kw_only=True)
    commit_seconds: float = field(default=1.0, kw_only=True)
    revoke_seconds: float = field(default=10.0, kw_only=True)
    config: Mapping[str, Any] = field(default_factory=dict, kw_only=True, repr=False)
    root_certificates: Pem | None = field(default=None, kw_only=True)
    certificate: Certificate | None = field(default=None, kw_only=True)

    def __post_init__(self) -> None:
        topics = (self.topics,) if isinstance(self.topics, str) else tuple(self.topics)
        for topic in topics or ("",):
            if not isinstance(topic, str) or not (_LEGAL.fullmatch(topic) or _is_pattern(topic)):
                fix = "a topic's name has 1 to 249 letters, digits, '.', '_' and '-'; a pattern begins with '^'"
                raise checks.fault("KafkaSource", "topics", topic, fix)
        object.__setattr__(self, "topics", topics)
        for option in ("group", "name"):
            if not isinstance(getattr(self, option), str) or not getattr(self, option):
                raise checks.fault("KafkaSource", option, getattr(self, option), "must be a text, not empty")
        object.__setattr__(self, "decode", checks.choice("KafkaSource", "decode", self.decode, Decode))
        if isinstance(self.headers, str) or not all(isinstance(name, str) and name for name in self.headers):
            raise checks.fault("KafkaSource", "headers", self.headers, "must be a list of header names")
        object.__setattr__(self, "headers", tuple(self.headers))
        self._check_fields()
        for option in ("window", "window_bytes"):
            checks.whole("KafkaSource", option, getattr(self, option))
        for option in ("commit_seconds", "revoke_seconds"):
            checks.positive("KafkaSource", option, getattr(self, option))
        object.__setattr__(self, "config", dict(self.config) if isinstance(self.config, Mapping) else self.config)
        self.settings()
        check_tls("KafkaSource", self)

    def _check_fields(self) -> None:
        is_record = self.decode is Decode.RECORD
        names = self.fields
        if names is None:
            names = tuple(Field) if is_record else (Field.KEY,)
        elif isinstance(names, str):
            raise checks.fault("KafkaSource", "fields", names, "must be a list of fields")
        object.__setattr__(self, "fields", tuple(checks.choice("KafkaSource", "fields", name, Field) for name in names))
        if not isinstance(self.tombstones, bool):
            raise checks.fault("KafkaSource", "tombstones", self.tombstones, "must be True or False")
        object.__setattr__(self, "tombstones", self.tombstones or is_record)

    @property
    def readers(self) -> tuple[str, ...]:
        """The sources that must have an ingestor."""
        if self.decode is not Decode.INGESTOR:
            return ()
        return (self.source,) if self.source else tuple(topic for topic in self.topics if not _is_pattern(topic))

    def settings(self) -> dict[str, Any]:
        """Return all properties of the client."""
        chosen = checked_config("KafkaSource", self.bootstrap_servers, self.config, _OURS)
        ours = {"group.id": self.group, "enable.auto.commit": False, "enable.auto.offset.store": False}
        return {**_DEFAULTS, **chosen, **ours}

    def check_extras(self) -> None:
        """Raise `PlanError` where the client is not installed."""
        load("KafkaSource")

    def build(self, clock: Clock) -> Puller:
        """Make the running source; raises `PlanError` where the client is not installed."""
        load("KafkaSource")
        return Puller(self)


def _is_pattern(topic: str) -> bool:
    if not topic.startswith("^"):
        return False
    try:
        re.compile(topic)
    except re.error:
        return False
    return True
