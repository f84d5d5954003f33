"""Built-in ingestors: raw bytes of one source in, events out."""

from __future__ import annotations

from polku.ingest.cloudevents import CloudEventsIngestor
from polku.ingest.external import ExternalIngestor
from polku.ingest.json import JsonIngestor
from polku.ingest.kafka import KafkaSource
from polku.ingest.passthrough import PassthroughIngestor

__all__ = ["CloudEventsIngestor", "ExternalIngestor", "JsonIngestor", "KafkaSource", "PassthroughIngestor"]
