"""An SDK, POLKU, Kafka and a store of traces: the recipe of `docs/otlp.md`, with a drill."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from opentelemetry.proto.logs.v1.logs_pb2 import ResourceLogs

from polku import Hub, Tls
from polku.aio import loop_thread
from polku.otlp.signals import LOGS, TRACES
from tests.docs.pages import ROOT, blocks
from tests.kafka.broker import Cluster
from tests.kafka.clients import read, wait_for
from tests.kafka.real import broker
from tests.otlp.collector import Came, Collector, Verdict
from tests.otlp.requests import Door, logs, spans
from tests.otlp.test_agent import CLIENT
from tests.otlp.test_agent import documented as agent_of
from tests.otlp.test_real_collector import run_with_log, until_open
from tests.support.authority import Authority
from tests.support.ports import free_port
from tests.support.server import polku


def documented(folder: Path, places: dict[str, str]) -> Hub:
    """Return the pipeline that the page shows, for addresses of this test."""
    (text,) = [block.text for block in blocks(ROOT / "docs" / "otlp.md") if block.text.startswith("# signals.py")]
    for shown, own in {**places, "signals.db": str(folder / "signals.db")}.items():
        assert shown in text
        text = text.replace(shown, own)
    names: dict[str, Any] = {}
    exec(compile(text, "signals.py", "exec"), names)
    hub = names["hub"]
    assert isinstance(hub, Hub)
    return hub


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_what_an_agent_sends_goes_to_kafka_and_to_the_store_which_gets_what_it_refused_after_a_replay(
    program: str, tmp_path: Path
) -> None:
    """An SDK, the Collector as its agent, POLKU, Kafka's own broker and a store: all but the store is real."""
    pytest.importorskip("opentelemetry.exporter.otlp.proto.http", reason="opentelemetry-exporter-otlp is missing")
    store, agent, authority = Collector("grpc"), free_port(), Authority(tmp_path / "ca")
    store.judge = lambda came: Verdict(3, "no tenant")
    loop_thread.submit(store.start()).result(30)
    pair = authority.issue()
    (tmp_path / "kafka").mkdir()
    with broker(tmp_path / "kafka") as kafka:
        kafka.topic("otel", 1)
        places = {"http://localhost:14317": store.endpoint, "localhost:9092": kafka.bootstrap}
        hub = documented(tmp_path, places).security(tls=Tls(pair.cert, pair.key))
        with hub.start(runtime="inline", grpc_addr="127.0.0.1:0") as pipeline:
            send_by_agent(program, agent_of(agent, str(pipeline.address), authority.cert), agent, tmp_path)
            wait_for(lambda: len(pipeline.dead_letters()) == 1)
            (letter,) = pipeline.dead_letters()
            records = read(kafka.bootstrap, "otel", 2)
            store.judge = lambda came: Verdict()
            done = polku("dlq", "replay", str(tmp_path / "signals.db.dead"), "--all")
            assert done.returncode == 0, done.stderr
            wait_for(lambda: store.taken)
            assert pipeline.stop(30).complete
            assert not pipeline.dead_letters()
    loop_thread.submit(store.stop()).result(30)
    assert (letter.event.event_type, letter.emitter) == ("otel.span", "traces")
    assert [span.name for came in store.taken for span in came.records] == ["work"]
    assert [record.key() for record in records] == [b"sdk", b"sdk"]
    types = {dict(record.headers())["type"] for record in records}
    assert types == {b"otel.log", b"otel.metric"}


def send_by_agent(program: str, configuration: str, port: int, folder: Path) -> None:
    """Run the Collector with a configuration, send it a log, a span and a metric, and end it once it has sent them."""
    (folder / "agent.yaml").write_text(configuration)
    process = run_with_log([program, "--config", str(folder / "agent.yaml")], folder / "log")
    try:
        asyncio.run(until_open(port, process))
        command = [sys.executable, str(CLIENT), "http", f"127.0.0.1:{port}"]
        done = subprocess.run(command, capture_output=True, text=True, timeout=240)
        assert done.stdout.strip() == "sent", done.stderr
    finally:
        process.terminate()  # it sends what is in its queue
        process.wait(60)


def test_logs_go_to_kafka_and_a_span_that_the_store_refuses_is_replayed_to_it_alone(tmp_path: Path) -> None:
    store, refused = Collector("grpc"), {"bad"}

    def judge(came: Came) -> Verdict:
        return Verdict(3, "no tenant") if {span.name for span in came.records} & refused else Verdict()

    store.judge = judge
    loop_thread.submit(store.start()).result(30)
    with Cluster("otel:1") as cluster:
        places = {"http://localhost:14317": store.endpoint, "localhost:9092": cluster.bootstrap}
        addresses = {"grpc_addr": "127.0.0.1:0", "http_addr": "127.0.0.1:0"}
        with documented(tmp_path, places).start(runtime="inline", **addresses) as pipeline:
            place = Door(pipeline, [])
            assert place.http(TRACES, spans(["good", "bad"]).SerializeToString()).status == 200
            assert place.grpc(LOGS, logs(["sold"]).SerializeToString()).status == 0
            wait_for(lambda: len(pipeline.dead_letters()) == 1)
            (letter,) = pipeline.dead_letters()
            (record,) = read(cluster.bootstrap, "otel", 1)
            refused.clear()
            done = polku("dlq", "replay", str(tmp_path / "signals.db.dead"), "--all")
            assert done.returncode == 0, done.stderr
            wait_for(lambda: len(store.taken) == 2)
            assert not pipeline.dead_letters()
    loop_thread.submit(store.stop()).result(30)
    assert "no tenant" in letter.reason
    assert [span.name for came in store.taken for span in came.records] == ["good", "bad"]
    assert (record.key(), record.partition(), record.offset()) == (b"shop", 0, 0)
    kept = ResourceLogs.FromString(record.value())
    assert kept == logs(["sold"]).resource_logs[0]
