"""The lines of the log about outlets that drop events: when it begins, and how many it were when it ends."""

from __future__ import annotations

import logging
import re
import time

import pytest

from polku import Batch, BufferStrategy, Hub, Resilience, RetryableError, new_event
from polku.log import RepeatedLog
from polku.runtime import dropping, inline
from polku.runtime.dropping import Dropping


def lines(totals: list[int], caplog: pytest.LogCaptureFixture) -> list[str]:
    """Return what is logged of looks once a second at an emitter that has dropped that many; -1: it is not there."""
    caplog.clear()
    drops = Dropping(RepeatedLog(logging.getLogger("polku.test")))
    with caplog.at_level(logging.INFO, "polku.test"):
        for second, total in enumerate(totals):
            drops.look({"emitter:a": ("drop_oldest", total)} if total >= 0 else {}, float(second))
    return [re.sub(r"\d\d:\d\d:\d\dZ", "NOW", record.getMessage()) for record in caplog.records]


BEGINS = "emitter:a drops events since NOW: its share of the buffer is full, and its rule is drop_oldest"


def test_one_line_says_that_it_begins_and_one_how_many_were_dropped(caplog: pytest.LogCaptureFixture) -> None:
    assert lines([0, 0, 0], caplog) == []
    assert lines([0, 3, 3, 5], caplog) == lines([4], caplog) == [BEGINS]
    ends = "emitter:a dropped 5 events in 2 s, as its rule is drop_oldest; it is over"
    assert lines([0, 3, 3, 5, 5, 5, 5, 5], caplog) == [BEGINS]
    assert lines([0, 3, 3, 5, 5, 5, 5, 5, 5], caplog) == [BEGINS, ends]


def test_counts_that_begin_again_and_emitters_that_go_are_no_drops(caplog: pytest.LogCaptureFixture) -> None:
    ends = "emitter:a dropped {} events in {} s, as its rule is drop_oldest; it is over"
    assert lines([7, 2, 2, 2, 2, 2, 2, 2], caplog) == [BEGINS, ends.format(9, 1)]
    assert lines([7, -1, 0, 0], caplog) == [BEGINS, ends.format(7, 0)]
    assert lines([7, 0, 0, 0, 0, 0, 0], caplog) == [BEGINS, ends.format(7, 0)]


@pytest.mark.parametrize("overflow", ["drop_oldest", "drop_newest"])
def test_a_pipeline_says_that_an_emitter_drops(
    overflow: str, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(inline, "_LOOK_SECONDS", 0.02)
    monkeypatch.setattr(dropping, "_END_SECONDS", 0.1)

    def away(batch: Batch) -> None:
        raise RetryableError("refused")

    emitter = Resilience(away)
    hub = Hub(runtime="inline").buffer_strategy(BufferStrategy.ring(4))
    with hub.emitter(emitter, name="partner", required=False, overflow=overflow).start() as pipeline:
        for _ in range(20):
            pipeline.sender().send(new_event("order", source="shop"))
        which = "the oldest events are" if overflow == "drop_oldest" else "new events are"
        kept = f"What waits for it is kept while its share of the buffer has room; then {which} dropped: {overflow}."
        wait_for(caplog, f"its share of the buffer is full, and its rule is {overflow}. ")
        wait_for(caplog, kept)
        wait_for(caplog, f" s, as its rule is {overflow}; it is over")
        pipeline.stop(0.0)
    assert not any("holds up" in message for message in caplog.messages)


def wait_for(caplog: pytest.LogCaptureFixture, text: str) -> None:
    limit = time.monotonic() + 30
    while not any(text in message for message in caplog.messages):
        assert time.monotonic() < limit, caplog.messages
        time.sleep(0.02)
