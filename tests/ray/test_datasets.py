"""Ray Data in a real Ray: datasets into a pipeline, windows out of one, and a journal as a dataset."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

import polku
from polku import Event, Filter, Hub, WindowEmitter
from tests.actors.test_datasets import journal
from tests.support.recorder import Recorder

pytestmark = [
    pytest.mark.skipif(find_spec("pandas") is None, reason="Ray Data needs it: pip install 'polku[data]'"),
    pytest.mark.usefixtures("ray_session"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),  # of Ray Data's own settings
]


def refuse_odd(event: Event) -> bool:
    if event.id == "7":
        raise ValueError("seven")
    return event.id != "8"


def count_types(folder: str) -> Any:
    def count(dataset: Any) -> None:
        counts = dataset.groupby("event_type").count().take_all()
        Path(folder, "counts").write_text(str(sorted((row["event_type"], row["count()"]) for row in counts)))

    return count


@pytest.mark.slow
def test_a_dataset_is_written_into_a_pipeline_and_comes_out_in_windows(tmp_path: Path) -> None:
    import ray.data

    recorder = Recorder(tmp_path / "out")
    window = WindowEmitter(count_types(str(tmp_path)), max_events=98, dataset=True)
    hub = Hub(runtime="ray").middleware(Filter(refuse_odd)).emitter(recorder).emitter(window)
    with hub.start() as pipeline:
        sink = polku.PolkuDatasink(pipeline.sender(), max_refused=1)
        rows = [{"id": str(n), "event_type": "even" if n % 2 == 0 else "odd", "source": "s"} for n in range(100)]
        ray.data.from_items(rows, override_num_blocks=4).write_datasink(sink)
        assert (sink.sent, [(one.event_id, one.row["event_type"]) for one in sink.refused]) == (99, [("7", "odd")])
        assert len(recorder.wait_for(98, timeout=60)) == 98
    assert (tmp_path / "counts").read_text() == "[('even', 49), ('odd', 49)]"


def test_a_journal_is_read_as_a_dataset(tmp_path: Path) -> None:
    dataset = polku.read_journal(journal(tmp_path))
    assert sorted(int(row["id"]) for row in dataset.take_all()) == list(range(30))
    assert {"id", "payload", "waits_for"} <= set(dataset.schema().names)
