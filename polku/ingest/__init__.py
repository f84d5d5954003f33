"""Built-in ingestors: raw bytes of one source in, events out."""

from __future__ import annotations

from typing import TYPE_CHECKING

from polku.lazy import exports

if TYPE_CHECKING:
    from polku.external.ingestor import ExternalIngestor
    from polku.files.source import FileSource
    from polku.files.stdin import StdinSource
    from polku.ingest.cloudevents import CloudEventsIngestor
    from polku.ingest.hmac_verifier import HmacVerifier
    from polku.ingest.json import JsonIngestor
    from polku.ingest.passthrough import PassthroughIngestor
    from polku.ingest.ray_events import RayEventsIngestor
    from polku.kafka.source import KafkaSource
    from polku.nats.source import NatsSource
    from polku.otlp.ingestor import OtlpIngestor
    from polku.redis.source import RedisStreamsSource
    from polku.schedule import ScheduleSource, Tick

__all__ = [
    "CloudEventsIngestor",
    "ExternalIngestor",
    "FileSource",
    "HmacVerifier",
    "JsonIngestor",
    "KafkaSource",
    "NatsSource",
    "OtlpIngestor",
    "PassthroughIngestor",
    "RayEventsIngestor",
    "RedisStreamsSource",
    "ScheduleSource",
    "StdinSource",
    "Tick",
]

if not TYPE_CHECKING:
    __getattr__ = exports(
        __name__,
        {
            "polku.external.ingestor": ("ExternalIngestor",),
            "polku.files.source": ("FileSource",),
            "polku.files.stdin": ("StdinSource",),
            "polku.ingest.cloudevents": ("CloudEventsIngestor",),
            "polku.ingest.hmac_verifier": ("HmacVerifier",),
            "polku.ingest.json": ("JsonIngestor",),
            "polku.ingest.passthrough": ("PassthroughIngestor",),
            "polku.ingest.ray_events": ("RayEventsIngestor",),
            "polku.kafka.source": ("KafkaSource",),
            "polku.nats.source": ("NatsSource",),
            "polku.otlp.ingestor": ("OtlpIngestor",),
            "polku.redis.source": ("RedisStreamsSource",),
            "polku.schedule": ("ScheduleSource", "Tick"),
        },
    )
