"""Pull orders from one Kafka topic and sort them into others; what cannot go on is kept beside, with the reason.

    pip install 'polku[kafka]'
    KAFKA=localhost:9092 polku run examples/kafka.py --runtime inline

reads JSON records such as {"event_type": "order.paid", "metadata": {"tenant": "acme", "customer": "ada"}} from the
topic `orders`. Each goes to `orders.<tenant>` under the key of its customer, so that a customer's orders stay in order.
What is no JSON, and what has no tenant, is in `dead.db`: `polku dlq list dead.db`.
"""

from __future__ import annotations

import os
from pathlib import Path

from polku import Event, Filter, Hub, KafkaEmitter, KafkaSource

BROKERS = os.environ.get("KAFKA", "localhost:9092")
FOLDER = Path(os.environ.get("FOLDER", "."))


def customer(event: Event) -> str:
    return event.metadata.get("customer", event.id)


hub = (
    Hub()
    .source(KafkaSource("orders", "polku-example", bootstrap_servers=BROKERS, decode="json"))
    .middleware(Filter(lambda event: event.event_type.startswith("order.")))
    .emitter(KafkaEmitter("orders.{metadata[tenant]}", key=customer, bootstrap_servers=BROKERS, value="json"))
    .dead_letters(FOLDER / "dead.db")
)
