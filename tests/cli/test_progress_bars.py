"""Commands that may take long show a bar on a terminal, with a rate."""

from __future__ import annotations

import time
from pathlib import Path

from polku import Batch, BufferStrategy, Failure, Hub, RetryableError, new_event
from tests.cli.test_replay import at, recorded, versions
from tests.support.terminal import shown_by


def away(batch: Batch) -> None:
    raise RetryableError("away")


def test_a_journal_that_is_read(tmp_path: Path) -> None:
    path = tmp_path / "journal.db"
    hub = Hub(runtime="inline").buffer_strategy(BufferStrategy.durable(str(path))).emitter(away)
    with hub.start() as pipeline:
        for _ in range(7):
            pipeline.sender().send(new_event("order", source="shop"))
        pipeline.stop(timeout=0.0)
    for command in ("verify", "repair"):
        shown = shown_by("journal", command, str(path))
        assert "reading batches ━" in shown
        assert "7/7, " in shown
        assert shown.endswith("\r\x1b[2K")


def test_events_that_are_replayed(tmp_path: Path) -> None:
    _, new = versions(tmp_path)
    events = recorded(tmp_path, *(at(number, f"{number}") for number in range(3)))
    assert "replaying ━" in (shown := shown_by("replay", events, str(new)))
    assert "3/3, " in shown


def test_dead_letters_that_are_replayed(tmp_path: Path) -> None:
    is_odd = True

    def partner(batch: Batch) -> list[Failure]:
        return [Failure(event.id, "odd", retryable=False) for event in batch] if is_odd else []

    path = tmp_path / "dead.db"
    with Hub(runtime="inline").dead_letters(path).emitter(partner).start(admin_addr="127.0.0.1:0") as pipeline:
        pipeline.sender().send([new_event("order", source="shop") for _ in range(5)])
        limit = time.monotonic() + 30
        while sum(one.total for one in pipeline.statistics().dead_letters) < 5:
            assert time.monotonic() < limit
            time.sleep(0.05)
        is_odd = False
        shown = shown_by("dlq", "replay", "--all", "--wait", "--to", str(pipeline.admin_address))
    assert "replaying ━" in shown or "replaying ╌" in shown
    assert "/5" in shown
