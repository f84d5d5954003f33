"""What the Collector is configured to do, as a pipeline."""

from __future__ import annotations

import os

from polku import Event, Filter, Hub, OtlpEmitter, OtlpIngestor, Transform


def is_wanted(event: Event) -> bool:
    return not event.metadata["http.route"].startswith("/debug")


def mark(event: Event) -> None:
    event.metadata["env"] = "production"


def make(lanes: int) -> Hub:
    hub = Hub().ingestor(OtlpIngestor(attributes=["http.route"]))
    hub.middleware(Filter(is_wanted)).middleware(Transform(mark))
    hub.emitter(OtlpEmitter(os.environ["PEERS_SINK"], compression="none", window=16))
    return hub.chain().lanes(lanes) if lanes > 1 else hub


hub = make(int(os.environ.get("PEERS_LANES", "1")))
