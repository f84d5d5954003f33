"""An SDK, POLKU, Kafka and a store of traces: the recipe of `docs/otlp.md`, with a drill."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from opentelemetry.proto.logs.v1.logs_pb2 import ResourceLogs

from polku import Hub
from polku.aio import loop_thread
from polku.otlp.signals import LOGS, TRACES
from tests.docs.pages import ROOT, blocks
from tests.kafka.broker import Cluster
from tests.kafka.clients import read, wait_for
from tests.otlp.collector import Came, Collector, Verdict
from tests.otlp.requests import Door, logs, spans
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
