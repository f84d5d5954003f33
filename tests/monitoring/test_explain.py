"""Where an event is, and what became of it: `polku explain`, and dead letters at the admin address."""

from __future__ import annotations

import asyncio
import json
import sqlite3
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from polku import Batch, BufferStrategy, Failure, Hub, Pipeline, new_event
from polku.buffer import copies
from polku.buffer.durable import DurableLog
from polku.cli.explain import _sentences
from polku.monitoring.run_files import running
from tests.monitoring.test_admin import get
from tests.support.server import polku_here


class Partner:
    """A destination that refuses odd events, and takes the others where it is open."""

    def __init__(self, *, open: bool = True) -> None:
        self.open = open

    async def emit(self, batch: Batch) -> list[Failure]:
        if not self.open:
            await asyncio.Event().wait()
        return [Failure(e.id, "unknown order", retryable=False) for e in batch if e.event_type == "odd"]


def ask(pipeline: Pipeline, path: str) -> dict[str, Any]:
    (here,) = [one for one in running() if one.admin == pipeline.admin_address]
    status, body, _ = get(pipeline.admin_address, path, {"Authorization": f"Bearer {here.key}"})
    assert status == 200, body
    told: dict[str, Any] = json.loads(body)
    return told


def states(told: dict[str, Any]) -> list[tuple[str, str]]:
    return sorted((copy["part"], copy["state"]) for copy in told["copies"])


@pytest.fixture
def pipeline() -> Iterator[Pipeline]:
    hub = (
        Hub(runtime="inline")
        .redact("secret")
        .emitter(Partner(), name="quick")
        .emitter(Partner(open=False), name="slow")
    )
    with hub.start(admin_addr="127.0.0.1:0") as pipeline:
        sender = pipeline.sender()
        for number in range(20):
            kind = "odd" if number == 7 else "paid"
            sender.send([new_event(kind, id=str(number), source="shop", metadata={"secret": "x"})])
        wait_for(lambda: len(ask(pipeline, "/explain?id=19")["copies"]) == 2)
        yield pipeline
        pipeline.stop(0.0)


def wait_for(condition: Callable[[], bool]) -> None:
    for _ in range(1_000):
        if condition():
            return
    raise AssertionError("it did not come")


def test_each_copy_is_found_where_it_is(pipeline: Pipeline) -> None:
    first, last = (ask(pipeline, f"/explain?id={number}") for number in (0, 19))
    assert states(first) == [("emitter:quick", "delivered"), ("emitter:slow", "in flight")]
    assert states(last) == [("emitter:quick", "delivered"), ("emitter:slow", "waiting")]
    waiting = next(copy for copy in last["copies"] if copy["state"] == "waiting")
    in_flight = pipeline.statistics().lanes[0].buffer
    assert in_flight is not None
    assert waiting["ahead"] == 19 - in_flight.outlets["slow"].in_flight
    assert last["complete"]


def test_a_dead_letter_is_what_became_of_a_copy(pipeline: Pipeline) -> None:
    told = ask(pipeline, "/explain?id=7")
    assert [part for part, _ in states(told)] == ["emitter:slow"]
    (letter,) = told["dead_letters"]
    assert (letter["emitter"], letter["code"], letter["reason"]) == ("quick", "UNDELIVERED", "unknown order")


def test_dead_letters_are_listed_and_shown_without_what_is_redacted(pipeline: Pipeline) -> None:
    (letter,) = ask(pipeline, "/dead-letters?emitter=quick")["letters"]
    assert (letter["id"], letter["event"]["metadata"]) == ("7", {"secret": "[redacted]"})
    assert ask(pipeline, "/dead-letters?code=OTHER") == {"letters": [], "left_out": 0}
    assert get(pipeline.admin_address, "/dead-letters")[0] == 401


def test_the_command_says_it_in_sentences(pipeline: Pipeline) -> None:
    to = ("--to", str(pipeline.admin_address))
    done = polku_here("explain", "7", *to)
    waits, letter = done.stdout.splitlines()
    assert done.returncode == 0
    assert waits.partition(" for ")[0] in ("emitter:slow: waits", "emitter:slow: in flight")
    assert letter.startswith("emitter:quick: a dead letter since ")
    assert letter.endswith("Z: UNDELIVERED: unknown order")
    unknown = polku_here("explain", "nothing", *to)
    assert (unknown.returncode, unknown.stdout.startswith("event nothing: nothing is known of it")) == (1, True)
    assert json.loads(polku_here("explain", "7", "--json", *to).stdout)["id"] == "7"


def test_emitters_that_have_dropped_events_are_named_for_one_that_they_do_not_have() -> None:
    hub = Hub(runtime="inline").buffer_strategy(BufferStrategy.ring(4)).emitter(Partner(), name="quick")
    hub = hub.emitter(Partner(open=False), name="slow", required=False, overflow="drop_newest")
    with hub.start(admin_addr="127.0.0.1:0") as pipeline:
        sender = pipeline.sender()
        for number in range(10):
            sender.send(new_event("paid", id=str(number), source="shop"))
        to = ("--to", str(pipeline.admin_address))
        assert ask(pipeline, "/explain?id=9")["drops"] == {"emitter:slow": {"rule": "drop_newest", "dropped": 6}}
        text = "emitter:slow: has dropped 6 events (drop_newest), perhaps this one"
        assert text in polku_here("explain", "9", *to).stdout.splitlines()
        assert text not in polku_here("explain", "0", *to).stdout.splitlines()
        pipeline.stop(0.0)


def test_a_journal_is_searched_where_the_pipeline_runs_and_where_it_does_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(DurableLog, "window", 4)
    path = tmp_path / "shop.db"
    partner = Partner(open=False)
    hub = Hub(runtime="inline").buffer_strategy(BufferStrategy.durable(path)).emitter(partner, name="slow")
    with hub.start(admin_addr="127.0.0.1:0") as pipeline:
        sender = pipeline.sender()
        for number in range(30):
            sender.send([new_event("odd" if number == 0 else "paid", id=str(number), source="shop")])
        told = ask(pipeline, "/explain?id=29")
        assert (states(told), told["searched"], told["complete"]) == ([("emitter:slow", "waiting")], 30, True)
        pipeline.stop(0.0)
    found = polku_here("explain", "29", "--journal", str(path), "--json")
    assert states(json.loads(found.stdout)) == [("emitter:slow", "waiting")]
    partner.open = True
    with hub.start():
        pass
    done = polku_here("explain", "0", "--journal", str(path))
    assert done.stdout.startswith("emitter:slow: a dead letter since ")
    with sqlite3.connect(path) as journal:
        assert journal.execute("SELECT count(*) FROM batch").fetchone()[0] <= 30


def test_copies_are_found_at_emitters_that_have_left(tmp_path: Path) -> None:
    def hub(*names: str, open: bool) -> Hub:
        hub = Hub(runtime="inline").buffer_strategy(BufferStrategy.durable(tmp_path / "shop.db"))
        for name in names:
            hub = hub.emitter(Partner(open=open), name=name)
        return hub

    with hub("kept", "old", open=False).start(admin_addr="127.0.0.1:0") as pipeline:
        for number in range(3):
            pipeline.sender().send(new_event("paid", id=str(number), source="shop"))
        pipeline.update_plan(hub("kept", open=False).plan("inline"))
        told = ask(pipeline, "/explain?id=2")
        assert {copy["part"]: copy["left"] for copy in told["copies"]} == {"emitter:kept": "", "emitter:old": "leaving"}
        lines = polku_here("explain", "2", "--to", str(pipeline.admin_address)).stdout.splitlines()
        assert [one.partition("; ")[2] for one in lines if one.startswith("emitter:old")] == [
            "the emitter has left the pipeline, and delivers what it has"
        ]
        pipeline.stop(0.0)
    with hub("kept", open=True).start(admin_addr="127.0.0.1:0") as pipeline:
        wait_for(lambda: ("emitter:kept", "delivered") in states(ask(pipeline, "/explain?id=2")))
        told = ask(pipeline, "/explain?id=2")
        assert {copy["part"]: (copy["state"], copy["left"]) for copy in told["copies"]} == {
            "emitter:kept": ("delivered", ""),
            "emitter:old": ("waiting", "gone"),
        }
        assert told["complete"]
        found = polku_here("explain", "2", "--to", str(pipeline.admin_address)).stdout
        assert "there is no such emitter: `polku health` says what to do" in found
    found = polku_here("explain", "2", "--journal", str(tmp_path / "shop.db")).stdout
    assert "there is no such emitter" in found


def test_what_is_remembered_of_deliveries_is_bounded() -> None:
    recent = copies.RecentDeliveries()
    for number in range(100):
        recent.note(Batch.from_events([new_event("x", id=str(number), source="s", payload=bytes(50_000))]).sealed())
    assert len(recent) == 10
    assert recent.times("0") == []
    assert len(recent.times("99")) == 1


def test_a_search_that_takes_too_long_says_so(pipeline: Pipeline, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(copies, "_SECONDS", -1.0)
    told = ask(pipeline, "/explain?id=19")
    assert (told["complete"], states(told)) == (False, [("emitter:quick", "delivered")])


@pytest.mark.parametrize(("ahead", "told"), [(1, "1 event is before it"), (1_204, "1,204 events are before it")])
def test_how_many_are_before_it_is_told_in_the_singular_too(ahead: int, told: str) -> None:
    copy = {"part": "emitter:out", "state": "waiting", "time_unix_ns": 0, "ahead": ahead}
    answer = {"id": "a", "copies": [copy], "dead_letters": [], "searched": 1, "complete": True}
    (sentence,) = _sentences(answer)
    assert sentence.endswith(f"waits, {told}")
