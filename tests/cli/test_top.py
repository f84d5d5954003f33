"""What `polku top` shows of a tree of statistics."""

from __future__ import annotations

from typing import Any

import pytest

from polku.cli.top import rows_of

STAGE = {"received": 10, "sent": 10, "dead": 0, "held": 0}
SHADOW = {"mode": "shadow", "middleware": "old", "candidate": "new", "share": 0.05, "fault": "", "latest": []}
SHADOW["counts"] = {"same": 7, "different": 1, "dropped": 1, "failed": 1, "skipped": 5}
CANARY = {"mode": "canary", "middleware": "old", "candidate": "new", "share": 0.05, "fault": "", "latest": []}
CANARY["counts"] = {"old": 90, "old_dropped": 0, "old_refused": 0, "new": 10, "new_dropped": 1, "new_refused": 2}
LATEST = [{"event_id": "a", "result": "different", "text": "payload", "time_ns": 1}]


@pytest.mark.parametrize(
    ("one", "part", "counts", "state"),
    [
        (SHADOW, "lane-1/stage-1/shadow:new", (10, 7, 3), "0.05 of old"),
        (
            SHADOW | {"latest": LATEST},
            "lane-1/stage-1/shadow:new",
            (10, 7, 3),
            "0.05 of old: a different: payload",
        ),
        (SHADOW | {"fault": "hangs"}, "lane-1/stage-1/shadow:new", (10, 7, 3), "0.05 of old: hangs"),
        (
            CANARY,
            "lane-1/stage-1/canary:new",
            (10, 7, 2),
            "0.05 of old: refuses 20.0%, the one in use 0.0%",
        ),
    ],
)
def test_new_middleware_next_to_the_one_in_use_has_a_row(
    one: dict[str, Any], part: str, counts: tuple[int, int, int], state: str
) -> None:
    lane = {"name": "lane-1", "ingest": None, "stages": {"stage-1": STAGE | {"candidates": [one]}}, "buffer": None}
    row = rows_of({"lanes": [lane], "shared": {}, "processes": {}, "parts": {}})[1]
    assert (row.part, (row.received, row.sent, row.errors), row.state) == (part, counts, state)


SCALE = {"of": "lanes", "number": 3, "wanted": 3, "least": 1, "most": 8, "ups": 2, "downs": 0, "failures": 0,
         "reason": "oldest event 12 s", "fault": ""}  # fmt: skip
FAILED = {"of": "stage-1", "wanted": 4, "failures": 2, "fault": "3 → 4 replicas of stage-1 (model): no room"}


@pytest.mark.parametrize(
    ("scale", "part", "well", "errors", "state"),
    [
        (SCALE, "lanes", True, None, "3 of 1 to 8: oldest event 12 s"),
        (SCALE | {"reason": ""}, "lanes", True, None, "3 of 1 to 8"),
        (
            SCALE | FAILED,
            "replicas of stage-1",
            False,
            2,
            "3 of 1 to 8, 4 wanted: 3 → 4 replicas of stage-1 (model): no room",
        ),
    ],
)
def test_a_number_that_changes_by_need_has_a_row(
    scale: dict[str, Any], part: str, well: bool, errors: int | None, state: str
) -> None:
    (row,) = rows_of({"lanes": [], "shared": {}, "processes": {}, "parts": {}, "scales": [scale]})
    assert (row.part, row.well, row.errors, row.state) == (part, well, errors, state)


def test_a_source_has_a_row() -> None:
    source = {"records": 7, "lag": 3}
    ingest = {"received": 7, "accepted": 7, "refused": {}, "open_messages": 0, "sources": {"logs": source}}
    lane = {"name": "", "ingest": ingest, "stages": {}, "buffer": None}
    parts = {"source:logs": {"healthy": False, "message": "no file"}}
    rows = rows_of({"lanes": [lane], "shared": {}, "processes": {}, "parts": parts})
    (row,) = [row for row in rows if row.part == "source:logs"]
    assert (row.received, row.sent, row.waiting, row.well, row.state) == (None, 7, 3, False, "no file")


def test_what_holds_up_others_comes_before_what_is_well_and_dead_letters_say_why() -> None:
    parts = {
        "a": {"healthy": True, "message": "ok"},
        "b": {"healthy": True, "message": "ok", "holds_up": "its share is full"},
        "c": {"healthy": False, "message": "away"},
    }
    letters = [{"emitter": "", "code": "MIDDLEWARE_ERROR", "total": 3, "reason": "mark: KeyError: 'price'"}]
    tree = {"lanes": [], "shared": {}, "processes": {}, "parts": parts, "dead_letters": letters}
    rows = rows_of(tree)
    assert [row.part for row in rows] == ["c", "b", "a", "dead letters"]
    assert rows[3].state == "since the start: MIDDLEWARE_ERROR 3; the latest: mark: KeyError: 'price'"
