"""A second signal ends a drain: what that loses is said, as after a drain."""

from __future__ import annotations

import json
import signal
from pathlib import Path

import pytest

from polku.log_format import configure
from polku.runtime.hurried_end import say_outcome
from polku.runtime.report import EmitterReport, StopReport
from tests.support.server import Server, polku

PIPELINE = """
import asyncio, pathlib, time
from polku import BufferStrategy, Hub

class Stuck:
    async def emit(self, batch):
        while not pathlib.Path("{folder}/block").exists():
            await asyncio.sleep(0.01)
        time.sleep(600)  # blocks the event loop

hub = Hub().emitter(Stuck(), name="partner").buffer_strategy({buffer})
"""


@pytest.mark.parametrize(
    ("buffer", "status", "outcome"),
    [
        ("BufferStrategy.ring(1_000)", 3, "0 dropped, 8 lost"),
        ("BufferStrategy.durable('{folder}/journal.db')", 130, "0 lost, 8 journaled"),
    ],
)
def test_a_second_signal_says_what_is_lost_also_while_user_code_blocks(
    buffer: str, status: int, outcome: str, tmp_path: Path
) -> None:
    (tmp_path / "hub.py").write_text(PIPELINE.format(buffer=buffer.format(folder=tmp_path), folder=tmp_path))
    options = ["--runtime=inline", "--grpc-addr=127.0.0.1:0", "--admin-addr=off"]
    server = Server(tmp_path / "run", "run", str(tmp_path / "hub.py"), *options)
    records = "".join(f'{{"event_type": "t", "id": "{number}"}}\n' for number in range(8))
    assert polku("send", "-", "--to", server.address, text=records).returncode == 0
    (tmp_path / "block").touch()
    server.process.send_signal(signal.SIGINT)
    server.wait_for(server.err, "polku: draining\n")
    assert server.stop() == status
    *_, signalled, stopped, end = ["", *server.err.read_text().splitlines()[1:]]
    if status == 3:
        assert end == "polku: acknowledged events are lost: 8 of emitter partner; exit status 3"
    else:
        signalled, stopped = stopped, end
    assert signalled == "polku: a second signal ends the drain"
    assert stopped.startswith("polku: stopped after ")
    assert outcome in stopped


def test_a_loss_has_the_level_of_an_error(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv("POLKU_LOG_LEVEL", "")
    monkeypatch.setenv("POLKU_LOG_FORMAT", "")
    configure("info", "json")
    try:
        assert say_outcome(StopReport({"out": EmitterReport(1, 0, 0, 2)}, False, 0.5, {"out": 2})) == 3
        assert say_outcome(StopReport({"out": EmitterReport(1, 0, 0, 0)}, True, 0.5)) == 0
    finally:
        configure("info", "text")
    lines = [json.loads(line) for line in capsys.readouterr().err.splitlines()]
    assert [line["level"] for line in lines] == ["info", "error", "info"]
    assert lines[1]["message"] == "acknowledged events are lost: 2 of emitter out; exit status 3"
