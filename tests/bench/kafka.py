"""Delivered events per second and CPU per event of KafkaEmitter and KafkaSource, beside the bare client.

    python -m tests.bench.kafka --events 200000 --rounds 3

The bare producer makes the same values, keys and headers of the same events, sends them with the same properties, and
counts its delivery reports; `ready-out` has them made beforehand. The bare consumer parses and counts. The mirrors copy
all fields of records from topic to topic; the bare one commits what it has flushed. Each run is a process of its own;
they take turns against the same brokers (librdkafka's mock cluster, in another process, or those at `--bootstrap`), and
medians are printed, and the ratios of the target. Time and CPU count from when the first event is there: how long a
process takes to start, and to join its group, is left out. CPU is that of the process.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, TypeAlias

from tests.kafka.broker import Cluster

PROPERTIES = {"linger.ms": 1, "acks": "all", "enable.idempotence": True}
PARTITIONS = 4
Work: TypeAlias = "Callable[[Callable[[], None]], None]"
"""Does all of it, and says when it begins."""
HEADERS: list[tuple[str, str | bytes | None]] = [
    ("traceparent", b"00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"),
    ("type", b"user.login"),
]


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


def fill(bootstrap: str, topic: str, events: int) -> None:
    """Write what is to be read; compressed, since a mock broker keeps 5 MiB of a partition."""
    from confluent_kafka import Producer

    producer = Producer({"bootstrap.servers": bootstrap, "compression.type": "lz4", "linger.ms": 20})
    for event in make(events):
        while True:
            try:
                producer.produce(topic, event.SerializeToString(), event.source, headers=list(HEADERS))
                break
            except BufferError:
                producer.poll(0.1)
    assert producer.flush(60) == 0


def record_of(event: Any) -> tuple[bytes, str, list[tuple[str, str | bytes | None]]]:
    """Return the value, key and headers that a KafkaEmitter sends."""
    headers = [("id", event.id), ("type", event.event_type), ("source", event.source)]
    return event.SerializeToString(), event.source, [*headers, ("content-type", b"application/x-protobuf")]


def bare_out(bootstrap: str, topic: str, events: int) -> Work:
    """Make and send with the client alone."""
    everything = make(events)
    return lambda began: send_bare(bootstrap, topic, events, map(record_of, everything), began)


def ready_out(bootstrap: str, topic: str, events: int) -> Work:
    """Send with the client alone, values and headers made beforehand."""
    records = list(map(record_of, make(events)))
    return lambda began: send_bare(bootstrap, topic, events, records, began)


def send_bare(bootstrap: str, topic: str, events: int, records: Iterable[Any], began: Callable[[], None]) -> None:
    """Send records, and wait for their reports."""
    from confluent_kafka import Producer

    producer = Producer({"bootstrap.servers": bootstrap, **PROPERTIES})
    confirmed = 0

    def report(error: Any, message: Any) -> None:
        nonlocal confirmed
        confirmed += error is None

    began()
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


def polku_out(bootstrap: str, topic: str, events: int) -> Work:
    """Send with a KafkaEmitter, batch by batch, as an outlet does."""
    import asyncio

    from polku import Batch, KafkaEmitter
    from polku.clock import SystemClock

    everything = make(events)
    batches = [Batch.from_events(everything[start : start + 1_000]).sealed() for start in range(0, events, 1_000)]
    config = KafkaEmitter(topic, key="{source}", bootstrap_servers=bootstrap)

    async def send(began: Callable[[], None]) -> None:
        emitter = config.build(SystemClock())
        await emitter.start()
        began()
        for batch in batches:
            assert not await emitter.emit(batch)
        await emitter.close()

    return lambda began: asyncio.run(send(began))


def bare_in(bootstrap: str, topic: str, events: int) -> Work:
    """Read with the client alone, and parse."""
    from confluent_kafka import Consumer

    from polku import Event

    consumer = Consumer(
        {"bootstrap.servers": bootstrap, "group.id": f"bare-{time.time_ns()}", "auto.offset.reset": "earliest"}
    )

    def work(began: Callable[[], None]) -> None:
        consumer.subscribe([topic])
        count = 0
        while count < events:
            messages = consumer.consume(1_000, 0.1)
            if messages and not count:
                began()
            for message in messages:
                Event.FromString(message.value() or b"")
                count += 1
        consumer.close()

    return work


def polku_in(bootstrap: str, topic: str, events: int) -> Work:
    """Read with a KafkaSource through a whole inline pipeline to a function that counts."""
    import threading

    from polku import Hub, KafkaSource

    count = 0
    first, done = threading.Event(), threading.Event()

    def counted(batch: Any) -> None:
        nonlocal count
        count += len(batch)
        first.set()
        if count >= events:
            done.set()

    source = KafkaSource(topic, f"polku-{time.time_ns()}", bootstrap_servers=bootstrap, decode="event")

    def work(began: Callable[[], None]) -> None:
        with Hub(runtime="inline").source(source).emitter(counted).start():
            first.wait()
            began()
            done.wait()

    return work


def bare_mirror(bootstrap: str, topic: str, events: int) -> Work:
    """Copy records with the clients alone, a thousand at a time, and commit each thousand once it is flushed."""
    from confluent_kafka import Consumer, Producer

    group = {"group.id": f"bare-{time.time_ns()}", "auto.offset.reset": "earliest", "enable.auto.commit": False}
    consumer = Consumer({"bootstrap.servers": bootstrap, **group})
    producer = Producer({"bootstrap.servers": bootstrap, **PROPERTIES})
    confirmed = 0

    def report(error: Any, message: Any) -> None:
        nonlocal confirmed
        confirmed += error is None

    def work(began: Callable[[], None]) -> None:
        consumer.subscribe([topic])
        is_first = True
        while confirmed < events:
            messages = consumer.consume(1_000, 0.1)
            if messages and is_first:
                is_first = False
                began()
            for message in messages:
                producer.produce(
                    *(f"{topic}-bare", message.value(), message.key()),
                    partition=message.partition() or 0,
                    on_delivery=report,
                    timestamp=message.timestamp()[1],
                    headers=message.headers(),
                )
                producer.poll(0)
            producer.flush()
            if messages:
                consumer.commit(asynchronous=True)
        consumer.close()

    return work


def polku_mirror(bootstrap: str, topic: str, events: int) -> Work:
    """Copy records with a whole inline pipeline, until each is confirmed."""
    from polku import Hub, KafkaEmitter, KafkaSource

    source = KafkaSource(topic, f"polku-{time.time_ns()}", bootstrap_servers=bootstrap, decode="record")
    emitter = KafkaEmitter(f"{topic}-polku", bootstrap_servers=bootstrap, value="record")

    def work(began: Callable[[], None]) -> None:
        with Hub(runtime="inline").source(source).emitter(emitter).start() as pipeline:

            def confirmed() -> int:
                return pipeline.statistics().lanes[0].emitters["kafka"].confirmed

            while not confirmed():
                time.sleep(0.001)
            began()
            while confirmed() < events:
                time.sleep(0.05)

    return work


ROLES = {
    "ready-out": ready_out,
    "bare-out": bare_out,
    "polku-out": polku_out,
    "bare-in": bare_in,
    "polku-in": polku_in,
    "bare-mirror": bare_mirror,
    "polku-mirror": polku_mirror,
}
_SECONDS = 300  # for one run
_ADMIN_SECONDS = 60
TARGET = 0.7
"""Of the rate of the bare client that does the same."""


def run(role: str, bootstrap: str, topic: str, events: int) -> dict[str, float]:
    arguments = [sys.executable, "-m", "tests.bench.kafka", "--role", role, "--bootstrap", bootstrap]
    done = subprocess.run(
        [*arguments, "--topic", topic, "--events", str(events)],
        stdout=subprocess.PIPE,
        text=True,
        check=True,
        timeout=_SECONDS,
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
    parser.add_argument("--roles", nargs="*", choices=ROLES, help="those to run; if not given: all")
    options = parser.parse_args()
    if options.role:
        print(
            json.dumps(measure(ROLES[options.role](options.bootstrap, options.topic, options.events), options.events))
        )
        return
    results: dict[str, list[dict[str, float]]] = {role: [] for role in options.roles or ROLES}
    for _ in range(options.rounds):
        name = f"bench-{time.time_ns()}"  # brokers may have topics of other runs
        topics = [*(f"{name}-{role}" for role in ROLES), *(f"{name}-in{end}" for end in ("", "-bare", "-polku"))]
        with brokers(options.bootstrap, topics) as bootstrap:
            fill(bootstrap, f"{name}-in", options.events)
            for role in results:
                topic = f"{name}-{role}" if role.endswith("-out") else f"{name}-in"
                results[role].append(run(role, bootstrap, topic, options.events))
                print(role, json.dumps(results[role][-1]), file=sys.stderr, flush=True)
    print("\n".join(table(results)))


@contextmanager
def brokers(bootstrap: str, topics: Sequence[str]) -> Iterator[str]:
    """Make topics, on brokers that run or (no `bootstrap`) on some of our own; remove them in the end."""
    if not bootstrap:
        with Cluster(*(f"{topic}:{PARTITIONS}" for topic in topics)) as cluster:
            yield cluster.bootstrap
        return
    from confluent_kafka.admin import AdminClient
    from confluent_kafka.cimpl import NewTopic

    admin = AdminClient({"bootstrap.servers": bootstrap})
    for made in admin.create_topics([NewTopic(topic, PARTITIONS) for topic in topics]).values():
        made.result(_ADMIN_SECONDS)
    try:
        yield bootstrap
    finally:
        for removed in admin.delete_topics(list(topics)).values():
            removed.result(_ADMIN_SECONDS)


def measure(work: Work, events: int) -> dict[str, float]:
    """Return the events per second of some work, and its CPU time, in microseconds an event."""
    from polku.runtime.serving import tune_process

    tune_process()
    times: list[tuple[float, float]] = []

    def note() -> None:
        times.append((time.perf_counter(), time.process_time()))

    work(note)
    note()
    (began, cpu), (ended, cpu_ended) = times
    return {"rate": events / (ended - began), "cpu": (cpu_ended - cpu) / events * 1e6}


def table(results: Mapping[str, Sequence[Mapping[str, float]]]) -> list[str]:
    """Return the medians, and for each direction the ratio of the target, of runs that stand side by side."""
    lines = ["| | events/s | µs CPU/event |", "|---|---|---|"]
    for role, rounds in results.items():
        rate, cpu = (statistics.median(each[key] for each in rounds) for key in ("rate", "cpu"))
        lines.append(f"| {role} | {rate:,.0f} | {cpu:.2f} |")
    for way in ("out", "in", "mirror"):
        bare, ours = results.get(f"bare-{way}"), results.get(f"polku-{way}")
        if bare and ours:
            pairs = list(zip(ours, bare, strict=True))
            rate = statistics.median(one["rate"] / other["rate"] for one, other in pairs)
            cpu = statistics.median(one["cpu"] / other["cpu"] for one, other in pairs)
            verdict = "met" if rate >= TARGET else f"missed by {1 - rate / TARGET:.0%}"
            lines.append(f"| {way}: POLKU / bare | {rate:.2f} (target {TARGET}: {verdict}) | {cpu:.2f} |")
    return lines


if __name__ == "__main__":
    main()
