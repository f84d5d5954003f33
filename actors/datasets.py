"""Ray Data and POLKU: datasets whose rows become events of a pipeline, and journals that are read as datasets."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import ray
from ray.data import Datasource, read_datasource
from ray.data.block import BlockAccessor, BlockMetadata
from ray.data.datasource import Datasink, ReadTask
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from polku import checks
from polku.buffer.journal_reader import JournalReader
from polku.codes import Code
from polku.emit.table import Rows, event_of, table_schema
from polku.errors import JournalCorruptError, JournalError, PolkuError, UnavailableError
from polku.event.v1.event_pb2 import Event
from polku.text import named

if TYPE_CHECKING:
    from ray.data import Dataset

    from polku.sender import Sender

_ROWS_PER_SEND = 1_000
_AGAIN = frozenset({Code.BUFFER_FULL, Code.UNAVAILABLE, Code.DRAINING})
_FIRST_PAUSE, _LONGEST_PAUSE = 0.05, 2.0


class RefusedRow(NamedTuple):
    """A row that is no event of the pipeline, why, and the id that it has or would have had."""

    row: Mapping[str, Any]
    event_id: str
    code: str
    message: str


class RowsRefusedError(PolkuError):
    """Say that a pipeline refused more rows than it may; `refused` has them, `sent` is how many it took."""

    def __init__(self, refused: Sequence[RefusedRow], sent: int) -> None:
        super().__init__(tuple(refused), sent)
        self.refused = tuple(refused)
        self.sent = sent

    def __str__(self) -> str:
        first = self.refused[0]
        return (
            f"{len(self.refused)} rows were refused, {self.sent} were taken; the first: {first.code}: {first.message}"
        )


class PolkuDatasink(Datasink[tuple[int, list[RefusedRow]]]):
    """Send the rows of a dataset into a pipeline: `dataset.write_datasink(PolkuDatasink(pipeline.sender()))`.

    `event(row)` makes the event of a row, a mapping; without it the columns are those of an event: `event_type`, `id`,
    `source`, `timestamp`, `metadata`, `payload`. An event without an id gets one that derives from its content, so that
    a write that Ray Data makes again sends the same ids, which a Deduplicator knows.

    Rows that the pipeline refuses, or of which no event can be made, are in `refused` when the dataset is written,
    `sent` is how many it took. More than `max_refused` of them raise `RowsRefusedError` then (None: never). A pipeline
    that is full or away is tried again for `retry_for` seconds. The pipeline must run on Ray, in the same cluster.
    """

    def __init__(
        self,
        sender: Sender,
        *,
        event: Callable[[Mapping[str, Any]], Event] | None = None,
        source: str = "",
        max_refused: int | None = 0,
        retry_for: float = 60.0,
    ) -> None:
        if event is not None:
            checks.function("PolkuDatasink", "event", event, of="the row", sync=True)
        checks.positive("PolkuDatasink", "retry_for", retry_for)
        self._sender = sender
        self._event = event or event_of
        self._source = source
        self._max_refused = max_refused
        self._retry_for = retry_for
        self.sent = 0
        self.refused: list[RefusedRow] = []

    def get_name(self) -> str:
        """Return what Ray Data calls it."""
        return "Polku"

    def write(self, blocks: Iterable[Any], ctx: Any) -> tuple[int, list[RefusedRow]]:
        """Send the rows of some blocks; return how many were taken, and the others."""
        sent, refused = 0, list[RefusedRow]()
        for rows in _groups(blocks):
            events: dict[int, Event] = {}
            for place, row in enumerate(rows):
                try:
                    events[place] = _with_id(self._event(row))
                except Exception as error:
                    refused.append(RefusedRow(row, "", Code.INVALID_RECORD, named(error)))
            for place, (code, message) in self._send(events).items():
                refused.append(RefusedRow(rows[place], events.pop(place).id, code, message))
            sent += len(events)
        return sent, refused

    def on_write_complete(self, write_result: Any) -> None:
        """Add up what the tasks say; raises `RowsRefusedError`."""
        self.sent = sum(sent for sent, _ in write_result.write_returns)
        self.refused = [row for _, refused in write_result.write_returns for row in refused]
        if self._max_refused is not None and len(self.refused) > self._max_refused:
            raise RowsRefusedError(self.refused, self.sent)

    def _send(self, events: Mapping[int, Event]) -> dict[int, tuple[str, str]]:
        """Send events, again where the pipeline cannot take them now; return what it refuses, by place."""
        left = dict(events)
        refused: dict[int, tuple[str, str]] = {}
        give_up = time.monotonic() + self._retry_for
        pause = _FIRST_PAUSE
        while left:
            is_late = time.monotonic() > give_up
            again: set[int] = set()
            for place, code, message in self._try(left, is_late=is_late):
                if code in _AGAIN and not is_late:
                    again.add(place)
                else:
                    refused[place] = (code, message)
            left = {place: left[place] for place in again}
            if left:
                time.sleep(pause)
                pause = min(2 * pause, _LONGEST_PAUSE)
        return refused

    def _try(self, events: Mapping[int, Event], *, is_late: bool) -> list[tuple[int, str, str]]:
        """Send events once; return what is refused, by its place."""
        try:
            receipt = self._sender.send(events.values(), source=self._source, timeout=self._retry_for)
        except (UnavailableError, TimeoutError) as error:
            if is_late:
                raise
            return [(place, Code.UNAVAILABLE, named(error)) for place in events]
        places: dict[str, list[int]] = {}
        for place, event in events.items():
            places.setdefault(event.id, []).append(place)
        return [
            (place, one.code, one.message)
            for one in receipt.refused
            for place in (places.get(one.event_id, []) if one.event_id else events)
        ]


def read_journal(path: str | Path, *, skip_damaged: bool = False, override_num_blocks: int | None = None) -> Dataset:
    """Return the events that the journal of a durable buffer holds, as a dataset; also while a pipeline has it open.

    These are the events that an emitter still has to get. The columns are those of a `WindowEmitter`, and `waits_for`,
    the names of those emitters. It is read by tasks on this node, each some batches; a batch that is delivered
    meanwhile is left out. Raises `JournalError`; a damaged batch raises `JournalCorruptError` when it is read, unless
    damaged ones are to be skipped.
    """
    path = Path(path).absolute()
    if not path.exists():
        raise JournalError(path, "there is no such file")
    here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
    source = JournalSource(path, skip_damaged=skip_damaged)
    dataset: Dataset = read_datasource(
        source, override_num_blocks=override_num_blocks, ray_remote_args={"scheduling_strategy": here}
    )
    return dataset


class JournalSource(Datasource):
    """Divide the batches of a journal among read tasks, in order."""

    def __init__(self, path: Path, *, skip_damaged: bool = False) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._path = path
        self._skip_damaged = skip_damaged

    def get_name(self) -> str:
        """Return what Ray Data calls it."""
        return "PolkuJournal"

    def estimate_inmemory_data_size(self) -> int | None:
        """Return the bytes of the events, serialised."""
        with closing(JournalReader(self._path)) as journal:
            return journal.statistics().bytes

    def get_read_tasks(
        self, parallelism: int, per_task_row_limit: int | None = None, data_context: Any = None
    ) -> list[ReadTask]:
        """Return tasks that read about as many batches each."""
        with closing(JournalReader(self._path)) as journal:
            found = [(position, names) for position, _, names in journal.takers(0, journal.last_position)]
        size = max(1, -(-len(found) // max(1, parallelism)))
        tasks = []
        for start in range(0, len(found), size):
            read = partial(_read, self._path, found[start : start + size], skip_damaged=self._skip_damaged)
            metadata = BlockMetadata(num_rows=None, size_bytes=None, exec_stats=None, input_files=(str(self._path),))
            tasks.append(ReadTask(read, metadata, schema=_schema(), per_task_row_limit=per_task_row_limit))
        return tasks


def _read(path: Path, batches: Sequence[tuple[int, tuple[str, ...]]], *, skip_damaged: bool) -> Iterator[Any]:
    """Yield a table for each batch."""
    import pyarrow as pa

    with closing(JournalReader(path)) as journal:
        for position, waits_for in batches:
            try:
                events = journal.read(position).events
            except KeyError:  # it is delivered by now
                continue
            except JournalCorruptError:
                if not skip_damaged:
                    raise
                continue
            rows = Rows()
            for event in events:
                rows.add(event)
            names = pa.array([waits_for] * len(events), pa.list_(pa.string()))
            yield rows.table().append_column("waits_for", names)


def _schema() -> Any:
    import pyarrow as pa

    return table_schema().append(pa.field("waits_for", pa.list_(pa.string())))


def _groups(blocks: Iterable[Any]) -> Iterator[list[Mapping[str, Any]]]:
    """Yield the rows of blocks in groups of `_ROWS_PER_SEND`."""
    group: list[Mapping[str, Any]] = []
    for block in blocks:
        rows: Iterator[Mapping[str, Any]] = BlockAccessor.for_block(block).iter_rows(True)
        for row in rows:
            group.append(row)
            if len(group) == _ROWS_PER_SEND:
                yield group
                group = []
    if group:
        yield group


def _with_id(event: Event) -> Event:
    """Return an event that has an id: that of another one with the same content is the same."""
    if not isinstance(event, Event):
        raise TypeError(f"event(row) returned {checks.shorten(event)}, expected an Event")
    if not event.id:
        event.id = f"row-{hashlib.sha256(event.SerializeToString(deterministic=True)).hexdigest()[:32]}"
    return event
