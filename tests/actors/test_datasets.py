"""Rows of datasets as events, and events of journals as rows; what Ray does with them is in tests/ray."""

from __future__ import annotations

from collections.abc import Iterable
from importlib.util import find_spec
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

import polku
from polku import BufferStrategy, Event, Hub, RecordError, Refusal, SendReceipt, StdoutEmitter, new_event
from polku.codes import Code
from polku.emit.table import Rows, event_of
from polku.errors import RetryableError, UnavailableError
from polku.event.v1.event_pb2 import Severity

# To import Ray Data takes a second, in each worker of the tests: only what runs does.
pytestmark = pytest.mark.skipif(find_spec("pandas") is None, reason="Ray Data needs it: pip install 'polku[data]'")


class Pipeline:
    """Take events, but for ids that a test names; the first call of all is lost where it says so."""

    def __init__(self, refuses: dict[str, Code] | None = None, *, lost: int = 0) -> None:
        self.refuses = refuses or {}
        self.lost = lost
        self.taken: list[Event] = []
        self.calls = 0

    def send(self, events: Iterable[Event], *, source: str, timeout: float) -> SendReceipt:
        self.calls += 1
        if self.calls <= self.lost:
            raise UnavailableError("restarting")
        refused = []
        for event in events:
            if code := self.refuses.pop(event.id, None):
                refused.append(Refusal(event.id, code, "no"))
            else:
                self.taken.append(event)
        return SendReceipt((), tuple(refused), 0, 0)


def write(pipeline: Pipeline, rows: list[dict[str, Any]], **options: Any) -> Any:
    import pyarrow as pa

    sink: Any = polku.PolkuDatasink(pipeline, **options)  # type: ignore[arg-type]
    return sink.write([pa.Table.from_pylist(rows)], None)


def test_rows_become_events_by_the_names_of_their_columns() -> None:
    pipeline = Pipeline()
    rows = [{"id": str(n), "event_type": "order", "source": "shop", "payload": b"x" * n} for n in range(2_500)]
    assert write(pipeline, rows) == (2_500, [])
    assert pipeline.calls == 3
    assert [(event.id, event.source, len(event.payload)) for event in pipeline.taken[-2:]] == [
        ("2498", "shop", 2498),
        ("2499", "shop", 2499),
    ]


def test_each_row_that_is_refused_is_told_with_the_reason() -> None:
    pipeline = Pipeline({"2": Code.MIDDLEWARE_ERROR})

    def event(row: Any) -> Event:
        if row["n"] == 3:
            raise ValueError("odd")
        return new_event("order", id=str(row["n"]))

    sent, refused = write(pipeline, [{"n": number} for number in range(5)], event=event)
    assert sent == 3
    assert [(one.row, one.event_id, one.code) for one in refused] == [
        ({"n": 3}, "", Code.INVALID_RECORD),
        ({"n": 2}, "2", Code.MIDDLEWARE_ERROR),
    ]
    assert [one.message for one in refused] == ["ValueError: odd", "no"]


def test_a_pipeline_that_is_full_or_away_gets_the_same_rows_again() -> None:
    pipeline = Pipeline({"1": Code.BUFFER_FULL}, lost=1)
    rows = [{"id": str(number), "event_type": "order"} for number in range(3)]
    assert write(pipeline, rows) == (3, [])
    assert sorted(event.id for event in pipeline.taken) == ["0", "1", "2"]


def test_rows_without_an_id_get_the_same_one_each_time() -> None:
    first, second = Pipeline(), Pipeline()
    for pipeline in (first, second):
        write(pipeline, [{"event_type": "order", "metadata": [("a", "1"), ("b", "2")]}, {"event_type": "other"}])
    assert [event.id for event in first.taken] == [event.id for event in second.taken]
    assert len({event.id for event in first.taken}) == 2


def test_too_many_refused_rows_are_an_error_that_has_them() -> None:
    from polku.actors.datasets import RowsRefusedError

    for most, raises in ((0, True), (1, False), (None, False)):
        sink = polku.PolkuDatasink(Pipeline(), max_refused=most)  # type: ignore[arg-type]
        if raises:
            with pytest.raises(RowsRefusedError) as error:
                sink.on_write_complete(_result())
            assert error.value.sent == 3
            assert "1 rows were refused, 3 were taken; the first: INVALID_RECORD: no" in str(error.value)
        else:
            sink.on_write_complete(_result())
        assert (sink.sent, len(sink.refused)) == (3, 1)


def _result() -> Any:
    from polku.actors.datasets import RefusedRow

    return SimpleNamespace(write_returns=[(3, []), (0, [RefusedRow({"n": 1}, "1", Code.INVALID_RECORD, "no")])])


def test_a_row_of_an_event_is_that_event() -> None:
    event = new_event("order", id="1", source="shop", metadata={"a": "b"}, payload=b"\xff")
    event.severity = Severity.SEVERITY_ERROR
    event.timestamp_unix_ns = 1_700_000_000_123_456_000
    event.network.src_ip = "10.0.0.1"
    rows = Rows()
    rows.add(event)
    (row,) = rows.table().to_pylist()
    assert event_of(row) == event


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        ({"event_type": "order", "price": 7}, "column 'price': .*an event has no such column"),
        ({"id": "1"}, "there is no event_type"),
        ({"event_type": 7}, "column 'event_type'"),
        ({"event_type": "order", "severity": "loud"}, "column 'severity'"),
    ],
)
def test_a_row_that_is_no_event_says_why(row: dict[str, Any], reason: str) -> None:
    with pytest.raises(RecordError, match=reason):
        event_of(row)


def away(batch: object) -> None:
    raise RetryableError("away")


def journal(tmp_path: Path) -> Path:
    """Return the journal of a pipeline whose emitter was away."""
    path = tmp_path / "journal.db"
    hub = Hub(runtime="inline").buffer_strategy(BufferStrategy.durable(str(path)))
    with hub.emitter(away, name="partner").emitter(StdoutEmitter(), name="out").start() as pipeline:
        for start in range(0, 30, 10):
            pipeline.sender().send([new_event("order", id=str(start + n), source="shop") for n in range(10)])
        pipeline.stop(timeout=0.0)
    return path


def test_the_events_of_a_journal_are_rows_in_their_order(tmp_path: Path) -> None:
    from polku.actors.datasets import JournalSource

    source = JournalSource(journal(tmp_path))
    for parallelism, most in ((1, 1), (2, 2), (100, 3)):
        tasks = source.get_read_tasks(parallelism)
        assert 1 <= len(tasks) <= most
        rows = [row for task in tasks for table in task() for row in table.to_pylist()]
        assert [row["id"] for row in rows] == [str(number) for number in range(30)]
        assert {tuple(row["waits_for"]) for row in rows} <= {("partner",), ("partner", "out"), ("out", "partner")}
    assert (source.estimate_inmemory_data_size() or 0) > 0
