"""The difference of two plans, part by part, as people read it, and what is refused."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import pytest

from polku import Aggregator, BufferStrategy, Deduplicator, Filter, Hub, Limits, Scaling, Transform
from polku.batch.batch import Batch
from polku.change.contents import contents_of
from polku.change.difference import Difference, difference, only_lanes
from polku.change.numbers import continued
from polku.event.v1.event_pb2 import Event


def emit(batch: Batch) -> None:
    """Take it."""


def emit_otherwise(batch: Batch) -> None:
    len(batch)


def is_good(event: Event) -> bool:
    return bool(event.id)


def mark(event: Event) -> None:
    event.metadata["marked"] = "yes"


def hub() -> Hub:
    return Hub(runtime="inline").middleware(Filter(is_good)).emitter(emit, name="out")


def compare(old: Hub, new: Hub) -> Difference:
    contents = contents_of(old.plan())
    return difference(contents, contents_of(new.plan(), contents))


def said(old: Hub, new: Hub) -> list[str]:
    return [line for line in compare(old, new).lines() if not line.startswith("unchanged")]


def test_the_same_hub_made_twice_has_no_difference() -> None:
    assert compare(hub(), hub()).is_empty
    assert re.fullmatch(r"unchanged \d+ parts", str(compare(hub(), hub())))


@pytest.mark.parametrize(
    ("change", "lines"),
    [
        (lambda h: h.middleware(Transform(mark)), ["new       middleware Transform(mark)"]),
        (lambda h: h.middleware(Filter(is_good)), ["new       middleware Filter(is_good) (2)"]),
        (lambda h: h.emitter(emit, name="two"), ["new       emitter two"]),
        (lambda h: h.default_ingestor(lambda data, context: []), ["new       default ingestor"]),
        (lambda h: h.ingestor(lambda data, context: [], source="a"), ["new       ingestor a"]),
        (lambda h: h.limits(Limits(id_bytes=9)), ["changed   limits: id_bytes=9 (was 256)"]),
        (
            lambda h: h.buffer_strategy(BufferStrategy.ring(5, overflow="drop_oldest")),
            ["changed   buffer: capacity=5 (was 10000), overflow=drop_oldest (was block)"],
        ),
        (
            lambda h: h.middleware(Transform(mark), isolate=True),
            ["new       middleware Transform(mark)", "changed   stages: 1 before, 2 now"],
        ),
    ],
)
def test_each_part_that_differs_has_a_line(change: Callable[[Hub], Hub], lines: list[str]) -> None:
    assert said(hub(), change(hub())) == lines


def test_what_is_gone_has_a_line_too() -> None:
    more = hub().middleware(Aggregator(3, 1.0)).emitter(emit, name="two")
    assert said(more, hub()) == [
        "gone      middleware Aggregator: lets go what it holds",
        "gone      emitter two: delivers what waits for it, and ends",
    ]


def test_an_emitter_may_have_another_name_another_code_and_other_options() -> None:
    new = Hub(runtime="inline").middleware(Filter(is_good))
    new.emitter(emit_otherwise, name="new", formerly="out", overflow="drop_oldest")
    assert said(hub(), new) == ["changed   emitter new: was out; another emitter; overflow=drop_oldest (was None)"]


def test_the_order_of_middleware_counts() -> None:
    def both(*steps: object) -> Hub:
        chain = Hub(runtime="inline").emitter(emit, name="out")
        for step in steps:
            chain.middleware(step)
        return chain

    lines = said(both(Filter(is_good), Transform(mark)), both(Transform(mark), Filter(is_good)))
    assert lines == ["changed   middleware order: Transform(mark), Filter(is_good)"]


def test_what_becomes_of_state_is_said() -> None:
    def keeping(component: object) -> Hub:
        return Hub(runtime="inline").middleware(component, name="memory").emitter(emit, name="out")

    class Memory:
        state_key = "id"

        def __init__(self, size: int) -> None:
            self.size = size

        def process(self, events: list[Event]) -> list[Event]:
            return events

    state = "changed   middleware memory: keeps its state"
    assert said(keeping(Deduplicator(ttl=3)), keeping(Deduplicator(ttl=4))) == [state]
    assert said(keeping(Memory(1)), keeping(Memory(2))) == ["changed   middleware memory: starts empty"]
    assert said(keeping(Deduplicator(per="tenant")), keeping(Deduplicator())) == [
        "changed   middleware memory: starts empty"
    ]
    assert said(keeping(Aggregator(2, 1.0)), keeping(Deduplicator())) == [
        "changed   middleware memory: lets go what it holds, and starts empty"
    ]


def test_another_number_of_partitions_is_a_change_of_its_own() -> None:
    def into(partitions: int, runtime: str = "ray", ttl: float = 3) -> Hub:
        hub = Hub(runtime=runtime).middleware(Deduplicator(ttl=ttl), name="memory", partitions=partitions)
        return hub.emitter(emit, name="out")

    assert said(into(2), into(2)) == []
    assert said(into(2), into(4)) == ["changed   partitions memory: 4 (was 2)"]
    assert said(into(1), into(2, ttl=5)) == [
        "changed   middleware memory: keeps its state",
        "changed   partitions memory: 2 (was 1)",
    ]
    assert said(into(2, "inline"), into(4, "inline")) == []


@pytest.mark.parametrize(
    ("change", "refusal"),
    [
        (lambda h, path: h.buffer_strategy(BufferStrategy.tiered(5, 5)), "the kind of buffer cannot be changed"),
        (lambda h, path: h.buffer_strategy(BufferStrategy.durable(path)), "the path of the journal cannot be changed"),
        (lambda h, path: h.ack("delivered"), "the level of acknowledgement cannot be changed"),
        (lambda h, path: h.dead_letters(path), "the place of the dead letters cannot be changed"),
        (lambda h, path: h.allow_plugins("a token of theirs"), "what allow_plugins says cannot be changed"),
    ],
)
def test_what_cannot_be_changed_is_refused_by_name(
    change: Callable[[Hub, Path], Hub], refusal: str, tmp_path: Path
) -> None:
    refusals = compare(hub(), change(hub(), tmp_path / "file.db")).refusals
    assert any(text.startswith(refusal) for text in refusals), refusals


def test_the_places_of_dead_letters_are_said(tmp_path: Path) -> None:
    [refusal] = compare(hub(), hub().dead_letters(tmp_path / "dead.db", max_events=5)).refusals
    assert f"(none before, {tmp_path}/dead.db, 5 events, 268435456 bytes at most now)" in refusal


def test_whether_lanes_are_spread_cannot_be_changed() -> None:
    plans = [Hub(runtime="ray").lanes(max=4, spread=s).emitter(emit, name="out").plan("ray") for s in (False, True)]
    [refusal] = difference(*map(contents_of, plans)).refusals
    assert refusal.startswith("whether lanes are spread over the nodes cannot be changed")


def test_what_the_ports_are_opened_anew_for_is_said() -> None:
    new = hub().limits(Limits(message_bytes=9)).security(stamp="polku.me", origins=["https://app.example.org"])
    assert "changed   ports: opened again: limits, stamp, origins" in said(hub(), new)


def test_addresses_that_are_others_have_a_line_each() -> None:
    old = hub().listen(grpc_addr="127.0.0.1:1", http_addr="127.0.0.1:2")
    new = hub().listen(grpc_addr="127.0.0.1:3", otlp_addr="127.0.0.1:4")
    assert [line for line in said(old, new) if "address" in line] == [
        "changed   address grpc: 127.0.0.1:3 (was 127.0.0.1:1)",
        "gone      address http: 127.0.0.1:2",
        "new       address otlp: 127.0.0.1:4",
    ]
    assert said(old, old) == said(hub(), hub())


def test_another_number_of_lanes_has_a_line() -> None:
    two, four = (Hub(runtime="ray").emitter(emit, name="out").lanes(lanes) for lanes in (2, 4))
    compared = [difference(*(contents_of(each.plan("ray")) for each in pair)) for pair in ((two, four), (four, two))]
    assert [next(found.lines()) for found in compared] == [
        "changed   lanes: 4 (was 2)",
        "changed   lanes: 2 (was 4); those that are gone deliver what waits for them, and end",
    ]
    assert all(only_lanes(found) and not found.is_empty and not found.refusals for found in compared)


def test_what_is_said_about_need_has_lines_and_lanes_go_on_as_they_are() -> None:
    def version(most: int, **rules: float) -> Hub:
        made = Hub(runtime="ray").emitter(emit, name="out").lanes(min=1, max=most)
        return made.middleware(Filter(is_good), replicas=(1, most)).scaling(Scaling(**rules))

    running = version(4).plan("ray").with_lanes(3).with_replicas("stage-1", 2)
    plan = continued(running, version(6, busy=0.9).plan("ray"))
    assert (plan.lanes, plan.stages[0].replicas) == (3, 2)
    found = difference(contents_of(running), contents_of(plan))
    assert [line for line in found.lines() if not line.startswith("unchanged")] == [
        "changed   range of lanes: 1 to 6 (was 1 to 4)",
        "changed   range of the replicas of stage-1: 1 to 6 (was 1 to 4)",
        "changed   scaling: busy=0.9 (was 0.8)",
    ]
    assert only_lanes(found)
    assert not found.is_empty


def test_numbers_that_run_are_kept_within_what_is_said_next() -> None:
    running = Hub(runtime="ray").emitter(emit, name="out").lanes(7).middleware(mark, replicas=5).plan("ray")
    least = Hub(runtime="ray").emitter(emit, name="out").lanes(min=1, max=4).middleware(mark, replicas=(6, 8))
    plan = continued(running, least.plan("ray"))
    assert (plan.lanes, plan.stages[0].replicas) == (4, 6)
    exact = Hub(runtime="ray").emitter(emit, name="out").lanes(2).middleware(mark, replicas=3).plan("ray")
    assert continued(running, exact) == exact


def test_whom_senders_wait_for_cannot_change() -> None:
    new = Hub(runtime="inline").ack("delivered").middleware(Filter(is_good)).emitter(emit, name="out", required=False)
    assert "required= cannot be changed" in compare(hub().ack("delivered"), new).refusals[0]


def test_one_emitter_cannot_take_over_from_another_while_both_run() -> None:
    old = hub().emitter(emit, name="two")
    new = Hub(runtime="inline").middleware(Filter(is_good)).emitter(emit, name="out", formerly="two")
    assert "cannot take over what waits for 'two'" in compare(old, new).refusals[0]
