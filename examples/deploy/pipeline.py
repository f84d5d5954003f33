"""The pipeline of these deployments: events of the gateway's ports go to Kafka, to another gateway, or are printed.

KAFKA=kafka:9092       to the topic `events`, keyed by source
UPSTREAM=http://…      to another gateway
JOURNAL=/data/…        keep events on disk until they are delivered
"""

from __future__ import annotations

import os

from polku import BufferStrategy, Event, Filter, GrpcEmitter, Hub, KafkaEmitter, StdoutEmitter, Transform

KAFKA = os.environ.get("KAFKA")
UPSTREAM = os.environ.get("UPSTREAM")
JOURNAL = os.environ.get("JOURNAL")
HOST = os.environ.get("HOSTNAME", "")


def is_wanted(event: Event) -> bool:
    return not event.event_type.startswith("debug.")


def mark(event: Event) -> None:
    event.metadata["gateway"] = HOST


hub = Hub(name="gateway").middleware(Filter(is_wanted)).middleware(Transform(mark))
if JOURNAL:
    hub.buffer_strategy(BufferStrategy.durable(JOURNAL))
if KAFKA:
    hub.emitter(KafkaEmitter("events", key="{source}", bootstrap_servers=KAFKA))
if UPSTREAM:
    hub.emitter(GrpcEmitter(UPSTREAM))
if not KAFKA and not UPSTREAM:
    hub.emitter(StdoutEmitter())
