"""When a certificate ends, and that a changed file cannot be used, is in the statistics and the metrics."""

from __future__ import annotations

import time
from datetime import UTC, datetime
from pathlib import Path

from polku import Hub, Pipeline, Tls
from polku.gateway.expiry import valid_until
from polku.monitoring.exposition import write_metrics
from polku.monitoring.statistics import IngestStatistics
from tests.support.authority import Authority, Pair, put, replace


def ingest(pipeline: Pipeline) -> IngestStatistics:
    (lane,) = pipeline.statistics().lanes
    assert lane.ingest is not None
    return lane.ingest


def wait_until_stale(pipeline: Pipeline, stale: bool) -> None:
    deadline = time.monotonic() + 30
    while ingest(pipeline).security_is_stale is not stale:
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_the_end_of_the_certificate_and_a_broken_file_are_told(
    tmp_path: Path, server: Pair, authority: Authority
) -> None:
    used = put(server, tmp_path)
    end = valid_until(used.cert.read_text())
    hub = Hub(runtime="inline").emitter(lambda batch: None, name="nothing").security(tls=Tls(used.cert, used.key))
    with hub.start(grpc_addr="127.0.0.1:0", admin_addr="off") as pipeline:
        assert datetime.fromtimestamp(ingest(pipeline).certificate_ends_at, UTC) == end
        text = write_metrics(pipeline.statistics())[0].decode()
        (line,) = [one for one in text.splitlines() if one.startswith("polku_certificate_end_timestamp_seconds{")]
        assert float(line.rpartition(" ")[2]) == end.timestamp()
        assert "\npolku_security_files_stale{" in text
        used.cert.write_text("nothing\n")
        wait_until_stale(pipeline, True)
        assert datetime.fromtimestamp(ingest(pipeline).certificate_ends_at, UTC) == end
        replace(authority.issue("next"), used)
        wait_until_stale(pipeline, False)


def test_without_tls_there_is_none() -> None:
    hub = Hub(runtime="inline").emitter(lambda batch: None, name="nothing")
    with hub.start(grpc_addr="127.0.0.1:0", admin_addr="off") as pipeline:
        assert (ingest(pipeline).certificate_ends_at, ingest(pipeline).security_is_stale) == (0.0, False)
