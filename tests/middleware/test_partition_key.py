"""What middleware is divided by, what cannot be divided, and how its state is divided and put together."""

from __future__ import annotations

from collections.abc import Hashable
from typing import Any

import pytest

from polku import (
    Aggregator,
    Batch,
    Deduplicator,
    Event,
    Filter,
    Hub,
    PlanError,
    RateLimiter,
    StdoutEmitter,
    Throttle,
    Transform,
)
from polku.middleware.partition_key import divides_state, partition_key, partition_keys
from polku.stage.key_space import KeySpace
from tests.middleware.harness import events, ids, work
from tests.support.clock import FakeClock

NONE: frozenset[int] = frozenset()


class Own:
    def __init__(self, state_key: str | None, own_key: Any = None) -> None:
        self.state_key = state_key
        if own_key is not None:
            self.partition_key = own_key

    def process(self, events: list[Event]) -> list[Event]:
        return events


def key_of(component: object, event: Event) -> Hashable:
    key = partition_key(component)
    assert key is not None
    return key(event)


def test_each_middleware_that_keeps_state_by_a_key_is_divided_by_it() -> None:
    event = Event(id="i", source="s", event_type="t", metadata={"tenant": "x"})
    assert key_of(Deduplicator(), event) == "i"
    assert key_of(Throttle(1), event) == "s"
    assert key_of(Aggregator(2, 1.0), event) == ("s", "t")
    assert key_of(Aggregator(2, 1.0, key=lambda event: len(event.id)), event) == 1
    assert key_of(Own("event_type"), event) == "t"
    assert key_of(Own("metadata.tenant"), event) == "x"
    assert key_of(Own("user", lambda event: event.id + "!"), event) == "i!"
    assert [partition_key(component) for component in (RateLimiter(1), Filter(bool), Own("user"), Own(None))] == [
        None
    ] * 4


def test_keys_are_those_under_which_state_is_kept() -> None:
    """What is split by its keys goes where the events of these keys go."""
    given = [Event(id="i" * n, source="s" * n, metadata={"tenant": "x"}) for n in (1, 64, 65, 100)]
    for per in (None, "tenant"):
        memory: Any = Deduplicator(per=per).build(FakeClock())
        memory.process(given, 1)
        assert list(memory._open) == [key_of(Deduplicator(per=per), event) for event in given]
        buckets: Any = Throttle(9, per=per).build(FakeClock())
        buckets.process(given, 1)
        assert list(buckets._buckets) == [key_of(Throttle(9, per=per), event) for event in given]


@pytest.mark.parametrize(
    ("component", "refusal"),
    [
        (Transform(lambda event: None), r"has no state_key, so partitions=4 would divide nothing: use replicas=4"),
        (Own(None), r"Own has no state_key.*name its key, such as state_key = 'source'"),
        (Own("user"), r"Own keeps its state by user.*name a field .* or add partition_key\(event\)"),
        (RateLimiter(10), r"RateLimiter keeps its state by pipeline.*: leave partitions out"),
    ],
)
def test_what_cannot_be_divided_is_refused_by_name_with_the_fix(component: object, refusal: str) -> None:
    with pytest.raises(PlanError, match=refusal):
        Hub().middleware(component, partitions=4)


def test_partitions_go_with_neither_replicas_nor_new_middleware_of_other_state() -> None:
    with pytest.raises(
        PlanError, match="Deduplicator: choose partitions=2, for what keeps state by a key, or replicas=3"
    ):
        Hub().middleware(Deduplicator(), partitions=2, replicas=3)
    with pytest.raises(PlanError, match="leave replicas out, or choose partitions=2, by that key"):
        Hub().middleware(Deduplicator(), replicas=2)
    for wrong in (0, 129, True, 1.5):
        with pytest.raises(PlanError, match="must be a whole number from 1 to 128"):
            Hub().middleware(Deduplicator(), partitions=wrong)  # type: ignore[arg-type]
    divided = Hub().middleware(Deduplicator(), partitions=2)
    with pytest.raises(PlanError, match="Throttle keeps its state by source, and Deduplicator is divided into 2"):
        divided.middleware(Throttle(1), shadow=0.5)


def test_partitions_stand_in_a_stage_of_their_own_on_ray_and_do_nothing_inline() -> None:
    hub = Hub().middleware(lambda event: event, name="a").middleware(Deduplicator(), partitions=3)
    hub.middleware(Throttle(1), partitions=3).middleware(lambda event: event, name="b").emitter(StdoutEmitter())
    for lanes in (1, 2):
        plan = hub.lanes(lanes).plan("ray")
        assert [stage.partitions for stage in plan.stages] == [1, 3, 3, 1]
        assert [stage.shared for stage in plan.stages] == [False, lanes > 1, lanes > 1, False]
    assert [(len(stage.middleware), stage.partitions) for stage in hub.plan("inline").stages] == [(4, 1)]


def test_inline_answers_are_those_of_one_stage() -> None:
    got: list[str] = []

    def keep(batch: Batch) -> None:
        got.extend(event.id for event in batch)

    hub = Hub(runtime="inline").middleware(Deduplicator(), partitions=3).emitter(keep, name="keep")
    with hub.start() as pipeline:
        sender = pipeline.sender()
        for _ in range(2):
            assert sender.send(events(*"abcdef")).event_ids == tuple("abcdef")
        assert [stage.discarded for lane in pipeline.statistics().lanes for stage in lane.stages.values()] == [
            {"deduplicated": 6}
        ]
    assert got == list("abcdef")


@pytest.mark.parametrize(("before", "after"), [(1, 3), (3, 1), (2, 5), (5, 2)])
async def test_what_a_deduplicator_has_seen_moves_with_its_keys(before: int, after: int) -> None:
    config = Deduplicator(ttl=100)
    clocks = [FakeClock() for _ in range(before)]
    clocks[0].advance(1000)  # another process has another clock
    names = [f"e{number}" for number in range(200)]
    old: list[Any] = [config.build(clock) for clock in clocks]
    for clock in clocks:
        clock.advance(1)
    for part, own in divided(names, before).items():
        await work(old[part], events(*own), 1)
        old[part].settled(1, NONE)
    for clock in clocks:
        clock.advance(60)
    later = FakeClock()
    new: list[Any] = [config.build(later) for _ in range(after)]
    for part, shares in enumerate(zip(*(split(config, step, after) for step in old), strict=True)):
        new[part].restore(config.merge_states(shares))
    for part, own in divided(names, after).items():
        assert ids(await work(new[part], events(*own, "other"), 2)) == ["other"]
        new[part].settled(2, NONE)
    later.advance(50)  # 110 s after they were seen
    for part, own in divided(names, after).items():
        assert ids(await work(new[part], events(*own), 3)) == own


async def test_the_tokens_of_a_throttle_move_with_its_keys() -> None:
    config = Throttle(1, burst=3)
    clock = FakeClock()
    step: Any = config.build(clock)
    for number in range(50):
        step.process(events("a", "b", source=f"s{number}"), number)
    for part, state in enumerate(split(config, step, 4)):
        new: Any = config.build(clock)
        new.restore(config.merge_states([state]))
        for number in range(50):
            mine = KeySpace(4).partition_of(f"s{number}") == part
            assert len(new.process(events("a", "b", "c", source=f"s{number}"), number).events) == (1 if mine else 3)


async def test_the_groups_of_an_aggregator_move_with_their_keys() -> None:
    config = Aggregator(3, within=60, key=lambda event: event.source)
    step = config.build(FakeClock())
    for number in range(20):
        step.hold(events("a", "b", source=f"s{number}"), number)
    found = 0
    for part, state in enumerate(split(config, step, 3)):
        new: Any = config.build(FakeClock())
        new.restore(config.merge_states([state]))
        for number in range(20):
            if KeySpace(3).partition_of(f"s{number}") == part:
                (flush,) = new.hold(events("c", source=f"s{number}"), 100)
                assert len(flush.parts) == 3
                found += 1
    assert found == 20


def test_an_event_on_which_the_key_raises_has_none() -> None:
    def key(event: Event) -> str:
        if event.id == "bad":
            raise SystemExit("no key")
        return event.id

    keys = partition_keys(Own("user", key))
    assert keys is not None
    assert list(keys(events("a", "bad", "b"))) == ["a", None, "b"]
    assert partition_keys(Own("user")) is None
    own: Any = Own("id")
    wrongs: list[Any] = [lambda events: [], lambda events: 1 / 0, lambda events: None]
    for wrong in wrongs:
        own.partition_keys = wrong
        keys = partition_keys(own)
        assert keys is not None
        assert list(keys(events("a", "b"))) == ["a", "b"]


def test_only_middleware_with_both_methods_divides_its_state() -> None:
    assert divides_state(Deduplicator())
    assert not divides_state(RateLimiter(1))
    assert not divides_state(Own("id"))


def split(config: Any, step: Any, parts: int) -> list[Any]:
    states: list[Any] = config.split_state(step.snapshot(), parts, KeySpace(parts).partition_of)
    return states


def divided(names: list[str], parts: int) -> dict[int, list[str]]:
    found: dict[int, list[str]] = {part: [] for part in range(parts)}
    for name in names:
        found[KeySpace(parts).partition_of(name)].append(name)
    return found
