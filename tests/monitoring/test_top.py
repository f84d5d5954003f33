"""`polku top`, of a running pipeline."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from click.testing import CliRunner

from polku import Batch, BufferStrategy, Filter, Hub, new_event
from polku.cli import top
from polku.cli.app import app
from tests.runtime.test_flow import read_until
from tests.support.server import POLKU, environment


def partner(batch: Batch) -> None:
    """Take everything."""


def test_each_look_is_a_line_of_json_where_there_is_no_terminal() -> None:
    hub = Hub(runtime="inline").middleware(Filter(lambda event: event.event_type != "noise")).emitter(partner)
    with hub.start(admin_addr="127.0.0.1:0") as pipeline:
        pipeline.sender().send([new_event(kind, source="shop") for kind in ("order", "noise")])
        command = ["top", "--to", str(pipeline.admin_address), "--count", "2", "--interval", "0.1"]
        done = CliRunner().invoke(app.group, command)
    assert done.exit_code == 0
    rows = {row["part"]: row for row in json.loads(done.stdout.splitlines()[1])}
    assert (rows["ingest"]["received"], rows["ingest"]["sent"]) == (2, 2)
    assert (rows["emitter:partner"]["sent"], rows["emitter:partner"]["state"]) == (1, "ok")
    assert rows["ingest"]["bytes"] > rows["emitter:partner"]["bytes"] > 0
    assert rows["pipeline"]["memory_bytes"] > 0


def test_a_line_of_json_says_what_is_wrong_and_what_to_do() -> None:
    async def stuck(batch: Batch) -> None:
        await asyncio.Event().wait()

    hub = Hub(runtime="inline").buffer_strategy(BufferStrategy.ring(2)).emitter(stuck)
    with hub.start(admin_addr="127.0.0.1:0") as pipeline:
        for _ in range(2):
            pipeline.sender().send(new_event("order", source="shop"))
        command = ["top", "--to", str(pipeline.admin_address), "--count", "1"]
        done = CliRunner().invoke(app.group, command)
        pipeline.stop(0.0)
    row = next(row for row in json.loads(done.stdout) if row["part"] == "emitter:stuck")
    assert row["holds_up"] == "its share of the buffer is full (2 events wait)"
    assert "overflow='drop_oldest'" in row["advice"]


def test_the_table_shows_rates_and_what_is_wrong_first() -> None:
    before = {"ingest": top.Row("ingest", True, "ok", 100, 100, 0, 0, cpu_seconds=3.0)}
    ingest = top.Row("ingest", True, "ok", 1100, 1100, 0, 0, restarts=1, cpu_seconds=4.5, memory_bytes=85_000_000)
    ingest = ingest._replace(bytes=2_500_000)
    emitter = top.Row("emitter:x", False, "away", 0, 0, 0, 9, 12.5, 7, circuit="half_open", dropped=1234)
    title, *lines = top._table([emitter, ingest], before, 2.0)
    assert title.split() == list(top._TITLES)
    assert lines[0].split() == [
        "emitter:x",
        "0",
        "0",
        "0",
        "0",
        "0",
        "1,234",
        "9",
        "12.5",
        "s",
        "7",
        "half",
        "open",
        "away",
    ]
    assert lines[1].split() == [
        "ingest",
        "1,100",
        "500",
        "1,100",
        "500",
        "2.5",
        "MB",
        "1.2",
        "MB",
        "0",
        "0",
        "1",
        "75%",
        "85",
        "MB",
        "ok",
    ]
    assert "RETRIES" not in top._table([ingest], before, 2.0)[0]  # nothing has any


def test_each_part_has_its_retries_and_what_its_process_takes() -> None:
    outlet = {"confirmed": 3, "dead": 1, "dropped": 8, "waiting": 2, "oldest_age_seconds": 0.5}
    buffer = {"received": 6, "events": 2, "outlets": {"x": outlet}}
    lane = {"name": "lane-1", "ingest": None, "stages": {}, "buffer": buffer, "emitters": {"x": {"retries": 7}}}
    process = {"pid": 1, "cpu_seconds": 1.5, "memory_bytes": 9_000_000, "restarts": 2, "answers": True}
    parts = {"lane-1/emitter:x": {"healthy": False, "message": "away"}}
    processes = {"lane-1/emitter:x": process, "lane-1/lane": process}
    emitter, held, own = top.rows_of({"lanes": [lane], "shared": {}, "parts": parts, "processes": processes})
    assert emitter == top.Row("lane-1/emitter:x", False, "away", 4, 3, 1, 2, 0.5, 7, 2, 1.5, 9_000_000, dropped=8)
    assert held == top.Row("lane-1/buffer", True, "ok", 6, waiting=2)
    assert own == top.Row("lane-1/lane", True, "ok", restarts=2, cpu_seconds=1.5, memory_bytes=9_000_000)


def test_rows_are_sorted_and_chosen_as_somebody_asks() -> None:
    before = {"ingest": top.Row("ingest", True, "ok", 1_000, cpu_seconds=9.0)}
    ingest = top.Row("ingest", True, "ok", 1_010, cpu_seconds=9.5, waiting=1)
    stage = top.Row("stage-1", True, "ok", 500, cpu_seconds=1.0)
    emitter = top.Row("emitter:x", False, "away", 5, waiting=7)
    rows = [emitter, ingest, stage]
    assert top.View(top.Order.IN).rows(rows, before) == [stage, ingest, emitter]
    assert top.View(top.Order.CPU).rows(rows, before) == [stage, ingest, emitter]
    assert top.View(top.Order.WAITING).rows(rows, before) == [emitter, ingest, stage]
    assert top.View(top.Order.PART).rows(rows, before) == [emitter, ingest, stage]
    assert top.View(globs=("x", "stage*")).rows(rows, before) == [emitter, stage]
    view = top.View().after("u").after("s").after("?")
    assert (view.order, view.rows(rows, before)) == (top.Order.PART, [emitter])


def test_what_is_wrong_stands_on_top_with_what_to_do() -> None:
    well = {"healthy": True, "message": "ok", "holds_up": "", "seconds": 0.0, "advice": "", "command": ""}
    away = well | {"healthy": False, "holds_up": "its share is full", "seconds": 12.3, "advice": "look at it"}
    parts = {"ingest": well, "emitter:x": away | {"command": "polku dlq list"}}
    letters = [{"emitter": emitter, "code": "CRASH", "total": 2_000} for emitter in ("x", "x", "", "\x1b[2J")]
    dead = r"2,000 CRASH, 2,000 CRASH of \x1b[2J, 4,000 CRASH of x"
    sentences = top._wrong({"parts": {"ingest": well}, "dead_letters": letters})
    assert sentences == [f"dead letters since the start: {dead}; `polku dlq list` says why", ""]
    assert top._wrong({"parts": parts}) == ["emitter:x, for 12 s: its share is full; look at it; polku dlq list", ""]
    assert top._wrong({"parts": {"ingest": well}}) == []


def test_keys_sort_and_end_it_on_a_terminal() -> None:
    with Hub(runtime="inline").emitter(partner).start(admin_addr="127.0.0.1:0") as pipeline:
        master, slave = os.openpty()
        command = [*POLKU, "top", "--to", str(pipeline.admin_address), "--sort", "memory"]
        with subprocess.Popen(command, stdin=slave, stdout=slave, stderr=slave, env=environment()) as process:
            os.close(slave)
            shown = read_until(master, "s: sort (by memory)")
            os.write(master, b"s")
            read_until(master, "s: sort (by state)")
            os.write(master, b"q")
            assert process.wait(120) == 0
        os.close(master)
    assert "emitter:partner" in shown


def test_it_says_why_a_pipeline_has_no_statistics() -> None:
    class Stopping(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(503)
            self.end_headers()
            self.wfile.write(b"the pipeline has stopped\n")

    with ThreadingHTTPServer(("127.0.0.1", 0), Stopping) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        done = CliRunner().invoke(app.group, ["top", "--to", f"127.0.0.1:{server.server_port}"])
        server.shutdown()
    assert done.exit_code == 1
    assert "no statistics to be had: the pipeline has stopped" in done.output


def test_it_fails_where_nothing_answers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("POLKU_ADMIN_ADDR", raising=False)
    assert CliRunner().invoke(app.group, ["top", "--to", "127.0.0.1:9"]).exit_code == 1
