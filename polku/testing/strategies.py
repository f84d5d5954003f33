"""Strategies of hypothesis for events: `pip install hypothesis`.

```python
from hypothesis import given
from polku.testing.strategies import events


@given(events(types=["ticket.opened", "chat.line"], min_size=1))
def test_no_event_is_lost(some):
    outcome = run(hub, some)
    assert all(outcome.fate(event.id) for event in some)
```
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec

from polku.emit.json_form import event_fields
from polku.event.v1.event_pb2 import Event, Outcome, Severity
from polku.testing.trial.given import Raw

try:
    from hypothesis import strategies as st
    from hypothesis.strategies import SearchStrategy
except ImportError as error:
    raise ImportError("polku.testing.strategies needs hypothesis; install it: pip install hypothesis") from error

__all__ = ["event", "events", "raw_json"]

_TEXT = st.text(st.characters(codec="utf-8"), max_size=20)
_NAME = st.from_regex(r"[a-z][a-z0-9]{0,8}(\.[a-z][a-z0-9]{0,8}){0,2}", fullmatch=True)
_MAX_NS = 4_102_444_800_000_000_000  # 2100-01-01


def event(
    *,
    types: Sequence[str] | SearchStrategy[str] | None = None,
    sources: Sequence[str] | SearchStrategy[str] | None = None,
    payload: SearchStrategy[bytes] | None = None,
    metadata: SearchStrategy[dict[str, str]] | None = None,
    ids: SearchStrategy[str] | None = None,
) -> SearchStrategy[Event]:
    """Return a strategy of events such as any client may send: every field may be there or not, texts are any text.

    `types` and `sources` are what to choose from, or a strategy.
    """
    fields: dict[str, SearchStrategy[Any]] = {
        "id": st.uuids(version=4).map(str) if ids is None else ids,
        "event_type": _choice(types),
        "source": _choice(sources),
        "timestamp_unix_ns": st.integers(1, _MAX_NS),
        "payload": st.binary(max_size=64) if payload is None else payload,
        "metadata": st.dictionaries(_TEXT, _TEXT, max_size=3) if metadata is None else metadata,
        "severity": st.sampled_from(Severity.values()),
        "outcome": st.sampled_from(Outcome.values()),
    }
    return st.builds(_event, st.fixed_dictionaries(fields))


def events(*, min_size: int = 0, max_size: int = 20, **options: Any) -> SearchStrategy[list[Event]]:
    """Return a strategy of lists of events with different ids; takes what `event` takes."""
    return st.lists(event(**options), min_size=min_size, max_size=max_size, unique_by=lambda one: one.id)


def raw_json(*, source: str = "ndjson", **options: Any) -> SearchStrategy[Raw]:
    """Return a strategy of NDJSON as `JsonIngestor` reads it, some lines of which may be no events."""
    good = event(**options).map(lambda one: msgspec.json.encode(event_fields(one)))
    bad = st.sampled_from([b"", b"null", b"{", b"[]", b"\xff", b'{"severity": 7.5}'])
    lines = st.lists(st.one_of(good, good, bad), max_size=8)
    return lines.map(lambda some: Raw(b"\n".join(some), source))


def _choice(choice: Sequence[str] | SearchStrategy[str] | None) -> SearchStrategy[str]:
    if choice is None:
        return _NAME
    return choice if isinstance(choice, SearchStrategy) else st.sampled_from(list(choice))


def _event(fields: dict[str, Any]) -> Event:
    return Event(**fields)
