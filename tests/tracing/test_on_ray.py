"""A trace across the actors of a pipeline, also through a journal and a restart."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

import pytest

from polku import Batch, BufferStrategy, Event, Failure, Filter, Hub, Resilience, Retry, RetryableError, new_event
from tests.tracing.spans import PARENT, TRACE, Written


def wait_for(condition: Callable[[], bool]) -> None:
    limit = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < limit
        time.sleep(0.05)


class Partner:
    """A destination that may be away."""

    name = "partner"

    def __init__(self, *, away: bool = False) -> None:
        self.away = away

    def emit(self, batch: Batch) -> list[Failure]:
        if self.away:
            raise RetryableError("away")
        return []


def is_order(event: Event) -> bool:
    return event.event_type == "order"


@pytest.mark.usefixtures("ray_session")
def test_a_trace_goes_through_the_actors_a_journal_and_a_restart(tmp_path: Path) -> None:
    written = Written(tmp_path / "spans")
    hub = Hub(runtime="ray", name="shop").traces(written).middleware(Filter(is_order))
    hub.buffer_strategy(BufferStrategy.durable(str(tmp_path / "journal.db")))
    with hub.emitter(Resilience(Partner(away=True), retry=Retry(first=60))).start() as pipeline:
        pipeline.sender().send(new_event("order", source="shop", metadata={"traceparent": PARENT}))
        wait_for(lambda: len(written.read()) == 3)
        pipeline.stop(timeout=0.0)
    again = Hub(runtime="inline", name="shop").traces(written).middleware(Filter(is_order))
    again.buffer_strategy(BufferStrategy.durable(str(tmp_path / "journal.db")))
    with again.emitter(Partner()).start():
        wait_for(lambda: len(written.read()) == 4)
    spans = {span["name"] + ("" if span["status"]["status_code"] == "UNSET" else "!"): span for span in written.read()}
    intake, stage, first, last = (spans[name] for name in ("intake", "stage stage-1", "emit partner!", "emit partner"))
    assert {span["context"]["trace_id"] for span in spans.values()} == {f"0x{TRACE}"}
    assert intake["parent_id"] == "0xb7ad6b7169203331"
    assert stage["parent_id"] == intake["context"]["span_id"]
    assert first["parent_id"] == last["parent_id"] == stage["context"]["span_id"]
    assert first["status"]["description"] == "away"
