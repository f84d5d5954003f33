"""What writes the events of scopes, kept for the next requests: most of them come from the same few resources."""

from __future__ import annotations

import threading
from typing import NamedTuple

from polku.limits import Limits
from polku.otlp.columns import ColumnWriter
from polku.otlp.metadata import Wanted
from polku.otlp.metric_columns import MetricColumnWriter
from polku.otlp.signals import METRICS, Signal
from polku.otlp.wire import Scope
from polku.otlp.writing import Choice, RecordWriter, Resource

_KEPT = 8  # ways to read requests, for each thread
_SCOPES = 16  # of each way
_HEAD_BYTES = 1_024  # of a resource and a scope that are kept


class ScopeWriter(NamedTuple):
    """What writes the events of a scope: one by one, and (None: its resource or scope is not valid) many at once."""

    each: RecordWriter
    columns: ColumnWriter | None


class Writers:
    """Make what writes the events of requests that are read in one way, each scope's once while it is known."""

    def __init__(self, signal: Signal, limits: Limits, choice: Choice, source: str, cluster: str) -> None:
        self.way = signal, limits, choice, source, cluster
        self._wanted = Wanted(choice.attributes, limits)
        self._scopes: dict[tuple[bytes, bytes], ScopeWriter] = {}

    def of(self, scope: Scope, latest: Resource | None) -> tuple[ScopeWriter, Resource | None]:
        """Return the writer of a scope; and its resource where that had to be read, and is not the latest one."""
        head = scope.resource, scope.scope
        found = self._scopes.get(head)
        if found is not None:
            return found, None
        signal, limits, choice, source, cluster = self.way
        if latest is None or latest.head is not scope.resource:
            latest = Resource(signal, scope.resource, limits, choice, source, cluster)
        each = RecordWriter(signal, latest, scope.scope, limits, self._wanted)
        kind = MetricColumnWriter if signal is METRICS else ColumnWriter
        columns = None if each.fault else kind(signal, latest, each.wrapper, limits, self._wanted)
        found = ScopeWriter(each, columns)
        if len(scope.resource) + len(scope.scope) <= _HEAD_BYTES:
            if len(self._scopes) >= _SCOPES:
                self._scopes.clear()
            self._scopes[head] = found
        return found, latest


class _Kept(threading.local):
    """The writers of a thread: they may not be used in two at the same time."""

    def __init__(self) -> None:
        self.latest: list[Writers] = []


_kept = _Kept()


def writers_of(signal: Signal, limits: Limits, choice: Choice, source: str, cluster: str) -> Writers:
    """Return the writers of requests that are read in this way."""
    way = signal, limits, choice, source, cluster
    for one in _kept.latest:
        if one.way[0] is signal and one.way == way:
            return one
    made = Writers(*way)
    _kept.latest = [made, *_kept.latest[: _KEPT - 1]]
    return made
