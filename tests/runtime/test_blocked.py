"""Sync code that blocks the event loop of a pipeline in this process is named in its health."""

from __future__ import annotations

import re
import threading
import time
from collections.abc import Callable

import pytest

from polku import Batch, Hub, new_event
from polku.aio.pulse import Pulse
from polku.health import Health
from polku.runtime import blocked
from polku.runtime.blocked import with_loop


def wait_for(condition: Callable[[], bool]) -> None:
    limit = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < limit
        time.sleep(0.01)


class Partner:
    """A destination whose client is not async."""

    name = "partner"

    def __init__(self) -> None:
        self.release = threading.Event()

    def emit(self, batch: Batch) -> None:
        self.release.wait(60)


def test_an_emitter_that_blocks_the_event_loop_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(blocked, "STUCK_SECONDS", 0.02)
    monkeypatch.setattr(blocked, "DEAD_SECONDS", 0.5)
    partner = Partner()
    with Hub(runtime="inline").emitter(partner).start() as pipeline:
        assert pipeline.health().components.keys() == {"ingest", "buffer", "emitter:partner"}
        pipeline.sender().send(new_event("order", source="shop"))
        try:
            wait_for(lambda: "event_loop" in pipeline.health().components)
            health = pipeline.health()
            healthy, text = health.components["event_loop"]
            assert (health.healthy, healthy) == (False, False)
            assert re.fullmatch(r"has not turned for 0 s \(at test_blocked\.py:\d+\): Partner\.emit blocks it", text)
            wait_for(lambda: not pipeline.health().ready)
            health = pipeline.health()
            assert health.not_ready == f"the event loop {health.components['event_loop'][1]}"
            part = pipeline.statistics().parts["event_loop"]
            assert (part.healthy, part.seconds > 0.4) == (False, True)
        finally:
            partner.release.set()
        wait_for(lambda: pipeline.health().healthy)
        assert "event_loop" not in pipeline.health().components


class Stuck(Pulse):
    """The pulse of a loop that is at no code of the user."""

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds

    def stuck(self) -> float:
        return self._seconds

    def place(self) -> None:
        """It is at none."""


@pytest.mark.parametrize(
    ("seconds", "busy", "text", "ready"),
    [
        (0.9, (), None, True),
        (3.2, (), "has not turned for 3 s: something blocks it", True),
        (9.0, ("a", "b"), "has not turned for 9 s: a and b blocks it", True),
        (12.0, (), "has not turned for 12 s: something blocks it", False),
    ],
)
def test_it_is_said_after_a_second_and_takes_the_pipeline_out_of_service_after_ten(
    seconds: float, busy: tuple[str, ...], text: str | None, ready: bool
) -> None:
    well = Health(True, {"ingest": (True, "ok")}, 5)
    seen = with_loop(well, Stuck(seconds), busy)
    assert seen.ready is ready
    assert seen.components.get("event_loop") == (None if text is None else (False, text))
    assert with_loop(well, None) == well
