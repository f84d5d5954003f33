"""An application's actor uses a server by its client: what that raises while the server is away gives nothing up."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import closing
from typing import Any, Protocol

import pytest

from polku import ActorEmitter, Batch, Breaker, Hub, Pipeline, Resilience, Retry, new_event
from tests.kafka.broker import Cluster
from tests.postgres.server import Server as PostgresServer
from tests.postgres.server import needs_postgres
from tests.redis.server import Server as RedisServer
from tests.redis.server import needs_redis

pytestmark = pytest.mark.usefixtures("ray_session")


class Away(Protocol):
    """A server, and what stores events there by its client; after ten attempts an event alone may be given up."""

    attempts: int

    def kill(self) -> None: ...
    def start(self) -> None: ...
    def store(self) -> Any: ...
    def stored(self) -> set[str]: ...


class Redis:
    """`redis.exceptions.ConnectionError` is no `ConnectionError`."""

    attempts = 60

    def __init__(self) -> None:
        self.server = RedisServer()
        self.kill, self.start = self.server.kill, self.server.start

    def store(self) -> Any:
        url = self.server.url

        class Store:
            def take(self, batch: Batch) -> None:
                import redis

                with redis.Redis.from_url(url) as client:
                    client.sadd("ids", *batch.ids)

        return Store

    def stored(self) -> set[str]:
        with self.server.client() as client:
            return {name.decode() for name in client.smembers("ids")}

    def close(self) -> None:
        self.server.close()


class Postgres:
    """`psycopg.OperationalError` is no `OSError`, and has no cause."""

    attempts = 60

    def __init__(self) -> None:
        self.server = PostgresServer()
        self.kill, self.start = self.server.kill, self.server.start

    def store(self) -> Any:
        url = self.server.url

        class Store:
            def take(self, batch: Batch) -> None:
                import psycopg

                with psycopg.connect(url) as connection, connection.cursor() as cursor:
                    rows = [(event_id,) for event_id in batch.ids]
                    cursor.executemany("INSERT INTO events (id) VALUES (%s) ON CONFLICT DO NOTHING", rows)

        return Store

    def stored(self) -> set[str]:
        return {name for (name,) in self.server.query("SELECT id FROM events")}

    def close(self) -> None:
        self.server.close()


class Kafka:
    """`KafkaException` has an error of its own in it, and no cause; it takes librdkafka a second to find out."""

    attempts = 12

    def __init__(self) -> None:
        self.cluster = Cluster("ids:1")

    def kill(self) -> None:
        self.cluster.tell("down", 1)

    def start(self) -> None:
        self.cluster.tell("up", 1)

    def store(self) -> Any:
        bootstrap = self.cluster.bootstrap

        class Store:
            def __init__(self) -> None:
                from confluent_kafka import Producer

                settings = {"message.timeout.ms": 100, "linger.ms": 0, "reconnect.backoff.max.ms": 100, "log_level": 0}
                self.producer = Producer({"bootstrap.servers": bootstrap, **settings})

            def take(self, batch: Batch) -> None:
                from confluent_kafka import KafkaException

                errors: list[Any] = []
                for event_id in batch.ids:
                    self.producer.produce("ids", event_id, on_delivery=lambda error, _: errors.append(error))
                self.producer.flush()
                if any(errors):
                    raise KafkaException(*filter(None, errors[:1]))

        return Store

    def stored(self) -> set[str]:
        from confluent_kafka import Consumer, TopicPartition

        consumer = Consumer({"bootstrap.servers": self.cluster.bootstrap, "group.id": "test"})
        with closing(consumer):
            consumer.assign([TopicPartition("ids", 0, 0)])
            _, end = consumer.get_watermark_offsets(TopicPartition("ids", 0), timeout=30)
            found: set[str] = set()
            for _ in range(end):
                message = consumer.poll(30)
                assert message is not None
                found.add((message.value() or b"").decode())
        return found

    def close(self) -> None:
        self.cluster.close()


@pytest.fixture(
    params=[
        pytest.param(Redis, marks=needs_redis),
        pytest.param(Postgres, marks=needs_postgres),
        pytest.param(Kafka, marks=pytest.mark.slow),
    ]
)
def server(request: pytest.FixtureRequest) -> Iterator[Away]:
    with closing(request.param()) as server:
        yield server


def wait_for(condition: Callable[[], bool]) -> None:
    limit = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < limit
        time.sleep(0.05)


def retries(pipeline: Pipeline) -> int:
    return sum(lane.emitters["store"].retries for lane in pipeline.statistics().lanes)


@pytest.mark.parametrize("count", [1, pytest.param(20, marks=pytest.mark.slow)])
def test_what_a_library_raises_while_its_server_is_away_gives_no_event_up(server: Away, count: int) -> None:
    import ray

    actor: Any = ray.remote(num_cpus=0)(server.store()).remote()
    emitter = Resilience(
        ActorEmitter(actor, "take", name="store"), retry=Retry(limit=0.05), breaker=Breaker(open_for=0.05)
    )
    first, later = ([f"{when}-{number}" for number in range(count)] for when in ("first", "later"))
    with Hub(runtime="inline").emitter(emitter).start() as pipeline:
        sender = pipeline.sender()
        sender.send([new_event("x", id=name, source="app") for name in first])
        wait_for(lambda: server.stored() == {*first})  # so the destination is known to work
        server.kill()
        before = retries(pipeline)
        for name in later:
            sender.send(new_event("x", id=name, source="app"))
        wait_for(lambda: retries(pipeline) - before > server.attempts)
        assert not pipeline.dead_letters()
        server.start()
        wait_for(lambda: server.stored() == {*first, *later})
        assert pipeline.stop(30).complete
        assert not pipeline.dead_letters()
    ray.kill(actor)
