"""`polku top`, of a running pipeline."""

from __future__ import annotations

import json

import pytest
from typer.testing import CliRunner

from polku import Batch, Filter, Hub, new_event
from polku.cli import top
from polku.cli.app import app


def partner(batch: Batch) -> None:
    """Take everything."""


def test_each_look_is_a_line_of_json_where_there_is_no_terminal() -> None:
    hub = Hub(runtime="inline").middleware(Filter(lambda event: event.event_type != "noise")).emitter(partner)
    with hub.start(admin_addr="127.0.0.1:0") as pipeline:
        pipeline.sender().send([new_event(kind, source="shop") for kind in ("order", "noise")])
        command = ["top", "--to", str(pipeline.admin_address), "--count", "2", "--interval", "0.1"]
        done = CliRunner().invoke(app, command)
    assert done.exit_code == 0
    rows = {row["part"]: row for row in json.loads(done.stdout.splitlines()[1])}
    assert (rows["ingest"]["received"], rows["ingest"]["sent"]) == (2, 2)
    assert (rows["emitter:partner"]["sent"], rows["emitter:partner"]["state"]) == (1, "ok")


def test_the_table_shows_rates_and_what_is_wrong_first() -> None:
    before = {"ingest": top.Row("ingest", 100, 100, 0, 0, 0.0, True, "ok")}
    rows = [top.Row("emitter:x", 0, 0, 0, 9, 12.5, False, "away"), top.Row("ingest", 1100, 1100, 0, 0, 0.0, True, "ok")]
    title, first, second = top._table(rows, before, 2.0)
    assert title.split()[0] == "PART"
    assert first.split() == ["emitter:x", "0", "0", "0", "0", "0", "9", "12.5", "s", "away"]
    assert second.split()[:5] == ["ingest", "1,100", "500", "1,100", "500"]


def test_it_fails_where_nothing_answers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("POLKU_ADMIN_ADDR", raising=False)
    assert CliRunner().invoke(app, ["top", "--to", "127.0.0.1:9"]).exit_code == 1
