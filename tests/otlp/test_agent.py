"""The agent of the Collector's documentation, with POLKU in the place of its backends."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from pathlib import Path

import pytest

from polku import Hub, Tls
from polku.otlp import log_record, metric, span
from tests.otlp.requests import door
from tests.otlp.test_real_collector import run_with_log, until_open
from tests.packaging.conftest import ROOT
from tests.support.authority import Authority
from tests.support.ports import free_port

CLIENT = Path(__file__).parent / "clients" / "python_client.py"


def documented(agent: int, polku: str, authority: Path) -> str:
    """Return the configuration that `docs/otlp.md` shows, for addresses of this test."""
    page = (ROOT / "docs" / "otlp.md").read_text()
    block = page.partition("cat > agent.yaml <<'END'\n")[2].partition("END\n")[0]
    places = {
        "0.0.0.0:4318": f"127.0.0.1:{agent}",
        "https://polku.example.com:4317": f"https://localhost:{polku.rpartition(':')[2]}",
        "/etc/ssl/certs/ca.pem": str(authority),
    }
    for shown, own in places.items():
        assert shown in block
        block = block.replace(shown, own)
    return block + "  telemetry: {metrics: {level: none}}\n"


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_the_agent_of_the_collector_s_documentation_points_at_polku(program: str, tmp_path: Path) -> None:
    pytest.importorskip("opentelemetry.exporter.otlp.proto.http", reason="opentelemetry-exporter-otlp is missing")
    authority, agent = Authority(tmp_path / "ca"), free_port()
    pair = authority.issue()
    with door(Hub(runtime="inline").security(tls=Tls(pair.cert, pair.key))) as place:
        (tmp_path / "agent.yaml").write_text(documented(agent, str(place.pipeline.address), authority.cert))
        process = run_with_log([program, "--config", str(tmp_path / "agent.yaml")], tmp_path / "log")
        try:
            asyncio.run(until_open(agent, process))
            command = [sys.executable, str(CLIENT), "http", f"127.0.0.1:{agent}"]
            done = subprocess.run(command, capture_output=True, text=True, timeout=240, env={**os.environ})
            assert done.stdout.strip() == "sent", done.stderr
        finally:
            process.terminate()  # it sends what is in its queue
            process.wait(60)
        events = {event.event_type: event for event in place.events}
    assert len(place.events) == 3, (tmp_path / "log").read_text()
    assert {event.source for event in place.events} == {"sdk"}
    assert log_record(events["otel.log"]).body.string_value == "hello"
    assert span(events["otel.span"]).name == "work"
    assert metric(events["otel.metric"]).name == "requests"
