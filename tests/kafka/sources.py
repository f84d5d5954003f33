"""Sources on brokers, and the events of their records."""

from __future__ import annotations

from typing import Any

from polku import Event, KafkaSource
from tests.kafka.broker import Cluster

QUICK = {"session.timeout.ms": 6_000, "heartbeat.interval.ms": 200, "reconnect.backoff.max.ms": 200}


def source(at: Cluster, topic: str, **options: Any) -> KafkaSource:
    options = {"config": QUICK, "decode": "event", **options}
    return KafkaSource(topic, f"group-{topic}", bootstrap_servers=at.bootstrap, **options)


def events(count: int, start: int = 0, source: str = "s", time: int = 0) -> list[bytes]:
    """Return serialised events; those with a time lack nothing."""
    numbers = range(start, start + count)
    made = [Event(id=f"e{n:05d}", event_type="t", source=source, timestamp_unix_ns=time) for n in numbers]
    return [event.SerializeToString() for event in made]
