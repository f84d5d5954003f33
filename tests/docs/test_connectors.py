"""The programs that the pages of connectors begin with do what they say, with a server in the place of the page's."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from functools import partial
from itertools import islice
from typing import Any

from confluent_kafka import Consumer, TopicPartition

from polku import Event, Hub, Pipeline
from tests.docs.pages import ROOT, blocks
from tests.kafka.broker import Cluster
from tests.kafka.clients import write as write_records
from tests.nats.server import Server as NatsServer
from tests.nats.server import needs_nats
from tests.postgres.server import Server as PostgresServer
from tests.postgres.server import needs_postgres
from tests.redis.server import Server as RedisServer
from tests.redis.server import needs_redis


@contextmanager
def running(page: str, server: str, instead: str) -> Iterator[Pipeline]:
    """Run the first program of a page, in which the address of a server, a regular expression, is another one."""
    program = next(block.text for block in blocks(ROOT / "docs" / f"{page}.md") if block.language == "python")
    changed, count = re.subn(server, instead, program)
    assert count, program
    names: dict[str, Any] = {}
    exec(compile(changed, f"{page}.md", "exec"), names)
    hub: Hub = names["hub"]
    with hub.start(runtime="inline") as pipeline:
        yield pipeline


def wait_for(condition: Callable[[], object]) -> None:
    deadline = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


@needs_redis
def test_of_redis_failed_logins_are_appended_to_the_alerts() -> None:
    with closing(RedisServer()) as server, server.client() as client:
        for result in ("ok", "failed"):
            client.xadd("logins", {"user": "ann", "result": result})
        with running("redis", r"redis://[^\"]+", server.url):
            wait_for(lambda: client.xlen("alerts.login"))
        ((_, fields),) = client.xrange("alerts.login")
        assert b'"failed"' in b"".join(fields.values())


async def add_stream(streams: Any, name: str) -> None:
    await streams.add_stream(name=name, subjects=[f"{name.lower()}.>"])


async def publish(streams: Any, content: bytes) -> None:
    await streams.publish("builds.x", content)


@needs_nats
def test_of_nats_builds_are_published_by_project() -> None:
    with closing(NatsServer()) as server:
        for name in ("BUILDS", "DONE"):
            server.do(partial(add_stream, name=name))
        for kind in ("build.done", "other"):
            event = {"id": kind, "event_type": kind, "metadata": {"project": "shop"}}
            server.do(partial(publish, content=json.dumps(event).encode()))
        with running("nats", r"\[\"nats://.*\]", f'"{server.url}"'):
            wait_for(lambda: server.do(lambda js: js.stream_info("DONE")).state.messages)
        message = server.do(lambda js: js.get_last_msg("DONE", "done.shop"))
        assert json.loads(message.data)["type"] == "build.done"


@needs_postgres
def test_of_postgres_events_become_rows() -> None:
    with closing(PostgresServer()) as server:
        server.query("CREATE SCHEMA audit")
        columns = "id text PRIMARY KEY, at timestamptz, kind text, tenant text, bytes bigint, document jsonb"
        server.query(f"CREATE TABLE audit.events ({columns})")
        with running("postgres", r"postgresql://[^\"]+", server.url) as pipeline:
            pipeline.sender().send(Event(id="a", event_type="login", metadata={"tenant": "shop"}, payload=b"abc"))
        (row,) = server.query("SELECT id, kind, tenant, bytes, document->>'id' FROM audit.events")
        assert row == ("a", "login", "shop", 3, "a")


def test_of_kafka_orders_go_to_the_topic_of_their_tenant() -> None:
    with Cluster("orders:1", "refunds:1", "shop.a:1") as cluster:
        for topic, kind in (("orders", "order.paid"), ("orders", "other"), ("refunds", "order.refund")):
            event = {"id": kind, "event_type": kind, "source": topic, "metadata": {"tenant": "a"}}
            write_records(cluster.bootstrap, topic, [json.dumps(event).encode()])
        with running("kafka", r"localhost:9092", cluster.bootstrap):
            reader = Consumer({"bootstrap.servers": cluster.bootstrap, "group.id": "reader"})
            reader.assign([TopicPartition("shop.a", 0, 0)])
            records = list(islice(iter(partial(reader.poll, 30.0), None), 2))
            reader.close()
        found = {(record.key(), json.loads(record.value() or b"")["type"]) for record in records}
        assert found == {(b"orders", "order.paid"), (b"refunds", "order.refund")}
