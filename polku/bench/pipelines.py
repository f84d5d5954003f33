"""The pipelines that `polku bench` measures when it is given no file, and those that it compares them with.

Their emitters go to the address in `POLKU_BENCH_SINK`.
"""

from __future__ import annotations

import os

from polku import Filter, GrpcEmitter, Hub, Transform
from polku.event.v1.event_pb2 import Event


def is_about_users(event: Event) -> bool:
    """Let everything pass, after a look."""
    return event.event_type.startswith("user.")


def mark(event: Event) -> None:
    """Change every event."""
    event.metadata["processed"] = "true"


SINK = os.environ.get("POLKU_BENCH_SINK", "127.0.0.1:9")

hub = Hub(name="bench").middleware(Filter(is_about_users)).middleware(Transform(mark)).emitter(GrpcEmitter(SINK))
pass_through = Hub(name="bench").emitter(GrpcEmitter(SINK))
