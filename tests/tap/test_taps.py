"""What a tap keeps of what the parts of one process show, and when it ends."""

from __future__ import annotations

import pytest

from polku import Batch, new_event
from polku.errors import UnavailableError
from polku.event.v1.event_pb2 import Event
from polku.tap import point
from polku.tap.point import Note, TapPoint
from polku.tap.redaction import REDACTED, Redaction
from polku.tap.request import LEASE_SECONDS, TapRequest, What, matches
from polku.tap.taps import Taps

EVENTS = [new_event("order", id=str(number), source="shop", payload=b"secret") for number in range(5)]


class Part:
    """A part of a pipeline."""

    def __init__(self, *steps: str) -> None:
        self.tap: TapPoint | None = None
        self.steps = steps


class Clock:
    """The time as taps read it."""

    now = 1_000.0

    def monotonic(self) -> float:
        return self.now

    def time_ns(self) -> int:
        return int(self.now * 1e9)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(point, "time", clock)
    return clock


def request(session: str = "me", limit: int = 100, event_id: str = "", **wants: str) -> TapRequest:
    return TapRequest(session, {What(what): (glob,) for what, glob in wants.items()}, limit, event_id)


def test_only_parts_that_somebody_looks_at_have_a_point() -> None:
    buffer, stage = Part(), Part("Filter", "Map")
    taps = Taps({"buffer": buffer, "stage-1": stage}, Redaction())
    reply = taps.read(request(out="stage-1/Map"))
    assert buffer.tap is None
    assert stage.tap is not None
    assert reply == (("buffer", "stage-1/Filter", "stage-1/Map"), 0, ())
    stage.tap.show(What.OUT, EVENTS, step="Filter")
    stage.tap.show(What.IN, EVENTS, step="Map")
    stage.tap.show(What.OUT, EVENTS[:2], step="Map")
    seen = taps.read(request(out="stage-1/Map")).sightings
    assert [(one.part, one.what, one.event_id) for one in seen] == [("stage-1/Map", What.OUT, id) for id in "01"]
    taps.read(request())
    assert stage.tap is None


def test_a_tap_that_nobody_reads_ends_by_itself(clock: Clock) -> None:
    part = Part()
    taps = Taps({"buffer": part}, Redaction())
    taps.read(request(out="*"))
    clock.now += LEASE_SECONDS - 1
    taps.read(request(out="*"))
    clock.now += LEASE_SECONDS + 1
    show = part.tap
    assert show is not None
    show.show(What.OUT, EVENTS)
    assert len(taps) == 0
    assert part.tap is not show


def test_others_go_on_when_one_ends(clock: Clock) -> None:
    part = Part()
    taps = Taps({"buffer": part}, Redaction())
    taps.read(request("first", out="*"))
    clock.now += LEASE_SECONDS
    taps.read(request("second", out="*"))
    clock.now += 1
    assert part.tap is not None
    part.tap.show(What.OUT, EVENTS)
    assert len(taps.read(request("second", out="*")).sightings) == 5
    assert len(taps) == 1


def test_no_more_than_the_limit_is_kept_of_each_part_and_the_rest_is_counted() -> None:
    part = Part()
    taps = Taps({"buffer": part}, Redaction())
    taps.read(request(limit=3, out="*", dropped="*"))
    assert part.tap is not None
    for _ in range(10):
        part.tap.show(What.OUT, Batch.from_events(EVENTS).sealed())
    part.tap.show(What.DROPPED, EVENTS, notes=[Note(4, "", "too old")])
    reply = taps.read(request(limit=3, out="*", dropped="*"))
    assert reply.passed == 51
    assert [one.what for one in reply.sightings] == [What.OUT] * 3 + [What.DROPPED]
    assert (reply.sightings[-1].event_id, reply.sightings[-1].reason) == ("4", "too old")
    assert taps.read(request(limit=3, out="*", dropped="*")).sightings == ()


@pytest.mark.parametrize("sealed", [False, True])
def test_one_event_is_found_by_its_id(sealed: bool) -> None:
    part = Part()
    taps = Taps({"buffer": part}, Redaction())
    taps.read(request(event_id="3", out="*", refused="*"))
    assert part.tap is not None
    batch = Batch.from_events(EVENTS)
    part.tap.show(What.OUT, batch.sealed() if sealed else batch)
    part.tap.show(What.OUT, EVENTS[:3])
    part.tap.tell(What.REFUSED, "2", "TOO_LARGE", "no")
    part.tap.tell(What.REFUSED, "3", "TOO_LARGE", "no")
    reply = taps.read(request(event_id="3", out="*", refused="*"))
    assert [(one.event_id, one.what, one.code) for one in reply.sightings] == [
        ("3", What.OUT, ""),
        ("3", What.REFUSED, "TOO_LARGE"),
    ]
    assert reply.passed == 2


def test_what_is_redacted_is_not_shown_and_the_event_stays_as_it_is() -> None:
    event = new_event("order", source="shop", payload=b"secret", metadata={"Authorization": "x", "page": "1"})
    part = Part()
    taps = Taps({"buffer": part}, Redaction(("auth*",), payload=True))
    taps.read(request(out="*"))
    assert part.tap is not None
    part.tap.show(What.OUT, [event])
    (seen,) = taps.read(request(out="*")).sightings
    shown = Event.FromString(seen.event)
    assert dict(shown.metadata) == {"Authorization": REDACTED, "page": "1"}
    assert (shown.payload, seen.left_out) == (b"", 6)
    assert (event.payload, event.metadata["Authorization"]) == (b"secret", "x")


def test_a_large_event_whose_payload_is_redacted_keeps_its_metadata() -> None:
    event = new_event("scan", source="shop", payload=bytes(1_000_000), metadata={"page": "1", "token": "x"})
    part = Part()
    taps = Taps({"buffer": part}, Redaction(("token",), payload=True))
    taps.read(request(out="*"))
    assert part.tap is not None
    part.tap.show(What.OUT, [event])
    (seen,) = taps.read(request(out="*")).sightings
    shown = Event.FromString(seen.event)
    assert dict(shown.metadata) == {"page": "1", "token": REDACTED}
    assert (shown.payload, seen.left_out) == (b"", 1_000_000)


def test_large_events_are_shown_without_their_payloads() -> None:
    part = Part()
    taps = Taps({"buffer": part}, Redaction())
    taps.read(request(out="*"))
    assert part.tap is not None
    part.tap.show(What.OUT, [new_event("scan", id="big", source="shop", payload=bytes(1_000_000))])
    (seen,) = taps.read(request(out="*")).sightings
    assert (seen.event_id, seen.left_out, Event.FromString(seen.event).event_type) == ("big", 1_000_000, "scan")
    half = new_event("scan", source="shop", payload=bytes(200_000))
    part.tap.show(What.OUT, [half] * 100)
    seen_all = taps.read(request(out="*")).sightings
    assert len(seen_all) == 100
    assert sum(len(one.event) for one in seen_all) <= 8 * 1024 * 1024


def test_so_many_may_look_at_once() -> None:
    taps = Taps({"buffer": Part()}, Redaction())
    for number in range(8):
        taps.read(request(str(number), out="*"))
    with pytest.raises(UnavailableError, match="8 taps are open"):
        taps.read(request("another", out="*"))


@pytest.mark.parametrize(
    ("pattern", "is_meant"),
    [
        ("*", True),
        ("lane-1", True),
        ("stage-1", True),
        ("Filter*", True),
        ("lane-?/stage-1", True),
        ("lane-1/stage-1/Filter(f)", True),
        ("stage", False),
        ("lane-1/Filter*", False),
    ],
)
def test_a_pattern_names_a_part_or_whole_pieces_of_its_name(pattern: str, is_meant: bool) -> None:
    assert matches(pattern, "lane-1/stage-1/Filter(f)") is is_meant


def test_an_emitter_is_found_by_its_name_alone() -> None:
    assert matches("http", "lane-1/emitter:http")
    assert matches("emitter:h*", "emitter:http")
    assert not matches("emitter", "emitter:http")
