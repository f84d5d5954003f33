"""A pipeline in a process of its own that pulls from Kafka and writes each event down: to be killed by a test.

`python -m tests.kafka.source_program BOOTSTRAP TOPIC GROUP FILE [COMMIT_SECONDS]`
"""

from __future__ import annotations

import sys
import time
from pathlib import Path

from polku import BufferStrategy, Hub, KafkaSource
from tests.support.recorder import Recorder

bootstrap, topic, group, file, *rest = sys.argv[1:]
source = KafkaSource(
    topic,
    group,
    bootstrap_servers=bootstrap,
    decode="event",
    commit_seconds=float(rest[0]) if rest else 1.0,
    config={"session.timeout.ms": 6_000, "heartbeat.interval.ms": 200},
)
hub = Hub(runtime="inline").source(source).emitter(Recorder(Path(file)))
hub.buffer_strategy(BufferStrategy.durable(f"{file}.journal"))
with hub.start():
    print("ready", flush=True)
    while True:
        time.sleep(1)
