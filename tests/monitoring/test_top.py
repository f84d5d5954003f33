"""`polku top`, of a running pipeline."""

from __future__ import annotations

import asyncio
import json
import os
import shlex
import subprocess
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from click.testing import CliRunner

from polku import Batch, BufferStrategy, Failure, Filter, Hub, new_event
from polku.cli.app import app
from polku.cli.top import rows_of
from polku.cli.top_screen import wrong
from polku.cli.top_table import _TITLES, fit, table
from polku.cli.top_view import Order, Row, View
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
    before = {"ingest": Row("ingest", True, "ok", 100, 100, 0, 0, cpu_seconds=3.0)}
    ingest = Row("ingest", True, "ok", 1100, 1100, 0, 0, restarts=1, cpu_seconds=4.5, memory_bytes=85_000_000)
    ingest = ingest._replace(bytes=2_500_000)
    emitter = Row("emitter:x", False, "away", 0, 0, 0, 9, 12.5, 7, circuit="half_open", dropped=1234)
    emitter = emitter._replace(next_attempt_seconds=12.4)
    title, *lines = table([emitter, ingest], before, 2.0)
    assert title.split() == list(_TITLES)
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
        "12",
        "s",
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
    assert "RETRIES" not in table([ingest], before, 2.0)[0]  # nothing has any


def test_each_part_has_its_retries_and_what_its_process_takes() -> None:
    outlet = {"confirmed": 3, "dead": 1, "dropped": 8, "waiting": 2, "oldest_age_seconds": 0.5}
    buffer = {"received": 6, "events": 2, "outlets": {"x": outlet}}
    lane = {"name": "lane-1", "ingest": None, "stages": {}, "buffer": buffer, "emitters": {"x": {"retries": 7}}}
    process = {"pid": 1, "cpu_seconds": 1.5, "memory_bytes": 9_000_000, "restarts": 2, "answers": True}
    parts = {"lane-1/emitter:x": {"healthy": False, "message": "away"}}
    processes = {"lane-1/emitter:x": process, "lane-1/lane": process}
    emitter, held, own = rows_of({"lanes": [lane], "shared": {}, "parts": parts, "processes": processes})
    assert emitter == Row("lane-1/emitter:x", False, "away", 4, 3, 1, 2, 0.5, 7, 2, 1.5, 9_000_000, dropped=8)
    assert held == Row("lane-1/buffer", True, "ok", 6, waiting=2)
    assert own == Row("lane-1/lane", True, "ok", restarts=2, cpu_seconds=1.5, memory_bytes=9_000_000)


def test_rows_are_sorted_and_chosen_as_somebody_asks() -> None:
    before = {"ingest": Row("ingest", True, "ok", 1_000, cpu_seconds=9.0)}
    ingest = Row("ingest", True, "ok", 1_010, cpu_seconds=9.5, waiting=1)
    stage = Row("stage-1", True, "ok", 500, cpu_seconds=1.0)
    emitter = Row("emitter:x", False, "away", 5, waiting=7)
    rows = [emitter, ingest, stage]
    assert View(Order.IN).rows(rows, before) == [stage, ingest, emitter]
    assert View(Order.CPU).rows(rows, before) == [stage, ingest, emitter]
    assert View(Order.WAITING).rows(rows, before) == [emitter, ingest, stage]
    assert View(Order.PART).rows(rows, before) == [emitter, ingest, stage]
    assert View(globs=("x", "stage*")).rows(rows, before) == [emitter, stage]
    view = View().after("u").after("s").after("?")
    assert (view.order, view.rows(rows, before)) == (Order.PART, [emitter])


def test_letters_that_are_typed_choose_rows_by_name_or_state() -> None:
    rows = [Row("emitter:quota", False, "Connection refused"), Row("ingest", True, "ok")]
    view = View()
    for key in "/Xs\x7fq":
        view = view.after(key)
    assert (view.is_typing, view.help()) == (True, "filter: Xq_  (Enter keeps it, Escape clears it)")
    for key in "\x7f\x7fquo\r":
        view = view.after(key)
    assert view.rows(rows, {}) == rows[:1]
    assert "/: filter (quo; Escape clears it)" in view.help()
    view = view.after("s")  # a key again
    assert (view.order, view.text) == (Order.PART, "quo")
    assert view.after("\x1b").rows(rows, {}) == rows
    assert View(text="REFUSED").rows(rows, {}) == rows[:1]


def test_lines_are_as_wide_as_the_terminal_and_the_least_important_columns_go_first() -> None:
    row = Row(
        "emitter:partner", False, "cannot reach partner.example.org", 9_000, 9_000, 7, 9_000, 5.7, 8, bytes=513_000
    )
    row = row._replace(restarts=0, cpu_seconds=1.0, memory_bytes=112_000_000, circuit="open")
    wide, narrow = table([row], {}, 1.0, 200), table([row], {}, 1.0, 80)
    assert {"BYTES", "IN", "MEMORY"} <= set(wide[0].split())
    assert narrow[0].split() == ["PART", "IN/S", "OUT/S", "ERRORS", "WAITING", "OLDEST", "STATE"]
    assert max(map(len, narrow)) <= 80
    assert "cannot reach" in narrow[1]
    assert max(map(len, table([row], {}, 1.0, 30))) <= 30
    assert table([], {}, 1.0, 80) == ["no part is like that"]


def test_what_is_wrong_and_the_keys_stay_on_the_screen() -> None:
    shown = fit(["away " * 30], [f"row {number}" for number in range(50)], ["", "q: quit"], 80, 24)
    assert len(shown) == 23  # the cursor has the last line
    assert shown[0].startswith("away away")
    assert max(map(len, shown)) <= 80
    assert shown[-3:] == ["and 32 more: / filters, u shows what is unhealthy", "", "q: quit"]
    assert fit(["h"], ["a", "b"], [], 80, 24) == ["h", "a", "b"]


def test_what_is_wrong_stands_on_top_with_what_to_do() -> None:
    well = {"healthy": True, "message": "ok", "holds_up": "", "seconds": 0.0, "advice": "", "command": ""}
    away = well | {"healthy": False, "holds_up": "its share is full", "seconds": 12.3, "advice": "look at it"}
    parts = {"ingest": well, "emitter:x": away | {"command": "polku dlq list"}}
    letters = [{"emitter": emitter, "code": "CRASH", "total": 2_000} for emitter in ("x", "x", "", "\x1b[2J")]
    dead = r"2,000 CRASH, 2,000 CRASH of \x1b[2J, 4,000 CRASH of x"
    sentences = wrong({"parts": {"ingest": well}, "dead_letters": letters})
    assert sentences == [f"dead letters since the start: {dead}; `polku dlq list` says why", ""]
    sentence = "emitter:x, for 12 s: its share is full"
    assert wrong({"parts": parts}) == [sentence, "  look at it", "  polku dlq list", ""]
    assert wrong({"parts": {"ingest": well}}) == []
    parts = {"emitter:x": away | {"next_attempt_seconds": 11.7}}
    assert wrong({"parts": parts}) == [f"{sentence}; next attempt in 12 s", "  look at it", ""]
    command = "curl -sS " + "x" * 30 + " http://h"
    assert fit([f"  {command}"], [], [], 44, 24) == ["  curl -sS " + "x" * 30, "  http://h"]


def test_lines_of_json_have_dead_letters_and_every_part_that_is_judged() -> None:
    def refuses(batch: Batch) -> list[Failure]:
        return [Failure(event.id, "no such order", retryable=False) for event in batch]

    with Hub(runtime="inline").emitter(refuses, name="a b").start(admin_addr="127.0.0.1:0") as pipeline:
        pipeline.sender().send([new_event("order", source="shop") for _ in range(3)])
        pipeline.note_reload("no such file")
        address = str(pipeline.admin_address)
        while not pipeline.statistics().dead_letters:
            time.sleep(0.01)
        done = CliRunner().invoke(app.group, ["top", "--to", address, "--count", "1"])
        rows = {row["part"]: row for row in json.loads(done.stdout)}
        letters = rows["dead letters of a b"]
        command = shlex.split(letters["command"])
        listed = CliRunner().invoke(app.group, command[1:])
    state = "since the start: UNDELIVERED 3; the latest: no such order"
    assert (letters["state"], letters["errors"], letters["well"]) == (state, 3, True)
    assert listed.stdout.count("no such order") == 3
    assert "dead_letters" not in rows  # it is well
    assert (rows["reload"]["well"], rows["reload"]["state"]) == (False, "no such file; it runs on as it was")


def test_keys_sort_and_end_it_on_a_terminal() -> None:
    hub = Hub(runtime="inline").emitter(partner).emitter(partner, name="aud\x1b")
    with hub.start(admin_addr="127.0.0.1:0") as pipeline:
        master, slave = os.openpty()
        command = [*POLKU, "top", "--to", str(pipeline.admin_address), "--sort", "memory"]
        with subprocess.Popen(command, stdin=slave, stdout=slave, stderr=slave, env=environment()) as process:
            os.close(slave)
            shown = read_until(master, "s: sort (by memory)")
            os.write(master, b"s")
            read_until(master, "s: sort (by state)")
            os.write(master, b"u")  # all is well
            read_until(master, "no part is like that")
            os.write(master, b"u/audq")
            read_until(master, "filter: audq_")
            os.write(master, b"\x7f\r")
            kept = read_until(master, "/: filter (aud; Escape clears it)").rpartition("\x1b[2J")[2]
            os.write(master, b"q")
            assert process.wait(120) == 0
        os.close(master)
    assert "emitter:partner" in shown
    assert "emitter:partner" not in kept
    assert "emitter:aud\\x1b" in kept  # nothing of strangers acts on the terminal


def test_it_continues_with_the_pipeline_that_comes_after_the_one_that_ended() -> None:
    hub = Hub(runtime="inline").emitter(partner)
    with hub.start(admin_addr="127.0.0.1:0") as pipeline:
        address = str(pipeline.admin_address)
        command = [*POLKU, "top", "--to", address, "--interval", "0.1"]
        process = subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment()
        )
        assert process.stdout is not None
        assert process.stderr is not None
        assert json.loads(process.stdout.readline())
    while json.loads(process.stdout.readline()):
        pass
    with hub.start(admin_addr=address) as pipeline:
        pipeline.sender().send(new_event("order", source="shop"))
        while not (rows := json.loads(process.stdout.readline())):
            pass
        process.terminate()
        told = process.communicate(timeout=120)[1]
    assert "emitter:partner" in {row["part"] for row in rows}
    assert "no statistics to be had" in told


def test_on_a_terminal_it_says_that_nothing_answers_and_keys_still_work() -> None:
    with Hub(runtime="inline").emitter(partner).start(admin_addr="127.0.0.1:0") as pipeline:
        master, slave = os.openpty()
        command = [*POLKU, "top", "--to", str(pipeline.admin_address), "--interval", "0.2"]
        process = subprocess.Popen(command, stdin=slave, stdout=slave, stderr=slave, env=environment(COLUMNS="200"))
        os.close(slave)
        read_until(master, "q: quit")
    away = f"NO ANSWER from http://{pipeline.admin_address} for "
    try:
        read_until(master, away)
        read_until(master, "emitter:partner")  # what was seen last
        os.write(master, b"s")
        read_until(master, "s: sort (by part)")
        os.write(master, b"q")
        assert process.wait(120) == 0
    finally:
        process.kill()
        os.close(master)


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
