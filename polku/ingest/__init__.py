"""Built-in ingestors: raw bytes of one source in, events out."""

from __future__ import annotations

from polku.external.ingestor import ExternalIngestor
from polku.ingest.cloudevents import CloudEventsIngestor
from polku.ingest.hmac_verifier import HmacVerifier
from polku.ingest.json import JsonIngestor
from polku.ingest.passthrough import PassthroughIngestor
from polku.kafka.source import KafkaSource
from polku.otlp.ingestor import OtlpIngestor

__all__ = [
    "CloudEventsIngestor",
    "ExternalIngestor",
    "HmacVerifier",
    "JsonIngestor",
    "KafkaSource",
    "OtlpIngestor",
    "PassthroughIngestor",
]
