"""What a pipeline does with events, whatever it runs on."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path

from polku import Batch, Code, Event, Failure, Filter, Hub, RecordError, Router, Transform, new_event
from tests.behaviour.conftest import Start, numbered, on_ray_when_slow
from tests.support.recorder import Recorder


def mark(event: Event) -> None:
    event.metadata["processed"] = "true"


def test_events_pass_filter_and_transform_in_order(start: Start, tmp_path: Path) -> None:
    recorder = Recorder(tmp_path / "out")
    hub = Hub().middleware(Filter(lambda event: event.event_type.startswith("user."))).middleware(Transform(mark))
    pipeline = start(hub.emitter(recorder))
    wanted = numbered(5_000)
    receipt = pipeline.sender().send([*wanted[:2_000], *numbered(500, "other"), *wanted[2_000:]])
    assert receipt.ok
    assert len(receipt.event_ids) == 5_500
    got = recorder.wait_for(5_000)
    assert [event.id for event in got] == [event.id for event in wanted]
    assert all(event.metadata["processed"] == "true" for event in got)


@on_ray_when_slow
def test_missing_id_time_source_and_cluster_are_filled_in(start: Start, tmp_path: Path) -> None:
    recorder = Recorder(tmp_path / "out")
    pipeline = start(Hub().emitter(recorder))
    before = time.time_ns()
    given = Event(id="given", timestamp_unix_ns=5, source="own", metadata={"cluster": "mine"})
    receipt = pipeline.sender().send([Event(event_type="bare"), given], source="sender", cluster="prod")
    bare, kept = recorder.wait_for(2)
    assert receipt.event_ids == (bare.id, "given")
    assert len(bare.id) == 26
    assert before <= bare.timestamp_unix_ns <= time.time_ns()
    assert (bare.source, bare.metadata["cluster"]) == ("sender", "prod")
    assert (kept.timestamp_unix_ns, kept.source, kept.metadata["cluster"]) == (5, "own", "mine")


@on_ray_when_slow
def test_an_event_without_a_type_is_taken_as_it_is_and_matches_no_rule_for_types(start: Start, tmp_path: Path) -> None:
    users, others = Recorder(tmp_path / "users", "users"), Recorder(tmp_path / "others", "others")
    router = Router().type_prefix("user.", to="users").default("others")
    sender = start(Hub().middleware(router).emitter(users).emitter(others)).sender()
    assert sender.send([Event(id="proto"), Event(id="typed", event_type="user.login")]).ok
    assert sender.send_raw(b'{"id": "json"}', source="json").ok
    assert [event.id for event in users.wait_for(1)] == ["typed"]
    assert [(event.id, event.event_type) for event in others.wait_for(2)] == [("proto", ""), ("json", "")]


@on_ray_when_slow
def test_raw_bytes_go_to_the_ingestor_of_their_source(start: Start, tmp_path: Path) -> None:
    def parse(data: bytes) -> list[Event | RecordError]:
        return [
            Event(event_type="line", payload=line) if line != b"bad" else RecordError("cannot be read", line=number)
            for number, line in enumerate(data.split(b"\n"), 1)
        ]

    recorder = Recorder(tmp_path / "out")
    pipeline = start(Hub().ingestor(parse, source="lines").emitter(recorder))
    receipt = pipeline.sender().send_raw(b"one\nbad\ntwo", source="lines")
    assert [event.payload for event in recorder.wait_for(2)] == [b"one", b"two"]
    assert [(refusal.code, refusal.message) for refusal in receipt.refused] == [
        (Code.INVALID_RECORD, "line 2: cannot be read")
    ]


@on_ray_when_slow
def test_an_unknown_source_is_refused_by_name(start: Start, tmp_path: Path) -> None:
    pipeline = start(Hub().emitter(Recorder(tmp_path / "out")))
    (refusal,) = pipeline.sender().send_raw(b"x", source="nobody").refused
    assert refusal.code is Code.UNKNOWN_SOURCE
    assert "'nobody'" in refusal.message
    assert "json" in refusal.message


@on_ray_when_slow
def test_user_code_that_raises_costs_only_its_own_event(start: Start, tmp_path: Path) -> None:
    def fail_on_third(event: Event) -> None:
        if event.id.endswith("3"):
            raise ValueError("three is not allowed")
        event.metadata["seen"] = "once" if "seen" not in event.metadata else "twice"

    recorder = Recorder(tmp_path / "out")
    pipeline = start(Hub().middleware(fail_on_third).emitter(recorder))
    receipt = pipeline.sender().send(numbered(10))
    assert len(receipt.event_ids) == 9
    (refusal,) = receipt.refused
    assert (refusal.event_id, refusal.code) == ("user.login-000003", Code.MIDDLEWARE_ERROR)
    assert "ValueError: three is not allowed" in refusal.message
    assert {event.metadata["seen"] for event in recorder.wait_for(9)} == {"once"}


@on_ray_when_slow
def test_user_code_that_returns_the_wrong_type_is_told_what_was_expected(start: Start, tmp_path: Path) -> None:
    recorder = Recorder(tmp_path / "out")
    pipeline = start(Hub().middleware(lambda event: 42 if event.id.endswith("1") else None).emitter(recorder))
    receipt = pipeline.sender().send(numbered(3))
    (refusal,) = receipt.refused
    assert "returned 42 (int)" in refusal.message
    assert "an Event" in refusal.message
    assert len(recorder.wait_for(2)) == 2


@on_ray_when_slow
def test_async_user_code_that_hangs_costs_only_its_own_event(start: Start, tmp_path: Path) -> None:
    async def hang_on_first(event: Event) -> None:
        if event.id.endswith("0"):
            await asyncio.Event().wait()

    recorder = Recorder(tmp_path / "out")
    pipeline = start(Hub().middleware(Transform(hang_on_first, timeout=0.2)).emitter(recorder))
    receipt = pipeline.sender().send(numbered(5))
    (refusal,) = receipt.refused
    assert refusal.code is Code.MIDDLEWARE_TIMEOUT
    assert len(recorder.wait_for(4)) == 4


@on_ray_when_slow
def test_a_class_with_process_is_middleware_and_may_split_events(start: Start, tmp_path: Path) -> None:
    class Twice:
        def process(self, events: list[Event]) -> list[Event]:
            return [twin for event in events for twin in (event, Event(event_type=event.event_type + ".twin"))]

    recorder = Recorder(tmp_path / "out")
    pipeline = start(Hub().middleware(Twice()).emitter(recorder))
    assert pipeline.sender().send(numbered(2)).ok
    got = recorder.wait_for(4)
    assert [event.event_type for event in got] == ["user.login", "user.login.twin"] * 2
    assert len({event.id for event in got}) == 4


@on_ray_when_slow
def test_router_sends_events_where_the_first_rule_says(start: Start, tmp_path: Path) -> None:
    audit, rest = Recorder(tmp_path / "audit", "audit"), Recorder(tmp_path / "rest", "rest")
    router = Router().type_prefix("audit.", to="audit").source("both", to=["audit", "rest"]).default("rest")
    pipeline = start(Hub().middleware(router).emitter(audit).emitter(rest))
    mixed = [
        event
        for pair in zip(numbered(50, "audit.x"), numbered(50, "other"), numbered(50, "third", "both"), strict=True)
        for event in pair
    ]
    assert pipeline.sender().send(mixed).ok
    to_audit = [event.id for event in mixed if event.event_type != "other"]
    to_rest = [event.id for event in mixed if event.event_type != "audit.x"]
    assert [event.id for event in audit.wait_for(100)] == to_audit
    assert [event.id for event in rest.wait_for(100)] == to_rest


@on_ray_when_slow
def test_an_event_for_no_known_emitter_is_refused_and_the_others_go_on(start: Start, tmp_path: Path) -> None:
    recorder = Recorder(tmp_path / "out")
    pipeline = start(Hub().emitter(recorder))
    lost, found = Event(id="lost", route_to=["nowhere"]), Event(id="found", route_to=["recorder"])
    receipt = pipeline.sender().send([lost, found])
    assert receipt.event_ids == ("found",)
    assert receipt.refused[0].code is Code.UNROUTABLE
    assert "nowhere" in receipt.refused[0].message
    assert [event.id for event in recorder.wait_for(1)] == ["found"]


class Rejects:
    """Refuse every event of one type for good."""

    name = "rejects"

    def emit(self, batch: Batch) -> list[Failure]:
        return [Failure(event.id, "no", retryable=False) for event in batch if event.event_type == "bad"]


def replaced(event: Event) -> Event:
    return new_event(event.event_type, source=event.source, metadata=dict(event.metadata))


@on_ray_when_slow
def test_what_was_replaced_by_another_event_and_refused_is_refused_to_its_sender(start: Start) -> None:
    pipeline = start(Hub().ack("delivered").middleware(Transform(replaced)).emitter(Rejects()))
    receipt = pipeline.sender().send([new_event("bad", id="1"), new_event("good", id="2"), new_event("bad", id="3")])
    assert receipt.event_ids == ("2",)
    assert [(refusal.event_id, refusal.code) for refusal in receipt.refused] == [
        ("1", Code.UNDELIVERED),
        ("3", Code.UNDELIVERED),
    ]
    assert all("it was event" in refusal.message for refusal in receipt.refused)
