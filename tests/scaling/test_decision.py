"""When there are more lanes or replicas, and when fewer: nothing runs here but the decision."""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from polku.errors import PlanError
from polku.scaling import Range, Scaling
from polku.scaling.decision import Decision, History, Look, decide
from polku.scaling.rules import range_of, replicas_of

RULES = Scaling()
BOUNDS = Range(1, 8)


class World:
    """Somebody that looks `every` so many seconds and does at once what is decided."""

    def __init__(self, count: int = 1, *, rules: Scaling = RULES, bounds: Range = BOUNDS) -> None:
        self.count, self.rules, self.bounds = count, rules, bounds
        self.history = History()
        self.at, self.every = 0.0, 1.0
        self.steps: list[tuple[float, Decision]] = []

    def run(
        self, looks: int, oldest: float = 0.0, utilization: float = 0.0, *, changing: bool = False, unhealthy: str = ""
    ) -> list[int]:
        """Look that many times; return the numbers that were decided on."""
        before = len(self.steps)
        for _ in range(looks):
            self.at += self.every
            look = Look(self.at, self.count, oldest, utilization, changing, unhealthy)
            self.history, step = decide(self.rules, self.bounds, self.history, look)
            if step is not None:
                self.steps.append((self.at, step))
                self.count = step.wanted
                self.history = self.history.changed(self.rules, self.at)
        return [step.wanted for _, step in self.steps[before:]]

    @property
    def reason(self) -> str:
        return self.steps[-1][1].reason


def test_an_old_event_asks_for_one_more_after_some_seconds() -> None:
    world = World(3)
    assert world.run(5, oldest=12.0) == []
    assert world.run(1, oldest=12.0) == [4]
    assert world.reason == "oldest event 12 s"


def test_a_very_old_event_doubles_them() -> None:
    world = World(3)
    assert world.run(6, oldest=20.0) == [6]
    assert world.run(30, oldest=20.0) == [8]


@pytest.mark.parametrize(("utilization", "wanted"), [(0.79, None), (0.8, 5), (0.9, 6), (1.0, 7)])
def test_utilization_asks_for_as_many_as_would_be_busy_to_the_middle_of_its_bounds(
    utilization: float, wanted: int | None
) -> None:
    assert World(4).run(6, utilization=utilization) == ([] if wanted is None else [wanted])


def test_lanes_that_are_gone_with_a_node_come_back_at_once_unless_that_has_just_failed() -> None:
    look = Look(0.0, 3, 0.0, 0.6, lost=2)
    history = History().changed(RULES, 0.0)
    history, step = decide(RULES, BOUNDS, history, look)
    assert step == Decision(3, "2 gone with a node")
    assert decide(RULES, BOUNDS, history, look._replace(changing=True))[1] is None
    failed = history.failed(RULES, 0.0)
    assert decide(RULES, BOUNDS, failed, look._replace(at=1.0))[1] is None
    assert decide(RULES, BOUNDS, failed, look._replace(at=21.0))[1] == step


def test_both_reasons_are_told() -> None:
    world = World(1)
    world.run(6, oldest=7.0, utilization=1.0)
    assert world.reason == "oldest event 7 s, utilization 100%"


def test_a_break_begins_the_seconds_again() -> None:
    world = World(2)
    for _ in range(10):
        assert world.run(5, oldest=9.0) == []
        assert world.run(1) == []


def test_an_age_between_the_bounds_asks_for_nothing() -> None:
    assert World(4).run(1000, oldest=RULES.oldest_seconds - 0.1, utilization=0.0) == []
    assert World(4).run(1000, oldest=0.0, utilization=RULES.busy - 0.01) == []


def test_down_goes_one_at_a_time_after_a_long_time_in_which_both_were_low() -> None:
    world = World(4)
    assert world.run(120) == []
    assert world.run(1) == [3]
    assert world.reason == "utilization 0%, for 120 s"
    assert world.run(120) == []
    assert world.run(1) == [2]
    assert world.run(1000) == [1]


@pytest.mark.parametrize("count", range(2, 9))
def test_down_leaves_those_that_stay_no_more_than_the_low_bound(count: int) -> None:
    fits = RULES.idle * (count - 1) / count
    assert World(count).run(121, utilization=fits - 0.001) == [count - 1]
    assert World(count).run(1000, utilization=fits + 0.001) == []


@pytest.mark.parametrize("count", range(1, 9))
def test_steady_load_comes_to_rest(count: int) -> None:
    """Load is in lanes that are busy all the time."""
    for quarter in range(1, 32):
        comes_to_rest(World(count), 0.25 * quarter)


def comes_to_rest(world: World, load: float) -> None:
    world.every = 5.0
    for _ in range(300):
        world.run(1, utilization=min(1.0, load / world.count))
    settled = world.count
    for _ in range(100):
        world.run(1, utilization=min(1.0, load / world.count))
    assert world.count == settled, load
    assert load / settled < RULES.busy or settled == BOUNDS.max, load
    directions = [later[1].wanted - earlier[1].wanted for earlier, later in itertools.pairwise(world.steps)]
    assert not (any(d > 0 for d in directions) and any(d < 0 for d in directions)), load


def test_there_is_a_pause_after_each_change() -> None:
    world = World(1)
    world.run(200, oldest=6.0)
    times = [at for at, _ in world.steps]
    assert len(times) == 7
    assert all(later - earlier >= RULES.pause_seconds for earlier, later in itertools.pairwise(times))


def test_nothing_happens_while_something_is_changing_nor_at_once_after_it() -> None:
    world = World(2)
    assert world.run(1000, oldest=60.0, changing=True) == []
    assert world.run(9, oldest=60.0) == []
    assert world.run(1, oldest=60.0) == [4]


def test_nothing_goes_while_a_part_is_unhealthy_and_then_the_seconds_begin() -> None:
    world = World(4)
    assert world.run(1000, unhealthy="lane-2/ingest does not answer") == []
    assert world.run(120) == []
    assert world.run(1) == [3]


def test_more_come_also_while_a_part_is_unhealthy() -> None:
    assert World(4).run(6, oldest=9.0, unhealthy="lane-2/ingest does not answer") == [5]


def test_a_failed_change_has_the_next_one_wait_twice_as_long_each_time() -> None:
    history, pauses = History(), []
    for _ in range(12):
        history = history.failed(RULES, 1000.0)
        pauses.append(history.rests_until - 1000.0)
    assert pauses[:4] == [20.0, 40.0, 80.0, 160.0]
    assert pauses[-1] == 600.0
    assert history.changed(RULES, 1000.0).failures == 0


def test_a_failed_change_is_tried_again_while_the_reason_lasts() -> None:
    history, tries = History(), []
    for second in range(1, 101):
        history, step = decide(RULES, BOUNDS, history, Look(float(second), 2, 9.0, 0.5))
        if step is not None:
            tries.append(second)
            history = history.failed(RULES, float(second))
    assert tries == [6, 26, 66]


@pytest.mark.parametrize(("count", "wanted"), [(1, 2), (9, 4)])
def test_other_bounds_count_at_once(count: int, wanted: int) -> None:
    world = World(count, bounds=Range(2, 4))
    assert world.run(1) == [wanted]
    assert world.reason == "there may be 2 to 4"


def test_too_many_wait_for_parts_to_be_well_and_too_few_do_not() -> None:
    assert World(9, bounds=Range(2, 4)).run(100, unhealthy="x") == []
    assert World(1, bounds=Range(2, 4)).run(1, unhealthy="x") == [2]


LOOKS = st.lists(
    st.tuples(
        st.floats(0, 100), st.floats(0, 1), st.booleans(), st.sampled_from(["", "x"]), st.booleans(), st.floats(0.1, 90)
    ),
    max_size=60,
)


@given(LOOKS, st.integers(1, 10), st.integers(1, 8), st.integers(0, 8))
def test_whatever_is_seen_the_rules_hold(
    looks: Iterable[tuple[float, float, bool, str, bool, float]], count: int, least: int, more: int
) -> None:
    bounds = Range(least, least + more)
    history, at, latest = History(), 0.0, -1e9
    for oldest, utilization, changing, unhealthy, works, seconds in looks:
        at += seconds
        history, step = decide(RULES, bounds, history, Look(at, count, oldest, utilization, changing, unhealthy))
        if step is None:
            continue
        assert not changing
        assert bounds.min <= step.wanted <= bounds.max
        assert step.wanted != count
        assert step.reason
        assert at - latest >= RULES.pause_seconds
        latest = at
        if bounds.clamp(count) == count:
            assert count - 1 <= step.wanted <= 2 * count
        if step.wanted < count:
            assert not unhealthy
        if not works:
            history = history.failed(RULES, at)
            continue
        count, history = step.wanted, history.changed(RULES, at)


@pytest.mark.parametrize(
    ("wrong", "text"),
    [
        ({"busy": 0.5, "idle": 0.5}, "Scaling(idle=0.5): must be less than busy=0.5"),
        ({"busy": 1.5}, "Scaling(busy=1.5): must be a number from 0"),
        ({"down_seconds": 1.0}, "Scaling(down_seconds=1.0): must be at least up_seconds=5"),
        ({"oldest_seconds": 0}, "Scaling(oldest_seconds=0): must be a number above 0"),
        ({"start_seconds": "1"}, "Scaling(start_seconds='1'): must be a number above 0"),
        ({"pause_seconds": float("nan")}, "Scaling(pause_seconds=nan): must be a number above 0"),
    ],
)
def test_rules_that_cannot_work_are_refused_by_name(wrong: dict[str, float], text: str) -> None:
    with pytest.raises(PlanError, match=re.escape(text)):
        Scaling(**wrong)


@pytest.mark.parametrize(
    ("least", "most", "text"),
    [
        (0, 8, "lanes(min=0): must be a whole number from 1 to 1000"),
        (1, 1001, "lanes(max=1001): must be a whole number from 1 to 1000"),
        (4, 2, "lanes(max=2): must be at least min=4"),
        (True, 2, "lanes(min=True): must be a whole number"),
        (1, "8", "lanes(max='8'): must be a whole number"),
    ],
)
def test_bounds_that_cannot_be_are_refused_by_name(least: object, most: object, text: str) -> None:
    with pytest.raises(PlanError, match=re.escape(text)):
        range_of("lanes", least, most)


def test_replicas_are_a_number_or_two() -> None:
    assert replicas_of(3) == (3, None)
    assert replicas_of((2, 5)) == (2, Range(2, 5))
    assert replicas_of([2, 2]) == (2, None)


@pytest.mark.parametrize("wrong", [0, True, "2", (1,), (1, 2, 3), (3, 1), None, 2.0, ("1", 2)])
def test_replicas_that_cannot_be_are_refused(wrong: object) -> None:
    with pytest.raises(PlanError, match="replicas"):
        replicas_of(wrong)
