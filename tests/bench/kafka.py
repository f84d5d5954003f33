"""Delivered events per second and CPU per event of KafkaEmitter and KafkaSource, beside the bare client.

    python -m tests.bench.kafka --events 200000 --rounds 3

The bare producer sends the same values under the same keys with the same properties, all made beforehand, and counts
its delivery reports; the bare consumer parses and counts. Each run is a process of its own; they take turns against the
same brokers (librdkafka's mock cluster, in another process), and medians are printed. CPU is that of the process.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from typing import Any

from tests.kafka.broker import Cluster
from tests.kafka.clients import write

PROPERTIES = {"linger.ms": 1, "acks": "all", "enable.idempotence": True}
PARTITIONS = 4


def make(events: int) -> list[Any]:
    from polku import Event, Severity

    return [
        Event(
            id=f"event-{number:012d}",
            timestamp_unix_ns=1_700_000_000_000_000_000 + number,
            source=f"agent-{number % 16}",
            event_type="user.login",
            metadata={"region": "eu"},
            payload=b"x" * 40,
            severity=Severity.SEVERITY_INFO,
        )
        for number in range(events)
    ]


def bare_out(bootstrap: str, topic: str, events: int) -> Callable[[], None]:
    """Send with the client alone, values and headers made beforehand."""
    from confluent_kafka import Producer

    producer = Producer({"bootstrap.servers": bootstrap, **PROPERTIES})
    records = [
        (event.SerializeToString(), event.source, [("id", event.id), ("type", "user.login"), ("source", event.source)])
        for event in make(events)
    ]
    confirmed = 0

    def report(error: Any, message: Any) -> None:
        nonlocal confirmed
        confirmed += error is None

    def work() -> None:
        for value, key, headers in records:
            while True:
                try:
                    producer.produce(topic, value, key, on_delivery=report, headers=headers)
                    break
                except BufferError:
                    producer.poll(0.01)
            producer.poll(0)
        producer.flush()
        assert confirmed == events

    return work


def polku_out(bootstrap: str, topic: str, events: int) -> Callable[[], None]:
    """Send with a KafkaEmitter, batch by batch, as an outlet does."""
    import asyncio

    from polku import Batch, KafkaEmitter
    from polku.clock import SystemClock

    everything = make(events)
    batches = [Batch.from_events(everything[start : start + 1_000]).sealed() for start in range(0, events, 1_000)]
    config = KafkaEmitter(topic, key="{source}", bootstrap_servers=bootstrap)

    async def send() -> None:
        emitter = config.build(SystemClock())
        await emitter.start()
        for batch in batches:
            assert not await emitter.emit(batch)
        await emitter.close()

    return lambda: asyncio.run(send())


def bare_in(bootstrap: str, topic: str, events: int) -> Callable[[], None]:
    """Read with the client alone, and parse."""
    from confluent_kafka import Consumer

    from polku import Event

    consumer = Consumer(
        {"bootstrap.servers": bootstrap, "group.id": f"bare-{time.time_ns()}", "auto.offset.reset": "earliest"}
    )

    def work() -> None:
        consumer.subscribe([topic])
        count = 0
        while count < events:
            for message in consumer.consume(1_000, 0.1):
                Event.FromString(message.value() or b"")
                count += 1
        consumer.close()

    return work


def polku_in(bootstrap: str, topic: str, events: int) -> Callable[[], None]:
    """Read with a KafkaSource through a whole inline pipeline to a function that counts."""
    import threading

    from polku import Hub, KafkaSource

    count = 0
    done = threading.Event()

    def counted(batch: Any) -> None:
        nonlocal count
        count += len(batch)
        if count >= events:
            done.set()

    source = KafkaSource(topic, f"polku-{time.time_ns()}", bootstrap_servers=bootstrap, decode="event")

    def work() -> None:
        with Hub(runtime="inline").source(source).emitter(counted).start():
            done.wait()

    return work


ROLES = {"bare-out": bare_out, "polku-out": polku_out, "bare-in": bare_in, "polku-in": polku_in}


def run(role: str, bootstrap: str, topic: str, events: int) -> dict[str, float]:
    arguments = [sys.executable, "-m", "tests.bench.kafka", "--role", role, "--bootstrap", bootstrap]
    done = subprocess.run(
        [*arguments, "--topic", topic, "--events", str(events)], stdout=subprocess.PIPE, text=True, check=True
    )
    result: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return result


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--role", choices=ROLES)
    parser.add_argument("--bootstrap", default="")
    parser.add_argument("--topic", default="")
    parser.add_argument("--events", type=int, default=100_000)
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    if options.role:
        work = ROLES[options.role](options.bootstrap, options.topic, options.events)
        began, cpu = time.perf_counter(), time.process_time()
        work()
        seconds, cpu = time.perf_counter() - began, time.process_time() - cpu
        print(json.dumps({"rate": options.events / seconds, "cpu": cpu / options.events * 1e6}))
        return
    results: dict[str, list[dict[str, float]]] = {role: [] for role in ROLES}
    for number in range(options.rounds):
        with Cluster(*(f"{role}-{number}:{PARTITIONS}" for role in ("bare-out", "polku-out", "in"))) as cluster:
            values = [event.SerializeToString() for event in make(options.events)]
            write(cluster.bootstrap, f"in-{number}", values)
            for role in ROLES:
                topic = f"in-{number}" if role.endswith("-in") else f"{role}-{number}"
                results[role].append(run(role, cluster.bootstrap, topic, options.events))
                print(role, json.dumps(results[role][-1]), file=sys.stderr, flush=True)
    print("| | events/s | µs CPU/event |\n|---|---|---|")
    for role, rounds in results.items():
        rate, cpu = (statistics.median(r[key] for r in rounds) for key in ("rate", "cpu"))
        print(f"| {role} | {rate:,.0f} | {cpu:.2f} |")


if __name__ == "__main__":
    main()
