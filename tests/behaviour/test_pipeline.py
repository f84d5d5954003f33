"""What a pipeline does, whatever it runs on."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path

import pytest

from polku import (
    Aggregator,
    Batch,
    BufferStrategy,
    Code,
    Deduplicator,
    Event,
    Failure,
    Filter,
    Hub,
    RecordError,
    Router,
    Transform,
    new_event,
)
from tests.behaviour.conftest import Start, on_ray_when_slow
from tests.support.recorder import Recorder


def mark(event: Event) -> None:
    event.metadata["processed"] = "true"


def numbered(count: int, event_type: str = "user.login", source: str = "test") -> list[Event]:
    return [new_event(event_type, source=source, id=f"{event_type}-{number:06d}") for number in range(count)]


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


def test_a_slow_emitter_does_not_hold_up_another(start: Start, tmp_path: Path) -> None:
    slow, quick = Recorder(tmp_path / "slow", "slow"), Recorder(tmp_path / "quick", "quick")
    slow.hold()
    pipeline = start(Hub().buffer_strategy(BufferStrategy.ring(2_000)).emitter(slow).emitter(quick))
    sender = pipeline.sender()
    for start_at in range(0, 2_000, 500):
        assert sender.send(numbered(2_000)[start_at : start_at + 500]).ok
    assert len(quick.wait_for(2_000)) == 2_000
    assert slow.events() == []
    with pytest.raises(TimeoutError):  # its share is full now, and the rule is to block
        sender.send(new_event("one.more", source="test", id="one-more"), timeout=0.3)
    slow.release()
    assert [event.id for event in slow.wait_for(2_001)] == [event.id for event in quick.wait_for(2_001)]


@on_ray_when_slow
def test_drop_oldest_keeps_the_newest_for_the_slow_emitter_only(start: Start, tmp_path: Path) -> None:
    slow, quick = Recorder(tmp_path / "slow", "slow"), Recorder(tmp_path / "quick", "quick")
    slow.hold()
    hub = Hub().buffer_strategy(BufferStrategy.ring(100)).emitter(slow, overflow="drop_oldest").emitter(quick)
    pipeline = start(hub)
    events = numbered(1_000)
    for start_at in range(0, 1_000, 50):
        assert pipeline.sender().send(events[start_at : start_at + 50]).ok
    quick.wait_for(1_000)
    slow.release()
    report = pipeline.stop(10).emitters
    assert report["quick"].delivered == 1_000
    assert report["slow"].delivered + report["slow"].dropped == 1_000
    assert report["slow"].dropped >= 850
    assert [event.id for event in slow.events()][-1] == events[-1].id


def test_drop_newest_tells_the_sender(start: Start, tmp_path: Path) -> None:
    slow = Recorder(tmp_path / "slow", "slow")
    slow.hold()
    pipeline = start(Hub().buffer_strategy(BufferStrategy.ring(100, overflow="drop_newest")).emitter(slow))
    receipt = pipeline.sender().send(numbered(150))
    assert len(receipt.event_ids) == 100
    assert {refusal.code for refusal in receipt.refused} == {Code.BUFFER_FULL}
    assert len(receipt.refused) == 50
    slow.release()
    assert [event.id for event in slow.wait_for(100)] == list(receipt.event_ids)


@on_ray_when_slow
def test_tiered_buffer_keeps_order_beyond_its_first_tier(start: Start, tmp_path: Path) -> None:
    slow = Recorder(tmp_path / "slow", "slow")
    slow.hold()
    pipeline = start(Hub().buffer_strategy(BufferStrategy.tiered(100, 5_000)).emitter(slow))
    events = numbered(3_000)
    for start_at in range(0, 3_000, 100):
        assert pipeline.sender().send(events[start_at : start_at + 100]).ok
    slow.release()
    assert [event.id for event in slow.wait_for(3_000)] == [event.id for event in events]


def test_aggregated_events_are_answered_when_their_aggregate_is_taken(start: Start, tmp_path: Path) -> None:
    recorder = Recorder(tmp_path / "out")
    pipeline = start(Hub().middleware(Aggregator(10, within=0.3)).emitter(recorder))
    started = time.monotonic()
    receipt = pipeline.sender().send(numbered(25))
    assert receipt.ok
    assert len(receipt.event_ids) == 25
    assert time.monotonic() - started >= 0.25  # the last five waited for their time
    counts = [event.metadata["polku.aggregate.count"] for event in recorder.wait_for(3)]
    assert counts == ["10", "10", "5"]


@on_ray_when_slow
def test_stopping_lets_go_of_what_an_aggregator_holds(start: Start, tmp_path: Path) -> None:
    recorder = Recorder(tmp_path / "out")
    pipeline = start(Hub().middleware(Aggregator(1_000, within=600)).emitter(recorder))
    sender = pipeline.sender()
    with pytest.raises(TimeoutError):
        sender.send(numbered(7), timeout=0.3)
    report = pipeline.stop(10)
    assert report.complete
    assert [event.metadata["polku.aggregate.count"] for event in recorder.events()] == ["7"]


@on_ray_when_slow
def test_duplicates_are_dropped_and_acknowledged(start: Start, tmp_path: Path) -> None:
    recorder = Recorder(tmp_path / "out")
    pipeline = start(Hub().middleware(Deduplicator()).emitter(recorder))
    sender = pipeline.sender()
    assert sender.send(numbered(3)).ok
    assert sender.send(numbered(4)).ok
    assert len(recorder.wait_for(4)) == 4
    assert pipeline.stop(10).emitters["recorder"].delivered == 4


@on_ray_when_slow
def test_at_the_delivered_level_the_sender_hears_what_the_destination_refused(start: Start, tmp_path: Path) -> None:
    def refuse_second(batch: Batch) -> list[Failure]:
        return [Failure(event.id, "not this one", retryable=False) for event in batch if event.id.endswith("2")]

    pipeline = start(Hub().ack("delivered").emitter(refuse_second))
    receipt = pipeline.sender().send(numbered(4))
    assert len(receipt.event_ids) == 3
    (refusal,) = receipt.refused
    assert (refusal.event_id, refusal.code) == ("user.login-000002", Code.UNDELIVERED)
    assert "not this one" in refusal.message


def test_stopping_delivers_what_was_accepted_and_reports_it(start: Start, tmp_path: Path) -> None:
    recorder = Recorder(tmp_path / "out")
    pipeline = start(Hub().emitter(recorder))
    for _ in range(5):
        pipeline.sender().send([new_event("x", source="test") for _ in range(1_000)])
    report = pipeline.stop(20)
    assert report.complete
    assert report.emitters["recorder"].delivered == 5_000
    assert len(recorder.events()) == 5_000
    assert pipeline.stop(20) == report


@on_ray_when_slow
def test_stopping_gives_up_at_its_deadline_and_says_what_is_left(start: Start, tmp_path: Path) -> None:
    recorder = Recorder(tmp_path / "out")
    recorder.hold()
    pipeline = start(Hub().emitter(recorder))
    pipeline.sender().send(numbered(10))
    before = pipeline.report_nowait().result(30)
    report = pipeline.stop(0.5)
    recorder.release()
    assert before == report._replace(seconds=0.0)
    assert not report.complete
    assert report.emitters["recorder"].left == 10


@on_ray_when_slow
def test_two_pipelines_live_side_by_side(start: Start, tmp_path: Path) -> None:
    one, two = Recorder(tmp_path / "one"), Recorder(tmp_path / "two")
    first, second = start(Hub(name="one").emitter(one)), start(Hub(name="two").emitter(two))
    first.sender().send(new_event("first", source="test"))
    second.sender().send(new_event("second", source="test"))
    assert [event.event_type for event in one.wait_for(1)] == ["first"]
    assert [event.event_type for event in two.wait_for(1)] == ["second"]


def test_a_pipeline_can_be_used_from_an_event_loop(runtime: str, tmp_path: Path) -> None:
    recorder = Recorder(tmp_path / "out")

    async def use() -> int:
        async with Hub().emitter(recorder).start(runtime=runtime) as pipeline:
            sender = pipeline.sender()
            receipts = await asyncio.gather(*(sender.send_async(event, source="test") for event in numbered(50)))
            return sum(len(receipt.event_ids) for receipt in receipts)

    assert asyncio.run(use()) == 50
    assert len(recorder.events()) == 50


@on_ray_when_slow
def test_build_gives_senders_that_work_once_the_runner_runs(runtime: str, tmp_path: Path) -> None:
    recorder = Recorder(tmp_path / "out")
    raw_sender, event_sender, runner = Hub().emitter(recorder).build(runtime=runtime)
    with runner.start():
        assert raw_sender.send(b'{"event_type": "raw"}', source="json").ok
        assert event_sender.send(new_event("event", source="test")).ok
    assert {event.event_type for event in recorder.events()} == {"raw", "event"}


@on_ray_when_slow
def test_user_code_that_blocks_turns_health_bad_by_name_and_loses_nothing(
    start: Start, tmp_path: Path, arrangement: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("polku.runtime.watch.PATIENCE", 0.3)
    recorder, gate = Recorder(tmp_path / "out"), tmp_path / "gate"
    gate.touch()

    def block(event: Event) -> None:
        while gate.exists():
            time.sleep(0.01)

    pipeline = start(Hub().middleware(block).emitter(recorder))
    with pytest.raises(TimeoutError):
        pipeline.sender().send(new_event("x", source="test", id="stuck"), timeout=0.1)
    deadline = time.monotonic() + 40
    while (health := pipeline.health()).healthy:
        assert time.monotonic() < deadline
        time.sleep(0.05)
    healthy, message = health.components["lane" if arrangement == "chained" else "stage-1"]
    assert not healthy
    assert arrangement != "inline" or "block has been busy with one batch" in message
    gate.unlink()
    assert [event.id for event in recorder.wait_for(1)] == ["stuck"]
    while not pipeline.health().healthy:
        assert time.monotonic() < deadline
        time.sleep(0.05)


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
